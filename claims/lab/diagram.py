"""diagram.py: the pictures that explain an idea, in the style of figure.py. Nothing in them is measured.

    caches()        what four kinds of attention keep of a token, and which head reads what
    pools()         what decides about a token: itself, its pool along time, its place in other rows
    experts()       what a token passes of a feed-forward layer, and who decides it
    placements()    where each --norm normalises: on the stream or on a branch, before it or after
"""
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

from .figure import STYLE

INK, LIGHT, DARK, WARM = "#000000", "#e4e4e4", "#9a9a9a", "#f0c9a0"

# Cells of a cache: (label, how many numbers, rotated by RoPE?, the query heads that read it); claims/one-head.toml.
EVERY = range(4)
CACHES = {
    "MHA, four heads": [(f"K{h}", 4, True, [h]) for h in EVERY] + [(f"V{h}", 4, False, [h]) for h in EVERY],
    "four query heads, one key-value head": [("K", 8, False, EVERY), ("K rot.", 8, True, EVERY),
                                             ("V", 16, False, EVERY)],
    "MLA": [("latent", 24, False, EVERY), ("K rot.", 8, True, EVERY)],
    "one query head": [("K", 8, False, [0]), ("K rot.", 8, True, [0]), ("V", 16, False, [0])],
}
WIDE = 3.6   # how wide a number is drawn


def draw_cache(axes, title, cells):
    """Above: the query heads. Below: the numbers kept of a token, to scale."""
    total, count = sum(row[1] for row in cells), 1 + max(max(readers) for *_, readers in cells)
    left = -WIDE * total / 2
    heads = {h: (h - (count - 1) / 2) * 30 for h in range(count)}
    for label, numbers, rotated, readers in cells:
        wide = WIDE * numbers
        axes.add_patch(Rectangle((left, 0), wide, 9, facecolor=WARM if rotated else LIGHT, edgecolor=INK,
                                 linewidth=0.8, hatch="///" if rotated else None))
        axes.text(left + wide / 2, 4.5, label, ha="center", va="center", fontsize=7,
                  bbox={"facecolor": WARM if rotated else LIGHT, "edgecolor": "none", "pad": 0.6})
        for h in readers:
            axes.plot([heads[h], left + wide / 2], [24, 9.4], color=DARK, linewidth=0.8, zorder=0,
                      linestyle="--" if label == "latent" else "-")
        left += wide
    for h, x in heads.items():
        axes.add_patch(FancyBboxPatch((x - 8, 24), 16, 7, boxstyle="round,pad=0.6", facecolor="white", edgecolor=INK,
                                      linewidth=0.8))
        axes.text(x, 27.5, f"head {h}", ha="center", va="center", fontsize=7)
    axes.set_title(f"{title}: {total} numbers", fontsize=9)
    axes.set_xlim(-70, 70)
    axes.set_ylim(-3, 34)
    axes.set_aspect("equal")
    axes.axis("off")


def caches():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(9, 3.7), layout="constrained")
        for place, (title, cells) in zip(axes.flat, CACHES.items()):
            draw_cache(place, title, cells)
        figure.supxlabel("Kept per token and layer. Hatched: rotated by RoPE. Dashed: through a matrix of the head's "
                         "own, which is a weight and not cache.", fontsize=8)
        return figure


# What happens to the stream, from below: on the branch (before F, after F) and on the stream after the sum; the factor
# of the stream.
PLACEMENTS = {
    "pre": ("N", "", "", "", "x + F(N x)"),
    "post": ("", "", "N", "", "N(x + F(x))"),
    "out": ("", "N", "", "", "x + N(F(x))"),
    "peri": ("N", "N", "", "", "x + N(F(N x))"),
    "deepnorm": ("", "", "N", "a", "N(a x + F(x))"),
    "keel": ("N", "", "N", "a", "N(a x + F(N x))"),
}


def box(axes, x, y, text, colour):
    axes.add_patch(FancyBboxPatch((x - 0.32, y - 0.3), 0.64, 0.6, boxstyle="round,pad=0.05", facecolor=colour,
                                  edgecolor=INK, linewidth=0.8, zorder=3))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, zorder=4)


def arrow(axes, start, end):
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.0, "shrinkA": 0,
                                              "shrinkB": 0, "mutation_scale": 8})


def draw_placement(axes, name, before, after, stream, factor, formula):
    """The stream rises on the left; the branch leaves it, passes F and comes back to the sum."""
    arrow(axes, (0, 0), (0, 7.6))
    axes.plot([0, 2, 2], [1, 1, 5.2], color=INK, linewidth=1.0)
    arrow(axes, (2, 5.2), (0.3, 5.2))
    for y, text, colour in ((2.0, before, WARM), (3.1, "F", LIGHT), (4.2, after, WARM)):
        if text:
            box(axes, 2, y, text, colour)
    axes.plot(0, 5.2, "o", markersize=13, color="white", markeredgecolor=INK, zorder=3)
    axes.text(0, 5.17, "+", ha="center", va="center", fontsize=11, zorder=4)
    if stream:
        box(axes, 0, 6.4, stream, WARM)
    if factor:
        axes.text(-0.25, 3.1, "\u00d7 a", ha="right", va="center", fontsize=9)
    axes.set_title(f"--norm {name}", fontsize=9, fontweight="bold", family="monospace")
    axes.text(1, -0.7, formula, ha="center", va="center", fontsize=8.5)
    axes.set_xlim(-1.3, 3.1)
    axes.set_ylim(-1.2, 7.8)
    axes.axis("off")


def placements():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(PLACEMENTS), figsize=(9.6, 2.9), layout="constrained")
        for place, (name, row) in zip(axes, PLACEMENTS.items()):
            draw_placement(place, name, *row)
        return figure


# What a router looks at before it sends the token in the middle to an expert: cells (row of the batch, place in time).
ROWS, PLACES, TOKEN = 3, 8, (1, 2)
POOLS = {
    "top-k, bias, hash: itself": lambda row, place: (row, place) == TOKEN,
    "expert choice, soft: pools of 2 in time": lambda row, place: row == TOKEN[0] and place // 2 == TOKEN[1] // 2,
    "the whole row": lambda row, place: row == TOKEN[0],
    "one place of all rows": lambda row, place: place == TOKEN[1],
}


def draw_pool(axes, title, sees):
    row, place = TOKEN
    for r in range(ROWS):
        for p in range(PLACES):
            future = r == row and p > place
            seen = sees(r, p)
            colour = (WARM if future else DARK) if seen else "white"
            axes.add_patch(Rectangle((p, ROWS - 1 - r), 0.86, 0.8, linewidth=1.8 if (r, p) == TOKEN else 0.6,
                                     edgecolor=INK, facecolor=colour, hatch="///" if seen and future else None))
    axes.set_title(title, fontsize=9)
    axes.set_xlim(-0.2, PLACES)
    axes.set_ylim(-0.2, ROWS)
    axes.set_aspect("equal")
    axes.axis("off")


def pools():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(8, 3.6), layout="constrained")
        for place, (title, sees) in zip(axes.flat, POOLS.items()):
            draw_pool(place, title, sees)
        figure.supxlabel("Three rows of a batch, time from left to right. Filled: what decides about the outlined "
                         "token. Hatched: its future.", fontsize=8)
        return figure


# Blocks of a feed-forward layer, each of the width of one expert: how many are stored, which of them the token passes,
# and what decides.
LAYERS = {
    "dense: all of one block": (1, [0], ""),
    "dense, same total: all of sixteen": (16, range(16), ""),
    "experts by hash: one of sixteen": (16, [2], "the token's number,\nfixed before training"),
    "experts, learned: one of sixteen": (16, [2], "the stream,\nby a matrix that is trained too"),
}


def draw_blocks(axes, title, blocks, passed, decides):
    for i in range(blocks):
        x, y = i % 8, -1.1 * (i // 8)
        used = i in passed
        axes.add_patch(Rectangle((x, y), 0.84, 0.84, linewidth=1.6 if used else 0.7, edgecolor=INK,
                                 facecolor=DARK if used else "white"))
    if decides:
        x, y = passed[0] % 8 + 0.42, -1.1 * (passed[0] // 8) + 0.84
        arrow(axes, (x, 2.0), (x, y))
        axes.text(x + 0.35, 1.75, decides, ha="left", va="center", fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.set_xlim(-0.3, 9.6)
    axes.set_ylim(-1.3, 2.3)
    axes.set_aspect("equal")
    axes.axis("off")


def experts():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(8, 3.9), layout="constrained")
        for place, (title, row) in zip(axes.flat, LAYERS.items()):
            draw_blocks(place, title, *row)
        figure.supxlabel("Squares: blocks that are stored. Filled: what one token is multiplied with, which is what it "
                         "costs.", fontsize=8)
        return figure
