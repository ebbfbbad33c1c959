#!/usr/bin/python3
"""What the say of recent queries brings to rounds. Run by test/bench/evolve.sh (PARTS=gate).

The loop of loop.py, four rounds of 350 in each fold; the training of every second one is poor (fewer epochs, one head), as after a mistaken
option. The rounds run with recent queries switched off, and every rule for them is applied to the numbers that they leave in
serm.round: all rules judge the same candidates. A promotion is worth what it does to NDCG@4 by the true grades of the queries
that are hidden from everything, a refusal 0. Means over EVOLVE_SEEDS; intervals are 95 %, by bootstrap over queries, paired.
GATE_MARGIN is the margin of the gate. Nothing is gated here. Needs python3-numpy.
"""
import os
import subprocess
import sys
import time

import numpy as np

from evolve import DRAWS, FOLDS, QUIET, SEEDS
from loop import DEMO, JUDGES, UNTIL, load
from quality_metrics import Lists, bootstrap
from quality_sets import psql, rows

TRAINING = ("", ', "epochs": 4', "", ', "epochs": 8, "heads": 1')
MARGIN = os.environ.get("GATE_MARGIN", "0.05")
MIN_QUERIES = 10
RULES = {
    "off": lambda value, low, high: True,
    "lenient": lambda value, low, high: high >= 0,
    "strict": lambda value, low, high: value >= 0,
    "strict, lower bound -.05": lambda value, low, high: value >= 0 and low >= -.05,
}
PARTS = {"all queries": ("true", "false"), "new season": ("true",), "before": ("false",)}


def start(fold, seed):
    psql(f"""TRUNCATE shop.hidden; INSERT INTO shop.hidden VALUES ({fold});
        SELECT FROM serm.create_model('loop', grades => '{{g0,g1,g2,g3}}', log => 'shop.seen_log', documents => 'shop.document');
        INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'loop', query, doc_id, grade FROM shop.labelled
            JOIN shop.fold USING (query_id) WHERE fold <> {fold};
        {QUIET} CALL serm.train('loop', '{{"seed": {seed}}}');"""
         + "".join(f"SELECT FROM serm.add_agent('loop', {agent});" for agent in JUDGES))


def gain(fold, active, candidate, grade):
    """What the candidate does to NDCG@4 of the hidden queries: {query: difference}."""
    pairs = rows(f"""SELECT t.query_id, t.doc_id, serm.score_version(f.query, p.doc, 'loop', {active}),
        serm.score_version(f.query, p.doc, 'loop', {candidate}) FROM shop.truth t JOIN shop.fold f USING (query_id)
        JOIN shop.product p USING (doc_id) WHERE f.fold = {fold}""")
    before, after = ({(p[0], p[1]): float(p[i]) for p in pairs} for i in (2, 3))
    of = Lists((q, d, grade[q, d]) for q, d in before)
    return dict(zip(of.queries, of.ranking(after)["lin@4"] - of.ranking(before)["lin@4"]))


def rounds(fold, seed, grade):
    """(poor?, promoted without the segment, value, low, high, number of recent queries, gain) of each round."""
    start(fold, seed)
    made = []
    for number, training in enumerate(TRAINING):
        psql(f"""SET client_min_messages = error; CALL serm.evolve('loop', '{{"budget": 350, "until": "{UNTIL[min(number, 1)]}",
            "mine": {{"min_impressions": 8}}, "gate": {{"margin": {MARGIN}, "recent": "off"}}, "train": {{"seed": {seed}{training}}}}}');""")
        told = rows("""SELECT phase, parent, candidate, r ->> 'difference', r ->> 'low', r ->> 'high', r ->> 'n' FROM serm.round,
            LATERAL (SELECT metrics -> 'gate' -> 'recent' -> 'ndcg@4') x (r) ORDER BY round DESC LIMIT 1""")[0]
        if told[2]:
            made.append((training != "", told[0] == "promoted", *(float(x or "nan") for x in told[3:6]), int(told[6]), gain(fold, *told[1:3], grade)))
            print(f"gate.py: fold {fold}, seed {seed}, round {number + 1}: {told}", file=sys.stderr, flush=True)
    psql("SELECT serm.drop_model('loop');")
    return made


def worth(made, kept, season, seasons):
    """Points of a round, by query: what the rounds that are kept bring to a query, over all rounds that it was hidden in."""
    queries = sorted(q for q in season if season[q] in seasons)
    return np.array([100 * sum(np.nan_to_num(m[6][q]) for m, k in zip(made, kept) if k and q in m[6])
                     / max(1, sum(q in m[6] for m in made)) for q in queries])


def interval(values):
    draws = np.random.default_rng(15).integers(0, len(values), (DRAWS, len(values)))
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(values.mean(), *bootstrap(values, draws))


def report(made, season):
    kinds = {"all rounds": made, "sound rounds": [m for m in made if not m[0]], "poor rounds": [m for m in made if m[0]]}
    for kind, chosen in kinds.items():
        for alone in (False, True):
            print(f"  {kind}: {len(chosen)}, " + ("recent queries alone" if alone else "base set and recent queries")
                  + f" ({np.mean([m[5] for m in chosen]):.0f} of them)")
            off = [alone or m[1] for m in chosen]
            for name, rule in RULES.items():
                kept = [o and (m[5] < MIN_QUERIES or rule(*m[2:5])) for o, m in zip(off, chosen)]
                cells = []
                for part, seasons in PARTS.items():
                    brings, without = (worth(chosen, k, season, seasons) for k in (kept, off))
                    cells.append(f"{part} {interval(brings)}" + ("" if name == "off" else f" less off {interval(brings - without)}"))
                print(f"    {name:26} {sum(kept):3} promoted; a round: " + ", ".join(cells), flush=True)


def main():
    started = time.time()
    made = []
    mock = subprocess.Popen([sys.executable, os.path.join(DEMO, "..", "mock", "endpoint.py"), "--noise", "0.1"], stdout=subprocess.PIPE)
    try:
        load(int(mock.stdout.readline()))
        truth = rows("SELECT query_id, doc_id, grade FROM shop.truth")
        grade = {(q, d): int(g) for q, d, g in truth}
        season = dict(rows("SELECT query_id, (segment = 'season')::text FROM shop.query"))
        for fold in range(FOLDS):
            for seed in SEEDS:
                made += rounds(fold, seed, grade)
    finally:
        mock.terminate()
        mock.wait()
    print(f"\nrecent queries in the gate, on the sample: {FOLDS} folds, four rounds of 350, margin {MARGIN}, {len(SEEDS)} seeds, "
          f"{time.time() - started:.0f} s; points of NDCG@4 of hidden queries")
    report(made, season)


if __name__ == "__main__":
    main()
