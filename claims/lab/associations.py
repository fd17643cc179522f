"""associations.py: how many associations a state holds, by arithmetic and without training.

N pairs of a random unit key (D numbers) and a random value are written one after the other, then each key is asked for.
What is read is signal times its value plus noise from the others. The share of the variance of what is read that is
signal, s^2 / (s^2 + z), is 1 for a perfect memory; a capacity is the number of pairs at which the mean share is one
half.

    sum          S <- g S + k v                  linear attention (g = 1), with a decay g per write gla and mamba2
    delta        S <- g S + b k (v - (g S)^T k)  the delta rule (g = 1), gated delta
    positive     the sum with elu(x) + 1 of Gaussian keys, as in linear attention of 2020

exact(...) is the expectation over keys and values, simulate(...) the same by drawing them. bits_left(...) is what a
reader of such a state misses of answers that are one of a few words: the number that a claim about `recall` measures.
"""
import math

import matplotlib.pyplot as plt
import numpy

from . import baseline
from .figure import STYLE, label_ends, look

LARGE = 4096


def features(x):
    return numpy.where(x > 0, x + 1, numpy.exp(numpy.minimum(x, 0)))


def moments(scale=1.0):
    """The means of f, f^2 and f^4 for f = elu(x) + 1 of Gaussian x, by Gauss and Legendre's rule on both sides of 0."""
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


def read_out(rule, value, dim, rng, strength=1.0, decay=1.0):
    """Writes values [draws, pairs, width] under random keys, and asks for every key."""
    draws, pairs, values = value.shape
    keys = rng.standard_normal((draws, pairs, dim))
    keys = features(keys) if rule == "positive" else keys / numpy.linalg.norm(keys, axis=2, keepdims=True)
    state = numpy.zeros((draws, dim, values))
    for t in range(pairs):
        key, state = keys[:, t], decay * state
        told = numpy.einsum("rd,rdv->rv", key, state) if rule == "delta" else 0
        write = strength * (value[:, t] - told) if rule == "delta" else value[:, t]
        state = state + key[:, :, None] * write[:, None, :]
    return keys @ state


def simulate(rule, pairs, dim, draws=400, values=16, seed=1, **how):
    """The same as exact(), by drawing keys and values."""
    rng = numpy.random.default_rng(seed)
    value = rng.standard_normal((draws, pairs, values))
    read = read_out(rule, value, dim, rng, **how)
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


def bits_left(rule, pairs, dim, words=16, width=32, draws=200, seed=1, **how):
    """The share of an answer's bits that is missing when the value is one of so many random words, and who reads knows
    the words, the signal and the noise, and is as sure as is best: what a model could reach with keys like these."""
    rng = numpy.random.default_rng(seed)
    word, which = rng.standard_normal((draws, words, width)), rng.integers(0, words, (draws, pairs))
    read = read_out(rule, numpy.take_along_axis(word, which[:, :, None], axis=1), dim, rng, **how)
    signal, noise = (part[:, None] for part in exact(rule, pairs, dim, **how))
    score = signal * (read @ word.transpose(0, 2, 1)) - signal ** 2 * (word ** 2).sum(2)[:, None, :] / 2
    score /= numpy.maximum(noise, 1e-3)
    score -= numpy.take_along_axis(score, which[:, :, None], axis=2)
    sure = 2.0 ** numpy.arange(-8, 1)
    return min(float(logsumexp(s * score).mean()) for s in sure) / math.log(words)


def logsumexp(x):
    top = x.max(2)
    return top + numpy.log(numpy.exp(x - top[:, :, None]).sum(2))


def capacity_in_bits(rule, dim, **how):
    """The pairs at which half of the bits are missing, interpolated in doublings as the claims do."""
    before, pairs = 0.0, 2
    while (now := bits_left(rule, pairs, dim, **how)) < 0.5:
        before, pairs = now, 2 * pairs
    return pairs / 2 ** ((now - 0.5) / (now - before)) if pairs > 2 else 2.0


def capacity_above_a_bag(rule, dim, words=16, **how):
    """The pairs at which half of the bits are missing that a bag of values leaves open, as the claims count them; 0 if
    it is so of two pairs, the fewest. Halves of all bits say little of few pairs, of which a bag knows so much."""
    def missing(pairs):
        return bits_left(rule, pairs, dim, words, **how) * math.log(words) / baseline.recall(pairs, words, True)[0]
    before, pairs = None, 2
    while (now := missing(pairs)) < 0.5:
        before, pairs = now, 2 * pairs
    return pairs / 2 ** ((now - 0.5) / (now - before)) if before is not None else 0.0


RULES = [("sum", "sum", {}), ("delta, strength 1", "delta", {}), ("delta, strength 1/2", "delta", {"strength": 0.5}),
         ("sum of positive keys", "positive", {})]


def table(dims=(4, 8, 16, 32)):
    """Capacities, each with the mean share that drawn keys find there."""
    print(f"{'keys of so many numbers':<24}" + "".join(f"{d:>18}" for d in dims))
    for name, rule, how in RULES:
        cells = []
        for d in dims:
            at = capacity(rule, d, **how)
            seen = float(numpy.mean(share(*simulate(rule, round(at), d, values=8, **how))))
            cells.append(f"{at:.1f} (drawn {seen:.2f})")
        print(f"{name:<24}" + "".join(f"{cell:>18}" for cell in cells))
    print("pairs at which half of what is read is signal, exact; in brackets, the share in keys that were drawn")
    print(f"positive keys of any width: {limit_of_positive():.1f}; of inputs a thousand times as large: "
          f"{limit_of_positive(1000):.1f}, which is 1 + pi^2")


def table_in_bits(dims=(2, 4, 8, 16)):
    """The same by the bits of an answer, counted from a bag of values: pairs, and pairs per number of a key."""
    print(f"{'keys of so many numbers':<24}" + "".join(f"{d:>18}" for d in dims))
    for name, rule, how in RULES:
        found = [capacity_above_a_bag(rule, d, **how) for d in dims]
        cells = [f"{at:.1f} ({at / d:.1f} each)" if at else "fewer than 2" for at, d in zip(found, dims)]
        print(f"{name:<24}" + "".join(f"{cell:>18}" for cell in cells))
    print("pairs at which half of the bits are missing that a bag of values leaves open, of an answer that is one of")
    print("16 words of 32 numbers, by drawn keys")


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


def draw_trained(receipt, pairs=4, words=16):
    """What trained models lose per answer over the width of a key, each seed a dot; what random keys would lose, and a
    bag of values, which knows what stands in the row and binds nothing."""
    claim, rules = receipt.claim, [("sum", "sum, trained"), ("delta", "delta, trained")]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 3.9), layout="constrained")
        ends = []
        for i, (name, told) in enumerate(rules):
            arms = [arm for arm in claim.arms if arm.name == name]
            places = [int(dict(arm.flags)["state-dim"]) for arm in arms]
            rows = [[receipt.results.best(arm, s, claim.metric) for s in claim.seeds] for arm in arms]
            axes.plot(places, numpy.mean(rows, axis=1), linewidth=2, **{**look(i), "linestyle": "-"})
            for place, row in zip(places, rows):
                axes.plot([place * (1.03 if i else 0.97)] * len(row), row, ".", color=look(i)["color"], alpha=0.5,
                          markersize=4)
            ends.append((places[-1], float(numpy.mean(rows[-1])), told, look(i)["color"]))
        shown = [("sum", {}, 0, "-.", "sum, random signed keys"), ("positive", {}, 0, ":", "sum, random positive keys"),
                 ("delta", {"strength": 0.5}, 1, "--", "delta, random keys")]
        for rule, how, i, dashes, told in shown:
            line = [math.log(words) * bits_left(rule, pairs, dim, **how) for dim in places]
            axes.plot(places, line, linestyle=dashes, linewidth=1, color=look(i)["color"])
            ends.append((places[-1], line[-1], told, look(i)["color"]))
        bag = baseline.recall(pairs, words, True)[0]
        axes.axhline(bag, color="#777777", linewidth=1, linestyle=(0, (4, 2)))
        ends.append((places[-1], bag, "a bag of values, no binding", "#555555"))
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{n} x 32" for n in places])
        axes.set_xlabel("state")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"nats lost per answer, of {pairs} pairs")
        axes.set_title("Keys of 2 numbers bind next to nothing; of 8 the delta rule binds most", fontsize=10)
        axes.set_xlim(0.9 * places[0], 1.07 * places[-1])
        label_ends(axes, ends, size=8, beyond=20)      # right of the dots and of the dashed line
        return figure


def draw_capacity(receipt, title, scaled=False):
    """What trained models bind over the pairs, of the bits that a bag of values leaves open: a panel for each rule, a
    line for each state, each seed a dot, and where the mean falls through the half a ring: the capacity. scaled: over
    the pairs for each number of a key, where lines lie on each other if a capacity is in proportion to the state."""
    claim, results = receipt.claim, receipt.results
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.7), layout="constrained", sharey=True)
        for axes, (rule, told) in zip(panels, [("sum", "linear attention (the sum)"), ("delta", "delta rule")]):
            ends, every = [], set()
            groups = {k: arms for k, arms in claim.groups().items() if k.split()[0] == rule}
            for i, (label, arms) in enumerate(groups.items()):
                style, width = look(i), int(dict(arms[0].flags)["state-dim"])
                pairs = [int(dict(arm.flags)["pairs"]) / (width if scaled else 1) for arm in arms]
                rows = [[results.best(arm, s, claim.metric) for s in claim.seeds] for arm in arms]
                axes.plot(pairs, numpy.mean(rows, axis=1), **style)
                for place, row in zip(pairs, rows):
                    axes.plot([place * 1.04 ** (i - 1)] * len(row), row, ".", color=style["color"], alpha=0.4,
                              markersize=4)
                at = 2 ** results.level(label).mean / (width if scaled else 1)
                if pairs[0] < at < pairs[-1]:
                    axes.plot(at, claim.threshold.bound, "o", markersize=9, markerfacecolor="none",
                              color=style["color"])
                ends.append((pairs[-1], float(numpy.mean(rows[-1])), f"keys of {width}", style["color"]))
                every |= set(pairs)
            axes.axhline(claim.threshold.bound, color="#555555", linewidth=1, linestyle=(0, (4, 2)))
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted(every), [f"{n:g}" if n >= 1 else f"1/{1 / n:g}" for n in sorted(every)])
            axes.minorticks_off()
            axes.set_ylim(-0.03, 1.05)
            axes.set_xlabel("pairs for each number of a key" if scaled else "pairs in the row")
            axes.set_title(told, fontsize=9)
            label_ends(axes, ends, size=8)
        panels[0].set_ylabel("share of the bits bound that\na bag of values leaves open")
        figure.suptitle(title, fontsize=10, fontweight="bold")
        return figure
