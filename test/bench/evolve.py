#!/usr/bin/python3
"""What a model learns from real judges instead of people. Run by test/bench/evolve.sh.

    evolve.py DATA_ROOT PART...

student: trec_dl2019, five folds by query. The labels of its seven judges are settled by each rule with 2 % gold of the
    training queries; a student trained on them is tested on the grades of people for the queries of the fold, against a
    student trained on the grades of people.
rounds: a model of homedepot meets the queries of epqa: three rounds of serm.evolve. The judges are those of trec_dl2019: for a
    pair of grade y they say what they said, all together, about a pair of that grade, so they err as they do, and alike.
EVOLVE_SEEDS=1,2,3 trains each model with these seeds and means their scores. PARTS=rounds runs that part alone.
Intervals are 95 %, by bootstrap over queries, paired. Exit status 1: a gate was missed. Needs python3-numpy.
"""
import os
import sys
import time

import numpy as np

from judges import Set, csv_lines, human, table
from quality_metrics import Lists, bootstrap, kappa
from quality_sets import copy, psql, rows

SEED = 42
SEEDS = tuple(map(int, os.environ.get("EVOLVE_SEEDS", "1").split(",")))
# Of every training: less than the defaults, since there are dozens of them; the same for all that is compared.
TRAIN = '"epochs": 12, "pretrain_epochs": 3'
FOLDS = 5
GOLD = .02
DRAWS = 2000
# The rule of a model that names none: it is held to the gates.
DEFAULT, OTHER = "posterior", "weighted"
QUIET = "SET client_min_messages = warning;"


# --- a model and its predictions

def train(model, seed):
    psql(f"""{QUIET} CALL serm.train('{model}', '{{"seed": {seed}, "promote": true, {TRAIN}}}');""")


def predict(pairs, model, version="NULL"):
    """{(query, document): (score, grade by the cut points, probabilities)} of the pairs that a query gives."""
    return {(q, d): (float(f), int(g[1:]), np.array(p.split(" "), dtype=float)) for q, d, f, g, p in rows(f"""
        SELECT query_id, doc_id, (p).score, (p).grade, array_to_string((p).probs, ' ')
          FROM (SELECT query_id, doc_id, serm.predict(query, doc, '{model}') AS p FROM ({pairs}) x OFFSET 0) y""")}


class Result:
    """Means over seeds of what each pair was given, and the metrics on the grades of people."""

    def __init__(self, predictions, lists, grades):
        keys = predictions[0].keys()
        self.lists = lists
        self.score = {k: float(np.mean([p[k][0] for p in predictions])) for k in keys}
        self.cut = {k: int(np.floor(np.mean([p[k][1] for p in predictions]) + .5)) for k in keys}
        self.probs = {k: np.mean([p[k][2] for p in predictions], axis=0) for k in keys}
        self.ndcg = lists.ranking(self.score)
        self.right = np.array([np.mean(np.array([self.probs[q, d].argmax() for d, _ in lists.keys[q]]) == lists.grade[q])
                               for q in lists.queries])
        self.pairs = np.array([len(lists.keys[q]) for q in lists.queries])
        truth = np.concatenate([lists.grade[q] for q in lists.queries])
        cut = np.concatenate([[self.cut[q, d] for d, _ in lists.keys[q]] for q in lists.queries])
        self.accuracy = (self.right * self.pairs).sum() / self.pairs.sum()
        self.kappa = kappa(truth, cut, grades)
        self.nll = float(np.mean([-np.log(max(self.probs[q, d][g], 1e-12)) for q in lists.queries for d, g in lists.keys[q]]))

    def difference(self, other, metric, draws):
        """(points above the other, low, high)"""
        apart = self.ndcg[metric] - other.ndcg[metric]
        low, high = bootstrap(apart, draws)
        return 100 * float(np.nanmean(apart)), 100 * low, 100 * high

    def accuracy_difference(self, other, draws):
        """The same of accuracy."""
        apart = (self.right - other.right) * self.pairs
        low, high = np.percentile(apart[draws].sum(1) / self.pairs[draws].sum(1), [2.5, 97.5])
        return 100 * apart.sum() / self.pairs.sum(), 100 * low, 100 * high


def show(name, result, other, metrics, draws, note=""):
    cells = "   ".join(f"{m} {np.nanmean(result.ndcg[m]):.3f} " + (
        "{:+.1f} [{:+.1f}, {:+.1f}]".format(*result.difference(other, m, draws)) if other else "") for m in metrics)
    print(f"  {name:44} {cells:70} accuracy {result.accuracy:.3f}  kappa {result.kappa:.3f}  NLL {result.nll:.3f}  {note}",
          flush=True)


def compare_rules(results, lists, metric, draws):
    """The default rule beside the other one that weighs agents."""
    ours, theirs = results[DEFAULT], results[OTHER]
    nll = {result: np.array([np.mean([-np.log(max(result.probs[q, d][g], 1e-12)) for d, g in lists.keys[q]]) for q in lists.queries])
           for result in (ours, theirs)}
    apart = (nll[ours] - nll[theirs]) * ours.pairs
    low, high = np.percentile(apart[draws].sum(1) / ours.pairs[draws].sum(1), [2.5, 97.5])
    print(f"  {DEFAULT} (the default) less {OTHER}: " + "NDCG@{} {:+.1f} [{:+.1f}, {:+.1f}]".format(
        metric[4:], *ours.difference(theirs, metric, draws)) + ", accuracy {:+.1f} [{:+.1f}, {:+.1f}]".format(
        *ours.accuracy_difference(theirs, draws)) + f", NLL {apart.sum() / ours.pairs.sum():+.3f} [{low:+.3f}, {high:+.3f}]", flush=True)


def gate(name, good, what):
    print(f"  {'pass' if good else 'MISS'}  {name}: {what}")
    return int(not good)


# --- students

def load_student(data):
    psql("""CREATE SCHEMA bench;
        CREATE TABLE bench.document (doc_id text PRIMARY KEY, doc text);
        CREATE TABLE bench.pair (query_id text, query text, doc_id text, grade int, fold int, PRIMARY KEY (query_id, doc_id));"""
         + copy("bench.document", csv_lines({d: (d, doc) for _, d, doc in data.pairs}.values())))
    queries = sorted(set(data.query_id))
    place = {queries[i]: p for p, i in enumerate(np.random.RandomState(SEED).permutation(len(queries)))}
    fold = np.array([place[q] * FOLDS // len(queries) for q in data.query_id])
    psql(copy("bench.pair", csv_lines((q, p[0], p[1], int(g), int(f))
                                      for q, p, g, f in zip(data.query_id, data.pairs, data.truth, fold)))
         + """SELECT FROM serm.create_model('bench', options => '{"test_share": 0, "gold_rate": 0, "min_reliability": -1}');
        CREATE FUNCTION bench.never(query text, doc text) RETURNS integer LANGUAGE sql IMMUTABLE RETURN NULL::integer;"""
         + "".join(f"""SELECT FROM serm.add_agent('bench', 'bench.never(text,text)'::regprocedure, '{{"name": "judge_{j}"}}');"""
                   for j in range(len(data.judges)))
         + copy("serm.sample (id, model, query, doc_id, doc, state)", csv_lines(
             (i + 1, "bench", *p, "settled") for i, p in enumerate(data.pairs)))
         + copy("serm.vote (sample, agent, path, grade)", csv_lines(
             (i + 1, f"judge_{j}", 1, int(g)) for i, row in enumerate(data.label) for j, g in enumerate(row) if g >= 0))
         + "ANALYZE;")
    return fold


def settle(data, rule, gold, judges=None, more="{}"):
    """Judgments of model bench by a rule, of some of the judges only if they are named."""
    active = "true" if judges is None else "name IN (%s)" % ", ".join(f"'judge_{j}'" for j in judges)
    psql(f"""BEGIN; DELETE FROM serm.judgment WHERE model = 'bench';
        UPDATE serm.agent SET active = {active};
        UPDATE serm.model SET options = options || '{{"rule": "{rule}"}}' || '{more}' WHERE name = 'bench';
        UPDATE serm.sample SET state = 'annotating', grade = NULL, agents = '{{}}' WHERE model = 'bench';"""
         + human(data, gold) + f"""
        UPDATE serm.sample s SET agents = '{{gold}}' FROM serm.judgment j WHERE j.model = 'bench' AND s.model = 'bench'
            AND j.query = s.query AND j.doc_id = s.doc_id;
        COMMIT; {QUIET} CALL serm.annotate('bench');""")


def student(fold, source):
    """Predictions for the pairs of a fold by students of each seed: of people, or of what model bench was judged to be."""
    made = []
    for seed in SEEDS:
        psql("""SELECT FROM serm.create_model('student', grades => '{g0,g1,g2,g3}', documents => 'bench.document',
            options => '{"test_share": 0}');""" + (f"""
            INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'student', query, doc_id, grade FROM bench.pair
             WHERE fold <> {fold};""" if source == "people" else f"""
            INSERT INTO serm.judgment (model, query, doc_id, grade, target, source, judge)
                SELECT 'student', j.query, j.doc_id, j.grade, j.target, j.source, j.judge FROM serm.current_judgment j
                JOIN bench.pair p USING (query, doc_id) WHERE j.model = 'bench' AND p.fold <> {fold};"""))
        train("student", seed)
        made.append(predict(f"SELECT query_id, doc_id, query, doc FROM bench.pair JOIN bench.document USING (doc_id) "
                            f"WHERE fold = {fold}", "student"))
        psql("SELECT FROM serm.drop_model('student');")
    return made


def students(root):
    data = Set(root, "trec_dl2019")
    fold = load_student(data)
    best_two = np.argsort([kappa(data.truth, data.label[:, j], 4) for j in range(len(data.judges))])[-2:]
    teachers = {
        "people": None,
        "weighted, 2% gold": ("weighted", None, "{}"),
        "posterior, 2% gold": ("posterior", None, "{}"),
        "best two judges, agreed only": ("unanimous", list(best_two), "{}"),
    }
    made = {name: [{} for _ in SEEDS] for name in teachers}
    started = time.time()
    for f in range(FOLDS):
        gold = np.zeros(len(data.truth), bool)
        training = np.flatnonzero(fold != f)
        gold[np.random.RandomState(100 + f).permutation(training)[:round(GOLD * len(training))]] = True
        for name, rule in teachers.items():
            if rule:
                settle(data, rule[0], gold, *rule[1:])
            for into, new in zip(made[name], student(f, "people" if rule is None else "bench")):
                into.update(new)
            print(f"evolve.py: fold {f}, {name}: {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    lists = Lists(rows("SELECT query_id, doc_id, grade FROM bench.pair"))
    draws = np.random.default_rng(15).integers(0, len(lists.queries), (DRAWS, len(lists.queries)))
    results = {name: Result(predictions, lists, 4) for name, predictions in made.items()}
    print(f"\nstudents on trec_dl2019: {FOLDS} folds, mean of {len(SEEDS)} seeds, {time.time() - started:.0f} s; points above people")
    for name, result in results.items():
        show(name, result, None if name == "people" else results["people"], ("lin@4", "lin@10"), draws)
    compare_rules({rule: results[rule + ", 2% gold"] for rule in (DEFAULT, OTHER)}, lists, "lin@10", draws)
    _, low, high = results[DEFAULT + ", 2% gold"].difference(results["people"], "lin@10", draws)
    apart = 100 * (results[DEFAULT + ", 2% gold"].accuracy - results["people"].accuracy)
    psql("SELECT FROM serm.drop_model('bench'); DROP SCHEMA bench CASCADE;")
    # Above people is no miss.
    return (gate(f"{DEFAULT} student, NDCG@10 less people's", high >= 0, f"interval [{low:+.1f}, {high:+.1f}], upper end at least 0")
            + gate(f"{DEFAULT} student, accuracy less people's", apart >= -2, f"{apart:+.1f} points, at least -2"))


# --- rounds

def shop_grade(g):
    return 0 if g < 1.5 else 1 if g < 2.17 else 2 if g < 2.84 else 3


def load_rounds(root):
    """homedepot's first 5,000 pairs are judged; epqa's queries are split into a log and a test half; 100 pairs of the log
    are graded by people."""
    judges = Set(root, "trec_dl2019")
    docs, pairs = [], []
    for name in ("homedepot", "epqa"):
        query = dict(table(os.path.join(root, name, "queries.tsv.gz")))
        for d, title, body in table(os.path.join(root, name, "docs.tsv.gz")):
            docs.append((f"{name} {d}", title + "\n" + body))
        grade = {}
        for q, d, g in table(os.path.join(root, name, "qrels.tsv.gz")):
            grade.setdefault((q, d), []).append(float(g))
        order = sorted({q for q, _ in grade})
        place = {order[i]: p for p, i in enumerate(np.random.RandomState(SEED).permutation(len(order)))}
        made = sorted((place[q], f"{name} {q}", query[q], f"{name} {d}",
                       shop_grade(np.mean(g)) if name == "homedepot" else int(np.mean(g))) for (q, d), g in grade.items())
        if name == "homedepot":
            made, left = made[:5000], made[5000:9000]
            pairs += [("base", *m[1:]) for m in made] + [("static", *m[1:]) for m in left]
        else:
            half = len(order) // 2
            pairs += [("log" if m[0] < half else "test", *m[1:]) for m in made]
    chosen = np.random.RandomState(SEED).permutation([i for i, p in enumerate(pairs) if p[0] == "log"])[:100]
    by_grade = [judges.label[judges.truth == g] for g in range(4)]
    rng = np.random.RandomState(SEED)
    said = [(*p[2:4], *by_grade[p[4]][rng.randint(len(by_grade[p[4]]))]) for p in pairs if p[0] in ("log", "base")]
    psql("""CREATE SCHEMA bench;
        CREATE TABLE bench.document (doc_id text PRIMARY KEY, doc text);
        CREATE TABLE bench.pair (part text, query_id text, query text, doc_id text, grade int, gold boolean);
        CREATE TABLE bench.said (query text, doc_id text, """ + ", ".join(f"j{j} int" for j in range(len(judges.judges))) + """);"""
         + copy("bench.document", csv_lines(docs))
         + copy("bench.pair", csv_lines((*p, i in set(chosen)) for i, p in enumerate(pairs)))
         + copy("bench.said", csv_lines([tuple(int(v) if isinstance(v, np.integer) else v for v in row) for row in said]))
         + """CREATE INDEX ON bench.said (md5(query)); CREATE INDEX ON bench.document (md5(doc)); ANALYZE;
        CREATE TABLE bench.log AS SELECT query, doc_id, '2026-01-01'::timestamptz + n * interval '1 s' AS shown_at, 1 AS position,
            false AS clicked FROM (SELECT query, doc_id, row_number() OVER (ORDER BY md5(query || doc_id)) AS n
                FROM bench.pair WHERE part = 'log' AND NOT gold) x;
        CREATE FUNCTION bench.truth(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS $$SELECT p.grade
            FROM bench.document d JOIN bench.pair p ON p.doc_id = d.doc_id AND p.query = $1 WHERE md5(d.doc) = md5($2) LIMIT 1$$;"""
         + "".join(f"""CREATE FUNCTION bench.judge_{j}(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS $$SELECT s.j{j}
            FROM bench.document d JOIN bench.said s ON s.doc_id = d.doc_id AND md5(s.query) = md5($1) AND s.query = $1
            WHERE md5(d.doc) = md5($2) LIMIT 1$$;""" for j in range(len(judges.judges))))
    return len(judges.judges)


def start_model(name, rule, agents, seed):
    psql(f"""SELECT FROM serm.create_model('{name}', grades => '{{g0,g1,g2,g3}}', log => 'bench.log', documents => 'bench.document',
            options => '{rule}');
        INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT '{name}', query, doc_id, grade FROM bench.pair
            WHERE part = 'base';
        INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT '{name}', query, doc_id, grade FROM bench.pair WHERE gold;"""
         + "".join(f"SELECT FROM serm.add_agent('{name}', 'bench.{a}(text,text)'::regprocedure);" for a in agents)
         + f"""{QUIET} CALL serm.train('{name}', '{{"seed": {seed}, {TRAIN}}}');""")


def test_pairs(part):
    return f"SELECT query_id, doc_id, query, doc FROM bench.pair JOIN bench.document USING (doc_id) WHERE part = '{part}'"


def run_rounds(options, agents, seed, before, after):
    """Three rounds; predictions before and after go to the lists by part. Returns (labels, right ones, promoted rounds)."""
    start_model("rounds", options, agents, seed)
    for part in before:
        before[part].append(predict(test_pairs(part), "rounds"))
    for _ in range(3):
        psql(f"""SET client_min_messages = error;
            CALL serm.evolve('rounds', '{{"budget": 1000, "seed": {seed}, "train": {{{TRAIN}}}}}');""")
    promoted = rows("SELECT count(*) FILTER (WHERE phase = 'promoted') FROM serm.round")[0][0]
    kept, right = rows("""SELECT count(*), coalesce(sum((round(j.grade) = p.grade)::int), 0) FROM serm.current_judgment j
        JOIN bench.pair p USING (query, doc_id) WHERE j.model = 'rounds' AND j.source = 'agents'""")[0]
    for part in after:
        after[part].append(predict(test_pairs(part), "rounds"))
    psql("SELECT serm.drop_model('rounds');")
    return int(kept), int(right), int(promoted)


def rounds(root):
    count = load_rounds(root)
    judges = [f"judge_{j}" for j in range(count)]
    arms = {
        "posterior": ('{"rule": "posterior"}', judges),
        "weighted": ('{"rule": "weighted"}', judges),
        "unanimous of two, agreed only": ('{"rule": "unanimous", "labels": "agreed"}', [judges[4], judges[3]]),
        "oracle": ('{"rule": "unanimous", "labels": "agreed", "gold_rate": 0}', ["truth"]),
    }
    lists = {part: Lists(rows(f"SELECT query_id, doc_id, grade FROM bench.pair WHERE part = '{part}'")) for part in ("test", "static")}
    draws = {part: np.random.default_rng(15).integers(0, len(l.queries), (DRAWS, len(l.queries))) for part, l in lists.items()}
    results, none = {}, None
    started = time.time()
    print(f"\nrounds from homedepot to epqa: 5,000 pairs, 100 gold pairs, 3 rounds of 1,000, mean of {len(SEEDS)} seeds; points above no evolution")
    for name, (options, agents) in arms.items():
        before, after = ({part: [] for part in lists} for _ in range(2))
        told = [run_rounds(options, agents, seed, before, after) for seed in SEEDS]
        print(f"evolve.py: {name}: {time.time() - started:.0f} s", file=sys.stderr, flush=True)
        if none is None:
            none = {part: Result(before[part], lists[part], 4) for part in lists}
            for part in lists:
                show(f"none, {part}", none[part], None, ("lin@1", "lin@4"), draws[part])
        results[name] = {part: Result(after[part], lists[part], 4) for part in lists}
        kept, right, promoted = np.sum(told, axis=0)
        for part in lists:
            show(f"{name}, {part}", results[name][part], none[part], ("lin@1", "lin@4"), draws[part],
                 f"{kept} labels, {right / max(kept, 1):.2f} right, {promoted} of {3 * len(SEEDS)} rounds promoted" if part == "test" else "")
    missed = 0
    gain = results["oracle"]["test"].difference(none["test"], "lin@4", draws["test"])[0]
    better = results["oracle"]["test"].accuracy - none["test"].accuracy
    for name in (OTHER, DEFAULT):
        points, low, high = results[name]["test"].difference(none["test"], "lin@4", draws["test"])
        share = (results[name]["test"].accuracy - none["test"].accuracy) / better if better else float("nan")
        print(f"  {name}: {points / gain if gain else float('nan'):.2f} of the oracle's gain in NDCG@4, {share:.2f} of that in accuracy")
        if name == DEFAULT:
            missed += gate(f"{name} rounds, NDCG@4 less no evolution", high >= 0, f"interval [{low:+.1f}, {high:+.1f}], upper end at least 0")
            points, low, high = results[name]["static"].difference(none["static"], "lin@4", draws["static"])
            missed += gate(f"{name} rounds, NDCG@4 of homedepot", high >= 0, f"interval [{low:+.1f}, {high:+.1f}], upper end at least 0")
    compare_rules({rule: results[rule]["test"] for rule in (DEFAULT, OTHER)}, lists["test"], "lin@4", draws["test"])
    return missed


def main():
    root, parts = sys.argv[1], sys.argv[2:]
    missed = sum({"student": students, "rounds": rounds}[part](root) for part in parts)
    print(f"\n{missed} gate(s) missed" if missed else "\nall gates passed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
