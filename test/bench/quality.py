#!/usr/bin/python3
"""Quality of the interaction model on public sets, against BM25, ts_rank_cd and XGBoost. Run by test/bench/quality.sh.

    quality.py DATA_ROOT SET...

Everything that the model does is done by SQL through psql: load, train on the training queries of a fold, predict the
pairs of the other queries. Conventions and gates are those of doc/benchmarks.md. Exit status 1: a gate was missed. Needs
python3-numpy; python3-xgboost for its rows.
"""
import collections
import os
import sys

import numpy as np

from quality_cost import cost
from quality_metrics import (DRAWS, KS, Lists, bootstrap, error_signals, graded_difference, ndcg,  # noqa: F401
                             nll_difference, pooled)
from quality_sets import SETS, copy, csv_lines, load, psql, rows, share  # noqa: F401
from quality_systems import Bm25, Interaction, cut_grades, ts_rank_cd, xgboost

COLUMNS = [f"{kind}@{k}" for kind in ("lin", "exp") for k in KS] + ["pacc"]
BELOW = -1e9


def cells(values):
    return "".join(f"{v:>19}" for v in values)


def interval(value, scale=1, digits=3):
    v, low, high = (scale * x for x in value)
    return f"{v:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def check(found, gates):
    """Print each gate; returns how many were missed. A negative bound is a most."""
    missed = 0
    for metric, bound in gates.items():
        good = found[metric] <= -bound if bound < 0 else found[metric] >= bound
        missed += not good
        print(f"  {'pass' if good else 'MISS'}  {metric} {found[metric]:.4f}, gate {'<=' if bound < 0 else '>='} {abs(bound)}")
    return missed


def tell_rankings(systems, metrics, draws):
    print(f"{'':28}" + cells(COLUMNS))
    for system, values in metrics.items():
        print(f"{system:28}" + cells(f"{np.nanmean(values[c]):.4f}" for c in COLUMNS))
    for system in list(systems)[1:]:
        apart = {c: metrics["interaction"][c] - metrics[system][c] for c in COLUMNS}
        spans = {c: 100 * bootstrap(v, draws) for c, v in apart.items()}
        print(f"{'  points above ' + system:28}" + cells(
            f"{100 * np.nanmean(apart[c]):+.1f} [{spans[c][0]:+.1f},{spans[c][1]:+.1f}]" for c in COLUMNS))


def tell_grades(name, ours, systems, lists, pairs, folds, draws):
    """Accuracy, kappa, likelihood, calibration and error signals; returns the pooled figures."""
    grades = SETS[name]["grades"]
    measured = pooled(lists, ours.probs, ours.cut_grade, grades, draws)
    print("  " + "   ".join(f"{m} {v:.4f} [{low:.3f}, {high:.3f}]" for m, (v, low, high) in measured.items()))
    likeliest = {pair: int(p.argmax()) for pair, p in ours.probs.items()}
    for system in list(systems)[1:]:
        cut = cut_grades(systems[system], pairs, folds, grades)
        apart = graded_difference(lists, (likeliest, ours.cut_grade), (cut, cut), grades, draws)
        print(f"  points above {system:16}" + "   ".join(f"{m} {interval(v, digits=1)}" for m, v in apart.items()))
    for signal, v in error_signals(lists, ours.score, {"entropy": ours.entropy, "disagreement": ours.disagreement},
                                   draws).items():
        print(f"  AUROC of an error of one grade or more, {signal}: {v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]")
    return {m: v for m, (v, *_) in measured.items()}


def tell_xgboost(root, name, ours, lists, pairs, folds, draws):
    """Our likelihood against gradient boosting on the same lexical features; returns the gates missed."""
    grades = SETS[name]["grades"]
    theirs = xgboost(os.path.join(root, name), pairs, folds, grades)
    if theirs is None:
        print("  skipped: XGBoost, python3-xgboost is not installed")
        return 0
    likeliest = {pair: int(p.argmax()) for pair, p in theirs.items()}
    expected = {pair: p @ np.arange(grades) for pair, p in theirs.items()}
    measured, rank = pooled(lists, theirs, likeliest, grades, draws), lists.ranking(expected)
    print("  XGBoost: " + "   ".join(f"{m} {measured[m][0]:.4f}" for m in ("accuracy", "kappa", "nll", "pearson", "ece"))
          + "   " + "   ".join(f"{c} {np.nanmean(rank[c]):.4f}" for c in ("lin@4", "lin@10", "pacc")))
    mine = lists.ranking(ours.score)
    for c in ("lin@4", "lin@10", "pacc"):
        apart = mine[c] - rank[c]
        print(f"  points above XGBoost, {c}: {interval((100 * np.nanmean(apart), *100 * bootstrap(apart, draws)), digits=1)}")
    apart = nll_difference(lists, ours.probs, theirs, draws)
    print(f"  NLL less XGBoost's: {interval(apart, digits=4)}")
    return check({"upper end of NLL less XGBoost's": apart[2]}, {"upper end of NLL less XGBoost's": -1e-9})


def report(root, name):
    """One set; returns the gates missed."""
    spec = SETS[name]
    folds = load(root, name, lambda queries: Bm25().pool_of(queries))
    kept = "" if spec["folds"] else "AND fold = 0"
    all_pairs = [(q, d, int(g), int(f), p == "1") for q, d, g, f, p in rows(
        f"SELECT query_id, doc_id, grade, fold, pool FROM bench.grade ORDER BY query_id, doc_id")]
    pairs = [p[:4] for p in all_pairs if p[4]]
    lists = Lists(rows(f"SELECT query_id, doc_id, grade FROM bench.grade WHERE true {kept}"))
    draws = np.random.default_rng(15).integers(0, len(lists.queries), (DRAWS, len(lists.queries)))
    ours, bm25 = Interaction(name, folds), Bm25()
    systems = {"interaction": ours.score, "BM25 1.2/.75": bm25.pairs()}
    if name in ("trec_dl2019", "cranfield"):
        systems["BM25 tuned"] = bm25.tuned(
            lambda fold: Lists([p[:3] for p in all_pairs if p[3] == fold]), folds)
    else:
        systems["ts_rank_cd AND"] = ts_rank_cd("plainto_tsquery('english', query)")
        systems["ts_rank_cd OR"] = ts_rank_cd("replace(plainto_tsquery('english', query)::text, '&', '|')::tsquery")
    outside = {p[:2]: BELOW for p in all_pairs if not p[4]}
    systems = {system: {**values, **outside} for system, values in systems.items()}
    metrics = {system: lists.ranking(values) for system, values in systems.items()}
    print(f"\n{name}: {len(lists.queries)} held-out queries, {sum(map(len, lists.keys.values()))} pairs, "
          f"{len(folds)} training(s) in {ours.seconds:.1f} s of CPU")
    tell_rankings(systems, metrics, draws)
    found = {c: float(np.nanmean(metrics["interaction"][c])) for c in COLUMNS}
    missed = 0
    if not spec["pool"]:
        found.update(tell_grades(name, ours, systems, lists, pairs, folds, draws))
    missed += check(found, spec["gates"])
    if not spec["pool"] and name != "trec_dl2019":
        missed += tell_xgboost(root, name, ours, lists, pairs, folds, draws)
    missed += check(*cost(name, ours))
    sys.stdout.flush()
    return missed


def main():
    root, names = sys.argv[1], sys.argv[2:]
    missed = collections.Counter({name: report(root, name) for name in names})
    total = sum(missed.values())
    print("\n" + (f"{total} gate(s) missed" if total else "all gates passed"))
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
