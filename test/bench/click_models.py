"""Click models as their papers define them, one session at a time, in numpy: what serm's are compared with.

Written from the definitions (Chuklin, Markov and de Rijke, "Click Models for Web Search", 2015) and from nothing else: no grouping
of pages, no closed forms where EM gives the same, another start, and Laplace smoothing (1 of 2) instead of serm's priors.
Sessions are arrays [page, rank] of pair numbers and of clicks; every page has as many results.
"""
import numpy as np

LEAST = 1e-6


class Model:
    """conditional: P(click | clicks above); marginal: P(click); both [page, rank]."""

    def __init__(self, pair, click, pairs):
        self.pairs, self.ranks = pairs, pair.shape[1]
        self.fit(pair, click)

    def ratio(self, index, numerator, denominator):
        top = np.bincount(index.ravel(), numerator.ravel(), self.pairs)
        bottom = np.bincount(index.ravel(), denominator.ravel(), self.pairs)
        return (top + 1) / (bottom + 2)

    def attraction(self, pair):
        """Pairs that training did not see have the smoothed mean of no evidence."""
        return np.where(pair >= 0, self.a[np.maximum(pair, 0)], 0.5)


class PBM(Model):
    def fit(self, pair, click):
        self.a, self.e = np.full(self.pairs, 0.5), np.full(self.ranks, 0.5)
        for _ in range(200):
            a, e = self.a[pair], self.e[None, :]
            skip = 1 - a * e
            self.a = self.ratio(pair, np.where(click, 1, a * (1 - e) / skip), np.ones(pair.shape))
            self.e = (np.where(click, 1, e * (1 - a) / skip).sum(0) + 1) / (len(pair) + 2)

    def conditional(self, pair, click):
        return self.attraction(pair) * self.e[None, :]

    def marginal(self, pair):
        return self.attraction(pair) * self.e[None, :]


class UBM(Model):
    @staticmethod
    def above(click):
        """Rank of the last click above each result, 0 for none."""
        rank = np.where(click, np.arange(1, click.shape[1] + 1), 0)
        last = np.maximum.accumulate(rank, 1)
        return np.concatenate([np.zeros((len(click), 1), int), last[:, :-1]], 1)

    def fit(self, pair, click):
        n = self.ranks
        self.a, self.e = np.full(self.pairs, 0.5), np.full((n, n), 0.5)
        last, rank = self.above(click), np.broadcast_to(np.arange(n), pair.shape)
        slot = rank * n + last
        for _ in range(200):
            a, e = self.a[pair], self.e[rank, last]
            skip = 1 - a * e
            self.a = self.ratio(pair, np.where(click, 1, a * (1 - e) / skip), np.ones(pair.shape))
            top = np.bincount(slot.ravel(), np.where(click, 1, e * (1 - a) / skip).ravel(), n * n)
            self.e = ((top + 1) / (np.bincount(slot.ravel(), minlength=n * n) + 2)).reshape(n, n)

    def conditional(self, pair, click):
        return self.attraction(pair) * self.e[np.broadcast_to(np.arange(self.ranks), pair.shape), self.above(click)]

    def marginal(self, pair):
        a, out = self.attraction(pair), np.zeros(pair.shape)
        chance = np.zeros((len(pair), self.ranks + 1))
        chance[:, 0] = 1
        for r in range(self.ranks):
            clicks = chance[:, :r + 1] * self.e[r, :r + 1][None, :] * a[:, r:r + 1]
            out[:, r] = clicks.sum(1)
            chance[:, :r + 1] -= clicks
            chance[:, r + 1] = out[:, r]
        return out


class Cascade(Model):
    def fit(self, pair, click):
        seen = np.cumsum(click, 1) - click == 0
        self.a = self.ratio(pair, click & seen, seen.astype(float))

    def conditional(self, pair, click):
        return np.where(np.cumsum(click, 1) - click == 0, self.attraction(pair), 0)

    def marginal(self, pair):
        a = self.attraction(pair)
        return a * np.concatenate([np.ones((len(a), 1)), np.cumprod(1 - a, 1)[:, :-1]], 1)


class DBN(Model):
    """EM over the hidden rank at which the reading of each page ended: all endings are enumerated."""
    rounds, free = 150, True

    def fit(self, pair, click):
        self.a, self.s, self.g = np.full(self.pairs, 0.5), np.full(self.pairs, 0.5), 0.5
        for _ in range(self.rounds):
            self.step(pair, click)

    def step(self, pair, click):
        pages, n = pair.shape
        a, s, g = self.a[pair], self.s[pair], self.g
        see = np.where(click, a, 1 - a)
        last = np.where(click.any(1), n - 1 - np.argmax(click[:, ::-1], 1), -1)
        up_to = np.cumprod(see, 1)
        # chance of reading on from each rank that does not satisfy, up to the rank before the ending
        on = np.cumprod(np.where(click, (1 - s) * g, g), 1)
        ends = np.zeros((pages, n, 2))
        for end in range(n):
            reach = up_to[:, end] * (on[:, end - 1] if end else 1)
            possible = last <= end
            stop = 1.0 if end == n - 1 else 1 - g
            ends[:, end, 0] = possible * reach * np.where(click[:, end], 1 - s[:, end], 1) * stop
            ends[:, end, 1] = possible * reach * np.where(click[:, end], s[:, end], 0)
        ends /= ends.sum((1, 2), keepdims=True)
        total = ends.sum(2)
        examined = np.cumsum(total[:, ::-1], 1)[:, ::-1]
        self.a = self.ratio(pair, click.astype(float), examined)
        self.s = self.ratio(pair, ends[:, :, 1], click.astype(float))
        ways = examined - ends[:, :, 1] - np.where(click, 0, 0)
        ways[:, n - 1] = 0
        went = (examined - total)[:, :n - 1].sum()
        open_ways = (examined - ends[:, :, 1])[:, :n - 1]
        open_ways = open_ways.sum()
        self.g = (went + 1) / (open_ways + 2)

    def conditional(self, pair, click):
        a, s = self.attraction(pair), np.where(pair >= 0, self.s[np.maximum(pair, 0)], 0.5)
        known, out = np.ones(len(pair)), np.zeros(pair.shape)
        for r in range(pair.shape[1]):
            out[:, r] = known * a[:, r]
            skipped = self.g * known * (1 - a[:, r]) / (1 - out[:, r])
            known = np.where(click[:, r], self.g * (1 - s[:, r]), skipped)
        return out

    def marginal(self, pair):
        a, s = self.attraction(pair), np.where(pair >= 0, self.s[np.maximum(pair, 0)], 0.5)
        keep = np.cumprod(self.g * (1 - a * s), 1)
        return a * np.concatenate([np.ones((len(a), 1)), keep[:, :-1]], 1)


class SDBN(DBN):
    def fit(self, pair, click):
        n = pair.shape[1]
        last = np.where(click.any(1), n - 1 - np.argmax(click[:, ::-1], 1), n - 1)
        rank = np.arange(n)[None, :]
        seen = (rank <= last[:, None]).astype(float)
        self.a = self.ratio(pair, click.astype(float), seen)
        self.s = self.ratio(pair, (click & (rank == last[:, None])).astype(float), click.astype(float))
        self.g = 1.0


class COEC(Model):
    def fit(self, pair, click):
        self.e = click.mean(0)
        expected = np.bincount(pair.ravel(), np.broadcast_to(self.e, pair.shape).ravel(), self.pairs)
        self.a = (np.bincount(pair.ravel(), click.ravel(), self.pairs) + 1) / (expected + 1)

    def conditional(self, pair, click):
        return self.marginal(pair)

    def marginal(self, pair):
        return np.where(pair >= 0, self.a[np.maximum(pair, 0)], 1) * self.e[None, :]


KINDS = {"pbm": PBM, "ubm": UBM, "cascade": Cascade, "dbn": DBN, "sdbn": SDBN, "coec": COEC}


def quality(model, pair, click):
    """Mean log-likelihood per result in nats, and perplexity averaged over ranks."""
    conditional = np.clip(model.conditional(pair, click), LEAST, 1 - LEAST)
    marginal = np.clip(model.marginal(pair), LEAST, 1 - LEAST)
    likelihood = np.log(np.where(click, conditional, 1 - conditional)).mean()
    bits = np.log2(np.where(click, marginal, 1 - marginal)).mean(0)
    return likelihood, (2 ** -bits).mean()
