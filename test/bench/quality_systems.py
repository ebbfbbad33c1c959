"""The systems of `make bench-quality`: each gives a score for every candidate pair that is held out in some fold."""
import collections
import os
import re
import subprocess
import tempfile

import numpy as np

from quality_metrics import ndcg
from quality_sets import POOL, SETS, psql, rows

# The grid that BM25 is tuned over, on the training queries of each fold.
K1S = (.4, .8, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0)
BS = (0, .3, .6, .9)
XGBOOST = {"objective": "multi:softprob", "eta": .1, "max_depth": 5, "subsample": .8, "colsample_bytree": .8,
           "min_child_weight": 5, "nthread": 1, "verbosity": 0}
XGBOOST_SEEDS = 3
XGBOOST_ROUNDS = 1000
# CPU time of the backend that evaluates it.
SPENT = "(string_to_array(split_part(pg_read_file('/proc/self/stat'), ') ', 2), ' '))[12]"
TICKS = os.sysconf("SC_CLK_TCK")


def ts_rank_cd(query):
    return {(q, d): float(s) for q, d, s in rows(f"""
        SELECT query_id, doc_id, ts_rank_cd(setweight(to_tsvector('english', title), 'A')
            || to_tsvector('english', left(body, 500000)), {query})
        FROM bench.grade JOIN bench.product p USING (doc_id) JOIN bench.query q USING (query_id)""")}


class Bm25:
    """BM25 over the stems of title and body together; statistics over all documents of the set."""

    def __init__(self):
        self.frequency, self.length, df = {}, {}, collections.Counter()
        for doc_id, lexemes in rows("""SELECT doc_id, (SELECT string_agg(lexeme || ' ' || cardinality(positions), ' ')
                FROM unnest(to_tsvector('bench.stems', left(doc, 500000)))) FROM bench.product"""):
            parts = lexemes.split(" ")
            self.frequency[doc_id] = dict(zip(parts[::2], map(int, parts[1::2]))) if lexemes else {}
            self.length[doc_id] = sum(self.frequency[doc_id].values())
            df.update(self.frequency[doc_id].keys())
        self.average = sum(self.length.values()) / len(self.length)
        self.idf = {w: np.log(1 + (len(self.length) - n + .5) / (n + .5)) for w, n in df.items()}
        self.terms = {q: lexemes.split(" ") if lexemes else [] for q, lexemes in rows(
            "SELECT query_id, array_to_string(tsvector_to_array(to_tsvector('bench.stems', query)), ' ') FROM bench.query")}

    def score(self, q, d, k1=1.2, b=.75):
        norm, frequency = k1 * (1 - b + b * self.length[d] / self.average), self.frequency[d]
        return sum(self.idf[w] * f * (k1 + 1) / (f + norm)
                   for w, f in ((w, frequency.get(w, 0)) for w in self.terms[q]) if f)

    def pairs(self, k1=1.2, b=.75):
        return {(q, d): self.score(q, d, k1, b) for q, d in rows("SELECT query_id, doc_id FROM bench.grade")}

    def pool_of(self, queries):
        """The first documents of the collection for each query."""
        return {(q, d) for q in queries
                for d in sorted(self.length, key=lambda d: (-self.score(q, d), d))[:POOL]}

    def tuned(self, lists_of, folds):
        """For each fold the k1 and b of the grid with the best lin@10 on the other folds' queries; `lists_of` gives the
        lists of a fold."""
        grid = {(k1, b): self.pairs(k1, b) for k1 in K1S for b in BS}
        lists = {f: lists_of(f) for f in folds}
        gain = {(p, f): [ndcg(l.grade[q], l.ordered(q, grid[p]), 10, False) for q in l.queries if l.grade[q].any()]
                for p in grid for f, l in lists.items()}
        out = {}
        for fold, held_out in lists.items():
            best = max(grid, key=lambda p: np.mean(np.concatenate([gain[p, f] for f in folds if f != fold])))
            out.update({pair: grid[best][pair] for q in held_out.queries
                        for pair in ((q, d) for d, _ in held_out.keys[q])})
        return out


class Interaction:
    """One version per fold, trained with the defaults on the other folds' queries, and what it predicts of the fold."""

    def __init__(self, name, folds):
        self.score, self.probs, self.cut_grade, self.entropy, self.disagreement = {}, {}, {}, {}, {}
        self.seconds, self.tensors = 0.0, []
        for fold in folds:
            self.train(name, fold, f"bench_{fold}")
            self.predict(fold)
            psql(f"SELECT serm.drop_model('bench_{fold}');")

    def train(self, name, fold, model):
        """Adds the CPU time of the backend to `seconds` and the tensors' digest to `tensors`."""
        out = psql(f"""SET client_min_messages = warning;
            SELECT serm.create_model('{model}', grades => (SELECT array_agg('g' || g ORDER BY g)
                FROM generate_series(0, {SETS[name]["grades"] - 1}) g), documents => 'bench.document',
                options => '{{"test_share": 0}}');
            INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge)
                SELECT '{model}', query, doc_id, grade, 'human', 'bench' FROM bench.grade
                JOIN bench.query USING (query_id) WHERE fold <> {fold} AND pool = 1;
            \\t on
            \\a
            SELECT 'ticks ' || {SPENT};
            CALL serm.train('{model}');
            SELECT 'ticks ' || {SPENT};
            SELECT 'tensors ' || md5(string_agg(name || part || md5(data), ' ' ORDER BY name, part))
                FROM serm.tensor WHERE model = '{model}';""")
        before, after = map(int, re.findall(r"^ticks (\d+)", out, re.M))
        self.seconds += (after - before) / TICKS
        self.tensors.append(re.search(r"^tensors (\w+)", out, re.M).group(1))

    def predict(self, fold):
        for q, d, f, g, p, e, a in rows(f"""SELECT query_id, doc_id, (p).score, (p).grade, array_to_string((p).probs, ' '),
                (p).entropy, (p).disagreement FROM (
                SELECT query_id, doc_id, serm.predict(query, doc, 'bench_{fold}') AS p FROM bench.grade
                JOIN bench.query USING (query_id) JOIN bench.product USING (doc_id)
                WHERE fold = {fold} AND pool = 1 OFFSET 0) x"""):
            self.score[q, d], self.entropy[q, d], self.disagreement[q, d] = float(f), float(e), float(a)
            self.cut_grade[q, d] = int(g.lstrip("g"))
            self.probs[q, d] = np.array(p.split(" "), dtype=float)


def lexical_features(path):
    """The 59 lexical features of each judged pair, computed by the extension's own core."""
    with tempfile.TemporaryDirectory() as directory:
        for name in ("docs", "queries", "qrels"):
            subprocess.run(f"gzip -dc '{path}/{name}.tsv.gz' > {directory}/{name}.tsv", shell=True, check=True)
        subprocess.run(["build/bench_features", directory, f"{directory}/features"], check=True)
        with open(f"{directory}/features.ids", encoding="utf-8") as ids:
            pairs = [tuple(line.rstrip("\n").split("\t")) for line in ids]
        values = np.fromfile(f"{directory}/features", dtype=np.float32).reshape(len(pairs), -1)
    return dict(zip(pairs, values))


def xgboost(path, pairs, folds, grades):
    """Probabilities of gradient boosting (multi:softprob) on the lexical features: the number of rounds is chosen on a fifth
    of the training queries, then fitted on all of them times 1.15; three seeds averaged. None without python3-xgboost."""
    try:
        import xgboost as xgb
    except ImportError:
        return None
    features = lexical_features(path)
    X = np.array([features[q, d] for q, d, *_ in pairs])
    y = np.array([g for _, _, g, _ in pairs])
    fold_of = np.array([f for *_, f in pairs])
    query = np.unique([q for q, *_ in pairs], return_inverse=True)[1]
    out = {}
    for fold in folds:
        test, train = fold_of == fold, fold_of != fold
        queries = np.random.RandomState(fold).permutation(np.unique(query[train]))
        chosen = np.isin(query, queries[:len(queries) // 5]) & train
        total = 0
        for seed in range(XGBOOST_SEEDS):
            settings = {**XGBOOST, "num_class": grades, "seed": seed}
            tried = xgb.train(settings, xgb.DMatrix(X[train & ~chosen], y[train & ~chosen]), XGBOOST_ROUNDS,
                              evals=[(xgb.DMatrix(X[chosen], y[chosen]), "v")], early_stopping_rounds=30, verbose_eval=False)
            fitted = xgb.train(settings, xgb.DMatrix(X[train], y[train]), int((tried.best_iteration + 1) * 1.15))
            total = total + fitted.predict(xgb.DMatrix(X[test])) / XGBOOST_SEEDS
        out.update({pairs[i][:2]: p for i, p in zip(np.flatnonzero(test), total)})
    return out


def cut_grades(values, pairs, folds, grades):
    """Grades of a system that gives scores only: cut points at which the training pairs of the fold have their grades' shares."""
    out = {}
    for fold in folds:
        train = [(values[q, d], g) for q, d, g, f in pairs if f != fold]
        shares = np.cumsum(np.bincount([g for _, g in train], minlength=grades))[:-1] / len(train)
        cuts = np.quantile([v for v, _ in train], shares)
        out.update({(q, d): int(np.searchsorted(cuts, values[q, d])) for q, d, _, f in pairs if f == fold})
    return out
