#!/usr/bin/python3
"""Labels of real judges under each rule of agreement, against the grades of people. Run by test/bench/judges.sh.

    judges.py DATA_ROOT SET...

Each judge is an SQL function that gives what the judge once said; with JUDGES_WIRE=all a foreign server whose endpoint is the
mock, which replays the same, and otherwise some pairs go that way and must give the same votes. All pairs are graded
once through serm.annotate, with 2 % gold slipped in by the model's gold_rate. Then, from the same votes, samples are
settled anew for each rule and each draw of the gold: settling is what is compared, and it runs as ever.
Kappa is quadratic, over the pairs that are not gold; intervals are 95 %, by bootstrap over queries. Exit status 1: a gate was
missed. Needs python3-numpy.
"""
import csv
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "mock"))
from endpoint import pair_key  # noqa: E402
from quality_metrics import kappa  # noqa: E402
from quality_sets import copy, csv_lines, psql, rows  # noqa: E402

csv.field_size_limit(1 << 30)
GRADES = 4
GOLD = .02
DRAWS_GOLD = 10
DRAWS = 400
WIRE_PAIRS = 100
# The rule of a model that names none, and the other one that weighs agents.
DEFAULT, OTHER = "posterior", "weighted"
# Least kappa with 2 % gold; without gold the bar is the best judge in hindsight less .02.
GATES = {"trec_dl2019": .55, "llmjudge_2024": .39}


def table(path):
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


class Set:
    """Pairs with the grade of people and what each judge said, as numbers; -1 where that is no grade."""

    def __init__(self, root, name):
        labels = table(os.path.join(root, name, "judge_labels.tsv.gz"))
        text = {d: title + "\n" + body for d, title, body in table(os.path.join(root, name, "docs.tsv.gz"))}
        query = dict(table(os.path.join(root, name, "queries.tsv.gz")))
        self.name = name
        self.judges = labels[0][3:]
        self.said = [line[3:] for line in labels[1:]]
        self.label = np.array([[int(v) if v in ("0", "1", "2", "3") else -1 for v in line] for line in self.said])
        self.truth = np.array([int(float(line[2])) for line in labels[1:]])
        self.query_id = np.array([line[0] for line in labels[1:]])
        self.pairs = [(query[q], d, text[d]) for q, d, *_ in labels[1:]]
        place = {q: i for i, q in enumerate(sorted(set(self.query_id)))}
        self.group = np.array([place[q] for q in self.query_id])

    def draw(self, seed):
        chosen = np.random.RandomState(seed).permutation(len(self.truth))[:max(40, round(GOLD * len(self.truth)))]
        return np.isin(np.arange(len(self.truth)), chosen)


def measure(data, grade, counted):
    """(kappa, accuracy) where there is a grade."""
    there = counted & (grade >= 0)
    return kappa(data.truth[there], grade[there], GRADES), (data.truth[there] == grade[there]).mean()


def interval(data, grade, counted):
    """95 % interval of the kappa, by bootstrap over queries."""
    there = np.flatnonzero(counted & (grade >= 0))
    members = [there[data.group[there] == g] for g in range(data.group.max() + 1)]
    draws = np.random.default_rng(15).integers(0, len(members), (DRAWS, len(members)))
    return np.percentile([kappa(data.truth[c], grade[c], GRADES) for c in
                          (np.concatenate([members[g] for g in row]) for row in draws)], [2.5, 97.5])


# --- the way through serm

class Mock:
    """The mock endpoint, replaying."""

    def __init__(self, data):
        self.directory = tempfile.TemporaryDirectory()
        replay = os.path.join(self.directory.name, "replay")
        known = {}
        with open(replay, "w") as file:
            for (query, _, doc), said in zip(data.pairs, data.said):
                key = pair_key(query, doc)
                known[key] = known.get(key, 0) + 1
                for j, grade in enumerate(said if known[key] == 1 else []):
                    file.write(f"{j}\t{key}\t{grade}\n")
        self.alone = np.array([known[pair_key(query, doc)] == 1 for query, _, doc in data.pairs])
        self.process = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "..", "mock", "endpoint.py"),
                                         "--replay", replay], stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.directory.cleanup()


def psql_md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def human(data, gold):
    return copy("serm.judgment (model, query, doc_id, doc, grade, source, judge)", csv_lines(
        ("bench", *data.pairs[i], data.truth[i], "human", "people") for i in np.flatnonzero(gold)))


def add_judges(data, model, port):
    """Agents judge_0, judge_1 ... of a model: servers of the mock, or without a port SQL functions."""
    if port:
        return "".join(f"""
            CREATE SERVER judge_{j} FOREIGN DATA WRAPPER serm_agent
                OPTIONS (endpoint 'http://127.0.0.1:{port}/replay/{j}/v1', model 'replay', paths '1', max_attempts '3');
            SELECT FROM serm.add_agent('{model}', 'judge_{j}');""" for j in range(len(data.judges)))
    return "".join(f"""
        CREATE FUNCTION bench.judge_{j}(query text, doc text) RETURNS integer STABLE LANGUAGE sql AS
            $$SELECT grade FROM bench.said WHERE judge = {j} AND pair = md5(query || doc)$$;
        SELECT FROM serm.add_agent('{model}', 'bench.judge_{j}(text,text)'::regprocedure);""" for j in range(len(data.judges)))


def wrong_votes(data, model, chosen):
    """(votes on these pairs that are lost or not what the judge said, votes)."""
    place = {data.pairs[i][:2]: i for i in chosen}
    wrong = votes = 0
    for agent, query, doc_id, grade in rows(f"""SELECT v.agent, s.query, s.doc_id, coalesce(v.grade, -1)
            FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = '{model}'"""):
        if (query, doc_id) in place:
            votes += 1
            wrong += data.label[place[query, doc_id], int(agent[6:])] != int(grade)
    return wrong + len(chosen) * len(data.judges) - votes, votes


def annotate(data, gold, wire):
    """Grade everything once: gold is known beforehand, and finds its way among the samples by itself. Returns how many votes
    over HTTP are lost or not what the judge said."""
    mock = Mock(data) if wire else None
    share = gold.sum() / (~gold).sum()
    psql("""CREATE SCHEMA bench;
        CREATE TABLE bench.said (judge int, pair text, grade int, PRIMARY KEY (pair, judge));"""
         + copy("bench.said", csv_lines({(j, psql_md5(query + doc)): (j, psql_md5(query + doc), int(grade))
                                         for (query, _, doc), said in zip(data.pairs, data.said)
                                         for j, grade in enumerate(said)}.values()))
         + f"""SELECT FROM serm.create_model('bench', options => '{{"test_share": 0, "gold_rate": {share:.5f}, "min_reliability": -1}}');"""
         + add_judges(data, "bench", mock and mock.port)
         + human(data, gold) + copy("serm.sample (model, query, doc_id, doc)", csv_lines(
             ("bench", *data.pairs[i]) for i in np.flatnonzero(~gold))))
    started = time.time()
    psql("SET client_min_messages = warning; CALL serm.annotate('bench');")
    seconds = time.time() - started
    if mock:
        mock.stop()
    votes, failed, slipped = rows("""SELECT count(*), count(error), (SELECT count(*) FROM serm.sample WHERE agents = '{gold}')
        FROM serm.vote""")[0]
    print(f"  {votes} votes by {len(data.judges)} judges {'over HTTP' if wire else 'in SQL'} in {seconds:.0f} s, "
          f"{failed} without a grade, {slipped} of {gold.sum()} gold pairs slipped in", flush=True)
    if not wire:
        return 0
    wrong, _ = wrong_votes(data, "bench", np.flatnonzero(mock.alone))
    print(f"  {wrong} votes on {mock.alone.sum()} pairs with a text of their own are lost or not what the judge said")
    return wrong


def check_wire(data, count):
    """Some pairs over HTTP: the votes must be what the judges said. Returns the number of those that are not. Pairs that read
    like another one are left out: the mock knows no ids."""
    mock = Mock(data)
    chosen = np.random.RandomState(1).permutation(np.flatnonzero(mock.alone))[:count]
    psql("SELECT FROM serm.create_model('wire');" + add_judges(data, "wire", mock.port) + copy(
        "serm.sample (model, query, doc_id, doc)", csv_lines(("wire", *data.pairs[i]) for i in chosen)))
    started = time.time()
    psql("SET client_min_messages = warning; CALL serm.annotate('wire');")
    seconds = time.time() - started
    mock.stop()
    wrong, votes = wrong_votes(data, "wire", chosen)
    psql("SELECT FROM serm.drop_model('wire');" + "".join(f"DROP SERVER judge_{j};" for j in range(len(data.judges))))
    print(f"  {votes} votes over HTTP in {seconds:.0f} s, {wrong} of them lost or not what the judge said")
    return wrong


def settle(data, rule, gold, more="{}"):
    """Settle all samples anew from the votes there are; the grades, -1 without one, which of them are agreed, and what the
    targets make of the true grades, in nats (NaN without one)."""
    psql(f"""BEGIN; DELETE FROM serm.judgment WHERE model = 'bench';
        UPDATE serm.model SET options = options || '{{"rule": "{rule}"}}' || '{more}' WHERE name = 'bench';
        UPDATE serm.sample SET state = 'annotating', grade = NULL, agents = '{{}}' WHERE model = 'bench';"""
         + human(data, gold) + """
        UPDATE serm.sample s SET agents = '{gold}' FROM serm.judgment j WHERE j.model = 'bench' AND s.model = 'bench'
            AND j.query = s.query AND j.doc_id = s.doc_id;
        COMMIT; SET client_min_messages = warning; CALL serm.annotate('bench');""")
    place = {(q, d): i for i, (q, d, _) in enumerate(data.pairs)}
    grade, agreed, nats = np.full(len(data.truth), -1), np.zeros(len(data.truth), bool), np.full(len(data.truth), np.nan)
    for q, d, state, g, target in rows("""SELECT j.query, j.doc_id, s.state, j.grade, array_to_string(j.target, ' ')
            FROM serm.judgment j JOIN serm.sample s USING (model, query, doc_id) WHERE j.source = 'agents'"""):
        i = place[q, d]
        # In dispute the judgment is the mean of its target; what the rule would have said is the likeliest grade.
        probs = [float(p) for p in target.split(" ")] if target else []
        grade[i] = round(float(g)) if state == "agreed" or not probs else np.argmax(probs)
        agreed[i] = state == "agreed"
        nats[i] = -np.log(max(probs[data.truth[i]], 1e-6)) if probs else np.nan
    return grade, agreed, nats


# --- the report

def spread_of_difference(data, ours, theirs, counted):
    """95 % interval of the difference of two kappas, by bootstrap over queries; grades of both, -1 where there is none."""
    there = np.flatnonzero(counted & (ours >= 0) & (theirs >= 0))
    members = [there[data.group[there] == g] for g in range(data.group.max() + 1)]
    draws = np.random.default_rng(15).integers(0, len(members), (DRAWS, len(members)))
    return np.percentile([kappa(data.truth[c], ours[c], GRADES) - kappa(data.truth[c], theirs[c], GRADES) for c in
                          (np.concatenate([members[g] for g in row]) for row in draws)], [2.5, 97.5])


def line(name, found, low_high=None, kept=1.0, note=""):
    spread = f"[{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high is not None else ""
    print(f"  {name:46} kappa {found[0]:.3f} {spread:16} accuracy {found[1]:.3f}  kept {kept:.2f}  {note}")


def plain_rules(data):
    """What needs no serm: single judges and a plain majority. Returns the best judge's kappa in hindsight."""
    everything = np.ones(len(data.truth), bool)
    single = [measure(data, data.label[:, j], everything) for j in range(len(data.judges))]
    order = np.argsort([k for k, _ in single])
    line("best single judge in hindsight", single[order[-1]], interval(data, data.label[:, order[-1]], everything),
         note=data.judges[order[-1]])
    line("median judge", single[order[len(order) // 2]])
    count = np.stack([(data.label == y).sum(1) for y in range(GRADES)], 1)
    line("majority of all", measure(data, count.argmax(1), everything), interval(data, count.argmax(1), everything))
    picked = []
    for seed in range(DRAWS_GOLD):
        gold = data.draw(seed)
        by_gold = [measure(data, data.label[:, j], gold)[0] for j in range(len(data.judges))]
        picked.append(single[int(np.nanargmax(by_gold))])
    line(f"judge that {GOLD:.0%} gold would pick, mean of {DRAWS_GOLD}", np.mean(picked, axis=0))
    return single[order[-1]][0]


def gold_rule(data, rule):
    """A rule with gold, over draws of it: mean kappa and accuracy; interval of the first draw. Returns the mean kappa, and
    the grades of the first draw."""
    found, kept_found, kept, nats, first = [], [], [], [], None
    for seed in range(DRAWS_GOLD):
        gold = data.draw(seed)
        grade, agreed, surprise = settle(data, rule, gold)
        nats.append(np.nanmean(surprise[~gold]))
        found.append(measure(data, grade, ~gold))
        kept_found.append(measure(data, grade, ~gold & agreed))
        kept.append((~gold & agreed).sum() / (~gold).sum())
        if seed == 0:
            first, spread = grade, interval(data, grade, ~gold)
    line(f"{rule}, {GOLD:.0%} gold, mean of {DRAWS_GOLD} draws", np.mean(found, axis=0), spread,
         note=f"sd over draws {np.std([k for k, _ in found]):.3f}, NLL of targets {np.mean(nats):.3f}")
    line(f"  agreed ones only", np.mean(kept_found, axis=0), kept=np.mean(kept))
    return float(np.mean([k for k, _ in found])), first


def no_gold_rule(data, rule, more="{}", name=None):
    none = np.zeros(len(data.truth), bool)
    grade, _, nats = settle(data, rule, none, more)
    there = grade >= 0
    found = measure(data, grade, ~none)
    line(name or f"{rule}, no gold", found, interval(data, grade, ~none), kept=there.mean(),
         note="" if np.isnan(nats).all() else f"NLL of targets {np.nanmean(nats):.3f}")
    return found[0]


def gate(name, value, least):
    print(f"  {'pass' if value >= least else 'MISS'}  {name} {value:.4f}, gate >= {least:.4f}")
    return int(value < least)


def report(root, name):
    data = Set(root, name)
    shares = " ".join(f"{s:.2f}" for s in np.bincount(data.truth, minlength=GRADES) / len(data.truth))
    print(f"\n{name}: {len(data.truth)} pairs of {data.group.max() + 1} queries, grades of people {shares}", flush=True)
    best = plain_rules(data)
    wire = os.environ.get("JUDGES_WIRE") == "all"
    missed = 0 if wire else int(check_wire(data, WIRE_PAIRS) > 0)
    missed += int(annotate(data, data.draw(0), wire) > 0)
    made = {rule: gold_rule(data, rule) for rule in ("weighted", "posterior")}
    with_gold = {rule: mean for rule, (mean, _) in made.items()}
    without = {rule: no_gold_rule(data, rule) for rule in ("weighted", "posterior")}
    no_gold_rule(data, "quorum", '{"quorum": 0.01}', "quorum .01 (the most votes, no tie)")
    no_gold_rule(data, "quorum", '{"quorum": 0.666}', "quorum 2/3")
    no_gold_rule(data, "unanimous")
    low, high = spread_of_difference(data, made[DEFAULT][1], made[OTHER][1], ~data.draw(0))
    print(f"  {DEFAULT} (the default) less {OTHER}: kappa {with_gold[DEFAULT] - with_gold[OTHER]:+.3f} with gold, interval of the first draw "
          f"[{low:+.3f}, {high:+.3f}]; {without[DEFAULT] - without[OTHER]:+.3f} without")
    for rule in with_gold:
        missed += gate(f"{rule} with {GOLD:.0%} gold", with_gold[rule], GATES[name])
        missed += gate(f"{rule} without gold", without[rule], best - .02)
    psql("SELECT FROM serm.drop_model('bench'); DROP SCHEMA bench CASCADE;"
         + "".join(f"DROP SERVER IF EXISTS judge_{j};" for j in range(len(data.judges))))
    sys.stdout.flush()
    return missed


def crowd(root):
    """snow2008: 164 workers, each of whom labelled some of 800 pairs, no gold; Dawid and Skene reach .9275."""
    labels = table(os.path.join(root, "snow2008", "rte_labels.tsv.gz"))[1:]
    workers = sorted({w for _, w, *_ in labels})
    truth = {i: int(g) for i, _, _, g in labels}
    psql("""SELECT FROM serm.create_model('crowd', grades => '{no,yes}', options => '{"gold_rate": 0, "rule": "posterior"}');
        CREATE FUNCTION never(query text, doc text) RETURNS integer LANGUAGE sql IMMUTABLE RETURN NULL::integer;"""
         + "".join(f"""SELECT FROM serm.add_agent('crowd', 'never(text,text)'::regprocedure, '{{"name": "{w}"}}');""" for w in workers)
         + copy("serm.sample (id, model, query, doc_id, doc, state)", csv_lines(
             (n + 1, "crowd", f"item {i}", i, i, "annotating") for n, i in enumerate(truth)))
         + copy("serm.vote (sample, agent, path, grade)", csv_lines(
             (list(truth).index(i) + 1, w, 1, int(label)) for i, w, label, _ in labels))
         + "SET client_min_messages = warning; CALL serm.annotate('crowd');")
    votes = {}
    for i, _, label, _ in labels:
        votes.setdefault(i, []).append(int(label))
    most = np.mean([(np.mean(v) > .5) == truth[i] if np.mean(v) != .5 else .5 for i, v in votes.items()])
    right = np.mean([int(np.argmax([float(p) for p in target.split(" ")])) == truth[i] for i, target in rows(
        "SELECT doc_id, array_to_string(target, ' ') FROM serm.judgment WHERE model = 'crowd'")])
    psql("SELECT FROM serm.drop_model('crowd'); DROP FUNCTION never;")
    print(f"\nsnow2008: {len(truth)} pairs, {len(workers)} workers, no gold\n  the most votes: accuracy {most:.4f}; "
          f"posterior: {right:.4f} (Dawid and Skene: .9275)", flush=True)


def main():
    root, names = sys.argv[1], sys.argv[2:]
    if os.path.exists(os.path.join(root, "snow2008")):
        crowd(root)
    missed = sum(report(root, name) for name in names)
    print(f"\n{missed} gate(s) missed" if missed else "\nall gates passed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
