"""report.py: what the records of a claim say, as lines for a terminal and as the facts that texts may quote."""
import math
from dataclasses import replace

import numpy

from .match import recall_claim
from .stats import LEVEL, detectable, estimate
from .verdict import Results, evaluate, least_p

CORES = 2   # minutes are told as those of two cores, however many runs went at once


def number(x):
    """Four digits: 0.1234, 12.35, 1235, 1.235e+06."""
    if x is None or not math.isfinite(x):
        return "-"
    whole = len(str(int(abs(x))))
    return f"{x:.4f}" if abs(x) < 1 else f"{x:.{max(0, 4 - whole)}f}" if whole <= 6 else f"{x:.4g}"


def signed(x):
    return "-" if not math.isfinite(x) else ("+" if x >= 0 else "\u2212") + number(abs(x))


def is_point(e):
    """All seeds agree: there is no spread from which an interval could follow."""
    return e.count > 1 and e.spread <= 1e-12 * abs(e.mean)


def interval(e):
    if is_point(e):
        return f"[all {e.count} equal]"
    return f"[{signed(e.low)}, {signed(e.high)}]" if math.isfinite(e.low) else "[one seed]"


def level(e):
    """'0.1234 [0.1001, 0.1467]': a value, which has no sign."""
    if is_point(e):
        return f"{number(e.mean)} {interval(e)}"
    return f"{number(e.mean)} [{number(e.low)}, {number(e.high)}]" if math.isfinite(e.low) else number(e.mean)


def effect(finding):
    """'+0.1234 [+0.1001, +0.1467]': a difference, or the value of an arm that is compared with nothing."""
    e = finding.estimate
    return f"{signed(e.mean)} {interval(e)}" if finding.comparison.b else level(e)


# ---- before the reported seeds ----------------------------------------------------------------------
def pilot_spread(claim, records, seeds, comparisons):
    """The standard deviation of a paired difference, pooled over the comparisons, on the pilot's seeds: each arm at the
    learning rate that these seeds choose. nan where there are too few."""
    results, squares, freedom = Results(replace(claim, seeds=list(seeds), tune_seeds=[]), records), 0.0, 0
    for comparison in comparisons:
        sample = [d for d in results.sample(comparison, seeds) if d is not None and not math.isnan(d)]
        if len(sample) > 1:
            squares, freedom = squares + float(numpy.var(sample) * len(sample)), freedom + len(sample) - 1
    return math.sqrt(squares / freedom) if freedom else math.nan


def print_power(claim, records, pilot):
    """For each metric, the smallest difference of two arms that the reported seeds can be expected to find."""
    pairs = [c for c in claim.comparisons if c.b]
    if len(claim.seeds) < 2:
        return
    for metric in dict.fromkeys(c.metric for c in pairs):
        spread = pilot_spread(claim, records, pilot, [c for c in pairs if c.metric == metric])
        of = f" of {metric}" if metric != claim.metric else ""
        if math.isnan(spread):
            print(f"power    unknown{of}: the pilot has fewer than two seeds of a comparison")
            continue
        if not spread > 0:
            print(f"power    unknown{of}: the differences of {len(pilot)} seeds are equal")
            continue
        least = detectable(spread, len(claim.seeds), len(claim.comparisons))
        print(f"power    pilot of {len(pilot)} seeds: differences{of} vary by {number(spread)}; {len(claim.seeds)} "
              f"seeds find one that lies {number(least)} beyond a bound in 4 cases of 5 ({len(claim.comparisons)} "
              "comparisons, Holm)")
    results = Results(claim, records)
    coarse = any(results.is_coarse(c.metric) for c in claim.comparisons)
    if coarse and len(claim.comparisons) * least_p(len(claim.seeds)) >= LEVEL:
        print(f"power    {len(claim.seeds)} seeds are few for {len(claim.comparisons)} comparisons of values that come "
              "in cells or in two kinds: even if all agree, the verdict may stay INCONCLUSIVE")


# ---- after ---------------------------------------------------------------------------------------
def arm_values(claim, results, arm):
    """The metric by seed at the arm's best, or its window."""
    values = [results.measure(arm.label, seed, claim.metric) for seed in claim.seeds]
    return [v for v in values if v is not None and not math.isnan(v)]


def chosen_text(results, claim, arm):
    """The learning rate, or whatever is tuned, that the arm is reported at: one, or all that seeds chose."""
    chosen = {results.chosen(arm, seed) for seed in claim.seeds} - {None}
    return "/".join(" ".join(value for _, value in t) for t in sorted(chosen, key=results.choices.index)) or "-"


def diverged_count(claim, records, arm):
    return sum(r["arm"] == arm.label and r["status"] == "diverged" for r in records.values())


def print_outcome(claim, records):
    outcome, results = evaluate(claim, records), Results(claim, records)
    width = max(len(arm.label) for arm in claim.arms)
    what = "window of learning rates (factors of ten)" if claim.usable else claim.metric
    print(f"\n{'arm':<{width}}  {'lr':>10}  {what}: mean and 95% t-interval")
    for arm in claim.arms:
        e = estimate(arm_values(claim, results, arm))
        gone = diverged_count(claim, records, arm)
        print(f"{arm.label:<{width}}  {chosen_text(results, claim, arm) if not claim.usable else '':>10}  "
              f"{level(e)}" + (f"  {gone} diverged" if gone else ""))
    for f in outcome.findings:
        detail = f"p {f.p:.3g}" + ("" if math.isnan(f.detectable) else f", can detect {number(f.detectable)}")
        detail += f"; {f.note}" if f.note else ""
        judged = f"predicted {f.comparison.predict}: {f.verdict}; " if claim.thesis else ""
        print(f"{f.comparison.name}: {effect(f)}, {judged}{detail}")
    for note in outcome.notes:
        print(f"note     {note}")
    if claim.thesis:
        print(f"verdict  {outcome.verdict}" + (f": {outcome.missing} runs are missing" if outcome.missing else ""))


def facts(claim, records):
    """{name: text}: everything that a page may quote about a claim."""
    claim = recall_claim(claim, records)
    outcome, results = evaluate(claim, records), Results(claim, records)
    seconds = sum((r["seconds"] or 0) * (r["threads"] or 1) for r in records.values())
    found = {"verdict": outcome.verdict, "runs": str(len(records)), "minutes": f"{seconds / 60 / CORES:.1f}",
             "seeds": str(len(claim.seeds)), "diverged": str(sum(r["status"] == "diverged" for r in records.values()))}
    for f in outcome.findings:
        e, name = f.estimate, f.comparison.name
        told = {"effect": effect(f), "mean": signed(e.mean), "low": signed(e.low), "high": signed(e.high),
                "p": f"{f.p:.2g}", "detectable": number(f.detectable)}
        found |= {name: f.verdict, **{f"{name}: {what}": text for what, text in told.items()}}
    for arm in claim.arms:
        e = estimate(arm_values(claim, results, arm))
        found |= {f"{arm.label}: mean": number(e.mean), f"{arm.label}: lr": chosen_text(results, claim, arm),
                  f"{arm.label}: diverged": str(diverged_count(claim, records, arm))}
    return found
