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


def moments(scale=1.0):
    """The means of f, f^2 and f^4 for f = elu(x) + 1 of Gaussian x, by Gauss and Legendre's rule on either side of 0."""
    x, weight = numpy.polynomial.legendre.leggauss(200)
    x, weight = numpy.concatenate([5 * x - 5, 5 * x + 5]), 5 * numpy.concatenate([weight, weight])
    weight = weight * numpy.exp(-x ** 2 / 2) / math.sqrt(2 * math.pi)
    return [float(numpy.sum(weight * features(scale * x) ** power)) for power in (1, 2, 4)]


def limit_of_positive(scale=1.0):
    """The capacity of positive keys of any width: other keys overlap by D m1^2, the own one by D m2, and D cancels."""
    m1, m2, _ = moments(scale)
    return 1 + (m2 / m1 ** 2) ** 2


def exact_positive(pairs, dim):
    m1, m2, m4 = moments()
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


RULES = [("sum", "sum", {}), ("delta, strength 1", "delta", {}), ("delta, strength 1/2", "delta", {"strength": 0.5}),
         ("sum of positive keys", "positive", {})]


def table(dims=(4, 8, 16, 32)):
    """Capacities, each with the mean share that drawn keys find there."""
    print(f"{'pairs held, of keys of so many numbers':<40}" + "".join(f"{d:>18}" for d in dims))
    for name, rule, how in RULES:
        cells = []
        for d in dims:
            at = capacity(rule, d, **how)
            seen = float(numpy.mean(share(*simulate(rule, round(at), d, values=8, **how))))
            cells.append(f"{at:.1f} (share {seen:.2f})")
        print(f"{name:<40}" + "".join(f"{cell:>18}" for cell in cells))
    print("in brackets: the share of signal in what is read of keys and values that were drawn, at that many pairs")
    print(f"positive keys of any width: {limit_of_positive():.1f}; of inputs a thousand times as large: "
          f"{limit_of_positive(1000):.1f}, which is 1 + pi^2")


def curve(axes, i, places, values, points, seen):
    style = look(i)
    axes.plot(places, values, color=style["color"], linestyle=style["linestyle"])
    axes.plot(points, seen, style["marker"], color=style["color"])


def draw_falling(axes, dim):
    """How the share falls with the pairs, curves exact, points drawn."""
    ends, counts = [], [2, 4, 8, 16, 32, 64]
    for i, (name, rule, how) in enumerate(RULES):
        line = [float(numpy.mean(share(*exact(rule, n, dim, **how)))) for n in range(2, counts[-1] + 1)]
        seen = [float(numpy.mean(share(*simulate(rule, n, dim, draws=100, **how)))) for n in counts]
        curve(axes, i, range(2, counts[-1] + 1), line, counts, seen)
        ends.append((counts[-1], line[-1], name, look(i)["color"]))
    axes.axhline(0.5, color="#555555", linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set_xlabel(f"pairs written into a state of keys of {dim} numbers")
    axes.set_ylabel("share of signal in what is read")
    axes.set_ylim(0, 1.03)
    axes.set_title("Half is left where pairs equal the width", fontsize=9)
    label_ends(axes, ends, size=8)


def draw_ages(axes, pairs, dim):
    """The share by when a key was written."""
    shown = [("sum: all alike", "sum", {}, (2, 0.37)), ("delta", "delta", {}, (17, 0.22)),
             ("gated delta,\ndecay 0.9", "delta", {"decay": 0.9}, (24.5, 0.06))]
    for i, (name, rule, how, at) in zip((0, 1, 4), shown):
        shares = share(*exact(rule, pairs, dim, **how))
        seen = share(*simulate(rule, pairs, dim, draws=800, **how))
        curve(axes, i, range(1, pairs + 1), shares, range(1, pairs + 1, 4), seen[::4])
        axes.text(*at, name, color=look(i)["color"], fontsize=8)
    axes.set_xlabel(f"which of {pairs} pairs, the oldest first")
    axes.set_title("Too many pairs: delta keeps the newest", fontsize=9)


def draw(dim=16):
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.5), layout="constrained", sharey=True)
        draw_falling(left, dim)
        draw_ages(right, 2 * dim, dim)
        return figure
