"""mxfp4.py: what five public libraries make of one model of ours, from the table that tests/mxfp4.py wrote (`make
mxfp4`): claims/results/mxfp4.csv.

    draw()      one block of 32 weights as each library rounds it, and what that does to the model
    table()     the same in figures: versions, weights that differ, squared error, loss
"""
import csv
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from .diagram import DARK, INK, LIGHT, WARM
from .figure import STYLE
from .trainer import ROOT

TABLE = "claims/results/mxfp4.csv"
RULES = {"torchao": ("floor", "to even"), "llama.cpp's gguf": ("floor", "to zero"),
         "vLLM's compressed-tensors": ("even", "to even"), "NVIDIA's modelopt": ("never clips", "to zero"),
         "Intel's auto-round": ("least error", "to even")}
UNIT = 1000      # weights are shown in thousandths
FEW = 14         # of the block's 32 columns: those with most answers
PLACES = (0.9, 2.5, 4.1, 5.7)    # of the figures behind them


def read(path=ROOT / TABLE):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["values"] = [float(v) for v in row["values"].split()]
        row |= {name: float(row[name]) for name in ("differ", "error", "loss")}
    return rows


def table(rows=None):
    exact, *answers = rows or read()
    print(f"{'':<26}{'version':<9}{'scale':<13}{'ties':<9}{'other weights':>14}{'squared error':>15}{'loss added':>12}")
    for row in answers:
        scale, ties = RULES[row["library"]]
        print(f"{row['library']:<26}{row['version']:<9}{scale:<13}{ties:<9}{row['differ']:>13.2%} {row['error']:>14.5f}"
              f"{row['loss'] - exact['loss']:>12.4f}")
    print(f"other weights: than torchao's default; squared error: over that of the weights; loss: nats per token, "
          f"{exact['loss']:.4f} before")


def shown(value):
    return f"{value * UNIT:.0f}".replace("-", "\u2212")


def draw(rows=None):
    exact, *answers = rows or read()
    first = answers[0]["values"]
    order = sorted(range(len(first)), key=lambda i: (-len({a["values"][i] for a in answers}), i))[:FEW]
    order.sort(key=lambda i: -exact["values"][i])
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(9.4, 3.1), layout="constrained")
        for y, row in enumerate([exact, *answers]):
            for x, i in enumerate(order):
                value = row["values"][i]
                other = y and value != first[i]
                axes.add_patch(Rectangle((x, y), 1, 1, facecolor=WARM if other else LIGHT if y else "white",
                                         edgecolor="white", linewidth=1.2))
                axes.text(x + 0.5, y + 0.5, shown(value), ha="center", va="center", fontsize=8.5,
                          color=INK if y == 0 or other else "#555555", fontweight="bold" if other else None)
            axes.text(-0.3, y + 0.5, row["library"], ha="right", va="center", fontsize=8.5)
            if y:
                cells = [f"$2^{{{row['exponent']}}}$", f"{row['differ']:.1%}" if y > 1 else "\u2013",
                         f"{row['error']:.4f}", f"+{row['loss'] - exact['loss']:.4f}"]
                for x, cell in zip(PLACES, cells):
                    axes.text(FEW + x, y + 0.5, cell, ha="center", va="center", fontsize=8)
        for x, head in zip(PLACES, ("scale of\nthe block", "other\nweights", "squared\nerror",
                                                  "loss\nadded")):
            axes.text(FEW + x, 0.9, head, ha="center", va="bottom", fontsize=8)
        axes.axhline(1, color=DARK, linewidth=0.8)
        axes.text(-0.1, len(answers) + 1.5, "thousandths; 14 of a block's 32 weights, the largest first", fontsize=8,
                  va="center", color="#555555")
        axes.set_xlim(-0.1, FEW + 6.6)
        axes.set_ylim(len(answers) + 1.8, -0.1)
        axes.axis("off")
        axes.set_title("Which MXFP4? Five libraries, one model, five answers", fontsize=10, fontweight="bold")
        return figure
