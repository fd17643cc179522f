"""agents.py: the pictures and formulas of post 17.

    growth()        a session's prompts, turn by turn: what is said again, what is new, what a volatile token costs
    formulas()      closed formulas beside the counters of agents-counters
    cliff()         sessions by the size of the pool and the time-to-live, on the event clock
"""
import matplotlib.pyplot as plt
import numpy
from matplotlib.patches import Rectangle

from . import server
from .command import parse_command
from .diagram import INK, LIGHT, WARM
from .figure import STYLE

WARM_INK = "#b2182b"


def computed(turns, prompt, answer, tool, block=16, volatile=0, cached=True):
    """Tokens that a session computes: each prompt but what is found, each answer but its last token."""
    total, each = 0, []
    for k in range(turns):
        length = prompt + k * (answer + tool)
        found = (length - tool - 1) // block * block if k and cached else 0
        if k and volatile:
            found = min(found, (volatile - 1) // block * block)
        each.append((length, found))
        total += length - found + answer - 1
    return total, each


def of_flags(flags):
    return computed(int(flags["agent-turns"]), int(flags["prompt-length"]), int(flags["answer-length"]),
                    int(flags["tool-tokens"]), int(flags["block"]), int(flags.get("volatile-prefix", 0)),
                    flags.get("prefix-cache") == "1")[0]


def growth(turns=10, prompt=1000, answer=50, tool=150):
    cases = (("nothing is kept", {"cached": False}), ("kept", {}), ("kept, volatile token at 500", {"volatile": 500}))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.5), sharey=True, layout="constrained")
        for place, (title, how) in zip(axes, cases):
            total, each = computed(turns, prompt, answer, tool, **how)
            for k, (length, found) in enumerate(each):
                place.add_patch(Rectangle((0, -k - 0.4), found, 0.8, facecolor=LIGHT, edgecolor="none"))
                place.add_patch(Rectangle((found, -k - 0.4), length - found, 0.8, facecolor=WARM, edgecolor=INK,
                                          linewidth=0.5, hatch="///"))
            if "volatile" in how:
                place.axvline(how["volatile"], color=INK, linewidth=0.8, linestyle=":")
            place.set_xlim(0, each[-1][0] + 50)
            place.set_ylim(-turns + 0.4, 0.6)
            place.set_yticks([0, 1 - turns], ["first turn", "last"])
            place.set_xlabel("tokens of the prompt")
            place.set_title(f"{title}:\n{total:,} computed", fontsize=8.5)
        return figure


def formulas(receipt):
    print(f"{'':<28}{'formula, a session':>20}{'times sessions':>16}{'counted':>10}")
    for arm in receipt.claim.arms:
        flags = dict(arm.flags)
        one, sessions = of_flags(flags), int(flags["requests"]) // int(flags["agent-turns"])
        counted = {int(row["executed"]) for row in receipt.rows(arm.label)}
        print(f"{arm.label:<28}{one:>20,}{one * sessions:>16,}{', '.join(f'{x:,}' for x in counted):>10}")


def cliff(command, pools=(2000, 2500, 3000, 3500, 4000, 5000), ttls=("0", "20"), seeds=range(1, 6)):
    """command: of ./serve, as in a claim file, without --blocks, --ttl and --seed. The median session of each seed,
    thin, and the median of the seeds."""
    flags = {name: values[0] for name, values in parse_command(command).items()}
    styles = {"0": ("least recently used", "-", INK, "o"),
              "20": ("held 20 s", ":", WARM_INK, "^")}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.8, 3.2), layout="constrained")
        for ttl in ttls:
            label, style, colour, mark = styles[ttl]
            each = numpy.array([[server.simulate({**flags, "blocks": str(n), "ttl": ttl, "seed": str(seed)})
                                 [0]["session_p50"] for n in pools] for seed in seeds])
            axes.plot(pools, each.T, style, color=colour, linewidth=0.7, alpha=0.5)
            axes.plot(pools, numpy.median(each, axis=0), style, color=colour, marker=mark, markersize=4, linewidth=2,
                      label=label)
        axes.set_yscale("log")
        axes.set_yticks([100, 200, 400, 800], ["100", "200", "400", "800"])
        axes.minorticks_off()
        axes.set_xlabel("blocks in the pool, of 16 positions; thin: each seed")
        axes.set_ylabel("median session (s)")
        axes.set_title("Memory for agents has a cliff, and holding blocks makes it higher", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
        return figure
