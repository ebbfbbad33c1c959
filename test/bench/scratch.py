#!/usr/bin/python3
"""What an encoder made from nothing is worth: alone, beside the default model, and as its teacher. Run by test/bench/distill.sh.

    BENCH=scratch test/bench/distill.sh DATA_ROOT [SET...] [name=JSON]...

Everything that models do is done by SQL through psql. An encoder is pre-trained once on the documents of a set, from which no
judgment and no query is seen. Of each fold's training queries a share by hash, the smaller in the larger, has judgments; the
encoder, the default model, and a default model that the encoder teaches learn from the same ones, and are measured on the
held-out queries. The taught one has a log of the pairs of all training queries.

name=JSON measures another encoder, with all judgments: {"shape": of serm.create_model, "pretrain": of serm.pretrain (with
neither, the first one's pre-training), "train": of serm.train, "taught": of serm.distill, if it is to learn from the default
model, also what that says of as many other documents of each query as "others" there says}. The environment variables SHAPE,
PRETRAIN and TRAIN are such options for the first one; FOLDS is how many folds, below 0 the last ones, SHARES which shares.
Exit status 1: a student does not agree better with the encoder than without it. Needs python3-numpy.
"""
import json
import os
import re
import sys

import numpy as np

from distill import Fold, tau
from quality_metrics import DRAWS, Lists
from quality_sets import load, psql, rows
from quality_systems import SPENT, TICKS, Bm25

SHARES = [float(s) for s in os.environ.get("SHARES", ".25 .5 1").split()]
# Half as wide, and reading half as far, as serm.create_model makes it by default: what one core trains in a minute.
SHAPE = '{"hidden": 64, "vocab": 4000, "max_length": 64}'
GIVEN = {part: json.loads(os.environ.get(part.upper(), otherwise))
         for part, otherwise in (("shape", SHAPE), ("pretrain", "{}"), ("train", "{}"))}
RANKED = {"NDCG@4": "lin@4", "NDCG@10": "lin@10", "pair accuracy": "pacc"}
METRICS = list(RANKED) + ["NLL"]
# What narrower weights cost is measured where all judgments were learned from.
NARROW = ("bf16", "int8")


def among(share):
    """Which training queries have judgments, by a hash: the same in each run, and less are among more."""
    return f"abs(hashtextextended(query, 5)::float8) / 9223372036854775808 < {share}"


class Models(Fold):
    """A fold whose encoders begin with one pre-training of the whole set."""

    def __init__(self, name, number, predictions, spent):
        super().__init__(name, number, predictions)
        self.spent = spent

    def timed(self, what, procedure, *arguments):
        texts = ", ".join("'" + a.replace("'", "''") + "'" for a in arguments)
        out = psql(f"SET client_min_messages = warning;\n\\t on\n\\a\nSELECT 'ticks ' || {SPENT};\n"
                   f"CALL serm.{procedure}({texts});\nSELECT 'ticks ' || {SPENT};")
        before, after = map(int, re.findall(r"^ticks (\d+)", out, re.M))
        self.spent.setdefault(what, []).append((after - before) / TICKS)

    def judge(self, model, share):
        psql(f"""DELETE FROM serm.judgment WHERE model = '{model}';
            INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge)
                SELECT '{model}', query, doc_id, grade, 'human', 'bench' FROM bench.grade
                JOIN bench.query USING (query_id) WHERE fold <> {self.number} AND {among(share)};""")

    def make(self, model, options):
        """An encoder from the documents, and what it says before any judgment."""
        self.create(model, "false", kind="cross_encoder", shape=options.get("shape", {}))
        self.timed(f"{model}: pre-training", "pretrain", model, json.dumps({"checkpoint": -1, **options.get("pretrain", {})}))

    def train(self, model, share, options, system):
        self.judge(model, share)
        self.timed(f"{system}: training, {share:.0%}", "train", model,
                   json.dumps({"checkpoint": -1, "promote": True, **options.get("train", {})}))
        self.predict(model, f"{system}, {share:.0%}")

    def teach(self, model, share, options, system):
        """The default model as the teacher of an encoder, of the judged pairs and of others."""
        taught = dict(options["taught"])
        psql(f"""DROP TABLE IF EXISTS bench.shown;
            CREATE TABLE bench.shown AS TABLE bench.log;
            INSERT INTO bench.shown SELECT query, p.doc_id, now(), 1, false
                FROM (SELECT DISTINCT query FROM bench.log) q, LATERAL (SELECT doc_id FROM bench.product
                    ORDER BY hashtextextended(query || ' ' || doc_id, 6) LIMIT {taught.pop("others", 0)}) p;
            SELECT serm.alter_model('{model}', log => 'bench.shown');""")
        self.create("alone", among(share))
        self.call("train", "alone")
        self.judge(model, share)
        self.timed(f"{system}: training, {share:.0%}", "distill", model, "alone",
                   json.dumps({"checkpoint": -1, "promote": True, **options.get("train", {}), **taught}))
        self.predict(model, f"{system}, {share:.0%}")
        psql("SELECT serm.drop_model('alone');")


def run_share(fold, share):
    """The encoder, the default model, and the default model that the encoder taught, each with this share of the judgments."""
    fold.train("encoder", share, GIVEN, "encoder")
    if share == SHARES[-1]:
        for precision in (*NARROW, "f32"):
            psql(f"""SELECT serm.alter_model('encoder', '{{"precision": "{precision}"}}');""")
            if precision in NARROW:
                fold.predict("encoder", f"encoder in {precision}, {share:.0%}")
    fold.create("alone", among(share))
    fold.timed(f"default: training, {share:.0%}", "train", "alone")
    fold.predict("alone", f"default, {share:.0%}")
    fold.create("student", among(share), log=True)
    fold.timed(f"default: distilling, {share:.0%}", "distill", "student", "encoder", "{}")
    fold.predict("student", f"distilled, {share:.0%}")
    for model in ("alone", "student"):
        psql(f"SELECT serm.drop_model('{model}');")
    ours, theirs = (fold.predictions[f"{s}, {share:.0%}"] for s in ("encoder", "default"))
    fold.predictions.setdefault(f"mean of both, {share:.0%}", {}).update(
        {pair: ((ours[pair][0] + theirs[pair][0]) / 2, (ours[pair][1] + theirs[pair][1]) / 2)
         for pair in ours if pair in theirs})


def run_set(name, numbers, others, spent):
    """System -> pair -> (score, distribution) of all held-out pairs."""
    predictions = {}
    own = {model: options for model, options in others.items() if "shape" in options or "pretrain" in options}
    for place, number in enumerate(numbers):
        fold = Models(name, number, predictions, spent)
        for model, options in {"encoder": GIVEN, **own}.items():
            if place == 0:
                fold.make(model, options)
            else:
                psql(f"SELECT serm.promote('{model}', 1);")
            fold.predict(model, f"{model}, no judgments")
        for share in SHARES:
            run_share(fold, share)
        for system, options in others.items():
            make = fold.teach if "taught" in options else fold.train
            make(system if system in own else "encoder", 1, options, system)
        print(f"  {name}: fold {number} is done", file=sys.stderr)
    return predictions


class Measured:
    """Per metric numerators and denominators of each query, so that means over queries and over pairs are resampled alike."""

    def __init__(self, lists, draws):
        self.lists, self.draws = lists, draws

    def of(self, values):
        ranking = self.lists.ranking({pair: v[0] for pair, v in values.items()})
        out = {m: (np.nan_to_num(ranking[r]), (~np.isnan(ranking[r])).astype(float)) for m, r in RANKED.items()}
        loss = [[-np.log(max(values[q, d][1][g], 1e-12)) for d, g in self.lists.keys[q]] for q in self.lists.queries] \
            if isinstance(next(iter(values.values()))[1], np.ndarray) else [[np.nan]] * len(self.lists.queries)
        out["NLL"] = np.array([sum(v) for v in loss]), np.array([float(len(v)) for v in loss])
        return out

    def agreement(self, values, teacher):
        found = np.array([tau(*(np.array([v[q, d][0] for d, _ in self.lists.keys[q]]) for v in (values, teacher)))
                          for q in self.lists.queries])
        return np.nan_to_num(found), (~np.isnan(found)).astype(float)

    @staticmethod
    def mean(cell):
        return cell[0].sum() / cell[1].sum()

    def means(self, cell):
        """The means of all draws."""
        return cell[0][self.draws].sum(1) / np.maximum(cell[1][self.draws].sum(1), 1e-9)

    def apart(self, one, other):
        return self.mean(one) - self.mean(other), *np.percentile(self.means(one) - self.means(other), [2.5, 97.5])


def tell(measured, found, against):
    """A row for each system: its means, and the differences to the default model with as many judgments."""
    print(f"  {'':28}" + "".join(f"{m:>34}" for m in METRICS))
    for system, values in found.items():
        share = system.rpartition(", ")[2]
        other = found.get(f"{against}, {share}", found[f"{against}, {max(SHARES):.0%}"])
        cells = []
        for m in METRICS:
            cell = f"{measured.mean(values[m]):.4f}"
            if values is not other and not np.isnan(values[m][0]).any():
                cell += " {:+.4f} [{:+.4f}, {:+.4f}]".format(*measured.apart(values[m], other[m]))
            cells.append(f"{cell:>34}")
        print(f"  {system:28}" + "".join(cells))


def tell_others(measured, found, others):
    """What judgments bring the encoder, whether it is better than BM25, what narrower weights cost, and whether other encoders are
    better than it."""
    first = f"encoder, {SHARES[-1]:.0%}"
    for one, other in [("encoder, no judgments", "BM25"), (first, "BM25"), (first, "encoder, no judgments"),
                       *((f"encoder in {p}, {SHARES[-1]:.0%}", first) for p in NARROW),
                       *((f"{name}, 100%", first) for name in others)]:
        apart = [(m, measured.apart(found[one][m], found[other][m])) for m in METRICS]
        print(f"  {one} less {other}: " + "   ".join("{} {:+.4f} [{:+.4f}, {:+.4f}]".format(m, *v)
                                                     for m, v in apart if not np.isnan(v[0])))


def doublings(lack, slope):
    """How often a gain has to come to make up for what lacks: none if nothing does, inf if it is no gain."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lack <= 0, 0., np.where(slope > 0, lack / slope, np.inf))


def tell_curve(measured, found):
    """What a doubling of the judged queries brings the encoder, and how many would bring it to the default model with all of
    them if the slope stayed: a straight line over the logarithm, so a least number."""
    x = np.log2(SHARES) - np.log2(SHARES).mean()
    print("  the encoder's gain by each doubling of the judged queries, what it lacks of the default model with all of them, and "
          "that in doublings")
    for m in METRICS:
        cells = [found[f"encoder, {s:.0%}"][m] for s in SHARES]
        goal, better = found[f"default, {SHARES[-1]:.0%}"][m], -1 if m == "NLL" else 1
        slope = x @ np.array([measured.mean(c) for c in cells]) / (x @ x)
        slopes = x @ np.array([measured.means(c) for c in cells]) / (x @ x)
        lack, lacks = (f(goal) - f(cells[-1]) for f in (measured.mean, measured.means))
        low, high = np.percentile(slopes, [2.5, 97.5])
        few, many = np.percentile(doublings(lacks * better, slopes * better), [2.5, 97.5], method="nearest")
        print(f"    {m:16} {slope:+.4f} [{low:+.4f}, {high:+.4f}]   lacks {lack:+.4f}   doublings "
              f"{doublings(lack * better, slope * better):.1f} [{few:.1f}, {many:.1f}]")


def tell_agreement(measured, predictions):
    """Kendall's tau with the encoder, per query: taught less not taught. Returns how many shares miss."""
    missed = 0
    for share in SHARES:
        teacher, alone, student = (predictions[f"{s}, {share:.0%}"] for s in ("encoder", "default", "distilled"))
        with_it, without = measured.agreement(student, teacher), measured.agreement(alone, teacher)
        gain = measured.apart(with_it, without)
        missed += not gain[1] > 0
        print(f"  {'pass' if gain[1] > 0 else 'MISS'}  {share:.0%} of the judgments: tau with the encoder "
              f"{measured.mean(without):.3f} untaught, {measured.mean(with_it):.3f} taught: "
              "{:+.3f} [{:+.3f}, {:+.3f}]".format(*gain))
    return missed


def main():
    root, names = sys.argv[1], [a for a in sys.argv[2:] if "=" not in a]
    others = {k: json.loads(v) for k, v in (a.split("=", 1) for a in sys.argv[2:] if "=" in a)}
    missed = 0
    for name in names:
        count, spent = int(os.environ.get("FOLDS", "99")), {}
        numbers = load(root, name, None)[slice(count) if count > 0 else slice(count, None)]
        predictions = run_set(name, numbers, others, spent)
        lists = Lists(rows(f"SELECT query_id, doc_id, grade FROM bench.grade WHERE fold BETWEEN {numbers[0]} AND {numbers[-1]}"))
        measured = Measured(lists, np.random.default_rng(15).integers(0, len(lists.queries), (DRAWS, len(lists.queries))))
        bm25 = {pair: (s, None) for pair, s in Bm25().pairs().items()}
        found = {s: measured.of(v) for s, v in {"BM25": bm25, **predictions}.items()}
        print(f"\n{name}: {len(numbers)} folds, {len(lists.queries)} held-out queries, "
              f"{sum(map(len, lists.keys.values()))} pairs; differences to the default model with as many judgments, "
              "95 % intervals paired by query")
        tell(measured, found, "default")
        tell_others(measured, found, others)
        if len(SHARES) > 1:
            tell_curve(measured, found)
        missed += tell_agreement(measured, predictions)
        print("  CPU seconds of one: " + "   ".join(f"{what} {np.mean(s):.0f}" for what, s in spent.items()))
        psql("SELECT serm.drop_model(name) FROM serm.model;")
        sys.stdout.flush()
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
