"""figure.py: the picture of a claim, from its records: left what was measured, right the comparisons with their
intervals and the predicted regions. One style for all; markers and dashes tell the arms apart without colour.

[figure] of a claim file: x = the metric or flag along the bottom (without it, the arms side by side), x_label, y_label.
With `usable`, each arm's metric over the learning rates, one panel per value of the command's lists.
"""
import math
import re
import textwrap

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402
from matplotlib.transforms import ScaledTranslation  # noqa: E402

from .match import recall_claim
from .records import METRICS
from .stats import estimate
from .verdict import Results, evaluate

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
         "savefig.dpi": 150, "lines.linewidth": 1.4, "lines.markersize": 5}
# Colours of different lightness, so that a grey print keeps the order; with each its own marker and dashes.
LOOKS = [("#000000", "o", "-"), ("#b2182b", "s", "--"), ("#2c7fb8", "^", "-."), ("#e6a117", "D", ":"),
         ("#5e3c99", "v", (0, (5, 1))), ("#7fbf7b", "P", (0, (1, 1))), ("#888888", "X", (0, (3, 1, 1, 1)))]


def look(i):
    colour, marker, dashes = LOOKS[i % len(LOOKS)]
    return {"color": colour, "marker": marker, "linestyle": dashes}


def family(arm):
    """'mla 32' and 'mla 64' are points of one line, mla."""
    return re.sub(r"\s*\d+$", "", arm.name) if arm.name else arm.label


def compared(claim):
    """The metrics of the comparisons of two arms: what the picture is about. Without any, the claim's own."""
    return list(dict.fromkeys(c.metric for c in claim.comparisons if c.b)) or [claim.metric]


def metric_label(claim, metric=None):
    return claim.figure.get("y_label") or textwrap.fill(METRICS[metric or claim.metric], 44)


def place_of(claim, results, arm, x):
    """Where an arm stands along x: a flag's value, or a number that its runs recorded."""
    flags = dict(arm.flags)
    if x in flags:
        return float(flags[x])
    rows = [r for r in results.records.values() if r["arm"] == arm.label and r.get(x) is not None]
    return rows[0][x] if rows else math.nan


def error_bars(axes, x, samples, **style):
    estimates = [estimate(s) for s in samples]
    reach = [e.high - e.mean if math.isfinite(e.high) else 0 for e in estimates]
    axes.errorbar(x, [e.mean for e in estimates], yerr=reach, capsize=2.5, **style)
    for place, sample in zip(x, samples):     # every seed is a dot, each a little further to the right
        for i, value in enumerate(sample):
            aside = ScaledTranslation((4 + i * min(1, 16 / len(sample))) / 72, 0, axes.figure.dpi_scale_trans)
            axes.plot(place, value, ".", markersize=3.5, alpha=0.6, color=style["color"],
                      transform=axes.transData + aside)
        axes.update_datalim([(place, value) for value in sample])   # a transform of its own counts for no limit
    axes.autoscale_view()


def sample_of(claim, results, arm, metric=None):
    values = [results.measure(arm.label, seed, metric or claim.metric) for seed in claim.seeds]
    return [v for v in values if v is not None and not math.isnan(v)]


def draw_lines(axes, claim, results):
    x, every, log = claim.figure["x"], set(), claim.figure.get("log_x")
    names = list(dict.fromkeys(family(arm) for arm in claim.arms))
    for i, name in enumerate(names):
        arms = sorted((a for a in claim.arms if family(a) == name), key=lambda a: place_of(claim, results, a, x))
        samples = [sample_of(claim, results, a) for a in arms]
        places = [place_of(claim, results, a, x) for a in arms]
        beside = 1.07 ** (i - (len(names) - 1) / 2) if log else 1   # arms at one place would hide each other
        error_bars(axes, [place * beside for place in places], samples, label=name, **look(i))
        every |= {place for place in places if not math.isnan(place)}
    if log and every and min(every) > 0:
        axes.set_xscale("log")
        axes.set_xticks(sorted(every), [f"{place:g}" for place in sorted(every)])
        axes.minorticks_off()
    axes.set_xlabel(claim.figure.get("x_label") or METRICS.get(x) or x)
    axes.set_ylabel(metric_label(claim))
    axes.legend()


def draw_arms(axes, claim, results, metric):
    for i, arm in enumerate(claim.arms):
        error_bars(axes, [i], [sample_of(claim, results, arm, metric)], **{**look(i), "linestyle": "none"})
    axes.set_xlim(-0.4, len(claim.arms) - 0.4)
    axes.set_xticks(range(len(claim.arms)), [arm.label for arm in claim.arms], rotation=30, ha="right")
    axes.set_ylabel(metric_label(claim, metric))


def draw_rates(axes, claim, results, facet, top):
    """The metric over the learning rates for one value of the lists; what diverged or is higher stands at the top."""
    for i, arm in enumerate(a for a in claim.arms if a.facet == facet):
        rates = [float(dict(t)["lr"]) for t in results.choices]
        means, shown = [], []
        for tuned in results.choices:
            values = [results.value(arm, tuned, seed, claim.metric) for seed in claim.seeds]
            values = [top if math.isnan(v) else min(v, top) for v in values if v is not None]
            shown.append(values)
            means.append(sum(values) / len(values) if values else math.nan)
        axes.plot(rates, means, label=arm.name or arm.label, **look(i))
    axes.axhline(claim.usable.bound, color="#888888", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("peak learning rate")
    axes.set_title(", ".join(f"{v} {k}" for k, v in facet), fontsize=9)


def draw_comparisons(axes, findings, size=7, named=True):
    """One row per comparison of two arms: the predicted region grey, the estimate and its 95% interval. named: with
    its verdict."""
    findings = [f for f in findings if f.comparison.b]
    shade = {"HOLDS": "o", "FAILS": "X", "INCONCLUSIVE": "D"}
    ends = [x for f in findings for x in (f.estimate.low, f.estimate.high, f.comparison.predict.bound, 0)]
    ends = [x for x in ends if math.isfinite(x)] or [-1, 1]
    room = 0.1 * ((max(ends) - min(ends)) or 1)
    left, right = min(ends) - room, max(ends) + room
    for row, f in enumerate(findings):
        b, kind = f.comparison.predict.bound, f.comparison.predict.kind
        region = {"above": (b, right), "below": (left, b), "within": (-b, b)}[kind]
        axes.fill_betweenx([row - 0.4, row + 0.4], *region, color="#e0e0e0", linewidth=0)
        reach = f.estimate.high - f.estimate.mean
        axes.errorbar(f.estimate.mean, row, xerr=reach if math.isfinite(reach) else 0, color="black", capsize=2.5,
                      marker=shade[f.verdict], markerfacecolor="white" if f.verdict == "INCONCLUSIVE" else "black")
        if named:
            axes.annotate(f.verdict, (right, row), xytext=(4, 0), textcoords="offset points", va="center",
                          fontsize=size, annotation_clip=False)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(len(findings)), [f.comparison.name.replace(" vs ", "\nvs ") for f in findings], fontsize=size)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def draw_small(claim, records, path):
    """The comparisons alone, to be read at the size of a thumbnail (front.py)."""
    claim = recall_claim(claim, records)
    findings = [f for f in evaluate(claim, records).findings if f.comparison.b and f.comparison.role == "thesis"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(2.7, 0.3 * len(findings) + 0.5), layout="constrained")
        draw_comparisons(axes, findings, size=9, named=False)
        axes.set_yticks(range(len(findings)), [f.comparison.name for f in findings], fontsize=9)
        axes.tick_params(length=2)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)


def draw(claim, records, path):
    claim = recall_claim(claim, records)
    results, outcome = Results(claim, records), evaluate(claim, records)
    facets = list(dict.fromkeys(arm.facet for arm in claim.arms)) if claim.usable else []
    panels = facets or ([claim.metric] if "x" in claim.figure else compared(claim))
    with plt.rc_context(STYLE):
        height = max(3.4, 0.42 * sum(bool(f.comparison.b) for f in outcome.findings) + 1.2) + 0.3 * bool(claim.usable)
        figure, axes = plt.subplots(1, len(panels) + 1, figsize=(3.4 * len(panels) + 4.6, height), layout="constrained",
                                    width_ratios=[1] * len(panels) + [0.9])
        if claim.usable:
            top = claim.figure.get("top", 1.5 * claim.usable.bound)
            for panel, facet in zip(axes, facets):
                draw_rates(panel, claim, results, facet, top)
                panel.set_ylim(top=1.03 * top)
                panel.sharey(axes[0])
            axes[0].set_ylabel(f"{metric_label(claim)};\nat the top: {top:g} or more, or diverged")
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), handlelength=3)
        elif "x" in claim.figure:
            draw_lines(axes[0], claim, results)
        else:
            for panel, metric in zip(axes, panels):
                draw_arms(panel, claim, results, metric)
        draw_comparisons(axes[-1], outcome.findings)
        units = {"windows (factors of ten)" if claim.usable else METRICS[metric] for metric in compared(claim)}
        unit = units.pop() if len(units) == 1 else "the named metrics"
        axes[-1].set_xlabel(textwrap.fill(f"difference of {unit}, 95% interval; grey: predicted", 46))
        figure.suptitle(f"{claim.title}: {outcome.verdict}", fontsize=10, fontweight="bold")
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)
