"""batching.py: the arithmetic and the pictures of post 11. Lengths are lognormal, as ./serve draws them.

    lanes()                 four rows, eight answers, three schedulers: which cells of a step are paid for what
    gain(t, B, cv)          the gain of continuous over static batches by the law of the lengths alone, for any t(n)
    longest(B, cv)          E[max] / E[len]
    gains(line, ridge)      both beside the records
"""
import math

import matplotlib.pyplot as plt
import numpy
from matplotlib.patches import Rectangle
from scipy.special import ndtr
from scipy.stats import binom

from .diagram import DARK, INK, LIGHT, WARM
from .figure import STYLE

A, B_EACH, RIDGE, KEY = 5e-3, 0.435e-3, 11.5, 0.42e-6     # seconds: of a step, of a row, of a cached token
MEAN = 128


def longer(cv, mean=MEAN):
    """(s, P(an answer has at least s tokens), how many steps stand for it): each of the first thousand, then fewer."""
    variance = math.log(1 + cv * cv)
    s = numpy.unique(numpy.r_[1:1000, numpy.geomspace(1000, mean * math.exp(7 * math.sqrt(variance)), 2000).round()])
    p = 1 - ndtr((numpy.log((s - 0.5) / mean) + variance / 2) / math.sqrt(variance))
    p[0] = 1
    return s, p, numpy.gradient(s)


def line(n):
    return A + B_EACH * n


def ridge(n):
    return A + B_EACH * numpy.maximum(0, n - RIDGE)


def longest(rows, cv):
    _, p, each = longer(cv)
    return float(((1 - (1 - p) ** rows) * each).sum() / (p * each).sum())


def gain(t, rows, cv, key=0.0):
    """Sum over steps of E[t(rows left)], keys of all texts, over E[len] t(rows)."""
    (s, p, each), n = longer(cv), numpy.arange(1, rows + 1)
    steps = float((binom.pmf(n[:, None], rows, p) * t(n)[:, None] * each).sum())
    keys = key * rows * float((p * s * each).sum())
    return (steps + keys) / ((p * each).sum() * t(numpy.array([rows]))[0] + keys)


def by_line(rows, cv):
    """1 + w (E[max]/E[len] - 1), w = a / (a + b B)."""
    return 1 + A / (A + B_EACH * rows) * (longest(rows, cv) - 1)


# ---- pictures ------------------------------------------------------------------------------------
ANSWERS = (3, 9, 4, 2, 5, 2, 8, 3)
ROWS = 4


def places(way):
    """[(row, first step, tokens, steps that its row is paid for)] of the eight answers."""
    free, found = [0] * ROWS, []
    for i, n in enumerate(ANSWERS):
        row = i % ROWS if way != "continuous" else free.index(min(free))
        if way != "continuous" and i and i % ROWS == 0:
            free = [max(free)] * ROWS
        batch = ANSWERS[i // ROWS * ROWS:][:ROWS]
        found.append((row, free[row], n, max(batch) if way == "padded" else n))
        free[row] += n
    return found


def lanes():
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, every = plt.subplots(3, 1, figsize=(7, 4.1), sharex=True, layout="constrained")
        told = {"padded": "padded: a step always has four rows", "static": "static: rows leave, steps remain",
                "continuous": "continuous: rows are taken at once"}
        for axes, way in zip(every, told):
            cells, end = places(way), 0
            for row, first, n, paid in cells:
                axes.add_patch(Rectangle((first, -row - 0.4), n, 0.8, facecolor=WARM, edgecolor=INK, linewidth=0.7))
                if paid > n:
                    axes.add_patch(Rectangle((first + n, -row - 0.4), paid - n, 0.8, facecolor=LIGHT, edgecolor=DARK,
                                             hatch="///", linewidth=0.4))
                end = max(end, first + n)
            axes.plot([end, end], [-ROWS + 0.4, 0.6], color=INK, linewidth=1.2)
            axes.annotate(f"{end} steps", (end, -ROWS / 2 + 0.5), xytext=(4, 0), textcoords="offset points",
                          va="center", fontsize=8)
            axes.set_xlim(-0.3, 20)
            axes.set_ylim(-ROWS + 0.3, 0.7)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_title(told[way], fontsize=9, loc="left")
        every[-1].set_xlabel("steps")
        return figure


def curve(axes, receipt, t, key, title):
    """Gain by rows: marks from the records, lines from the law of the lengths, dotted the famous factor."""
    rows = [4, 8, 16, 32, 64]
    for cv, colour, marker in ((1, INK, "o"), (2, "#b2182b", "s")):
        found = [facts_ratio(receipt, n, cv) for n in rows]
        axes.plot(rows, [longest(n, cv) for n in rows], ":", color=colour, linewidth=1)
        axes.plot(rows, [gain(t, n, cv, key) for n in rows], "-", color=colour, linewidth=1.3)
        axes.plot(rows, found, marker, color=colour, markersize=5)
        axes.annotate(f"  cv {cv}", (rows[-1], found[-1]), (0, 3 * (2 * cv - 3)), textcoords="offset points",
                      va="center", fontsize=8, color=colour)
        axes.annotate(f" longest/mean, cv {cv}", (rows[-1], longest(64, cv)), va="center", fontsize=8, color=colour)
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows, [str(n) for n in rows])
    axes.minorticks_off()
    axes.set_xlim(3.5, 200)
    axes.set_ylim(0, 11.5)
    axes.axhline(1, color="#bbbbbb", linewidth=0.8)
    axes.set_xlabel("rows of a full batch")
    axes.set_title(title, fontsize=9)


def facts_ratio(receipt, rows, cv):
    of = {way: [r["requests_per_second"] for r in receipt.rows(f"{way} running={rows} cv={cv}")]
          for way in ("continuous", "static")}
    return sum(of["continuous"]) / sum(of["static"])


def gains(of_line, of_ridge):
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.5), sharey=True, layout="constrained")
        curve(left, of_line, line, 0, "a step is a line: 5 ms + 0.435 ms a row")
        curve(right, of_ridge, ridge, KEY, "5 ms up to 11.5 rows, 0.435 ms for each row more")
        left.set_ylabel("continuous over static")
        figure.suptitle("Where rows cost time, static batches lose far less than padding does\n"
                        "marks: simulated; lines: the formula; dotted: what padding costs", fontsize=9)
        return figure
