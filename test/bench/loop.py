#!/usr/bin/python3
"""What two rounds of the demo's loop bring to queries that nobody has seen. Run by test/bench/evolve.sh.

The bundled sample (test/data) in five folds by query, each with a fifth of the new season. The queries of a fold are in no
judgment and no line of the log that the model has; the gate has the test split of the others, as ever. The judges are those of the
demo: two in SQL and the mock endpoint with its noise; the oracle is one judge that gives the true grade. Means over EVOLVE_SEEDS; intervals
are 95 %, by bootstrap over queries, paired. Exit status 1: a gate was missed. Needs python3-numpy.
"""
import os
import subprocess
import sys
import time

import numpy as np

from evolve import DRAWS, FOLDS, QUIET, SEED, SEEDS, Result, gate, predict, show
from quality_metrics import Lists
from quality_sets import copy, csv_lines, psql, rows

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "demo")
UNTIL = ("2026-04-06 00:00:00+00", "2026-04-13 00:00:00+00")
JUDGES = ("'shop.lenient_judge(text,text)'::regprocedure", "'shop.strict_judge(text,text)'::regprocedure", "'judge_http'::name")
ARMS = {
    "posterior": ('{"rule": "posterior"}', JUDGES),
    "quorum, as in the demo": ('{"rule": "quorum"}', JUDGES),
    "oracle": ('{"rule": "unanimous", "labels": "agreed", "gold_rate": 0}', ("'shop.true_grade(text,text)'::regprocedure",)),
}
METRICS = ("lin@1", "lin@4")


def load(port):
    """The sample as the demo has it, its queries in folds, and a log without those of the fold that is hidden."""
    for script in ("10-schema", "20-load-sample", "40-judges"):
        subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", os.path.join(DEMO, script + ".sql")], check=True,
                       env=dict(os.environ, PGTZ="UTC", SERM_DEMO_DATA="test/data"))
    psql(f"""CREATE VIEW shop.document AS SELECT doc_id, doc FROM shop.product;
        CREATE TABLE shop.fold (query_id text PRIMARY KEY, query text, fold int);
        CREATE TABLE shop.hidden (fold int);
        CREATE VIEW shop.seen_log AS SELECT l.* FROM shop.search_log l JOIN shop.fold f USING (query) WHERE f.fold NOT IN (TABLE shop.hidden);
        CREATE SERVER judge_http FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:{port}/v1', model 'mock', paths '3');
        CREATE USER MAPPING FOR CURRENT_USER SERVER judge_http OPTIONS (api_key 'demo');""")
    fold = []
    for season in ("t", "f"):
        queries = rows(f"SELECT query_id, query FROM shop.query WHERE (segment = 'season') = '{season}' ORDER BY query_id COLLATE \"C\"")
        for place, i in enumerate(np.random.RandomState(SEED).permutation(len(queries))):
            fold.append((*queries[i], place * FOLDS // len(queries)))
    psql(copy("shop.fold", csv_lines(fold)) + "ANALYZE shop.fold;")


def evolve(fold, seed, options, agents):
    """A first version and two rounds without a fold's queries: predictions for these of both, and the rounds promoted."""
    held_out = f"""SELECT t.query_id, t.doc_id, f.query, p.doc FROM shop.truth t JOIN shop.fold f USING (query_id)
        JOIN shop.product p USING (doc_id) WHERE f.fold = {fold}"""
    psql(f"""TRUNCATE shop.hidden; INSERT INTO shop.hidden VALUES ({fold});
        SELECT FROM serm.create_model('loop', grades => '{{g0,g1,g2,g3}}', log => 'shop.seen_log', documents => 'shop.document',
            options => '{options}');
        INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'loop', query, doc_id, grade FROM shop.labelled
            JOIN shop.fold USING (query_id) WHERE fold <> {fold};
        {QUIET} CALL serm.train('loop', '{{"seed": {seed}}}');"""
         + "".join(f"SELECT FROM serm.add_agent('loop', {agent});" for agent in agents))
    first = predict(held_out, "loop")
    for until in UNTIL:
        psql(f"""SET client_min_messages = error; CALL serm.evolve('loop', '{{"budget": 1000, "until": "{until}",
            "mine": {{"min_impressions": 8}}, "gate": {{"margin": 0.05}}, "train": {{"seed": {seed}}}}}');""")
    evolved = predict(held_out, "loop")
    promoted = int(rows("SELECT count(*) FROM serm.round WHERE phase = 'promoted'")[0][0])
    psql("SELECT serm.drop_model('loop');")
    return first, evolved, promoted


def report(made):
    lists = {part: Lists(row[1:] for row in rows(
        "SELECT (segment = 'season')::text, query_id, doc_id, grade FROM shop.truth JOIN shop.query USING (query_id)")
        if part == "all queries" or row[0] == "true") for part in ("all queries", "new season")}
    missed, gain = 0, {}
    for part, of in lists.items():
        draws = np.random.default_rng(15).integers(0, len(of.queries), (DRAWS, len(of.queries)))
        first = Result(made["posterior"]["first"], of, 4)
        show(f"first version, {part} ({len(of.queries)})", first, None, METRICS, draws)
        for name, results in made.items():
            evolved = Result(results["evolved"], of, 4)
            show(f"{name}, {part}", evolved, first, METRICS, draws,
                 f"{results['promoted']} of {2 * FOLDS * len(SEEDS)} rounds promoted" if part == "all queries" else "")
            points, low, high = evolved.difference(first, "lin@4", draws)
            gain[name] = points
            if name == "posterior":
                missed += gate(f"{name}, {part}, NDCG@4 less the first version", high >= 0, f"interval [{low:+.1f}, {high:+.1f}], upper end at least 0")
        print("  of the oracle's gain in NDCG@4: " + ", ".join(
            f"{name} {points / gain['oracle']:.2f}" for name, points in gain.items() if name != "oracle"), flush=True)
    return missed


def main():
    started = time.time()
    made = {name: {"first": [{} for _ in SEEDS], "evolved": [{} for _ in SEEDS], "promoted": 0} for name in ARMS}
    mock = subprocess.Popen([sys.executable, os.path.join(DEMO, "..", "mock", "endpoint.py"), "--noise", "0.1"], stdout=subprocess.PIPE)
    try:
        load(int(mock.stdout.readline()))
        for f in range(FOLDS):
            for name, (options, agents) in ARMS.items():
                for s, seed in enumerate(SEEDS):
                    first, evolved, promoted = evolve(f, seed, options, agents)
                    made[name]["first"][s].update(first)
                    made[name]["evolved"][s].update(evolved)
                    made[name]["promoted"] += promoted
            print(f"loop.py: fold {f}: {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    finally:
        mock.terminate()
        mock.wait()
    print(f"\nthe loop on the sample: {FOLDS} folds, two rounds of 1,000, mean of {len(SEEDS)} seeds, {time.time() - started:.0f} s; "
          "points above the first version")
    missed = report(made)
    print(f"\n{missed} gate(s) missed" if missed else "\nall gates passed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
