"""apart.py: the pictures of post 22.

    workers()           two workers that do both, and one that reads beside one that writes: who waits for whom
    halves(receipt)     from the records of disagg-split: what is left of the throughput, beside the formula
    window(receipt)     from the records of disagg-window: which share of requests is served in time, at each rate
    hidden()            run on the event clock here: what sending layer by layer hides of a transfer
    real(measured)      from a record of bench/bench split or disagg: two processes by the watch, the formula and the
                        event clock
"""
import matplotlib.pyplot as plt
import numpy
from matplotlib.patches import Rectangle

from . import server
from .command import parse_command
from .diagram import DARK, INK, LIGHT, WARM
from .figure import STYLE

TOKEN, CACHED = 0.435e-3, 0.42e-6   # seconds by the built-in table (infer/clock.c): a token; a cached one that it reads


def share_of_reading(prompt, answer):
    """Of all seconds, for lengths from 0 to twice their average: the mean square is 4/3 of the square of the mean."""
    reading = prompt * TOKEN
    return reading / (reading + answer * TOKEN + CACHED * (prompt * answer + answer ** 2 * 2 / 3))


# (kind, seconds) of a schematic: a prompt of six, steps of one.
SHARED = [[("write", 3), ("read", 6), ("write", 5), ("read", 6), ("write", 4)],
          [("read", 6), ("write", 4), ("read", 6), ("write", 8)]]
SPLIT = [[("read", 6)] * 4, [("idle", 6), ("write", 18)]]


def draw_row(axes, row, at):
    start = 0
    for kind, long in row:
        steps = 1 if kind == "read" else int(long)
        for step in range(steps):
            axes.add_patch(Rectangle((start + step * long / steps, at), long / steps, 0.7,
                                     facecolor={"read": WARM, "write": LIGHT, "idle": "white"}[kind], edgecolor=INK,
                                     linewidth=0.6 if kind != "idle" else 0, hatch="///" if kind == "read" else None))
        start += long


def workers():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 2.5), layout="constrained")
        for at, row, label in ((3.4, SHARED[0], "does both"), (2.5, SHARED[1], "does both"), (0.9, SPLIT[0], "reads"),
                               (0, SPLIT[1], "writes")):
            draw_row(axes, row, at)
            axes.text(-0.4, at + 0.35, label, ha="right", va="center", fontsize=8)
        for end in (6, 12, 18):
            axes.annotate("", (end + 0.5, 0.72), (end, 0.9), arrowprops={"arrowstyle": "->", "color": INK})
        axes.text(24.3, 1.5, "keys and\nvalues cross\nthe link", fontsize=8, va="center")
        axes.text(24.3, 3.3, "answers stand\nstill while a\nprompt is read", fontsize=8, va="center")
        axes.set_xlim(-3.6, 29)
        axes.set_ylim(-0.2, 4.3)
        axes.axis("off")
        axes.set_title("Hatched: a prompt is read. Plain: a step writes a token of every answer", fontsize=9)
        return figure


def halves(receipt, of="requests_per_second"):
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
        x = numpy.linspace(0.1, 0.95, 200)
        axes.plot(x, 1 / (2 * numpy.maximum(x, 1 - x)), color=DARK, linewidth=1.2)
        for arm in receipt.claim.arms:
            if not arm.label.startswith("apart"):
                continue
            mix = arm.label.split(", ")[1]
            apart, together = receipt.rows(arm.label), receipt.rows(f"together, {mix}")
            share = share_of_reading(*(int(tokens) for tokens in mix.split(":")))
            left = numpy.mean([r[of] for r in apart]) / numpy.mean([r[of] for r in together])
            axes.plot(share, left, "o", color=INK, markersize=5)
            side = 1 if share > 0.5 else -1
            axes.annotate(mix, (share, left), (7 * side, 4), textcoords="offset points", fontsize=8,
                          ha="left" if side > 0 else "right")
            print(f"{mix:<8} x = {share:.3f}, formula {1 / (2 * max(share, 1 - share)):.3f}, records {left:.3f}")
        axes.axhline(1, color=DARK, linewidth=0.6, linestyle=":")
        axes.set_xlabel("x, the share of reading in all seconds of work")
        axes.set_ylabel("requests per second,\nof two that do both")
        axes.set_ylim(0.45, 1.06)
        axes.set_title("The idle half is lost; grey: the formula, points: prompt:answer in tokens", fontsize=9)
        return figure


LINES = {"apart": ("apart", "-", INK), "chunk 256": ("together, whole prompts", "--", INK),
         "chunk 12": ("together, chunks of 12", ":", INK)}


def window(receipt):
    with plt.rc_context(STYLE):
        figure, both = plt.subplots(1, 2, figsize=(7.6, 3), sharey=True, layout="constrained")
        for axes, due in zip(both, ("6.5 ms", "30 ms")):
            for name, (label, style, colour) in LINES.items():
                arms = receipt.claim.groups()[f"{name}, {due}"]
                rates = [float(dict(arm.flags)["rate"]) for arm in arms]
                shares = [100 * numpy.mean([row["good_late"] for row in receipt.rows(arm.label)]) for arm in arms]
                axes.plot(rates, shares, style, color=colour, linewidth=1.5, marker="o", markersize=3, label=label)
            axes.axhline(90, color=DARK, linewidth=0.6)
            axes.set_xscale("log", base=2)
            axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
            axes.set_xlabel("requests per second")
            axes.set_title(f"a token every {due}", fontsize=9)
        both[0].set_ylabel("% of the last tenth\nserved in time")
        both[0].legend(fontsize=8, frameon=False, loc="lower left")
        return figure


def hidden(command):
    """One request: when its second token comes, behind a prompt, a transfer and a step, with --overlap and without."""
    flags = {name: values[0] for name, values in parse_command(command).items()}
    print("Gbit/s   sent once read   layer by layer")
    for link in ("0.02", "0.1", "0.226", "0.5", "2"):
        told = [server.simulate({**flags, "link_gbps": link, "overlap": overlap})[1][0] for overlap in "01"]
        print(f"{link:>6}   " + "   ".join(f"{1e3 * (r['last'] - r['first']):>11.0f} ms" for r in told))


def real(measured):
    """measured: StepsMeasured of notebook.py."""
    if not measured.steps:
        return measured.processes()
    loads = {}
    for r in measured.steps.rows("throughput"):
        loads.setdefault(r.get("clients"), []).append(r)
    with plt.rc_context(STYLE):
        figure, every = plt.subplots(1, len(loads), figsize=(3.4 + 3 * len(loads), 2.8), layout="constrained",
                                     sharey=True, squeeze=False)
        for axes, (clients, rows) in zip(every[0], loads.items()):
            draw_load(axes, rows)
            axes.set_title(f"{clients} clients" if clients else "", fontsize=9)
        every[0][0].set_ylabel("requests per second,\nof two that do both")
        every[0][0].legend(fontsize=8, frameon=False, loc="upper left", ncols=3 if len(loads) == 1 else 1)
        return figure


def draw_load(axes, rows):
    for at, r in enumerate(rows):
        axes.plot([at - 0.3, at + 0.3], [r["formula"]] * 2, color=DARK, linewidth=1.2,
                  label="formula" if at == 0 else None)
        axes.plot(at + 0.1, r["said_ratio"], "s", color=INK, markerfacecolor="white", markersize=6,
                  label="event clock" if at == 0 else None)
        axes.plot(at - 0.1, r["ratio"], "o", color=INK, markersize=6, label="two processes" if at == 0 else None)
    axes.axhline(1, color=DARK, linewidth=0.6, linestyle=":")
    axes.set_xticks(range(len(rows)), [r["mix"] for r in rows])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("prompt:answer, in tokens")
    axes.set_ylim(0.4, 1.5)
