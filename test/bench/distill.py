#!/usr/bin/python3
"""Does a distilled student agree with its teacher better than the same student on its judgments alone? Run by test/bench/distill.sh.

    distill.py DATA_ROOT SET... [name=JSON]...

Everything that models do is done by SQL through psql. Of each fold's training queries the student has judgments of a quarter; a
search log shows the pairs of all of them; the held-out queries are seen by nobody. name=JSON measures another set of options of
serm.distill. Exit status 1: a distilled student does not agree better. Needs python3-numpy.
"""
import json
import os
import sys

import numpy as np

from quality_metrics import DRAWS, Lists, bootstrap, ndcg
from quality_sets import SETS, load, psql, rows

JUDGED = .25
METRICS = ("tau with teacher", "lin@4", "lin@10", "NLL")


def tau(a, b):
    """Kendall's tau-b of two vectors; NaN where either has no order."""
    upper = np.triu_indices(len(a), 1)
    x, y = np.sign(a[:, None] - a[None, :])[upper], np.sign(b[:, None] - b[None, :])[upper]
    apart = np.sqrt((x != 0).sum() * (y != 0).sum())
    return (x * y).sum() / apart if apart else np.nan


class Fold:
    """The models of one fold; predictions of its held-out pairs by name of the system."""

    def __init__(self, name, number, predictions):
        self.name, self.number, self.predictions = name, number, predictions
        self.grades = SETS[name]["grades"]
        psql(f"""DROP TABLE IF EXISTS bench.log;
            CREATE TABLE bench.log AS SELECT query, doc_id, now() AS shown_at, 1 AS position, false AS clicked FROM bench.grade
                JOIN bench.query USING (query_id) WHERE fold <> {number};""")

    def create(self, model, where, log=False, kind="interaction", shape={}):
        psql(f"""SELECT serm.create_model('{model}', '{kind}', grades => (SELECT array_agg('g' || g ORDER BY g)
                FROM generate_series(0, {self.grades - 1}) g), documents => 'bench.document',
                log => {"'bench.log'" if log else "NULL"}, options => '{json.dumps(dict(shape, test_share=0))}');
            INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge)
                SELECT '{model}', query, doc_id, grade, 'human', 'bench' FROM bench.grade
                JOIN bench.query USING (query_id) WHERE fold <> {self.number} AND {where};""")

    def call(self, procedure, *arguments):
        texts = ", ".join("'" + a.replace("'", "''") + "'" for a in arguments)
        psql(f"SET client_min_messages = warning; CALL serm.{procedure}({texts});")

    def predict(self, model, system):
        out = self.predictions.setdefault(system, {})
        for q, d, score, p in rows(f"""SELECT query_id, doc_id, (p).score, array_to_string((p).probs, ' ') FROM (
                SELECT query_id, doc_id, serm.predict(query, doc, '{model}') AS p FROM bench.grade
                JOIN bench.query USING (query_id) JOIN bench.product USING (doc_id) WHERE fold = {self.number} OFFSET 0) x"""):
            out[q, d] = float(score), np.array(p.split(" "), dtype=float)


# Which training queries have judgments, by a hash: the same in each run.
QUARTER = f"abs(hashtextextended(query, 5)::float8) / 9223372036854775808 < {JUDGED}"


def teachers(fold):
    """name -> how to make it: the one with more judgments, and the one that is larger and has no more than the student."""
    made = {"more judgments": lambda: (fold.create("teacher", "true"), fold.call("train", "teacher")),
            "16 heads": lambda: (fold.create("teacher", QUARTER), fold.call("train", "teacher", '{"heads": 16}'))}
    return {name: make for name, make in made.items() if name in os.environ.get("TEACHERS", name).split(",")}


def run_fold(name, number, variants, predictions):
    fold = Fold(name, number, predictions)
    fold.create("alone", QUARTER)
    fold.call("train", "alone")
    for teacher, make in teachers(fold).items():
        make()
        mine = predictions.setdefault(teacher, {})
        fold.predictions = mine
        fold.predict("teacher", "teacher")
        fold.predict("alone", "judgments alone")
        for variant, options in variants.items():
            fold.create("student", "false" if options.get("judged") == "none" else QUARTER, log=True)
            fold.call("distill", "student", "teacher", json.dumps({k: v for k, v in options.items() if v != "none"}))
            fold.predict("student", variant)
            psql("SELECT serm.drop_model('student');")
        psql("SELECT serm.drop_model('teacher');")
    psql("SELECT serm.drop_model('alone');")


def measure(lists, values, teacher):
    out = {m: [] for m in METRICS}
    for q in lists.queries:
        grade, score = lists.grade[q], np.array([values[q, d][0] for d, _ in lists.keys[q]])
        taught = np.array([teacher[q, d][0] for d, _ in lists.keys[q]])
        out["tau with teacher"].append(tau(score, taught))
        for k in (4, 10):
            out[f"lin@{k}"].append(ndcg(grade, score, k, False) if grade.any() else np.nan)
        p = np.array([values[q, d][1][g] for d, g in lists.keys[q]])
        out["NLL"].append(-np.log(np.maximum(p, 1e-12)).mean())
    return {m: np.array(v) for m, v in out.items()}


def tell(teacher, lists, values, draws):
    """Prints a row for each system; returns the least lower bound of the gain in tau over judgments alone."""
    measured = {s: measure(lists, v, values["teacher"]) for s, v in values.items()}
    alone, least = measured["judgments alone"], np.inf
    print(f"\n  teacher: {teacher}\n  {'':24}" + "".join(f"{m:>34}" for m in METRICS))
    for system, found in measured.items():
        cells = []
        for m in METRICS:
            cell = f"{np.nanmean(found[m]):.4f}"
            if system not in ("teacher", "judgments alone"):
                low, high = bootstrap(found[m] - alone[m], draws)
                cell += f" {np.nanmean(found[m] - alone[m]):+.4f} [{low:+.4f}, {high:+.4f}]"
                if m == METRICS[0]:
                    least = min(least, low)
            cells.append(f"{cell:>34}")
        print(f"  {system:24}" + "".join(cells))
    return least


def main():
    root, names = sys.argv[1], [a for a in sys.argv[2:] if "=" not in a]
    variants = {"distilled": {}, "distilled, no judgments": {"judged": "none"}}
    given = [a.split("=", 1) for a in sys.argv[2:] if "=" in a]
    if given:
        variants = {k: json.loads(v) for k, v in given}
    missed = 0
    for name in names:
        numbers = load(root, name, None)[:int(os.environ.get("FOLDS", "99"))]
        predictions = {}
        for number in numbers:
            run_fold(name, number, variants, predictions)
        lists = Lists(rows(f"SELECT query_id, doc_id, grade FROM bench.grade WHERE fold <= {numbers[-1]}"))
        draws = np.random.default_rng(15).integers(0, len(lists.queries), (DRAWS, len(lists.queries)))
        print(f"\n{name}: {len(lists.queries)} held-out queries, {sum(map(len, lists.keys.values()))} pairs; the difference to "
              "judgments alone with its 95 % interval, paired by query")
        for teacher, values in predictions.items():
            least = tell(teacher, lists, values, draws)
            missed += not least > 0
            print(f"  {'pass' if least > 0 else 'MISS'}  every distilled student agrees with the teacher better")
        sys.stdout.flush()
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
