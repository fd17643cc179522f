"""queueing.py: the pictures of post 10, from requests on the event clock of ./serve. It runs a moment and has the same
numbers on every machine; what is claimed stands in the records.

    rules()             what each rule of admission asks for before a request may start
    states()            the same arrivals from empty and after a burst: who waits, who is being answered
    loop()              from the records of paging-loop: which share of requests is served in time, at each rate
    held()              the two rates between which that ends, of each rule
"""
import matplotlib.pyplot as plt
import numpy
from matplotlib.patches import Rectangle

from . import server
from .command import parse_command
from .diagram import DARK, INK, LIGHT, WARM
from .figure import STYLE

RULES = {"--admit chunk": 256, "--admit prompt": 384, "--admit full": 896}   # of a long prompt, and chunks of 256


def rules(prompt=384, answer=512):
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.6, 1.9), layout="constrained")
        for place, (name, asked) in enumerate(RULES.items()):
            axes.add_patch(Rectangle((0, -place - 0.32), prompt, 0.64, facecolor=LIGHT, edgecolor="none"))
            axes.add_patch(Rectangle((prompt, -place - 0.32), answer, 0.64, facecolor="white", edgecolor=DARK,
                                     linewidth=0.6))
            axes.add_patch(Rectangle((0, -place - 0.32), asked, 0.64, facecolor=WARM, edgecolor=INK, linewidth=0.8,
                                     hatch="///", alpha=0.9))
            axes.text(-15, -place, name, ha="right", va="center", fontsize=8, family="monospace")
        axes.text(prompt / 2, 0.55, "prompt", ha="center", fontsize=8)
        axes.text(prompt + answer / 2, 0.55, "answer, as far as it will get", ha="center", fontsize=8)
        axes.set_xlim(-190, prompt + answer + 10)
        axes.set_ylim(-2.5, 0.95)
        axes.axis("off")
        axes.set_title("Hatched: the part of a request that must fit into free blocks before it starts", fontsize=9)
        return figure


def counts(records, times):
    """How many of the requests wait, and how many are being answered, at each of these times."""
    arrival, first, last = (numpy.sort([r[name] for r in records]) for name in ("arrival", "first", "last"))
    came, begun, gone = (numpy.searchsorted(x, times, side="right") for x in (arrival, first, last))
    return came - begun, begun - gone


def states(command):
    """command: of ./serve, as in a claim file, without a backlog."""
    flags = {name: values[0] for name, values in parse_command(command).items()}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 1, figsize=(6.8, 4), sharex=True, layout="constrained")
        for backlog, style, label in (("0", "-", "from empty"), ("500", "--", "after a burst of 500")):
            told, records = server.simulate({**flags, "backlog": backlog})
            times = numpy.linspace(0, records[-1]["arrival"], 400)
            for place, count in zip(axes, counts(records, times)):
                place.plot(times / 60, count, style, color=INK if backlog != "0" else DARK, linewidth=1.3)
                place.text(times[-1] / 60, count[-1], f" {label}", va="center", fontsize=8)
            print(f"{label:<22} {100 * told['pool_share']:3.0f}% of the pool in use, {told['preempted']:>6} "
                  f"preemptions, last tenth: median wait {told['ttft_late']:.4g} s")
        axes[0].set_ylabel("requests that wait")
        axes[1].set_ylabel("being answered")
        axes[1].set_xlabel("minutes; both get the same requests at the same rate after the burst")
        axes[0].set_title(f"{flags['rate']} requests per second, twice: one state ends in order, one never does",
                          fontsize=9)
        for place in axes:
            place.margins(x=0)
            place.set_xlim(0, times[-1] / 60 * 1.22)
        return figure


# What stands at which share of the way down, and on which side.
LINES = {"chunk": ("first chunk,\nfrom empty", "-", INK, 0.55, -1),
         "chunk, burst": ("first chunk,\nafter a burst", "--", INK, 0.5, -1),
         "full, burst": ("all reserved,\neither way", ":", DARK, 0.6, 1)}


def held(receipt):
    """Between which two of the rates that were tried the last tenth stops being served in time; and what the seeds of
    the pilot, which are in no mean, had at the highest that all reported ones hold from empty."""
    for group in receipt.claim.groups():
        print(f"{group:<18} holds {receipt.facts[f'{group}: between'].replace(' to ', ', not ')} per second")
    for seed, row in pilots(receipt, "chunk", 1.8).items():
        print(f"pilot seed {seed}, chunk, 1.8 from empty: {100 * row['good_late']:.0f}% of the last tenth in time, "
              f"{row['preempted']:.0f} preemptions")


def pilots(receipt, group, rate):
    """{seed: its row} of the runs that were made before the reported ones."""
    arm = next(a for a in receipt.claim.groups()[group] if float(dict(a.flags)["rate"]) == rate)
    runs = [run for run in receipt.claim.runs(receipt.claim.pilot_seeds) if run.arm.label == arm.label]
    return {run.seed: receipt.records[run.key] for run in runs}


def loop(receipt):
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.8, 3), layout="constrained")
        curves = {}
        for group, (label, style, colour, height, side) in LINES.items():
            arms = receipt.claim.groups()[group]
            rates = [float(dict(arm.flags)["rate"]) for arm in arms]
            shares = curves[group] = [100 * numpy.mean([row["good_late"] for row in receipt.rows(arm.label)])
                                      for arm in arms]
            axes.plot(rates, shares, style, color=colour, linewidth=1.6, marker="o", markersize=3)
            place = numpy.interp(-100 * height, [-share for share in shares], rates)
            axes.annotate(label, (place, 100 * height), (8 * side, 0), textcoords="offset points", va="center",
                          ha="left" if side > 0 else "right", fontsize=8)
        axes.fill_between(rates, curves["chunk, burst"], curves["chunk"], color=LIGHT, zorder=0)
        early = [100 * row["good_late"] for row in pilots(receipt, "chunk", 1.8).values()]
        axes.plot([1.8] * len(early), early, "x", color=INK, markersize=7, zorder=3)
        axes.annotate(f"{sum(x < 50 for x in early)} of {len(early)} pilot seeds", (1.8, min(early)), (-7, 7),
                      textcoords="offset points", ha="right", fontsize=8)
        axes.set_xlabel("requests per second")
        axes.set_ylabel("% of the last tenth\nserved in time")
        axes.set_ylim(-4, 104)
        axes.set_xlim(rates[0] - 0.05, rates[-1] + 0.2)
        axes.set_title("By the first chunk one burst costs a third of what it holds. Grey: the past decides",
                       fontsize=9)
        return figure
