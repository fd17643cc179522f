"""stats.py: the statistics of paired runs. Small samples of differences, Student's t throughout."""
import math
from dataclasses import dataclass

import numpy
from scipy import optimize, special  # scipy.stats takes a second to load; its distributions are these functions

LEVEL = 0.05  # of every test, after Holm's correction over a claim


@dataclass(frozen=True)
class Prediction:
    """A region for the true mean: above `bound`, below it, or within +-bound of 0."""
    kind: str  # "above", "below", "within"
    bound: float

    def __str__(self):
        sign = {"above": ">", "below": "<", "within": "within"}[self.kind]
        return f"{sign} {self.bound:g}"


@dataclass(frozen=True)
class Estimate:
    mean: float
    low: float   # the ends of the 95% t-interval
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


def p_values(sample, prediction):
    """Two-sided p-values for 'it is as predicted' and for 'it is not': the interval on one side of the bound."""
    b = prediction.bound
    above, below = p_above(sample, b), p_below(sample, b)
    if prediction.kind == "above":
        holds, fails = above, below
    elif prediction.kind == "below":
        holds, fails = below, above
    else:  # two one-sided tests: Schuirmann 1987; refuted where the mean is beyond either bound
        holds, fails = max(p_above(sample, -b), below), min(above, p_below(sample, -b))
    return min(1.0, 2 * holds), min(1.0, 2 * fails)


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


def detectable(spread, n, comparisons=1, chance=0.8):
    """The smallest true difference that n pairs find with this chance, at Holm's strictest step."""
    if n < 2 or not spread > 0:  # equal differences say nothing about how they would vary
        return math.nan
    level = LEVEL / comparisons
    high = 1.0
    while power(high, 1.0, n, level) < chance:
        high *= 2
    return spread * float(optimize.brentq(lambda d: power(d, 1.0, n, level) - chance, 0, high, xtol=1e-6))
