"""keeping.py: the pictures of post 9: what a cache of keys and values is, and what is left of it.

    cache()         a text's cache: everything, in blocks, with pairs gone, in few bits; areas are bytes
    maps(receipt)   where the model of a claim looks, drawn by ./generate --picture
    ceiling()       from the records of kv-ceiling: what rules answer against what they hold
    asked()         from those of kv-bits: the question before pairs went, and after
"""
import os
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
from IPython.display import Image
from matplotlib.patches import Rectangle

from . import asker, trainer
from .command import UsageError
from .diagram import DARK, INK, LIGHT, WARM
from .figure import STYLE, label_ends

WORDS = "a 7 b 2 c 9 d 4 e 1 f 8 g 3 h 5".split()
STAYS, BLOCK, TABLE = (3, 7, 12, 13, 14, 15), 4, (2, 0, 3, 1)
HIGH, ROW = 0.8, 1.9     # of a slot in 32 bits; from row to row


def slots(axes, y, places, which, high=HIGH):
    """Of each token a key, and above it a value, as high as they have bits; its position below."""
    for x, i in zip(places, which):
        for part, colour in ((0, LIGHT), (1, WARM)):
            axes.add_patch(Rectangle((x, y + part * high / 2), 0.94, high / 2, edgecolor=INK, linewidth=0.6,
                                     facecolor=colour))
        axes.text(x + 0.47, y + high + 0.2, WORDS[i], ha="center", va="center", fontsize=8)
        axes.text(x + 0.47, y - 0.2, i, ha="center", va="center", fontsize=6, color="#606060")


def cache():
    every = range(len(WORDS))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.2, 4.4), layout="constrained")
        rows = [-i * ROW for i in range(4)]
        slots(axes, rows[0], every, every)
        for part, name in ((0, "key"), (1, "value")):
            axes.text(len(WORDS) + 0.15, rows[0] + (part + 0.5) * HIGH / 2, name, va="center", fontsize=7)
        physical = [TABLE[i // BLOCK] * (BLOCK + 0.5) + i % BLOCK for i in every]
        slots(axes, rows[1], physical, every)
        slots(axes, rows[2], range(len(STAYS)), STAYS)
        slots(axes, rows[3], every, every, high=HIGH * 3 / 32)
        told = (("everything", "a key and a value\nfor each token,\nwritten once"),
                ("in blocks", f"the table says\nwhich comes when:\n{' '.join(map(str, TABLE))}"),
                ("pairs gone", "what is gone cannot\nbe asked for"),
                ("two bits", "and one more for\nthe scales of groups"))
        for y, (name, text) in zip(rows, told):
            axes.text(-0.6, y + 0.72, name, ha="right", va="center", fontsize=9, weight="bold")
            axes.text(-0.6, y - 0.06, text, ha="right", va="center", fontsize=7)
        axes.set_xlim(-5.2, 18.2)
        axes.set_ylim(rows[3] - 0.6, HIGH + 0.3)
        axes.axis("off")
        axes.set_title("The cache of one head after a text, a 7 b 2 ...: areas are bytes, small numbers positions",
                       fontsize=9)
        return figure


def maps(receipt, tokens=65):
    """Of the model with the claim's first seed; it is trained if it is not there."""
    run = receipt.claim.runs(receipt.claim.seeds[:1])[0]
    with tempfile.TemporaryDirectory() as out:
        asking = asker.Training({**run.flags, "rows": "1"}, out, trainer.cores())
        status, error = asking.result()
        if status != "finished":
            raise UsageError(error or status)
        path = Path(out) / "maps.png"
        os.symlink(Path(asking.run).resolve(), Path(out) / "recall")     # this name stands above the picture
        subprocess.run([asker.GENERATE, "--run", "recall", "--tokens=1", f"--picture={path}",
                        f"--picture-tokens={tokens}"], check=True, capture_output=True, cwd=out)
        return Image(path.read_bytes(), width=620)


def mean(receipt, label, metric):
    """Over the seeds that are reported."""
    arm = receipt.claim.arm(label)
    return float(numpy.mean([receipt.results.best(arm, seed, metric) for seed in receipt.claim.seeds]))


MARKS = {"random": "o", "window": "v", "sink": "^", "h2o": "s", "snapkv": "D"}


def ceiling(receipt):
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
        held = numpy.linspace(0, 1, 50)
        axes.fill_between(held, held + (1 - held) / 64, 1.05, color=LIGHT, zorder=0)
        axes.text(0.2, 0.8, "more than is held:\nimpossible, unless a slot\ntells of other pairs", fontsize=8)
        for name, mark in MARKS.items():
            arms = [f"{name} {slots}" for slots in (8, 16, 32)]
            axes.plot([mean(receipt, arm, "held") for arm in arms], [mean(receipt, arm, "answered") for arm in arms],
                      mark, color=INK if name in ("h2o", "snapkv") else DARK, markersize=7, label=name,
                      markerfacecolor=WARM if name in ("h2o", "snapkv") else "white")
        axes.plot([1], [mean(receipt, "oracle 16", "answered")], "*", color=INK, markersize=11, clip_on=False)
        axes.annotate("oracle, 16 slots;\neverything", (1, mean(receipt, "oracle 16", "answered")), (-14, -4),
                      textcoords="offset points", ha="right", va="top", fontsize=8)
        axes.set_xlabel("questions whose pair is still held")
        axes.set_ylabel("questions answered")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.legend(loc="lower right", fontsize=8, frameon=False, title="8, 16, 32 slots of 64", title_fontsize=8)
        axes.set_title("Nobody answers what is gone", fontsize=9)
        return figure


LINES = {"int4": ("4 bits", "--", DARK), "int2": ("2 bits", "-", INK), "snapkv": ("SnapKV", "-", INK),
         "h2o": ("H2O", "--", DARK)}


def bytes_of(receipt, arm):
    """What a text's cache has where the question came before (its own pair stands whole) and after; one if alike."""
    arms = (f"{arm} known", arm) if arm in LINES else (arm,)
    return list(dict.fromkeys(f"{mean(receipt, label, 'kept_bytes'):,.0f}" for label in arms))


def asked(receipt):
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
        ends = [(1, mean(receipt, "random", "answered"), "chance", "random")]
        axes.plot([1], [ends[0][1]], "x", color=DARK)
        for arm, (name, style, colour) in LINES.items():
            both = [mean(receipt, label, "answered") for label in (f"{arm} known", arm)]
            axes.plot([0, 1], both, style, color=colour, marker="o", linewidth=1.6)
            ends.append((1, both[1], name, arm))
        axes.set_xticks([0, 1], ["before the cache\nwas made small", "after"])
        axes.set_xlim(-0.15, 1.75)
        axes.set_ylim(0, 1.05)
        axes.set_ylabel("answered")
        whole = f"{mean(receipt, 'full', 'kept_bytes'):,.0f}"
        axes.set_title("Bits do not care when the question came; SnapKV does\n"
                       f"beside the names: bytes, asked before and after; everything is {whole}", fontsize=9)
        label_ends(axes, [(x, y, f"{name}: {' and '.join(bytes_of(receipt, arm))} bytes", INK)
                          for x, y, name, arm in ends], size=8)
        return figure
