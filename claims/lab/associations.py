"""associations.py: how many associations a state holds, by arithmetic and without training.

N pairs of a random unit key (D numbers) and a random value are written one after the other, then each key is asked for.
What is read is signal times its value plus noise from the others. The share of the read-out's variance that is signal,
s^2 / (s^2 + z), is 1 for a perfect memory; a rule's capacity is the number of pairs at which the mean share is one half.

    sum          S <- g S + k v                  linear attention (g = 1), with a decay g per write gla and mamba2
    delta        S <- g S + b k (v - (g S)^T k)  the delta rule (g = 1), gated delta
    positive     the sum with elu(x) + 1 of Gaussian keys, as in linear attention of 2020

exact(...) is the expectation over keys and values, simulate(...) the same by drawing them.
"""
import math

import matplotlib.pyplot as plt
import numpy

from .figure import STYLE, label_ends, look

LARGE = 4096


def features(x):
    return numpy.where(x > 0, x + 1, numpy.exp(numpy.minimum(x, 0)))


def exact_positive(pairs, dim):
    """Moments of elu(x) + 1 under a Gaussian, by Gauss and Hermite's rule with many points."""
    x, weight = numpy.polynomial.legendre.leggauss(400)
    x, weight = 10 * x, 10 * weight * numpy.exp(-50 * x ** 2) / math.sqrt(2 * math.pi)
    m1, m2, m4 = (float(numpy.sum(weight * features(x) ** power)) for power in (1, 2, 4))
    other = dim * m2 ** 2 + dim * (dim - 1) * m1 ** 4
    return numpy.full(pairs, dim * m2), numpy.full(pairs, dim * (m4 - m2 ** 2) + (pairs - 1) * other)


def exact(rule, pairs, dim, strength=1.0, decay=1.0):
    """(signal, noise) of each key, the oldest first. For the delta rule the noise is followed write by write: how much
    of all other values' traces lies along the key (along), and how much there is in all (whole)."""
    age, keep = numpy.arange(pairs)[::-1], decay ** 2
    if rule == "positive":
        return exact_positive(pairs, dim)
    if rule == "sum":
        power = decay ** (2 * age)
        return decay ** age, (power.sum() - power) / dim
    b, d = strength, dim
    off, back, shrink = 1 - 2 * b / d + 2 * b * b / (d * (d + 2)), b * b / (d * (d + 2)), 1 - (2 * b - b * b) / d
    signal = b * (decay * (1 - b / d)) ** age
    whole, before = 0.0, []
    for _ in range(pairs):
        before.append(keep * whole)
        whole = keep * shrink * whole + b * b
    before = numpy.array(before)
    along, whole = (1 - b) ** 2 * before / d, shrink * before
    own_along, own_whole = numpy.full(pairs, b * b), numpy.full(pairs, b * b)
    for step in range(1, pairs):                      # the write `step` places after the key's own
        live = age >= step
        along, whole = numpy.where(live, keep * (off * along + back * whole) + b * b / d, along), \
            numpy.where(live, keep * shrink * whole + b * b, whole)
        own_along, own_whole = numpy.where(live, keep * (off * own_along + back * own_whole), own_along), \
            numpy.where(live, keep * shrink * own_whole, own_whole)
    return signal, along + own_along - signal ** 2


def simulate(rule, pairs, dim, strength=1.0, decay=1.0, draws=400, values=16, seed=1):
    """The same, by drawing keys and values."""
    rng = numpy.random.default_rng(seed)
    keys, value = rng.standard_normal((draws, pairs, dim)), rng.standard_normal((draws, pairs, values))
    keys = features(keys) if rule == "positive" else keys / numpy.linalg.norm(keys, axis=2, keepdims=True)
    state = numpy.zeros((draws, dim, values))
    for t in range(pairs):
        key, state = keys[:, t], decay * state
        told = numpy.einsum("rd,rdv->rv", key, state) if rule == "delta" else 0
        write = strength * (value[:, t] - told) if rule == "delta" else value[:, t]
        state = state + key[:, :, None] * write[:, None, :]
    read = keys @ state
    signal = (read * value).mean((0, 2))
    return signal, ((read - signal[None, :, None] * value) ** 2).mean((0, 2))


def share(signal, noise):
    return signal ** 2 / (signal ** 2 + noise)


def capacity(rule, dim, **how):
    """The pairs at which the mean share falls through one half, interpolated between whole numbers."""
    before = 1.0
    for pairs in range(2, LARGE):
        now = float(numpy.mean(share(*exact(rule, pairs, dim, **how))))
        if now < 0.5:
            return pairs - (0.5 - now) / (before - now)
        before = now
    return math.inf


RULES = [("sum", "sum", {}), ("delta", "delta", {}), ("delta, strength 1/2", "delta", {"strength": 0.5}),
         ("sum of positive keys", "positive", {})]


def table(dims=(8, 16, 32, 64)):
    """Capacities, each with the mean share that a simulation finds there."""
    print(f"{'pairs held by a state of keys of':<34}" + "".join(f"{f'{d} numbers':>22}" for d in dims))
    for name, rule, how in RULES:
        cells = []
        for d in dims:
            at = capacity(rule, d, **how)
            seen = float(numpy.mean(share(*simulate(rule, round(at), d, draws=200, values=8, **how))))
            cells.append(f"{at:.1f} (share {seen:.2f})")
        print(f"{name:<34}" + "".join(f"{cell:>22}" for cell in cells))
    print("in brackets: the share of signal that simulated keys find at that number of pairs")


def draw(dim=16):
    """Left: how the share falls with the pairs, curves exact, points simulated. Right: by when a key was written."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.5), layout="constrained", sharey=True)
        ends, counts = [], [2, 4, 8, 16, 32, 64]
        for i, (name, rule, how) in enumerate(RULES):
            line = [float(numpy.mean(share(*exact(rule, n, dim, **how)))) for n in range(2, counts[-1] + 1)]
            left.plot(range(2, counts[-1] + 1), line, color=look(i)["color"], linestyle=look(i)["linestyle"])
            seen = [float(numpy.mean(share(*simulate(rule, n, dim, draws=200, **how)))) for n in counts]
            left.plot(counts, seen, look(i)["marker"], color=look(i)["color"])
            ends.append((counts[-1], line[-1], name, look(i)["color"]))
        left.axhline(0.5, color="#555555", linewidth=1, linestyle=(0, (4, 2)))
        left.axvline(dim, color="#bbbbbb", linewidth=1)
        left.set_xscale("log", base=2)
        left.set_xticks(counts, [str(n) for n in counts])
        left.set_xlabel(f"pairs written, keys of {dim} numbers")
        left.set_ylabel("share of signal in what is read")
        left.set_ylim(0, 1.03)
        left.set_title("More pairs: both rules cross one half near the width", fontsize=9)
        label_ends(left, ends, size=8)
        ends, pairs = [], 2 * dim
        shown = [("sum", "sum", {}), ("delta", "delta", {}), ("gated delta, 0.95", "delta", {"decay": 0.95})]
        for i, (name, rule, how) in zip((0, 1, 4), shown):
            shares = share(*exact(rule, pairs, dim, **how))
            right.plot(range(1, pairs + 1), shares, color=look(i)["color"], linestyle=look(i)["linestyle"])
            seen = share(*simulate(rule, pairs, dim, draws=800, **how))
            right.plot(range(1, pairs + 1, 4), seen[::4], look(i)["marker"], color=look(i)["color"])
            at = {"sum": 2, "delta": 12, "gated delta, 0.95": 17}[name]
            right.annotate(name, (at, shares[at]), xytext=(-4, 8) if i else (0, 6), textcoords="offset points",
                           color=look(i)["color"], fontsize=8, ha="right" if i else "left")
        right.set_xlabel(f"which of {pairs} pairs, the oldest first")
        right.set_title("Too many pairs: the delta rule keeps the newest", fontsize=9)
        return figure
