"""report.py: what the records of a claim say, as lines for a terminal and as the facts that texts may quote."""
import math
from dataclasses import replace

import numpy

from . import baseline
from .match import recall_claim
from .records import METRICS
from .stats import CHANCE, LEVEL, SIGNS, clopper_pearson, discordant, power, seeds_needed, share_power
from .verdict import Results, at_thresholds, edges, evaluate, least_p, rate_edges, weigh

LEAST_PILOT = 3   # seeds from which a spread may be told: that of two is often off by a factor of ten
CORES = 2   # minutes are told as those of two cores, however many runs went at once


def number(x):
    """Four digits: 0.1234, 12.35, 1235, 1.235e+06."""
    if x is None or not math.isfinite(x):
        return "-"
    whole = len(str(int(abs(x))))
    return f"{x:.4f}" if abs(x) < 1 else f"{x:.{max(0, 4 - whole)}f}" if whole <= 6 else f"{x:.4g}"


def rate(x):
    """A learning rate with two digits, as it is typed: 1.2e-2."""
    return f"{x:.1e}".replace("e-0", "e-") if math.isfinite(x) else "-"


def signed(x):
    return "-" if not math.isfinite(x) else ("+" if x >= 0 else "\u2212") + number(abs(x))


def is_point(e):
    """All seeds agree: there is no spread from which an interval could follow."""
    return e.count > 1 and e.high - e.low <= 1e-12 * abs(e.mean)


def interval(e):
    if e.count == 1 and e.low == e.high:
        return "[one value]"
    if is_point(e):
        return f"[all {e.count} equal]"
    return f"[{signed(e.low)}, {signed(e.high)}]" if math.isfinite(e.low) else "[one seed]"


def level(e):
    """'0.1234 [0.1001, 0.1467]': a value, which has no sign."""
    if is_point(e) or e.count == 1 and e.low == e.high:
        return f"{number(e.mean)} {interval(e)}"
    return f"{number(e.mean)} [{number(e.low)}, {number(e.high)}]" if math.isfinite(e.low) else number(e.mean)


def effect(finding):
    """'+0.1234 [+0.1001, +0.1467]': a difference, or the value of an arm that is compared with nothing."""
    e = finding.estimate
    is_ratio = finding.comparison.ratio or finding.comparison.predict.kind == "between"
    return f"{signed(e.mean)} {interval(e)}" if finding.comparison.b and not is_ratio else level(e)


# ---- before the reported seeds ----------------------------------------------------------------------
def of_pilot(claim, records, pilot):
    """The claim as its pilot's seeds alone would report it."""
    return Results(replace(claim, seeds=list(pilot), tune_seeds=claim.tune_seeds if claim.pilot_seeds else []), records)


def share_chance(comparison, sample):
    """n -> power of a comparison of shares. The pilot says how many seeds the arms disagree on, a little towards the
    middle; the expected difference, where one is named, says by how much more the one than the other."""
    more, fewer = ((k + 0.5) / (len(sample) + 1) for k in discordant(sample))
    if comparison.predict.kind == "below":
        more, fewer = fewer, more
    if comparison.expect is not None:
        more = min(1 - fewer, fewer + abs(comparison.expect))
    return (lambda n: share_power(more, fewer, n) if more > fewer else 0.0), more - fewer


def mean_chance(comparison, mean, spread, coarse):
    """n -> power of a comparison of means, and how far beyond its bound the difference is expected: where the file says
    or else where the pilot lies, of sameness too. There both ends of the margin must be excluded (Schuirmann 1987)."""
    bound, same = comparison.predict.bound, comparison.predict.kind == "within"
    expected = mean if comparison.expect is None else comparison.expect
    beyond = {"above": expected - bound, "below": bound - expected, "within": bound - abs(expected)}
    distance = beyond[comparison.predict.kind]

    def chance(n):
        if distance <= 0 or n < (SIGNS if coarse or spread <= 0 else 2):
            return 0.0
        if spread <= 0:
            return 1.0
        found = power(distance, spread, n, LEVEL)
        return max(0.0, found + power(bound + abs(expected), spread, n, LEVEL) - 1) if same else found
    return chance, distance


def designs(claim, records, pilot):
    """[(comparison, n -> power, what is expected beyond the bound)] of the thesis, as far as a pilot can tell: not of
    shares that are compared with a bound other than 0. Of a capacity or a window the spread is that of a bootstrap over
    the pilot's seeds, widened by what one of so few is too narrow."""
    results, found = of_pilot(claim, records, pilot), []
    for comparison in (c for c in claim.comparisons if c.role == "thesis"):
        counted = claim.outcome if comparison.metric == claim.metric else ""
        if counted == "solved" and (not comparison.b or comparison.predict.bound):
            continue
        if counted in ("capacity", "window"):
            e = weigh(results.claim, results, comparison).estimate
            if e.count >= LEAST_PILOT:
                spread = e.spread * math.sqrt(e.count / (e.count - 1))
                found.append((comparison, *mean_chance(comparison, e.mean, spread, False)))
            continue
        sample = [d for d in results.sample(comparison, pilot) if d is not None and not math.isnan(d)]
        if len(sample) < LEAST_PILOT:
            continue
        found.append((comparison, *(share_chance(comparison, sample) if counted == "solved" else mean_chance(
            comparison, float(numpy.mean(sample)), float(numpy.std(sample, ddof=1)),
            results.is_coarse(comparison.metric)))))
    return found


def print_contradictions(claim, records, pilot):
    """Says of every comparison, controls too, that the pilot lies outside what is predicted of it, whatever the file
    expects; True if it lies outside of none."""
    results, good = of_pilot(claim, records, pilot), True
    for comparison in claim.comparisons if claim.thesis else []:
        e = weigh(results.claim, results, comparison).estimate
        if not e.count or math.isnan(e.mean) or comparison.predict.has(e.mean):
            continue
        good, where = False, "outside the margin" if comparison.predict.kind == "within" else "not there"
        print(f"power    WARNING: {named(claim, comparison)} is predicted {comparison.predict}, and the pilot lies "
              f"{where}: {signed(e.mean)} {interval(e)}, of {e.count} seeds")
    return good


def print_power(claim, records, pilot, minutes_of=None):
    """What the reported seeds can be expected to find; False if the design cannot settle the claim, as far as is known.
    minutes_of(n): how long so many reported seeds take."""
    n = len(claim.seeds)
    if n < 2 or claim.kind != "runs":
        return True
    good = print_contradictions(claim, records, pilot) or len(pilot) < LEAST_PILOT
    if not any(c.b for c in claim.comparisons):
        return good
    good = print_floor(claim, records) and good
    if len(pilot) < LEAST_PILOT:
        print(f"power    unknown: a pilot of {len(pilot)} seed{'s' * (len(pilot) != 1)} gives none, a spread needs "
              f"{LEAST_PILOT} or more; this may end INCONCLUSIVE for want of seeds")
        return good
    for comparison, chance, distance in designs(claim, records, pilot):
        what = unit(claim, comparison)
        by = "expected" if comparison.expect is not None else "in the pilot"
        beyond = f"{signed(distance)} of {what} beyond its bound {by}"
        print(f"power    {named(claim, comparison)}: {beyond} (pilot of {len(pilot)} seeds); {n} seeds find that with "
              f"{100 * chance(n):.0f}% power")
        if chance(n) >= CHANCE:
            continue
        good, needed = False, seeds_needed(chance)
        if needed is None:
            print("power    no number of seeds will do: that lies on the bound, too near to it, or on the wrong side; "
                  "change the prediction, the metric or the task")
        else:
            minutes = f", {minutes_of(needed):.1f} minutes," if minutes_of else ""
            print(f"power    {needed} seeds{minutes} would do, for {100 * CHANCE:.0f}%")
    return good


def print_floor(claim, records):
    """Whether so many seeds could show anything at all, even if they all agree."""
    results, n = Results(claim, records), len(claim.seeds)
    coarse = any(results.is_coarse(c.metric) for c in claim.comparisons) or claim.outcome == "solved"
    if coarse and least_p(n) >= LEVEL:
        print(f"power    {n} seeds are few: of values that come in cells or in two kinds they can show nothing, even "
              f"if all agree; {SIGNS} or more can")
        return False
    return True


# ---- after ---------------------------------------------------------------------------------------
OUTCOME_TEXTS = {"solved": "share of seeds that solve", "steps": "steps until solved (all, where never)",
                 "capacity": "capacity"}


def measured_text(claim):
    """What the number of an arm is."""
    if claim.outcome == "capacity":
        return f"doublings of --{claim.along} up to which {claim.metric} {claim.threshold}"
    if claim.outcome in OUTCOME_TEXTS:
        return f"{OUTCOME_TEXTS[claim.outcome]}: {claim.metric} {claim.threshold}"
    return "window of learning rates (factors of ten)" if claim.usable else claim.metric


def rows_of_arms(claim, results):
    """[(label, its arm or None, estimate)]: of a capacity one row for the arms that differ in that flag alone."""
    if claim.outcome == "capacity":
        return [(label, None, results.level(label)) for label in claim.groups()]
    return [(arm.label, arm, results.level(arm.label)) for arm in claim.arms]


def best_loss(claim, records, label):
    """Of a claim about windows: the metric at the best rate, of which the width of a window says nothing."""
    return Results(replace(claim, usable=None, outcome=""), records).level(label)


def unit(claim, comparison):
    """What the numbers of a comparison count."""
    if claim.outcome == "steps" and not comparison.apart:
        return "steps"
    return measured_text(claim) if claim.outcome and not comparison.apart else comparison.metric


def detect_text(claim, finding):
    """What so many pairs of this spread can find, with which power."""
    if math.isnan(finding.detectable):
        return ""
    what = f"{'difference' if finding.comparison.b else 'value'} of {unit(claim, finding.comparison)}"
    return f"; {number(finding.detectable)} beyond the bound: the smallest {what} found with {100 * CHANCE:.0f}% power"


def to_settle(claim, records, finding):
    """(fresh seeds, minutes on two cores) that would settle a comparison which is INCONCLUSIVE, other than of shares,
    either way and with 80% power, were the true difference and spread those that were seen. Seeds are None where no
    number will: that is on the bound. None where nothing is open, or nothing is known of it."""
    e, c, claim = finding.estimate, finding.comparison, recall_claim(claim, records)   # or a matched arm costs nothing
    counted = claim.outcome == "solved" and not c.apart
    open_ = finding.verdict == "INCONCLUSIVE" and claim.kind == "runs" and not counted
    if not open_ or e.count < LEAST_PILOT or not e.spread > 0:
        return None
    likelier, mean = c.predict, e.mean
    if not likelier.has(mean):     # then FAILS is the likelier verdict; outside of a margin both sides are alike
        other = {"above": "below", "below": "above", "within": "above"}[likelier.kind]
        likelier, mean = replace(likelier, kind=other), abs(mean) if likelier.kind == "within" else mean
    chance, _ = mean_chance(replace(c, expect=None, predict=likelier), mean, e.spread, True)
    seeds = seeds_needed(chance, SIGNS)
    rows = [records.get(run.key) for run in claim.runs(claim.seeds)]
    cost = sum((r["seconds"] or 0) * (r["threads"] or 1) for r in rows if r) / len(claim.seeds)
    return seeds, (seeds or 0) * cost / 60 / CORES


def settle_text(claim, records, finding):
    """In words, or nothing."""
    found = to_settle(claim, records, finding)
    if not found:
        return ""
    return f"{found[0]} fresh seeds ({found[1]:.0f} minutes) would settle it, were the difference as seen" if found[0] \
        else "no number of seeds would settle it, were the difference as seen"


def chosen_text(results, claim, arm):
    """The learning rate, or whatever is tuned, that the arm is reported at: one, or all that seeds chose."""
    chosen = {results.chosen(arm, seed) for seed in claim.seeds} - {None}
    return "/".join(" ".join(value for _, value in t) for t in sorted(chosen, key=results.choices.index)) or "-"


def worded(claim, label):
    """An arm's label, its name as the claim file says it in words."""
    known = claim.figure.get("words", {})
    name = next((n for n in sorted(known, key=len, reverse=True) if label == n or label.startswith(n + " ")), None)
    return known[name] + label[len(name):] if name is not None else label


def named(claim, comparison):
    """A comparison's name, with words for its arms and its metric where the claim file gives any."""
    known = claim.figure.get("words", {})
    if comparison.name == "all" not in known:     # one arm, and nothing to tell it from
        return METRICS.get(comparison.metric, comparison.metric).split(" (")[0]
    if not known or comparison.name in known:
        return known.get(comparison.name, comparison.name)
    a, b, metric = worded(claim, comparison.a), worded(claim, comparison.b), comparison.metric
    return replace(comparison, a=a, b=b, metric=known.get(metric) or METRICS.get(metric, metric).split(" (")[0]).name


def diverged_count(claim, records, arm):
    return sum(r["arm"] == arm.label and r["status"] == "diverged" for r in records.values())


def print_outcome(claim, records):
    print("\n" + "\n".join(outcome_lines(claim, records)))


def outcome_lines(claim, records):
    """What the records say, as a table, the comparisons and the verdict."""
    outcome, results = evaluate(claim, records), Results(claim, records)
    rows, at_edge = rows_of_arms(claim, results), rate_edges(claim, results)
    width = max([len(label) for label, _, _ in rows] + [3])
    aside = "loss at the best rate" if claim.usable else ""
    lines = [f"{'arm':<{width}}  {'lr':>10}  {measured_text(claim)}: {claim.spread}{'; ' * bool(aside)}{aside}"]
    for label, arm, e in rows:
        rate = chosen_text(results, claim, arm) if arm and not claim.usable else ""
        gone = diverged_count(claim, records, arm) if arm else 0
        edge = f"  best rate is the list's edge: {at_edge[label]}" if label in at_edge else ""
        lines.append(f"{label:<{width}}  {rate:>10}  {level(e)}" + (f"  {gone} diverged" if gone else "") + edge
                     + (f"; {level(best_loss(claim, records, label))}" if aside and not outcome.missing else ""))
    for f in outcome.findings:
        judged = f"predicted {f.comparison.predict}: {f.verdict}; " if claim.thesis else ""
        sure = f"p {f.p:.3g}" if claim.kind == "runs" else f"{f.estimate.count} values"
        more = "".join(f"; {text}" for text in (f.note, settle_text(claim, records, f)) if text)
        lines.append(f"{named(claim, f.comparison)}: {effect(f)}, {judged}{sure}{detect_text(claim, f)}{more}")
    lines += [f"note     {note}" for note in outcome.notes]
    if claim.thesis:
        lines.append(f"verdict  {outcome.verdict}"
                     + (f": {outcome.missing} runs are missing" if outcome.missing else ""))
    return lines


def solved_facts(results, claim, arm):
    """How many seeds solve the task within their steps: at the arm's best rate, with the exact interval of that share,
    and at every rate."""
    n, label = len(claim.seeds), arm.label
    low, high = clopper_pearson(n - results.censored(label), n)
    found = {f"{label}: solved": f"{n - results.censored(label)} of {n}",
             f"{label}: share": f"{100 * low:.0f} to {100 * high:.0f}%"}
    for tuned in results.choices if len(results.choices) > 1 else []:
        steps = [results.steps(arm, tuned, seed) for seed in claim.seeds]
        if None not in steps:
            name = f"{label} at {' '.join(value for _, value in tuned)}"
            solved = sum(results.solves(arm, tuned, seed) for seed in claim.seeds)
            found |= {f"{name}: solved": f"{solved} of {n}", f"{name}: mean": number(sum(steps) / n)}
    return found


def facts(claim, records):
    """{name: text}: everything that a page may quote about a claim."""
    claim = recall_claim(claim, records)
    outcome, results = evaluate(claim, records, notes=False), Results(claim, records)
    seconds = sum((r["seconds"] or 0) * (r["threads"] or 1) for r in records.values())
    found = {"verdict": outcome.verdict, "runs": str(len(records)), "minutes": f"{seconds / 60 / CORES:.1f}",
             "seeds": str(len(claim.seeds)), "diverged": str(sum(r["status"] == "diverged" for r in records.values()))}
    for f in outcome.findings:
        e, name = f.estimate, f.comparison.name
        told = {"effect": effect(f), "mean": number(e.mean) if f.comparison.ratio else signed(e.mean),
                "low": signed(e.low), "high": signed(e.high),
                "p": f"{f.p:.2g}", "detectable": number(f.detectable)}
        found |= {name: f.verdict, **{f"{name}: {what}": text for what, text in told.items()}}
        if f.note:
            found[f"{name}: note"] = f.note
        if needed := to_settle(claim, records, f):
            found |= {f"{name}: seeds to settle": str(needed[0] or "-"),
                      f"{name}: minutes to settle": f"{needed[1]:.0f}"}
    if claim.kind == "timing" and not claim.record:
        found["machine"] = ", ".join(sorted({r["cpu"] for r in records.values() if r["cpu"]})) or "-"
    for label, arm, e in rows_of_arms(claim, results) if not claim.record else []:
        found |= {f"{label}: mean": number(e.mean), f"{label}: level": level(e)}
        if claim.outcome == "window":
            ends = results.window_ends(label) or (math.nan, math.nan)
            found |= {f"{label}: from": rate(ends[0]), f"{label}: to": rate(ends[1])}
        if claim.outcome == "solved":
            found[f"{label}: solved"] = f"{round(e.mean * e.count)} of {e.count}" if e.count else "-"
        if claim.outcome == "steps" and e.count:
            found |= solved_facts(results, claim, arm)
        if claim.outcome == "capacity" and math.isfinite(e.mean):
            found[f"{label}: capacity"] = number(2 ** e.mean)
            if ends := results.neighbours(label):
                found[f"{label}: between"] = " to ".join(f"{x:.4g}" for x in ends)
        kept = {r["kept_bytes"] for r in records.values() if r["arm"] == label} if claim.metric == "answered" else ()
        if len(kept) == 1 and None not in kept:
            found[f"{label}: bytes"] = f"{max(kept):,.0f}"
        if arm:
            found |= {f"{label}: lr": chosen_text(results, claim, arm),
                      f"{label}: diverged": str(diverged_count(claim, records, arm))}
        if claim.usable and not outcome.missing:
            found[f"{label}: loss"] = number(best_loss(claim, records, label).mean)
    if told := edges(claim, results):
        found["edges"] = told[0].partition(": ")[2]
    lines = baseline.of_claim(claim)
    if lines and claim.metric in lines:
        found["elimination"] = number(lines[claim.metric])
        if claim.metric == "accuracy" and not claim.outcome:
            found |= {f"{label}: above elimination": number((e.mean - lines["accuracy"]) / (1 - lines["accuracy"]))
                      for label, _, e in rows_of_arms(claim, results)}
    if claim.usable and not outcome.missing:
        found |= {f"verdict at {bound:g}": verdict for bound, verdict in at_thresholds(claim, records).items()}
    return found
