"""serving.py: the pictures and the table of notebooks/serving.ipynb, which ties the eight posts on serving together.

    parts()             a server, and where its knobs are
    turn()              run on the event clock here: the share of requests in time, before and after one knob is turned
    guessed()           the same of --gamma, from measured steps: simulated tokens cannot be guessed
    yours(...)          the numbers at which the advice turns round, from three costs of a machine
    yours_of(table)     the same from what ./serve --calibrate wrote
"""
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
from matplotlib.patches import FancyBboxPatch, Rectangle

from . import server
from .batching import gain
from .command import parse_flags, split_words
from .diagram import DARK, INK, LIGHT, WARM, arrow
from .figure import STYLE
from .trainer import ROOT

CROWD = 12      # infer/clock.c: draws beyond which each costs more

# (left, below, width, height, what it is, its knobs)
PARTS = [(0.0, 2.0, 2.3, 1.3, "requests", "--shed  (7)\n--agent-turns  (17)"),
         (3.3, 2.0, 2.3, 1.3, "queue and\nscheduler", "--admit  (10)\n--sched  (11)"),
         (6.6, 2.0, 2.3, 1.3, "one step: all\nweights pass", "--chunk  (8)\n--gamma  (12)"),
         (9.9, 2.0, 2.3, 1.3, "tokens", ""),
         (3.3, 0.0, 5.6, 0.8, "", ""),
         (9.9, -0.25, 2.3, 1.3, "another\nworker", "--disagg  (22)")]
OWNERS = "aaaabbb.aacccccc.ddb"   # of the drawn blocks: which request holds each; . is free


def parts():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.6, 3.1), layout="constrained")
        for left, below, width, height, name, knobs in PARTS:
            axes.add_patch(FancyBboxPatch((left, below), width, height, boxstyle="round,pad=0.06", facecolor="white",
                                          edgecolor=INK, linewidth=0.9))
            axes.text(left + width / 2, below + height / 2, name, ha="center", va="center", fontsize=9)
            up = left != 9.9 or below > 0
            axes.text(left + width / 2, below + height + 0.2 if up else below - 0.2, knobs, ha="center",
                      va="bottom" if up else "top", fontsize=8, family="monospace")
        look = {"a": (WARM, ""), "b": (LIGHT, ""), "c": (DARK, ""), "d": ("white", "///"), ".": ("white", "")}
        for i, owner in enumerate(OWNERS):
            colour, hatch = look[owner]
            axes.add_patch(Rectangle((3.36 + 0.274 * i, 0.12), 0.25, 0.56, facecolor=colour, edgecolor=INK, hatch=hatch,
                                     linewidth=0.7))
        axes.text(6.1, -0.2, "pool of blocks: keys and values\n--kv-policy --kv-bits  (9)   --prefix-cache --ttl  (17)",
                  ha="center", va="top", fontsize=8, family="monospace", linespacing=1.4)
        for start, end in (((2.4, 2.65), (3.2, 2.65)), ((5.7, 2.65), (6.5, 2.65)), ((9.0, 2.65), (9.8, 2.65)),
                           ((4.45, 1.9), (4.45, 0.9)), ((7.75, 0.9), (7.75, 1.9)), ((9.0, 0.4), (9.8, 0.4))):
            arrow(axes, start, end)
        axes.text(4.6, 1.4, "gives out", fontsize=8, va="center")
        axes.text(7.9, 1.4, "are read", fontsize=8, va="center")
        axes.set_xlim(-0.3, 12.5)
        axes.set_ylim(-1.25, 4.3)
        axes.set_aspect("equal")
        axes.axis("off")
        return figure


SMALL = "--prompt-length 256 --answer-length 128 --blocks 1024 --running 32"
LONG = "--prompt-length 256 --answer-length 512 --blocks 2048 --running 1024 --budget 2048 --rate 1.5 --backlog 500"
TURNS = "--agent-turns 10 --rate 0.2 --prompt-length 1000 --answer-length 50 --tool-tokens 150 --tool-seconds 10 " \
        "--prefix-cache 1 --blocks 8192"
# Four bits are five with their scales, so the same bytes hold 6.4 times the tokens.
# (post, the situation, its flags, the knob before, after)
KNOBS = [
    (7, "a little more arrives\nthan it can do", f"{SMALL} --rate 6", "", "--shed 0.8"),
    (8, "tokens are due every\n12 ms, prompts arrive", f"{SMALL} --rate 3.5 --slo-tpot 0.012", "--chunk 256",
     "--chunk 12"),
    (9, "memory for 3,200 tokens\nin 32 bits", f"{SMALL} --rate 4.5", "--blocks 200", "--blocks 1280"),
    (10, "a burst of 500,\nlong answers", LONG, "--admit chunk --watermark 0", "--admit prompt --watermark 0.05"),
    (11, "answers of\nunequal length", f"{SMALL} --rate 2.5", "--sched static", "--sched continuous"),
    (17, "agents, and the time of\nday in the first line", TURNS, "--volatile-prefix 1", "--volatile-prefix 0"),
    (22, "two workers, tokens\ndue every 6.5 ms", f"{SMALL} --rate 5 --slo-tpot 0.0065", "--disagg 0:2",
     "--disagg 1:1"),
    (22, "the same at 8 per\nsecond and 100 ms", f"{SMALL} --rate 8", "--disagg 0:2", "--disagg 1:1"),
]
WORDS = {"--blocks 1280": "--kv-bits 4: blocks for 20,480", "--blocks 200": "blocks for 3,200",
         "--admit chunk --watermark 0": "--admit chunk --watermark 0", "": "no --shed",
         "--admit prompt --watermark 0.05": "--admit prompt, a twentieth free"}


def run(*flags):
    words = split_words(" ".join(("--requests 4000 --seed 11", *flags)))
    return server.simulate({name: values[0] for name, values in parse_flags(words).items()})[0]


def turn():
    """The gauge beside it, duty, is printed for both: it hardly moves."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.6, 4.6), layout="constrained")
        print(f"{'post':<5}{'knob':<34}{'in time':>8}{'duty':>7}{'requests/s':>12}")
        for place, (post, words, flags, before, after) in enumerate(KNOBS):
            shares = []
            for knob in (before, after):
                told = run(flags, knob)
                shares.append(told["good"] / told["received"])
                print(f"{post:<5}{WORDS.get(knob, knob):<34}{100 * shares[-1]:>7.1f}%{told['duty']:>7.3f}"
                      f"{told['requests_per_second']:>12.3f}")
            axes.annotate("", (shares[1], -place), (shares[0], -place),
                          arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 4, "shrinkB": 4})
            axes.plot(shares[0], -place, "o", markersize=7, markerfacecolor="white", markeredgecolor=INK, clip_on=False)
            axes.plot(shares[1], -place, "o", markersize=7, color=INK, clip_on=False)
            axes.text(-0.04, -place, words, ha="right", va="center", fontsize=8)
            axes.text(1.04, -place, f"{WORDS.get(after, after)}  ({post})", va="center", fontsize=8)
        axes.set_xlim(0, 1)
        axes.set_ylim(-len(KNOBS) + 0.4, 0.6)
        axes.set_yticks([])
        axes.set_xlabel("share of requests that are answered in time")
        axes.set_title("One server, one knob turned at a time", fontsize=9)
        for side in ("left", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(axis="x", color=LIGHT)
        return figure


def guessed(guesses=3, right=0.7):
    """Tokens per second with guesses, over those without, for one text and for many, by the steps of guesses-again."""
    tokens = sum(right ** i for i in range(guesses + 1))
    for row in json.loads((ROOT / "claims/results/guesses-again.json").read_text())["sections"]["best"]:
        took = {step["tokens"]: step["ms"] for step in row["steps"]}
        if row["texts"] in (1, 16):
            told = f"--gamma {guesses}, {row['texts']} text{'s' * (row['texts'] > 1)}"
            print(f"12   {told:<34}{tokens * took[1] / took[guesses + 1]:>8.2f} times the tokens per second without")


def yours(weights, token, cached, kept):
    """Seconds of a step for the weights alone, for each token that is computed and each cached one that is read, and
    bytes that a token leaves in the cache."""
    ridge = weights / token
    rows = 32

    def step(n):        # a ridge, as in post 11 where steps are no line
        return numpy.maximum(weights, n * token)
    lines = [("8", "ridge: tokens in a step that weigh as much as the weights", f"{ridge:.0f}"),
             ("8", "a chunk of 512 tokens stretches a step to", f"{max(weights, 512 * token) / weights:.1f} times"),
             ("11", f"continuous over static batches, {rows} rows, cv 1",
              f"{gain(step, rows, 1):.2f} times"),
             ("12", "room for a text's tokens in a step, of 1 and of 8 texts", f"{max(1, ridge):.0f} and "
              f"{max(1, ridge / 8):.0f}"),
             ("22", "link below which sending keys and values decides", f"{8e-9 * kept / token:.3g} Gbit/s"),
             ("", "cached tokens that cost as much as the weights", f"{weights / cached:,.0f}")]
    for post, what, number in lines:
        print(f"{post:<4}{what:<62}{number:>16}")


def step_of(costs, tokens, draws):
    """Seconds of a step without cached keys, by a table of ./serve --calibrate (cost_of of infer/clock.c)."""
    bends = sum(bend * max(0, tokens - knot) for bend, knot in zip(costs["bend"], costs["knot"]))
    return costs["base"] + costs["slope"] * tokens + bends + costs["head"] + costs["draw"] * draws \
        + costs["crowd"] * max(0, draws - CROWD)


def yours_of(table):
    costs = json.loads(Path(table).read_text())
    yours(step_of(costs, 1, 1), step_of(costs, 256, 1) / 256, costs["keys"], costs.get("cache_bytes", 0))
