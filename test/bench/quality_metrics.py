"""Metrics of `make bench-quality`, with bootstrap intervals over queries (conventions in doc/benchmarks.md)."""
import collections

import numpy as np

from quality_sets import share

KS = (1, 4, 10)
DRAWS = 2000
POOLED_DRAWS = 400
BINS = 10


def ndcg(grade, score, k, exponential):
    gain = 2.0**grade - 1 if exponential else grade.astype(float)
    discount = 1 / np.log2(np.arange(2, min(k, len(grade)) + 2))
    top = np.argsort(-score, kind="stable")[:k]
    return (gain[top] * discount).sum() / (np.sort(gain)[::-1][:k] * discount).sum()


def pair_accuracy(grade, score):
    better = grade[:, None] > grade[None, :]
    right = (score[:, None] > score[None, :]) + .5 * (score[:, None] == score[None, :])
    return right[better].mean() if better.any() else np.nan


def kappa(a, b, grades):
    """Quadratic weighted kappa of two vectors of grades."""
    seen = np.zeros((grades, grades))
    np.add.at(seen, (a, b), 1)
    weight = (np.arange(grades)[:, None] - np.arange(grades)[None, :]) ** 2
    chance = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
    return 1 - (weight * seen).sum() / (weight * chance).sum()


class Lists:
    """The held-out pairs, by query, in a fixed order; ties of every system are broken by one fixed jitter."""

    def __init__(self, pairs):
        self.keys = collections.defaultdict(list)
        for q, d, g in pairs:
            self.keys[q].append((d, int(g)))
        self.queries = sorted(self.keys)
        self.grade = {q: np.array([g for _, g in self.keys[q]]) for q in self.queries}
        self.jitter = {q: np.array([share(f"tie {q} {d}") for d, _ in self.keys[q]]) for q in self.queries}

    def take(self, q, values):
        return np.array([values[q, d] for d, _ in self.keys[q]])

    def matrix(self, q, values):
        return np.array([values[q, d] for d, _ in self.keys[q]])

    def ordered(self, q, values):
        """Scores whose only ties are broken by the jitter: ranks of (score, jitter)."""
        rank = np.empty(len(self.keys[q]))
        rank[np.lexsort((self.jitter[q], self.take(q, values)))] = np.arange(len(rank))
        return rank

    def ranking(self, values):
        """Metric -> one value per query; NaN where the query cannot tell."""
        out = collections.defaultdict(list)
        for q in self.queries:
            grade, rank = self.grade[q], self.ordered(q, values)
            for k in KS:
                for kind, exponential in (("lin", False), ("exp", True)):
                    out[f"{kind}@{k}"].append(ndcg(grade, rank, k, exponential) if grade.any() else np.nan)
            out["pacc"].append(pair_accuracy(grade, self.take(q, values)))
        return {m: np.array(v) for m, v in out.items()}


def bootstrap(values, draws):
    """95 % interval of the mean over queries; `draws` is shared by all metrics, so differences are paired."""
    counted = ~np.isnan(values)
    filled = np.where(counted, values, 0)
    means = filled[draws].sum(1) / np.maximum(1, counted[draws].sum(1))
    return np.percentile(means, [2.5, 97.5])


def pooled(lists, probs, cut_grade, grades, draws):
    """Accuracy, kappas, NLL and Pearson over all held-out pairs with intervals over queries."""
    per = []
    for q in lists.queries:
        p = np.maximum(np.array([probs[q, d] for d, _ in lists.keys[q]]), 1e-12)
        g = lists.grade[q]
        per.append((g, p.argmax(1), np.array([cut_grade[q, d] for d, _ in lists.keys[q]]),
                    -np.log(p[np.arange(len(g)), g]), p @ np.arange(grades)))

    def measure(chosen):
        g, a, c, nll, f = (np.concatenate([per[i][j] for i in chosen]) for j in range(5))
        return {"accuracy": (g == a).mean(), "kappa": kappa(g, a, grades), "kappa cuts": kappa(g, c, grades),
                "nll": nll.mean(), "pearson": np.corrcoef(g, f)[0, 1]}
    point = measure(range(len(per)))
    sampled = [measure(row) for row in draws[:POOLED_DRAWS]]
    out = {m: (v, *np.percentile([s[m] for s in sampled], [2.5, 97.5])) for m, v in point.items()}
    g, nll = (np.concatenate([row[j] for row in per]) for j in (0, 3))
    out["ece"] = (calibration_error(np.concatenate([lists.matrix(q, probs) for q in lists.queries]), g),) * 3
    return out


def calibration_error(probs, grade):
    """Expected calibration error of the likeliest grade: ten bins of equal width of its probability."""
    sure, right = probs.max(1), probs.argmax(1) == grade
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    return sum(abs(sure[bins == b].sum() - right[bins == b].sum()) for b in range(BINS)) / len(grade)


def auroc(signal, wrong):
    """Chance that a pair where the model is wrong has the larger signal; ties count half."""
    order = np.argsort(signal, kind="stable")
    values, first, count = np.unique(signal[order], return_index=True, return_counts=True)
    rank = np.empty(len(signal))
    rank[order] = np.repeat(first + (count + 1) / 2, count)
    bad = wrong.sum()
    return (rank[wrong].sum() - bad * (bad + 1) / 2) / (bad * (len(wrong) - bad))


def error_signals(lists, score, signals, draws):
    """AUROC of an error of one grade or more per signal, with intervals over queries."""
    wrong = [np.abs(lists.take(q, score) - lists.grade[q]) >= 1 for q in lists.queries]
    out = {}
    for name, values in signals.items():
        per = [lists.take(q, values) for q in lists.queries]

        def measure(chosen):
            return auroc(np.concatenate([per[i] for i in chosen]), np.concatenate([wrong[i] for i in chosen]))
        out[name] = (measure(range(len(per))), *np.percentile([measure(row) for row in draws[:POOLED_DRAWS]], [2.5, 97.5]))
    return out


def nll_difference(lists, ours, theirs, draws):
    """Likelihood loss per pair less another system's, with its interval over queries."""
    def losses(probs, q):
        return -np.log(np.maximum(lists.matrix(q, probs)[np.arange(len(lists.grade[q])), lists.grade[q]], 1e-12))
    apart = np.array([(losses(ours, q) - losses(theirs, q)).sum() for q in lists.queries])
    size = np.array([len(lists.grade[q]) for q in lists.queries])
    sampled = apart[draws].sum(1) / size[draws].sum(1)
    return (apart.sum() / size.sum(), *np.percentile(sampled, [2.5, 97.5]))


def graded_difference(lists, ours, theirs, grades, draws):
    """Points of accuracy and of quadratic kappa above another system, with paired intervals over queries. Each side is
    (grades for accuracy, grades for kappa)."""
    truth = [lists.grade[q] for q in lists.queries]
    sides = [[[lists.take(q, values) for q in lists.queries] for values in side] for side in (ours, theirs)]

    def measure(chosen):
        g = np.concatenate([truth[i] for i in chosen])
        (a, k), (b, m) = ([np.concatenate([per[i] for i in chosen]) for per in side] for side in sides)
        return (g == a).mean() - (g == b).mean(), kappa(g, k, grades) - kappa(g, m, grades)
    point = measure(range(len(truth)))
    low, high = np.percentile([measure(row) for row in draws[:POOLED_DRAWS]], [2.5, 97.5], axis=0)
    return {metric: tuple(100 * v[i] for v in (point, low, high)) for i, metric in enumerate(("accuracy", "kappa cuts"))}
