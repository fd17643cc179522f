"""stats.py: the statistics of paired runs.

Differences of six pairs or more: the exact sign-flip test (Fisher 1935; Pitman 1937) and the interval that goes with
it, whose ends are means of subsets of the differences (Hartigan 1969, "Using subsample values as typical values"). It
asks for symmetry and not for a normal distribution, its interval never leaves the range of the data, and it is
monotone: a larger difference is never weaker evidence that the mean is large, where Student's t calls an outlier
spread. Fewer pairs, of which no test of signs can show anything at 5%: Student's t.

Shares of seeds: Clopper and Pearson 1934 for one, McNemar 1947 (the sign test of the pairs that disagree) for two.
Quantities of all seeds together, such as a capacity: the bootstrap over seeds (Efron 1979).
"""
import functools
import math
from dataclasses import dataclass

import numpy
from scipy import optimize, special  # scipy.stats takes a second to load; its distributions are these functions

LEVEL = 0.05     # of every test; Holm's correction is over what could FAIL
CHANCE = 0.8     # the power that a design must have
SIGNS = 6        # pairs from which signs alone decide: 2 x 2^-6 is below 5%
EXACT = 16       # pairs up to which all sign patterns are counted; beyond, as many fixed random ones
DRAWS = 2000     # of a bootstrap
MOST_SEEDS = 5000


@dataclass(frozen=True)
class Prediction:
    """A region for the true mean: above `bound`, below it, or within +-bound of 0. Of what is exact or timed, also
    equal to it, or between it and `high`."""
    kind: str  # "above", "below", "within", "equals", "between"
    bound: float
    high: float = None

    def __str__(self):
        if self.kind == "between":
            return f"{self.bound:g} to {self.high:g}"
        sign = {"above": ">", "below": "<", "within": "within", "equals": "="}[self.kind]
        return f"{sign} {self.bound:g}"

    def has(self, x):
        """Whether this very value lies in the region."""
        return {"above": x > self.bound, "below": x < self.bound, "within": abs(x) <= self.bound,
                "equals": x == self.bound,
                "between": self.high is not None and self.bound <= x <= self.high}[self.kind]

    def ends(self, low, high):
        """The part of the region that a picture from low to high shows."""
        return {"above": (self.bound, high), "below": (low, self.bound), "within": (-self.bound, self.bound),
                "equals": (self.bound, self.bound), "between": (self.bound, self.high)}[self.kind]


@dataclass(frozen=True)
class Estimate:
    mean: float
    low: float   # the ends of the 95% interval
    high: float
    spread: float  # the standard deviation of one difference
    count: int


def estimate(sample, confidence=1 - LEVEL):
    """Mean and t-interval; with fewer than two values the interval is all numbers."""
    x = numpy.asarray(sample, dtype=float)
    n = len(x)
    if n == 0:
        return Estimate(math.nan, -math.inf, math.inf, math.nan, 0)
    if n == 1:
        return Estimate(float(x[0]), -math.inf, math.inf, math.nan, 1)
    spread = float(x.std(ddof=1))
    reach = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * spread / math.sqrt(n)
    return Estimate(float(x.mean()), float(x.mean()) - reach, float(x.mean()) + reach, spread, n)


def p_below(sample, bound):
    """One-sided p-value against "the mean is at least `bound`": small where the sample lies below it."""
    e = estimate(sample)
    if e.count < 2 or e.mean == bound:
        return 1.0 if e.count < 2 else 0.5
    if e.spread <= 1e-12 * max(abs(e.mean), abs(bound)):
        # Equal differences have no spread to compare with, and t would be infinite, as if certain. What n equal
        # signs prove is the sign test: 2 to the -n.
        return 0.5 ** e.count if e.mean < bound else 1 - 0.5 ** e.count
    return float(special.stdtr(e.count - 1, (e.mean - bound) / (e.spread / math.sqrt(e.count))))


def p_above(sample, bound):
    return p_below([-x for x in sample], -bound)


# ---- sign flips -----------------------------------------------------------------------------------
@functools.lru_cache(maxsize=8)
def subsets(n):
    """Which pairs are flipped, a row per pattern, but for the empty one."""
    if n <= EXACT:
        return (numpy.arange(1, 2 ** n)[:, None] >> numpy.arange(n) & 1).astype(float)
    return numpy.random.default_rng(n).integers(0, 2, (2 ** EXACT - 1, n)).astype(float)


def p_flip_above(sample, bound):
    """One-sided p-value against "the mean is at most `bound`": the share of sign patterns of the distances from it
    whose sum is no smaller than the one observed, that is, of subsets (the empty one too) whose sum is not above 0."""
    x = numpy.asarray(sample, dtype=float) - bound
    zero = 1e-9 * max(1e-300, float(numpy.abs(x).max()))   # differences that are equal but for rounding tie
    which = subsets(len(x))
    return (1 + int(numpy.sum(which @ x <= zero))) / (1 + len(which))


def decided(sample):
    """Mean and the interval that decides: it lies above a bound exactly where twice the p-value is at most 5%."""
    e = estimate(sample)
    if e.count < SIGNS:
        return e
    which, x = subsets(e.count), numpy.asarray(sample, dtype=float)
    count = which.sum(axis=1)
    means = numpy.sort((which @ x)[count > 0] / count[count > 0])
    k = int(LEVEL / 2 * (1 + len(which)))
    return Estimate(e.mean, float(means[k - 1]), float(means[-k]), e.spread, e.count)


def one_sided(sample, bound):
    """(p-value against "at most bound", p-value against "at least bound") by the test that fits the count."""
    if len(sample) < SIGNS:
        return p_above(sample, bound), p_below(sample, bound)
    return p_flip_above(sample, bound), p_flip_above([-x for x in sample], -bound)


def two_sided(sides, prediction):
    """Two-sided p-values for 'it is as predicted' and for 'it is not'; sides(bound) are the one-sided ones."""
    b = prediction.bound
    above, below = sides(b)
    if prediction.kind == "above":
        holds, fails = above, below
    elif prediction.kind == "below":
        holds, fails = below, above
    else:  # two one-sided tests: Schuirmann 1987; refuted where the mean is beyond either bound
        lower = sides(-b)
        holds, fails = max(lower[0], below), min(above, lower[1])
    return min(1.0, 2 * holds), min(1.0, 2 * fails)


def p_values(sample, prediction):
    return two_sided(lambda bound: one_sided(sample, bound), prediction)


# ---- shares of seeds ------------------------------------------------------------------------------
def clopper_pearson(count, n, confidence=1 - LEVEL):
    """The exact interval of a share of which count of n are seen."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(special.betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return low, high


def binomial_tail(count, n, share):
    """The chance of count or more of n."""
    return 1.0 if count <= 0 else float(special.bdtrc(count - 1, n, share)) if count <= n else 0.0


def share(outcomes):
    """The share of seeds that solve, with its exact interval."""
    n, count = len(outcomes), int(sum(outcomes))
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, math.nan, 0)
    p = count / n
    return Estimate(p, *clopper_pearson(count, n), math.sqrt(p * (1 - p)), n)


def discordant(differences):
    """(seeds that only the first arm solves, seeds that only the second one does)."""
    return sum(d > 0 for d in differences), sum(d < 0 for d in differences)


def share_difference(differences):
    """The difference of two shares over the same seeds, of differences 1, 0 and -1. Its interval is exact and a little
    wide: those of the two kinds of pairs that disagree, each at half the level (Bonferroni)."""
    n, (more, fewer) = len(differences), discordant(differences)
    if n == 0:
        return Estimate(math.nan, -1.0, 1.0, math.nan, 0)
    up, down = (clopper_pearson(k, n, 1 - LEVEL / 2) for k in (more, fewer))
    mean = (more - fewer) / n
    return Estimate(mean, up[0] - down[1], up[1] - down[0], math.sqrt(max(0.0, (more + fewer) / n - mean ** 2)), n)


def p_share_differs(differences, bound):
    """One-sided p-values against "at most bound" and "at least bound". At 0 McNemar's exact test; elsewhere the level
    at which the two exact intervals together just reach the bound."""
    n, (more, fewer) = len(differences), discordant(differences)
    if bound == 0:
        return binomial_tail(more, more + fewer, 0.5), binomial_tail(fewer, more + fewer, 0.5)

    def reach(level, above):
        (up, down) = (clopper_pearson(k, n, 1 - level) for k in (more, fewer))   # each one-sided at level / 2
        return up[0] - down[1] - bound if above else bound - (up[1] - down[0])

    def p(above):
        if reach(1 - 1e-9, above) <= 0:
            return 1.0
        return float(optimize.brentq(lambda level: reach(level, above), 1e-15, 1 - 1e-9, xtol=1e-12)) \
            if reach(1e-15, above) < 0 else 1e-15
    return p(True), p(False)


def p_shares(sample, prediction, paired):
    """p_values of shares: of differences of a pair, or of one arm's outcomes, 1 where a seed solves."""
    if paired:
        return two_sided(lambda bound: p_share_differs(sample, bound), prediction)
    n, count = len(sample), int(sum(sample))
    return two_sided(lambda bound: (binomial_tail(count, n, min(1, max(0, bound))),
                                    binomial_tail(n - count, n, 1 - min(1, max(0, bound)))), prediction)


# ---- all seeds together ---------------------------------------------------------------------------
@functools.lru_cache(maxsize=8)
def draws(n):
    """The seeds of each bootstrap sample: the same for both arms of a pair."""
    return numpy.random.default_rng(n).integers(0, n, (DRAWS, n))


def bootstrap(statistic, n):
    """statistic(list of positions of seeds) over all and over samples of them: its value, and those of the samples."""
    return statistic(list(range(n))), [statistic(list(d)) for d in draws(n)]


def bootstrap_estimate(value, samples, n):
    """The percentile interval."""
    low, high = (float(numpy.quantile(samples, q)) for q in (LEVEL / 2, 1 - LEVEL / 2))
    return Estimate(value, min(low, value), max(high, value), float(numpy.std(samples)) * math.sqrt(n), n)


def p_bootstrap(samples, prediction, n):
    """How many samples lie on the wrong side; never less than so many equal signs prove."""
    x, least = numpy.asarray(samples), 0.5 ** n

    def sides(bound):
        return (max(least, (1 + int(numpy.sum(x <= bound))) / (1 + len(x))),
                max(least, (1 + int(numpy.sum(x >= bound))) / (1 + len(x))))
    return two_sided(sides, prediction)


def crossing(places, values, bound):
    """Where a curve first falls through the bound: linear between its points, whose places grow. Without a crossing the
    end on whose side it stays: the first place where it begins below, the last where it ends above."""
    above = [v > bound for v in values]
    if not above[0]:
        return places[0]
    for i in range(1, len(places)):
        if not above[i]:
            part = (values[i - 1] - bound) / (values[i - 1] - values[i])
            return places[i - 1] + part * (places[i] - places[i - 1])
    return places[-1]


def width_below(places, values, bound):
    """How much of the range of places the curve through these points lies below the bound: of each piece the part."""
    total = 0.0
    for left, right, a, b in zip(places, places[1:], values, values[1:]):
        part = 1.0 if a < bound and b < bound else 0.0 if a >= bound and b >= bound else \
            (bound - min(a, b)) / abs(a - b) if math.isfinite(abs(a - b)) else 0.0
        total += part * (right - left)
    return total


def ends_below(places, values, bound):
    """Between which places the curve lies below the bound, from the first such piece to the last; None where nowhere.
    Towards a point that is not finite the end is the last point below."""
    inside = [i for i, v in enumerate(values) if v < bound]
    if not inside:
        return None

    def end(i, j):   # from i, below, to j, above
        if not 0 <= j < len(places) or not math.isfinite(values[j]):
            return places[i]
        return places[i] + (bound - values[i]) / (values[j] - values[i]) * (places[j] - places[i])
    return end(inside[0], inside[0] - 1), end(inside[-1], inside[-1] + 1)


def holm(p):
    """Holm's step-down adjusted p-values (Holm 1979): the k-th smallest of m times m-k+1, never decreasing."""
    order, adjusted, largest = numpy.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = float(largest)
    return adjusted


def power(difference, spread, n, level):
    """The chance that a two-sided paired t-test finds this true difference: the tails of the noncentral t, as the
    mean over the quantiles of the sample's own standard deviation (scipy's nct is nan where its tail is tiny)."""
    quantiles = (numpy.arange(2000) + 0.5) / 2000
    scale = special.stdtrit(n - 1, 1 - level / 2) * numpy.sqrt(special.chdtri(n - 1, 1 - quantiles) / (n - 1))
    shift = difference / (spread / math.sqrt(n))
    return float(numpy.mean(special.ndtr(shift - scale) + special.ndtr(-scale - shift)))


def share_power(more, fewer, n, level=LEVEL):
    """The chance that McNemar's exact test finds the first arm better, where this share of the seeds is solved by it
    alone and that share by the other alone: summed over the pairs that disagree."""
    either, total = more + fewer, 0.0
    for k in range(1, n + 1):
        c = next((c for c in range(k // 2 + 1, k + 1) if 2 * binomial_tail(c, k, 0.5) <= level), None)
        if c is not None:
            chance = float(special.bdtr(k, n, either) - special.bdtr(k - 1, n, either))
            total += chance * binomial_tail(c, k, more / either)
    return total


def seeds_needed(chance_of, start=2, chance=CHANCE):
    """The smallest number of seeds at which chance_of(n) reaches the power; None where MOST_SEEDS do not."""
    high = max(2, start)
    while high <= MOST_SEEDS and chance_of(high) < chance:
        high *= 2
    if high > MOST_SEEDS:
        return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance_of(middle) >= chance else (middle, high)
    return high


def detectable(spread, n, comparisons=1, chance=CHANCE):
    """The smallest true difference that n pairs find with this chance, at Holm's strictest step."""
    if n < 2 or not spread > 0:  # equal differences say nothing about how they would vary
        return math.nan
    level = LEVEL / comparisons
    high = 1.0
    while power(high, 1.0, n, level) < chance:
        high *= 2
    return spread * float(optimize.brentq(lambda d: power(d, 1.0, n, level) - chance, 0, high, xtol=1e-6))
