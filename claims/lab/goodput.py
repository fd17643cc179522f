"""goodput.py: the pictures and the table of post 7, from requests on the event clock of ./serve and from records.

    waits()     each request's wait by the time at which it came: it grows, until somebody is given up
    growth()    good requests by the length of the benchmark, from the records of goodput-length
    fixed()     how many there are, by the formula and by those records
    four()      duty, MFU, MBU, pool and goodput side by side, from the records of goodput-shed
    turns()     tokens per second and seconds to the target loss by the batch, from batch-tokens and clocks
"""
import matplotlib.pyplot as plt
import numpy

from . import server
from .clocks import recorded
from .command import parse_command, parse_flags, split_words
from .diagram import DARK, INK, LIGHT
from .figure import STYLE

# The built-in table of costs: weights are read in 5 ms a step, a token is computed in 0.435 ms.
WEIGHTS, TOKEN = 5e-3, 0.435e-3
LONGEST = 16000         # requests, of the longest benchmark of goodput-length


def waits(command, shed="3"):
    """command: of ./serve, as in a claim file, above saturation and without --shed."""
    flags = {name: values[0] for name, values in parse_command(command).items()}
    slo = float(flags["slo-ttft"])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.8, 2.9), layout="constrained")
        axes.axhspan(0, slo, color=LIGHT, zorder=0)
        arms = (("all are served", {}, "o", INK), (f"given up after {shed} s", {"shed": shed}, "^", DARK))
        for name, more, mark, colour in arms:
            told, records = server.simulate({**flags, **more})
            served = [r for r in records if r["first"] is not None]
            axes.plot([r["arrival"] for r in served], [r["first"] - r["arrival"] for r in served], mark, color=colour,
                      markersize=2, alpha=0.7, label=name)
            print(f"{name:<20} {told['good']:>5} good of {told['received']}, {told['goodput']:.3g} per second, duty "
                  f"{told['duty']:.3f}")
        axes.set_xlabel("seconds after the start at which a request came")
        axes.set_ylabel("wait for its\nfirst token (s)")
        axes.set_title("Grey: in time. Who comes later waits longer, unless some are given up", fontsize=9)
        axes.legend(frameon=False, fontsize=8, markerscale=3)
        axes.set_ylim(bottom=0)
        return figure


LOADS = {"closed": ("closed loop of 48 clients", ":", DARK), "1.06": ("load 1.06", "--", DARK),
         "1.3": ("load 1.3", "-", INK), "2": ("load 2", "-.", INK)}


def growth(receipt):
    lengths = sorted({int(dict(arm.flags)["requests"]) for arm in receipt.claim.arms})
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.8, 3), layout="constrained")
        for name, (label, style, colour) in LOADS.items():
            good = [numpy.mean([row["good"] for row in receipt.rows(f"{name} requests={n}")]) for n in lengths]
            axes.plot(lengths, good, style, color=colour, linewidth=1.5, marker="o", markersize=3)
            axes.text(lengths[-1] * 1.08, good[-1], label, va="center", fontsize=8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
        axes.minorticks_off()
        axes.set_xlim(lengths[0] * 0.9, lengths[-1] * 2.6)
        axes.set_xlabel("requests of the benchmark")
        axes.set_ylabel("of them good")
        axes.set_title("Above saturation a longer benchmark finds no more good requests", fontsize=9)
        return figure


def fixed(receipt):
    """How many good requests the formula says, and how many there are."""
    mu = numpy.mean([row["requests_per_second"] for row in receipt.rows(f"closed requests={LONGEST}")])
    for load in ("1.3", "2"):
        rows = receipt.rows(f"{load} requests={LONGEST}")
        flags, good = parse_flags(split_words(rows[0]["flags"])), [row["good"] for row in rows]
        rate, slo = (float(flags[name][0]) for name in ("rate", "slo-ttft"))
        print(f"load {load:<4} good requests: {rate * slo / (rate / mu - 1):.0f} by rho mu s / (rho - 1), "
              f"{numpy.mean(good):.0f} in the records ({min(good):.0f} to {max(good):.0f} in {len(good)} traces)")


def four(receipt):
    """Shares of what the built-in table calls all of the time: in steps, in arithmetic, in reading weights."""
    print(f"{'load':<20}{'duty':>7}{'MFU':>7}{'MBU':>7}{'pool':>7}{'requests/s':>12}{'goodput':>9}"
          f"{'good, last tenth':>18}")
    for arm in receipt.claim.arms:
        rows = receipt.rows(arm.label)

        def mean(name):
            return numpy.mean([row[name] for row in rows])
        seconds = [row["finished"] / row["requests_per_second"] for row in rows]
        mfu = numpy.mean([row["executed"] * TOKEN / t for row, t in zip(rows, seconds)])
        mbu = numpy.mean([row["steps"] * WEIGHTS / t for row, t in zip(rows, seconds)])
        print(f"{arm.label:<20}{mean('duty'):>7.3f}{mfu:>7.3f}{mbu:>7.3f}{mean('pool_share'):>7.2f}"
              f"{mean('requests_per_second'):>12.2f}{mean('goodput'):>9.2f}{mean('good_late'):>18.2f}")


def turns(receipt):
    """Seconds to the target loss: tokens of the records over tokens per second of one machine."""
    clocks = recorded()
    if not clocks:
        print("tokens per second: not measured yet")
    print(f"{'batch':>6}{'tokens to the loss':>20}{'steps':>8}" + f"{'tokens/s':>12}{'seconds':>10}" * bool(clocks))
    found = []
    for arm in receipt.claim.arms:
        batch = int(dict(arm.flags)["batch"])
        each = [receipt.results.best(arm, seed, "tokens") for seed in receipt.claim.seeds]
        tokens = numpy.mean(each)
        line = f"{batch:>6}{tokens:>20,.0f}{tokens / batch / int(dict(arm.flags)['context']):>8,.0f}"
        if clocks:
            speed = clocks.row("train", f"batch {batch}")["tokens_per_second"]
            found.append((batch, speed, tokens / speed))
            line += f"{speed:>12,.0f}{tokens / speed:>10.2f}"
        print(line)
    if not clocks:
        return None
    with plt.rc_context(STYLE):
        figure, left = plt.subplots(figsize=(6.8, 2.8), layout="constrained")
        batches, speed, seconds = map(numpy.array, zip(*found))
        left.plot(batches, speed / speed[0], "--", color=DARK, marker="s", markersize=4)
        left.plot(batches, seconds / seconds[0], "-", color=INK, marker="o", markersize=4)
        left.text(batches[-1] * 1.1, speed[-1] / speed[0], "tokens per second", va="center", fontsize=8)
        left.text(batches[-1] * 1.1, seconds[-1] / seconds[0], "seconds to the loss", va="center", fontsize=8)
        left.set_xscale("log", base=2)
        left.set_yscale("log", base=2)
        left.set_xticks(batches, [str(b) for b in batches])
        left.minorticks_off()
        left.set_xlim(batches[0] * 0.9, batches[-1] * 3.5)
        left.set_xlabel("rows of a batch")
        left.set_ylabel(f"times that of {batches[0]} rows")
        left.set_yticks([0.5, 1, 2, 4], ["½", "1", "2", "4"])
        left.set_title("Speed rises up to 64 rows; what it is for is there sooner with 16", fontsize=9)
        return figure
