#!/usr/bin/python3
"""Quality of the interaction model on public sets, against BM25 and ts_rank_cd. Run by test/bench/quality.sh.

    quality.py DATA_ROOT SET...

Everything that the model does is done by SQL through psql: load, train on the training queries of a fold, predict the
pairs of the other queries. This script splits, computes BM25 and the metrics, and holds the gates. Conventions and gates
are those of doc/benchmarks.md. Exit status 1: a gate was missed. Needs python3-numpy.
"""
import collections
import csv
import hashlib
import io
import os
import subprocess
import sys
import time

import numpy as np

KS = (1, 4, 10)
DRAWS = 2000
SEED = 42
# Per set: grades as 0..G-1, folds (0: fold 0 is a quarter of the queries, and the only one held out), gates: (least or most).
SETS = {
    "crowdflower_srr": {
        "grade": lambda g: int(g) - 1, "grades": 4, "folds": 5,
        "gates": {"lin@4": .857, "lin@10": .865, "pacc": .672, "accuracy": .628, "nll": -.930, "kappa cuts": .52},
    },
    "homedepot": {
        "grade": lambda g: 0 if g < 1.5 else 1 if g < 2.17 else 2 if g < 2.84 else 3, "grades": 4, "folds": 0,
        "gates": {"lin@4": .853, "pacc": .580, "pearson": .495, "accuracy": .474, "nll": -1.096, "kappa cuts": .465},
    },
    "epqa": {
        "grade": int, "grades": 3, "folds": 5,
        "gates": {"lin@4": .765, "lin@10": .855, "pearson": .612, "accuracy": .731, "nll": -.643, "kappa cuts": .555},
    },
}


def share(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def psql(script):
    """Run a script, return its standard output; an error ends the benchmark with psql's message."""
    done = subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"], input=script.encode(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"quality.py: psql failed\n{done.stderr.decode()}")
    return done.stdout.decode()


def rows(select):
    text = psql(f"COPY ({select}) TO STDOUT (FORMAT csv);")
    csv.field_size_limit(1 << 30)
    return list(csv.reader(io.StringIO(text)))


def copy(table, lines):
    return f"COPY {table} FROM STDIN (FORMAT csv);\n" + "".join(lines) + "\\.\n"


def csv_lines(records):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(records)
    return [out.getvalue()]


# --- loading and folds

def load(root, name):
    path = os.path.join(root, name)
    psql(f"""
        DROP SCHEMA IF EXISTS bench CASCADE;
        CREATE SCHEMA bench;
        CREATE TABLE bench.product (doc_id text PRIMARY KEY, title text, body text,
            doc text GENERATED ALWAYS AS (title || E'\\n' || body) STORED);
        CREATE VIEW bench.document AS SELECT doc_id, doc FROM bench.product;
        CREATE TABLE bench.query (query_id text PRIMARY KEY, query text, place int GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE bench.raw (query_id text, doc_id text, grade float8);
        \\copy bench.product (doc_id, title, body) from program 'gzip -dc {path}/docs.tsv.gz | sed "s/\\\\\\\\/&&/g"'
        \\copy bench.query (query_id, query) from program 'gzip -dc {path}/queries.tsv.gz | sed "s/\\\\\\\\/&&/g"'
        \\copy bench.raw from program 'gzip -dc {path}/qrels.tsv.gz'
        -- Stems as english has them, but no stop words: questions need them.
        CREATE TEXT SEARCH DICTIONARY bench.stem (TEMPLATE = snowball, language = english);
        CREATE TEXT SEARCH CONFIGURATION bench.stems (COPY = english);
        ALTER TEXT SEARCH CONFIGURATION bench.stems ALTER MAPPING REPLACE english_stem WITH bench.stem;
        CREATE TABLE bench.grade (query_id text, doc_id text, grade int, fold int, PRIMARY KEY (query_id, doc_id));
    """)
    spec = SETS[name]
    ids = [q for q, in rows("SELECT query_id FROM bench.query ORDER BY place")]
    fold = {}
    for place, i in enumerate(np.random.RandomState(SEED).permutation(len(ids))):
        held_out = place >= int(.75 * len(ids))
        fold[ids[i]] = place * spec["folds"] // len(ids) if spec["folds"] else int(not held_out)
    pairs = [(q, d, spec["grade"](float(g)), fold[q])
             for q, d, g in rows("SELECT query_id, doc_id, avg(grade) FROM bench.raw "
                                 "JOIN bench.product USING (doc_id) JOIN bench.query USING (query_id) GROUP BY 1, 2")]
    psql(copy("bench.grade", csv_lines(pairs)) + "ANALYZE bench.grade, bench.product, bench.query;")
    return sorted({f for *_, f in pairs}) if spec["folds"] else [0]


# --- the systems: each gives a score for every pair that is held out in some fold

def ts_rank_cd(query):
    return {(q, d): float(s) for q, d, s in rows(f"""
        SELECT query_id, doc_id, ts_rank_cd(setweight(to_tsvector('english', title), 'A')
            || to_tsvector('english', left(body, 500000)), {query})
        FROM bench.grade JOIN bench.product p USING (doc_id) JOIN bench.query q USING (query_id)""")}


def bm25(k1=1.2, b=.75):
    """BM25 over the stems of title and body together; statistics over all documents of the set."""
    frequency, length, df = {}, {}, collections.Counter()
    for doc_id, lexemes in rows("""SELECT doc_id, (SELECT string_agg(lexeme || ' ' || cardinality(positions), ' ')
            FROM unnest(to_tsvector('bench.stems', left(doc, 500000)))) FROM bench.product"""):
        parts = lexemes.split(" ")
        frequency[doc_id] = dict(zip(parts[::2], map(int, parts[1::2]))) if lexemes else {}
        length[doc_id] = sum(frequency[doc_id].values())
        df.update(frequency[doc_id].keys())
    average = sum(length.values()) / len(length)
    idf = {w: np.log(1 + (len(length) - n + .5) / (n + .5)) for w, n in df.items()}
    terms = {q: lexemes.split(" ") if lexemes else [] for q, lexemes in rows(
        "SELECT query_id, array_to_string(tsvector_to_array(to_tsvector('bench.stems', query)), ' ') FROM bench.query")}
    scores = {}
    for q, d in rows("SELECT query_id, doc_id FROM bench.grade"):
        norm = k1 * (1 - b + b * length[d] / average)
        scores[q, d] = sum(idf[w] * f * (k1 + 1) / (f + norm)
                           for w, f in ((w, frequency[d].get(w, 0)) for w in terms[q]) if f)
    return scores


def interaction(name, folds):
    """Train one version per fold on the other folds' queries; predict the pairs of the fold. Gives scores,
    probabilities, grades by the version's cut points, and the seconds of training."""
    grades = SETS[name]["grades"]
    score, probs, cut_grade, seconds = {}, {}, {}, 0.0
    for fold in folds:
        model = f"bench_{fold}"
        psql(f"""SELECT serm.create_model('{model}', grades => (SELECT array_agg('g' || g ORDER BY g)
                FROM generate_series(0, {grades - 1}) g), documents => 'bench.document',
                options => '{{"test_share": 0}}');
            INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge)
                SELECT '{model}', query, doc_id, grade, 'human', 'bench' FROM bench.grade
                JOIN bench.query USING (query_id) WHERE fold <> {fold};""")
        started = time.time()
        psql(f"SET client_min_messages = warning; CALL serm.train('{model}');")
        seconds += time.time() - started
        for q, d, f, g, p in rows(f"""SELECT query_id, doc_id, (p).score, (p).grade, array_to_string((p).probs, ' ') FROM (
                SELECT query_id, doc_id, serm.predict(query, doc, '{model}') AS p FROM bench.grade
                JOIN bench.query USING (query_id) JOIN bench.product USING (doc_id) WHERE fold = {fold} OFFSET 0) x"""):
            score[q, d] = float(f)
            cut_grade[q, d] = int(g.lstrip("g"))
            probs[q, d] = np.array(p.split(" "), dtype=float)
        psql(f"SELECT serm.drop_model('{model}');")
    return score, probs, cut_grade, seconds


# --- metrics

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
    sampled = [measure(row) for row in draws[:400]]
    return {m: (v, *np.percentile([s[m] for s in sampled], [2.5, 97.5])) for m, v in point.items()}


def cut_grades(values, pairs, folds, grades):
    """Grades of a system that gives scores only: cut points at which the training pairs of the fold have their grades' shares."""
    out = {}
    for fold in folds:
        train = [(values[q, d], g) for q, d, g, f in pairs if f != fold]
        shares = np.cumsum(np.bincount([g for _, g in train], minlength=grades))[:-1] / len(train)
        cuts = np.quantile([v for v, _ in train], shares)
        out.update({(q, d): int(np.searchsorted(cuts, values[q, d])) for q, d, _, f in pairs if f == fold})
    return out


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
    low, high = np.percentile([measure(row) for row in draws[:400]], [2.5, 97.5], axis=0)
    return {metric: tuple(100 * v[i] for v in (point, low, high)) for i, metric in enumerate(("accuracy", "kappa cuts"))}


# --- the report

def report(name, folds):
    spec = SETS[name]
    held_out = "" if spec["folds"] else "WHERE fold = 0"
    lists = Lists(rows(f"SELECT query_id, doc_id, grade FROM bench.grade {held_out}"))
    draws = np.random.default_rng(15).integers(0, len(lists.queries), (DRAWS, len(lists.queries)))
    score, probs, cut_grade, seconds = interaction(name, folds)
    systems = {
        "interaction": score,
        "BM25 1.2/.75": bm25(),
        "ts_rank_cd AND": ts_rank_cd("plainto_tsquery('english', query)"),
        "ts_rank_cd OR": ts_rank_cd("replace(plainto_tsquery('english', query)::text, '&', '|')::tsquery"),
    }
    metrics = {system: lists.ranking(values) for system, values in systems.items()}
    columns = [f"{kind}@{k}" for kind in ("lin", "exp") for k in KS] + ["pacc"]
    print(f"\n{name}: {len(lists.queries)} held-out queries, {sum(map(len, lists.keys.values()))} pairs, "
          f"{len(folds)} training(s) in {seconds:.1f} s")
    print(f"{'':28}" + "".join(f"{c:>19}" for c in columns))
    for system, values in metrics.items():
        print(f"{system:28}" + "".join(f"{np.nanmean(values[c]):19.4f}" for c in columns))
    for system in list(metrics)[1:]:
        cells = []
        for c in columns:
            difference = metrics["interaction"][c] - metrics[system][c]
            low, high = bootstrap(difference, draws)
            cells.append(f"{100 * np.nanmean(difference):+.1f} [{100 * low:+.1f},{100 * high:+.1f}]")
        print(f"{'  points above ' + system:28}" + "".join(f"{c:>19}" for c in cells))
    measured = pooled(lists, probs, cut_grade, spec["grades"], draws)
    print("  " + "   ".join(f"{m} {v:.3f} [{low:.3f}, {high:.3f}]" for m, (v, low, high) in measured.items()))
    pairs = [(q, d, int(g), int(f)) for q, d, g, f in rows("SELECT query_id, doc_id, grade, fold FROM bench.grade")]
    likeliest = {pair: int(p.argmax()) for pair, p in probs.items()}
    for system in list(systems)[1:]:
        cut = cut_grades(systems[system], pairs, folds, spec["grades"])
        apart = graded_difference(lists, (likeliest, cut_grade), (cut, cut), spec["grades"], draws)
        print("  points above " + f"{system:16}" + "   ".join(f"{m} {v:+.1f} [{low:+.1f}, {high:+.1f}]"
                                                             for m, (v, low, high) in apart.items()))
    found = {m: v for m, (v, *_) in measured.items()}
    found.update({c: float(np.nanmean(metrics["interaction"][c])) for c in columns})
    missed = 0
    for metric, bound in spec["gates"].items():
        # A negative bound is a most: likelihood loss must not be above it.
        good = found[metric] <= -bound if bound < 0 else found[metric] >= bound
        missed += not good
        print(f"  {'pass' if good else 'MISS'}  {metric} {found[metric]:.4f}, "
              f"gate {'<=' if bound < 0 else '>='} {abs(bound)}")
    sys.stdout.flush()
    return missed


def main():
    root, names = sys.argv[1], sys.argv[2:]
    missed = 0
    for name in names:
        missed += report(name, load(root, name))
    print(f"\n{missed} gate(s) missed" if missed else "\nall gates passed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
