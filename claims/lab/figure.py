"""figure.py: the picture of a claim, from its records: left what was measured, with every seed, right the comparisons
with their intervals and the predicted regions. Labels stand at what they name. Colours differ in lightness, and each
has a marker and dashes of its own, so that a grey print can be read. The small picture of each claim is made for the
size at which tables show it.

[figure] of a claim file: x = the metric or flag along the bottom (without it, the arms one below the other), x_label,
y_label, log_y (a logarithmic axis of the claim's metric), top, words = { arm = "what it is, in words" }, finding = the
title, with {FACTS} as in a headline (without any, the verdict stands below it), unit = what the differences count. A
comparison may have words too, under its name in claims/table --facts; a line along x whose words are "" is not drawn.
With `usable`, each arm's metric over the learning rates, one panel per value of the command's lists.
"""
import math
import re
import textwrap

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.offsetbox import AnnotationBbox, DrawingArea, HPacker, TextArea  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.ticker import EngFormatter, LogFormatter, MaxNLocator  # noqa: E402
from matplotlib.transforms import ScaledTranslation, blended_transform_factory  # noqa: E402

from . import baseline  # noqa: E402
from .front import filled, unbacked  # noqa: E402
from .match import recall_claim  # noqa: E402
from .records import METRICS  # noqa: E402
from .report import effect, facts, measured_text, rows_of_arms, worded  # noqa: E402
from .stats import decided  # noqa: E402
from .verdict import Results, evaluate  # noqa: E402

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
         "savefig.dpi": 150, "lines.linewidth": 1.4, "lines.markersize": 5}
# Colours of different lightness, so that a grey print keeps the order; with each its own marker and dashes.
LOOKS = [("#000000", "o", "-"), ("#b2182b", "s", "--"), ("#2c7fb8", "^", "-."), ("#c98500", "D", ":"),
         ("#5e3c99", "v", (0, (5, 1))), ("#4d9a48", "P", (0, (1, 1))), ("#777777", "X", (0, (3, 1, 1, 1)))]
BESIDE = 5             # points from a line's mark to the dots of its seeds
MOST_SHOWN = 12        # comparisons in one picture
MANY = 16              # arms, beyond which they stand closer
REGION, SHORT = "#dcdcdc", 36   # colour of what is predicted; letters of a line of words
HALO = [withStroke(linewidth=3, foreground="white")]   # of words that stand among points and lines


def look(i):
    colour, marker, dashes = LOOKS[i % len(LOOKS)]
    return {"color": colour, "marker": marker, "linestyle": dashes}


def family(arm, x):
    """'mla 32' and 'mla 64' are points of one line, mla; so are arms whose lists differ only along x."""
    others = [f"{name}={value}" for name, value in arm.facet if name != x]
    return " ".join([re.sub(r"\s+\d+$", "", arm.name)] * bool(arm.name) + others) or "all"


def words(claim, label):
    """An arm's label as the claim file says it in words, and as 48 layers what is layers=48."""
    text = worded(claim, label)
    return re.sub(r"(\S+)=(\S+)", r"\2 \1", text) if label != "all" else text


def question(claim, comparison):
    """A comparison in words: what is compared, and in what if it is not the claim's own metric."""
    if comparison.name in claim.figure.get("words", {}):
        return claim.figure["words"][comparison.name]
    a = words(claim, comparison.a)
    sign = "/" if claim.kind == "timing" or comparison.ratio else "\u2212"
    text = f"{a} {sign} {words(claim, comparison.b)}" if comparison.b else a
    known = claim.figure.get("words", {}).get(comparison.metric)
    return text + (f": {known or METRICS[comparison.metric].split(' (')[0]}" if comparison.apart else "")


def compared(claim):
    """The metrics of the comparisons of two arms: what the picture is about. Without any, the claim's own."""
    return list(dict.fromkeys(c.metric for c in claim.comparisons if c.b)) or [claim.metric]


def metric_label(claim, metric=None):
    told = METRICS.get(metric or claim.metric, metric or claim.metric)
    if claim.outcome and metric in (None, claim.metric):
        told = measured_text(claim)
    own = claim.figure.get("y_label") if metric in (None, claim.metric) else None
    return own or textwrap.fill(told, 34)


def place_of(claim, results, arm, x):
    """Where an arm stands along x: a flag's value, or a number that its runs recorded."""
    flags = dict(arm.flags)
    if x in flags:
        return float(flags[x])
    rows = [r for r in results.records.values() if r["arm"] == arm.label and r.get(x) is not None]
    return rows[0][x] if rows else math.nan


def sample_of(claim, results, arm, metric=None):
    values = [results.measure(arm.label, seed, metric or claim.metric) for seed in claim.seeds]
    return [v for v in values if v is not None and not math.isnan(v)]


def aside(axes, x=0.0, y=0.0):
    """The axes' own transform, moved by so many points."""
    return axes.transData + ScaledTranslation(x / 72, y / 72, axes.figure.dpi_scale_trans)


def label_ends(axes, ends, size=9, beyond=7):
    """Names at the right ends of lines, [(x, y, text, colour)], apart by at least the height of a line of text. With a
    whole look in place of the colour a name has a piece of its line before it: some lines leave the picture far from
    where their names stand."""
    axes.figure.canvas.draw()
    high = axes.get_window_extent().height
    is_log = axes.get_yscale() == "log"
    low_y, high_y = (math.log10(y) if is_log else y for y in axes.get_ylim())
    ends = [(x, math.log10(y) if is_log else y, *rest) for x, y, *rest in ends]
    gap = (high_y - low_y) * 1.25 * size * axes.figure.dpi / 72 / high
    ends = sorted((e for e in ends if math.isfinite(e[1])), key=lambda e: e[1])
    at, placed = -math.inf, []
    for x, y, text, colour in ends:
        at = max(y, at + gap)
        placed.append([x, at, text, colour])
    over = placed[-1][1] - high_y if placed else 0
    for row in reversed(placed) if over > 0 else []:     # pushed back below the top, from the top down
        row[1] = min(row[1], high_y)
        high_y = row[1] - gap
    for x, y, text, colour in placed:
        at = x, 10 ** y if is_log else y
        if isinstance(colour, dict):
            axes.add_artist(AnnotationBbox(piece_of(colour, text, size), at, xybox=(beyond, 0), frameon=False, pad=0,
                                           boxcoords="offset points", box_alignment=(0, 0.5), annotation_clip=False))
        else:
            axes.annotate(text, at, xytext=(beyond, 0), textcoords="offset points", va="center", color=colour,
                          fontsize=size, annotation_clip=False)


def piece_of(style, text, size):
    """A name behind a piece of its line."""
    long, high = 22, 8
    piece = DrawingArea(long, high)
    piece.add_artist(Line2D([0, long], [high / 2] * 2, **style | {"marker": ""}))
    piece.add_artist(Line2D([long / 2], [high / 2], **style | {"linestyle": ""}))
    name = TextArea(text, textprops={"color": style["color"], "fontsize": size, "path_effects": HALO})
    return HPacker(children=[piece, name], align="center", pad=0, sep=3)


def show_elimination(axes, claim, metric, across):
    """What a model reaches that binds nothing, as a line; across: the metric runs from left to right."""
    value = baseline.of_claim(claim).get(metric)
    if value is None or claim.outcome:
        return
    (axes.axvline if across else axes.axhline)(value, color="#555555", linewidth=1, linestyle=(0, (4, 2)), zorder=1.5)
    if across:
        axes.annotate("elimination, no binding", (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                      ha="center", textcoords="offset points", fontsize=7.5, color="#444444", annotation_clip=False)
    else:
        axes.annotate("elimination, no binding", (0, value), xycoords=("axes fraction", "data"), xytext=(3, 2),
                      textcoords="offset points", fontsize=7.5, color="#444444")


def bounds(claim, metric, e):
    """The interval as it is drawn: a share does not leave 0 to 1."""
    low, high = (e.low, e.high) if math.isfinite(e.low) else (e.mean, e.mean)
    return (max(0, low), min(1, high)) if metric == "accuracy" else (low, high)


def draw_lines(axes, claim, results):
    x, every, log, ends = claim.figure["x"], set(), claim.figure.get("log_x"), []
    names = [n for n in dict.fromkeys(family(arm, x) for arm in claim.arms) if words(claim, n)]
    exact = claim.kind == "exact" and all(len(set(sample_of(claim, results, arm))) <= 1 for arm in claim.arms)
    for i, name in enumerate(names):
        arms = sorted((a for a in claim.arms if family(a, x) == name), key=lambda a: place_of(claim, results, a, x))
        # Side by side, so that intervals can be told apart. Where all seeds agree marks lie around each other.
        style, shift = look(i), aside(axes, 0 if exact else 3 * (i - (len(names) - 1) / 2))
        outer = len(names) - 1 - i
        style |= {"markersize": 5 + 4 * outer, "markerfacecolor": "none" if outer else None} if exact else {}
        places = [place_of(claim, results, a, x) for a in arms]
        levels = [results.level(a.label) for a in arms]
        axes.plot(places, [e.mean for e in levels], transform=shift, zorder=3, **style)
        for place, arm, e in zip(places, arms, levels):
            sample = sample_of(claim, results, arm)
            axes.update_datalim([(place, v) for v in [*sample, e.mean, *bounds(claim, claim.metric, e)]])
            if exact:
                continue
            axes.plot([place] * 2, bounds(claim, claim.metric, e), color=style["color"], linewidth=2.2, alpha=0.6,
                      transform=shift, solid_capstyle="butt")
            axes.plot([place] * len(sample), sample, ".", color=style["color"], markersize=3, alpha=0.5,
                      transform=aside(axes, 3 * (i - (len(names) - 1) / 2) + BESIDE))
        every |= {place for place in places if not math.isnan(place)}
        if places:
            ends.append((places[-1], levels[-1].mean, words(claim, name), style["color"]))
    axes.autoscale_view()
    if log and every and min(every) > 0:
        axes.set_xscale("log")
        axes.set_xticks(sorted(every), [f"{place:g}" for place in sorted(every)])
        axes.minorticks_off()
    if claim.figure.get("log_y"):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        large = high >= 1e5 and high / low > 100      # over fewer decades there are numbers between the powers of ten
        for whose in ("set_major_formatter", "set_minor_formatter")[:1 if large else 2]:
            getattr(axes.yaxis, whose)(EngFormatter(sep="") if large else LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.set_xlabel(claim.figure.get("x_label") or METRICS.get(x) or x)
    axes.set_ylabel(metric_label(claim))
    show_elimination(axes, claim, claim.metric, across=False)
    label_ends(axes, ends, beyond=max(7, 1.5 * (len(names) - 1) + BESIDE))    # behind the dots of the last line


def draw_arms(axes, claim, results, metric, named=True):
    """The arms one below the other: every seed a dot, the mean a stroke on its interval."""
    own = metric == claim.metric
    rows = rows_of_arms(claim, results) if own else \
        [(arm.label, arm, decided(sample_of(claim, results, arm, metric))) for arm in claim.arms]
    for i, (label, arm, e) in enumerate(rows):
        colour = look(i)["color"]
        axes.plot(bounds(claim, metric, e), [i] * 2, color=colour, linewidth=2.4, alpha=0.55, solid_capstyle="butt")
        axes.plot(e.mean, i, marker="|", markersize=13, markeredgewidth=2, color=colour)
        sample = sample_of(claim, results, arm, metric) if arm else []
        for k, value in enumerate(sample):
            axes.plot(value, i, look(i)["marker"], markersize=3, alpha=0.6, color=colour,
                      transform=aside(axes, 0, -6 - 5 * (k % 3) / 2))
        axes.update_datalim([(v, i) for v in [*sample, e.mean, *bounds(claim, metric, e)] if math.isfinite(v)])
    if own and claim.figure.get("log_y"):
        axes.set_xscale("log")
    axes.autoscale_view()
    close = len(rows) > MANY
    axes.set_ylim(len(rows) - (0.1 if close else 0.4), -0.6)    # seeds hang below their row
    wide = 40 if close else 20
    axes.set_yticks(range(len(rows)), [textwrap.fill(words(claim, r[0]), wide) if named else "" for r in rows])
    axes.grid(axis="y", visible=False)
    if axes.get_xscale() != "log":
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(textwrap.fill(metric_label(claim, metric), 40))
    show_elimination(axes, claim, metric, across=True)


def through_the_top(line, top):
    """Points of a line, whose values may be infinite: where it leaves the picture, or comes into it, up to the edge."""
    seen = [False, *(v <= top for _, v in line), False]
    return [(r, min(v, top) if any(seen[i:i + 3]) else math.nan) for i, (r, v) in enumerate(line)]


def label_at(line, top):
    """Where the name of a line stands: behind its last point, or where it has left the picture, behind the last mark on
    the upper edge. Beside the rise that leads out of it a name would lie on other lines and their seeds."""
    rate, value = line[-1]
    return rate, min(value, top)


def draw_rates(axes, claim, results, facet, top):
    """The metric over the learning rates for one value of the lists: the median of the seeds a line, each seed a dot,
    and what diverged or is higher a mark on the upper edge."""
    ends = []
    for i, arm in enumerate(a for a in claim.arms if a.facet == facet):
        style, line = look(i), []
        choices = sorted(results.choices, key=lambda t: float(dict(t)["lr"]))
        for tuned in choices:
            rate = float(dict(tuned)["lr"])
            values = [results.value(arm, tuned, seed, claim.metric) for seed in claim.seeds]
            values = sorted(math.inf if math.isnan(v) else v for v in values if v is not None)
            line.append((rate, values[(len(values) - 1) // 2] if values else math.inf))
            shift = blended_transform_factory(aside(axes, 2.5 * i - 4), aside(axes, 2.5 * i - 4))
            axes.plot([rate] * len(values), [min(v, top) for v in values], style["marker"], markersize=2.8, alpha=0.5,
                      color=style["color"], clip_on=False, transform=blended_transform_factory(shift, axes.transData))
        axes.plot(*zip(*through_the_top(line, top)), zorder=3, **style | {"marker": ""})
        if shown := [(r, v) for r, v in line if v <= top]:
            axes.plot(*zip(*shown), zorder=3, **style | {"linestyle": ""})
        ends.append((*label_at(line, top), words(claim, arm.name or arm.label), style))
    axes.axhline(claim.usable.bound, color="#555555", linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xscale("log")
    rates = [float(dict(t)["lr"]) for t in results.choices]
    axes.set_xlim(min(rates) / 1.6, max(rates) * 1.6)
    axes.set_xlabel("peak learning rate")
    low = min([v for r in results.records.values() if (v := r.get(claim.metric)) is not None] + [claim.usable.bound])
    axes.set_ylim(low - 0.05 * (top - low), top + 0.05 * (top - low))
    axes.set_title(", ".join(f"{v} {k}" for k, v in facet), fontsize=9)
    return ends


def room_for(findings):
    ends = [x for f in findings for x in (f.estimate.low, f.estimate.high, *f.comparison.predict.ends(0, 0))]
    ends = [x for x in [*ends, 0 if all(f.comparison.b for f in findings) else ends[0]] if math.isfinite(x)] or [-1, 1]
    room = 0.1 * ((max(ends) - min(ends)) or 1)
    return min(ends) - room, max(ends) + room


def halo_of(claim):
    """Of the names of comparisons, which the line at 0 would strike through: a minus there looks like a plus. Pictures
    of claims without a unit are as they were before there was one."""
    return HALO if claim.figure.get("unit") else None


def say_large(axes, left, right):
    """100M, where the axis would put a power of ten at its end."""
    if max(abs(left), abs(right)) >= 1e5:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_comparisons(axes, claim, findings, size=8):
    """One row per comparison: its name and its verdict above, the predicted region grey, the estimate a stroke on its
    95% interval."""
    left, right = room_for(findings)
    strong = {"HOLDS": "-", "EQUIVALENT": "-", "FAILS": "-", "INCONCLUSIVE": (0, (2, 1))}
    for row, f in enumerate(findings):
        low, high = f.comparison.predict.ends(left, right)
        thin = 0.004 * (right - left) if low == high else 0
        axes.fill_betweenx([row - 0.16, row + 0.34], low - thin, high + thin, color=REGION, linewidth=0)
        e = f.estimate
        if math.isfinite(e.low):
            axes.plot([e.low, e.high], [row + 0.09] * 2, color="black", linewidth=1.8, linestyle=strong[f.verdict],
                      marker="|", markersize=6)
        if math.isfinite(e.mean):
            axes.plot(e.mean, row + 0.09, marker="|", markersize=11, markeredgewidth=2.4, color="black")
        axes.annotate(textwrap.shorten(question(claim, f.comparison), 60, placeholder=" ..."), (0, row - 0.22),
                      xycoords=("axes fraction", "data"), va="bottom", fontsize=size, annotation_clip=False,
                      path_effects=halo_of(claim))
        axes.annotate(f.verdict, (1, row + 0.09), xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
                      textcoords="offset points", fontsize=size, fontweight="bold", annotation_clip=False)
    if left < 0 < right:
        axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlim(left, right)
    axes.set_ylim(len(findings) - 0.55, -0.62)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    say_large(axes, left, right)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)


def shown_findings(outcome, thesis=False):
    """Those of two arms; where there are none, all. Of very many, the last for each pair of names."""
    kept = [f for f in outcome.findings if not thesis or f.comparison.role == "thesis"]
    kept = [f for f in kept if f.comparison.b] or kept
    last = {tuple(label.split(" ")[0] for label in (f.comparison.a, f.comparison.b)): f for f in kept}
    return kept if len(kept) <= MOST_SHOWN else list(last.values())


def draw_small(claim, records, path):
    """The comparisons alone, to be read at 200 pixels."""
    claim = recall_claim(claim, records)
    findings = shown_findings(evaluate(claim, records, notes=False), thesis=True)
    names = [textwrap.fill(question(claim, f.comparison), SHORT) for f in findings]
    unit, lines = claim.figure.get("unit"), max((name.count("\n") for name in names), default=0)
    pitch = 0.46 + 0.15 * lines                         # inches of a row; the bar of one has 0.2 of them
    bar = 0.46 / pitch
    with plt.rc_context({**STYLE, "font.size": 9}):
        size = 2.6, pitch * len(findings) + 0.35 + 0.17 * bool(unit)
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        left, right = room_for(findings)
        for row, (name, f) in enumerate(zip(names, findings)):
            low, high = f.comparison.predict.ends(left, right)
            thin = 0.006 * (right - left) if low == high else 0
            axes.fill_betweenx([row - 0.05 * bar, row + 0.4 * bar], low - thin, high + thin, color=REGION, linewidth=0)
            e, middle = f.estimate, row + 0.17 * bar
            if math.isfinite(e.low):
                axes.plot([e.low, e.high], [middle] * 2, color="black", linewidth=2)
            if math.isfinite(e.mean):
                axes.plot(e.mean, middle, marker="|", markersize=11, markeredgewidth=2.6, color="black")
            axes.annotate(name, (0, row - 0.1 * bar), xycoords=("axes fraction", "data"), va="bottom", fontsize=9,
                          annotation_clip=False, path_effects=halo_of(claim))
        if left < 0 < right:
            axes.axvline(0, color="#666666", linewidth=1)
        axes.set_xlim(left, right)
        axes.set_ylim(len(findings) - 1 + 0.5 * bar, 0.4 * bar - 1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        say_large(axes, left, right)
        if unit:
            axes.set_xlabel(unit)
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)


def headline_of(claim, records, outcome, findings):
    """The title: the finding, if the claim's file says it in words, with the verdict below it where they have no
    number; or else what was asked, the verdict, and the number of the first comparison that is drawn."""
    finding, where = " ".join(claim.figure.get("finding", "").split()), f"claims/{claim.name}.toml: the finding"
    if "{" in finding:
        return filled(finding, facts(claim, records), where)
    unbacked(finding, where)
    first = [f for f in findings if f.comparison.role == "thesis"][:1]
    told = f"{question(claim, first[0].comparison)}: {effect(first[0])}" if first else ""
    if finding:
        every = len(outcome.findings)
        return finding + "\n" + outcome.verdict + (f", from {every} comparisons" if every > 1 else f"; {told}")
    head = f"{claim.title}: {outcome.verdict}" if claim.thesis else claim.title
    return head + ("\n" + told) * bool(told)


def draw(claim, records, path):
    claim = recall_claim(claim, records)
    results, outcome = Results(claim, records), evaluate(claim, records, notes=False)
    findings = shown_findings(outcome)
    facets = list(dict.fromkeys(arm.facet for arm in claim.arms)) if claim.usable else []
    panels = [] if claim.record else facets or ([claim.metric] if "x" in claim.figure else compared(claim))
    with plt.rc_context(STYLE):
        arms = len(claim.groups())
        rows = 0 if claim.usable or "x" in claim.figure else (0.46 if arms <= MANY else 0.26) * arms
        height = max(3.2, 0.62 * len(findings) + 1.1, rows + 1.2) + 0.3
        folded = bool(claim.usable) and len(panels) == 3   # in two rows, or nobody can read it at the width of a page
        wide = 8 if folded else 3.6 * len(panels) + 4.4 * bool(findings)
        rows_columns = (2, 2) if folded else (1, len(panels) + bool(findings))
        figure, every = plt.subplots(*rows_columns, layout="constrained", squeeze=False,
                                     figsize=(wide, height * rows_columns[0]))
        axes = list(every.flat)
        if claim.usable:
            top = claim.figure.get("top", 1.5 * claim.usable.bound)
            ends = [draw_rates(panel, claim, results, facet, top) for panel, facet in zip(axes, facets)]
            for panel in axes[1:len(facets)]:
                panel.sharey(axes[0])
            axes[0].set_ylabel(f"{textwrap.fill(METRICS[claim.metric], 34)}\ndashed: usable {claim.usable}\n"
                               f"upper edge: above {top:g}, or diverged",
                               fontsize=8.5)
            for panel, at in zip(axes, ends):
                label_ends(panel, at, beyond=4 + 2.5 * max(1, len(claim.arms) / len(facets)))
        elif "x" in claim.figure:
            draw_lines(axes[0], claim, results)
        else:
            for i, (panel, metric) in enumerate(zip(axes, panels)):
                draw_arms(panel, claim, results, metric, named=i == 0)
        if findings:
            draw_comparisons(axes[-1], claim, findings)
            told = claim.figure.get("unit") or unit_of(claim)
            told += f"; stroke and line: {claim.spread}; grey: predicted"
            axes[-1].set_xlabel(textwrap.fill(told, 46))
        letters = 46 if claim.record else int(11 * wide)      # a record has the comparisons alone: a narrow picture
        title = headline_of(claim, records, outcome, findings)
        if claim.record or "finding" in claim.figure:
            title = "\n".join(textwrap.fill(line, letters) for line in title.split("\n"))
        figure.suptitle(title, fontsize=10, fontweight="bold")
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)


def measured_on(claim):
    return f"on {claim.measured['machine']['cpu']}" if claim.measured else "not measured"


def unit_of(claim):
    """What the right panel shows."""
    metrics = compared(claim)
    if claim.record:
        return "ratio, " + measured_on(claim)
    what = "the named metrics" if len(metrics) > 1 else measured_text(claim) if claim.outcome or claim.usable \
        else METRICS.get(metrics[0], metrics[0])
    paired = any(c.b for c in claim.comparisons)
    ratios = {claim.kind == "timing" or c.ratio for c in claim.comparisons if c.b}
    kind = {(True,): "ratio", (False,): "difference"}.get(tuple(ratios), "difference or ratio")
    return f"{kind} of {what}" if paired else what
