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
            made.append((training != "", told[0] == "promoted", *map(float, told[3:6]), int(told[6]), gain(fold, *told[1:3], grade)))
            print(f"gate.py: fold {fold}, seed {seed}, round {number + 1}: {told}", file=sys.stderr, flush=True)
    psql("SELECT serm.drop_model('loop');")
    return made


def report(made, season):
    for of, chosen in (("rounds of both kinds", made), ("sound rounds", [m for m in made if not m[0]]), ("poor rounds", [m for m in made if m[0]])):
        passed = [m for m in chosen if m[1]]
        print(f"  {of}: {len(chosen)}, {len(passed)} promoted by the base set alone; {np.mean([m[5] for m in chosen]):.0f} recent queries")
        worth = {}
        for name, rule in RULES.items():
            kept = [m[5] < MIN_QUERIES or rule(*m[2:5]) for m in chosen]
            promoted = [m[1] and k for m, k in zip(chosen, kept)]
            cells = []
            for part, seasons in PARTS.items():
                queries = sorted(q for q in season if season[q] in seasons)
                # A query is hidden in the rounds of one fold: its sum over them, as points of one round.
                worth[name, part] = np.array([100 * np.nansum([m[6][q] for m, p in zip(chosen, promoted) if p and q in m[6]] or [0])
                                              / max(1, sum(q in m[6] for m in chosen)) for q in queries])
                draws = np.random.default_rng(15).integers(0, len(queries), (DRAWS, len(queries)))
                low, high = bootstrap(worth[name, part], draws)
                apart = worth[name, part] - worth["off", part]
                cells.append(f"{part} {worth[name, part].mean():+.2f} [{low:+.2f}, {high:+.2f}]" + (
                    "" if name == "off" else " less off {:+.2f} [{:+.2f}, {:+.2f}]".format(apart.mean(), *bootstrap(apart, draws))))
            print(f"    {name:26} {sum(promoted)} promoted, without the base set {sum(kept)}; a round: " + ", ".join(cells), flush=True)


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
