"""knee.py: post 23's closed form, and its picture: loss against bytes, from the records of claims/knee.toml.

A model of N weights has a loss L above a floor F that nothing passes, and L - F falls as N^-alpha. Rounded to b bits a
weight it loses d_b more. In the same bytes there is room for r N weights at b/r bits (r is 2, or a little less, since
scales are counted), so fewer bits pay exactly where

    d_b/r - d_b  <  (L - F) (1 - r^-alpha)

with F known from the language, and alpha from two sizes: log((L1 - F)/(L2 - F)) / log(N2/N1).

    forecast(receipt)   both sides for the largest model, from the two smaller ones; beside it, what it does
    table(receipt)      losses and bytes of all sizes and widths
    draw(receipt)       loss against bytes, one line for each width

At equal FLOPs of training r times the weights have r times fewer tokens. Where L - F falls as D^-beta of the tokens,
too, 1 - r^-alpha is then 1 - r^(beta - alpha).

    budgets(receipt, again)         what the form says at equal tokens and at equal FLOPs, and what is measured
    draw_budgets(receipt, again)    loss by bits in the same bytes, one line for each budget
"""
import math

import matplotlib.pyplot as plt
import numpy

from .figure import STYLE, look
from .report import interval, signed
from .stats import decided

# Bits of a weight with its share of a scale, of --weight-bits; norms stay floats.
BITS = {"8": 8.5, "4": 4.5, "3": 3.5, "2": 2.5, "2 trained": 2.5}
NAMES = {"exact": "floats", "8": "8 bits", "4": "4 bits", "3": "3 bits", "2": "2 bits", "2 trained": "2 bits, trained"}
SIZES = ("94k", "171k", "306k")
SMALL, MIDDLE, LARGE = SIZES
ASIDE = {"3": (4, 11)}       # of a name that would lie on a line


def arm_of(bits, size):
    return f"2 bits trained, {size}" if bits == "2 trained" else f"{bits} bits, {size}"


class Knee:
    """Per seed: loss[bits][size], where bits are those of BITS or "exact"; weights[size], in all and not rounded."""

    def __init__(self, receipt):
        self.receipt, self.loss, self.weights = receipt, {}, {}
        rows = {}
        for row in receipt.records.values():
            if row["status"] == "finished":
                rows.setdefault(row["arm"], {})[row["flags"].split("--seed ")[1].split()[0]] = row
        self.seeds = sorted(set.intersection(*(set(found) for found in rows.values()))) if rows else []
        for bits in BITS:
            for size in SIZES:
                found = rows.get(arm_of(bits, size))
                if found:
                    self.put(bits, size, [found[seed] for seed in self.seeds])
        largest = rows[arm_of("2", LARGE)]
        self.floor = self.mean(largest, "val_loss") - self.mean(largest, "excess_loss")

    @staticmethod
    def mean(found, metric):
        return float(numpy.mean([row[metric] for row in found.values()]))

    def put(self, bits, size, rows):
        seen = numpy.array([row["val_loss"] for row in rows])
        self.loss.setdefault(bits, {})[size] = seen
        width = int(rows[0]["flags"].split("--width ")[1].split()[0])
        self.weights[size] = int(rows[0]["parameters"]), 3 * width      # two norms of the layer, one at the end
        if bits == "2":
            self.loss.setdefault("exact", {})[size] = seen - [row["rounding_cost"] for row in rows]

    def bytes(self, bits, size):
        every, kept = self.weights[size]
        return 4 * every if bits == "exact" else (every - kept) * BITS[bits] / 8 + 4 * kept

    def added(self, bits, size):
        return self.loss[bits][size] - self.loss["exact"][size]

    def ratio(self, a, b):
        return self.weights[b][0] / self.weights[a][0]

    def alpha(self):
        """From the means of the two smaller sizes."""
        above = [float(self.loss["exact"][size].mean()) - self.floor for size in (SMALL, MIDDLE)]
        return math.log(above[0] / above[1]) / math.log(self.ratio(SMALL, MIDDLE))

    def bound(self):
        """What fewer bits may add: the right side, at the middle size."""
        above = float(self.loss["exact"][MIDDLE].mean()) - self.floor
        return above * (1 - self.ratio(MIDDLE, LARGE) ** -self.alpha())


def forecast(receipt):
    k = Knee(receipt)
    print(f"floor {k.floor:.4f}; alpha {k.alpha():.3f} from {SMALL} and {MIDDLE} weights; "
          f"r = {k.ratio(MIDDLE, LARGE):.2f}")
    print(f"half the bits may add {k.bound():.4f} nats\n")
    print(f"{'from 4 to 2 bits at equal bytes':<34}{'they add':>10}{'so, the form says':>20}{'measured':>32}"
          f"{'with what they add at ' + LARGE:>28}")
    for bits in ("2", "2 trained"):
        adds = float((k.added(bits, MIDDLE) - k.added("4", MIDDLE)).mean())
        seen = decided(k.loss[bits][LARGE] - k.loss["4"][MIDDLE])
        told = f"{signed(seen.mean)} {interval(seen)}"
        how = "rounded after training" if bits == "2" else "a last fifth of rounded steps"
        what = f"{adds - k.bound():+.4f}, {'stay' if adds > k.bound() else 'go'}".replace("-", "\u2212")
        late = float(k.added(bits, LARGE).mean() - k.added("4", MIDDLE).mean())
        known = f"{late - k.bound():+.4f}".replace("-", "\u2212")
        print(f"{how:<34}{adds:>10.4f}{what:>20}{told:>32}{known:>28}")


def table(receipt):
    k = Knee(receipt)
    print(f"{'nats per token, and kilobytes':<32}" + "".join(f"{f'{size} weights':>18}" for size in SIZES))
    for bits, name in NAMES.items():
        cells = [f"{k.loss[bits][size].mean():.4f} {k.bytes(bits, size) / 1000:>7.1f}" if size in k.loss[bits] else ""
                 for size in SIZES]
        print(f"{name:<32}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"means over {len(k.seeds)} seeds; bytes with scales, norms and embedding")


def draw(receipt):
    k = Knee(receipt)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.4, 4.4), layout="constrained")
        for i, (bits, name) in enumerate(NAMES.items()):
            sizes = [size for size in SIZES if size in k.loss[bits]]
            places, above = [k.bytes(bits, s) / 1000 for s in sizes], [k.loss[bits][s] - k.floor for s in sizes]
            style, ends = look(i), bits in ("exact", "8", "4")
            axes.plot(places, [x.mean() for x in above], zorder=3, **style)
            for place, x in zip(places, above):
                e = decided(x)
                axes.plot([place] * 2, [max(e.low, 0.05), e.high], color=style["color"], linewidth=2.2, alpha=0.4)
            at = -1 if ends else 0
            axes.annotate(name, (places[at], above[at].mean()), xytext=(7, 4) if ends else ASIDE.get(bits, (-7, 0)),
                          ha="left" if ends else "right", va="center", textcoords="offset points",
                          color=style["color"], fontsize=8.5)
        at = k.bytes("4", MIDDLE) / 1000
        free = float(k.loss["exact"][MIDDLE].mean()) - k.bound() - k.floor
        axes.axvline(at, color="#777777", linewidth=1, linestyle=(0, (4, 2)), zorder=0)
        axes.plot([at], [free], "o", markersize=7, markerfacecolor="white", markeredgecolor="#000000", zorder=4)
        axes.annotate("two bits of 306 thousand weights,\nif rounding cost nothing: the closed form", (at, free),
                      xytext=(14, -16), textcoords="offset points", fontsize=8, va="top",
                      arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.8})
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks, levels = [30, 50, 100, 200, 400, 800], [0.08, 0.1, 0.15, 0.2, 0.3, 0.5]
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.set_yticks(levels, [f"{t:g}" for t in levels])
        axes.minorticks_off()
        axes.set_xlim(16, 2000)
        axes.set_ylim(0.062, 0.85)
        axes.set_xlabel("kilobytes of weights, with scales, norms and embedding")
        axes.set_ylabel("loss above the floor (nats per token)")
        axes.set_title("Where all weigh the same: eight bits of 94, four of 171, two of 306 thousand weights",
                       fontsize=10, fontweight="bold")
        return figure


# ---- equal tokens, equal FLOPs ---------------------------------------------------------------------

# Arms of as many bytes: of claims/knee.toml with equal tokens, of claims/knee-again.toml with equal FLOPs.
TOKENS = ("8 bits, 94k", "4 bits, 171k", "2 bits trained, 306k")
FLOPS = ("8 bits, 94k, 1809 steps", "4 bits, 171k, 1000 steps", "2 bits trained, 306k, 564 steps")
OF_ARM = ("8 bits,\n94k weights", "4 bits,\n171k weights", "2 bits, last fifth rounded,\n306k weights")


class Arms:
    """The rows of a claim's arms, of the reported seeds that all of them have."""

    def __init__(self, receipt):
        names = [arm.label for arm in receipt.claim.arms]
        rows = {name: {} for name in names}
        for row in receipt.records.values():
            seed = int(row["flags"].split("--seed ")[1].split()[0])
            if row["status"] == "finished" and seed in receipt.claim.seeds:
                rows[row["arm"]][seed] = row
        self.seeds = sorted(set.intersection(*(set(found) for found in rows.values())))
        self.rows = {name: [rows[name][seed] for seed in self.seeds] for name in names}

    def loss(self, arm):
        return numpy.array([row["val_loss"] for row in self.rows[arm]])

    def less(self, a, b):
        return decided(self.loss(a) - self.loss(b))

    def above(self, arm):
        """The loss of the exact weights over the floor."""
        found = self.rows[arm]
        return float(numpy.mean([r["excess_loss"] - r["rounding_cost"] for r in found]))

    def ratio(self, a, b, what):
        return float(self.rows[b][0][what]) / float(self.rows[a][0][what])


def tokens_exponent(short, long):
    """beta: of the smallest model at equal tokens, and of the same with the FLOPs of the middle one."""
    a, b = (float(arms.rows[names[0]][0]["tokens"]) for arms, names in ((short, TOKENS), (long, FLOPS)))
    return math.log(short.above(TOKENS[0]) / long.above(FLOPS[0])) / math.log(b / a)


def form(arms, budget, alpha, beta, added):
    """What four to two bits change, by the form, where rounding adds so much: L - F falls as N^-alpha D^-beta."""
    _, middle, large = budget
    size = arms.ratio(middle, large, "parameters") ** -alpha * arms.ratio(middle, large, "tokens") ** -beta
    return added - arms.above(middle) * (1 - size)


def budgets(receipt, again):
    k, sides = Knee(receipt), {"equal tokens": (Arms(receipt), TOKENS), "equal FLOPs": (Arms(again), FLOPS)}
    alpha, beta = k.alpha(), tokens_exponent(*(arms for arms, _ in sides.values()))
    added = float((k.added("2 trained", MIDDLE) - k.added("4", MIDDLE)).mean())
    print(f"alpha {alpha:.3f}, of weights; beta {beta:.3f}, of tokens")
    print(f"two bits trained so add {added:.4f} nats to what four add\n")
    print(f"{'in the same bytes':<18}{'8 to 4 bits':>28}{'4 to 2 bits trained':>28}{'the form':>10}{'seeds':>7}")
    for budget, (arms, names) in sides.items():
        small, middle, large = names
        told = [f"{signed(e.mean)} {interval(e)}" for e in (arms.less(middle, small), arms.less(large, middle))]
        says = signed(form(arms, names, alpha, beta if budget == "equal FLOPs" else 0, added))
        print(f"{budget:<18}{told[0]:>28}{told[1]:>28}{says:>10}{len(arms.seeds):>7}")


def draw_budgets(receipt, again):
    told = ("equal FLOPs:\n1809, 1000, 564 steps", "equal tokens:\n1000 steps each")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
        for i, (arms, names) in enumerate(((Arms(again), FLOPS), (Arms(receipt), TOKENS))):
            style, seen = look(i + 1), [decided(arms.loss(name)) for name in names]
            places = [place + 0.04 * (1 - 2 * i) for place in range(len(names))]
            axes.plot(places, [e.mean for e in seen], zorder=3, **style)
            for place, e in zip(places, seen):
                axes.plot([place] * 2, [e.low, e.high], color=style["color"], linewidth=2.2, alpha=0.4)
            axes.annotate(told[i], (places[-1], seen[-1].mean), xytext=(9, 0), textcoords="offset points",
                          va="center", color=style["color"], fontsize=8.5)
        axes.set_xticks(range(len(OF_ARM)), OF_ARM)
        axes.set_xlim(-0.25, 2.75)
        axes.set_ylabel("validation loss (nats per token)")
        axes.set_title("In the same kilobytes two bits win at equal tokens and lose at equal FLOPs", fontsize=10,
                       fontweight="bold")
        return figure
