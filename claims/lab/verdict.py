"""verdict.py: from the records of a claim to its verdict. Nothing here trains, and nothing is written by hand.

Comparisons are paired by seed: the same seed is the same data stream, and the same initial weights wherever shapes
agree. Each arm stands at its best learning rate, chosen on the tuning seeds, or where there are none, for each seed on
the others: never on the seed that is reported.

A comparison HOLDS where its 95% interval lies in the predicted region, and is then called EQUIVALENT if the region is a
margin around no difference. The claim HOLDS if every comparison of its thesis does. That is an intersection-union test
(Berger 1982): it errs only where a comparison that is not so is found to be so, each at its own level, and it needs no
correction. One comparison that FAILS is enough to refute, so there Holm's correction is over those of the thesis. A
control is no finding: it stays out of that family, and where it does not hold the claim says nothing.

A claim of exact quantities has no spread: all values lie in the region, or one that does not refutes it. So has a claim
of timings, of one machine and no other.
"""
import math
import re
from dataclasses import dataclass, field, replace

from . import baseline
from .claim import Run
from .command import UsageError
from .records import solved_at
from .stats import (LEVEL, Estimate, bootstrap, bootstrap_estimate, crossing, decided, detectable, ends_below, holm,
                    p_bootstrap, p_shares, p_values, share, share_difference, width_below)

GOOD = ("HOLDS", "EQUIVALENT")


@dataclass
class Finding:
    """One comparison."""
    comparison: object
    estimate: Estimate
    p: float            # of the likelier of "as predicted" and "not so", the latter Holm-adjusted
    verdict: str        # HOLDS, EQUIVALENT, FAILS, INCONCLUSIVE
    detectable: float   # how far beyond its bound this many pairs of this spread find a difference in 4 cases of 5
    differences: list = field(default_factory=list)
    note: str = ""


@dataclass
class Outcome:
    verdict: str        # HOLDS, FAILS, INCONCLUSIVE, or OPEN: runs are missing
    findings: list
    missing: int
    notes: list


@dataclass
class Evidence:
    """What a comparison rests on, before the family is corrected for."""
    estimate: Estimate
    holds: float        # p-values, two-sided: it is as predicted; it is not
    fails: float
    sample: list
    detectable: float = math.nan
    note: str = ""


class Results:
    """The records of a claim, as its arms and seeds ask for them."""

    def __init__(self, claim, records):
        self.claim, self.records = claim, records
        self.choices = [run.tuned for run in claim.runs([0]) if run.arm == claim.arms[0]]

    def row(self, arm, tuned, seed):
        return self.records.get(Run(arm, tuned, seed).key)

    def value(self, arm, tuned, seed, metric):
        """The metric of one run: nan where it diverged, None where the run is missing."""
        row = self.row(arm, tuned, seed)
        if row is None or row["status"] == "failed":
            return None
        if row["status"] == "finished" and row.get(metric) is None:
            raise UsageError(f"{self.claim.name or 'this sweep'}: a finished run has no {metric}: {row['flags']}")
        return row[metric] if row["status"] == "finished" else math.nan

    def counted(self, value, metric):
        """The same as it enters a comparison: a diverged run counts as the worst that the claim names, and no run as
        worse than that."""
        worst = self.claim.worst
        if worst is None or value is None or metric != self.claim.metric:
            return value
        if math.isnan(value):
            return worst
        return min(value, worst) if self.claim.better == "lower" else max(value, worst)

    def scores(self, arm, seed):
        """What decides on the arm's tuned flags for reporting this seed, lower being better; None while runs that
        decide are missing. Where seeds are counted, by how many solve and then by the metric."""
        others = self.claim.tune_seeds or [s for s in self.claim.seeds if s != seed] or self.claim.seeds
        sign, scores = 1 if self.claim.better == "lower" else -1, []
        for tuned in self.choices:
            values = [self.value(arm, tuned, s, self.claim.metric) for s in others]
            if None in values:
                return None
            scores.append((self.counted_score(arm, tuned, others),
                           sum(math.inf if math.isnan(v) else sign * v for v in values)))
        return scores

    def counted_score(self, arm, tuned, seeds):
        if self.claim.outcome == "solved":
            return -sum(self.is_solved(self.value(arm, tuned, s, self.claim.metric)) for s in seeds)
        if self.claim.outcome == "steps":
            return sum(self.steps(arm, tuned, s) for s in seeds)
        return 0

    def is_solved(self, value):
        """A run that diverged has not."""
        return self.claim.threshold.has(value)

    def steps(self, arm, tuned, seed):
        """Steps until the task is solved, and where it never is, all that there were: the restricted time, whose mean
        needs no assumption about what would have come after (Royston and Parmar 2013)."""
        row = self.row(arm, tuned, seed)
        if row is None or row["status"] == "failed":
            return None
        at, last = solved_at(row, self.claim.metric, self.claim.threshold)
        return self.budget(row) if at is None else at

    def solves(self, arm, tuned, seed):
        """Whether this run solved the task within its steps."""
        row = self.row(arm, tuned, seed)
        return row is not None and solved_at(row, self.claim.metric, self.claim.threshold)[0] is not None

    def budget(self, row):
        found = re.search(r"--steps (\d+)", row["flags"])
        if not found:
            raise UsageError(f"{self.claim.name}: outcome = \"steps\" needs --steps in the command")
        return int(found[1])

    def censored(self, label):
        """Seeds of the arm that do not solve within their steps."""
        arm, count = self.claim.arm(label), 0
        for seed in self.claim.seeds:
            tuned = self.chosen(arm, seed) or ()
            count += self.row(arm, tuned, seed) is not None and not self.solves(arm, tuned, seed)
        return count

    def chosen(self, arm, seed):
        """The arm's best value of the tuned flags for reporting this seed: of equal ones the first of the list."""
        scores = [(0, 0)] if len(self.choices) == 1 else self.scores(arm, seed)
        return scores and self.choices[scores.index(min(scores))]

    def best(self, arm, seed, metric):
        tuned = self.chosen(arm, seed)
        return None if tuned is None else self.counted(self.value(arm, tuned, seed, metric), metric)

    def window(self, arm, seed):
        """How wide the window of usable learning rates is, in factors of ten: each of the grid stands for its cell."""
        values = [self.value(arm, tuned, seed, self.claim.metric) for tuned in self.choices]
        if None in values:
            return None
        return sum(map(self.is_usable, values)) * self.cell()

    def is_usable(self, value):
        limit = self.claim.usable
        return value < limit.bound if limit.kind == "below" else value > limit.bound  # nan is neither

    def cell(self):
        rates = sorted(float(dict(tuned)["lr"]) for tuned in self.choices)
        return math.log10(rates[-1] / rates[0]) / (len(rates) - 1) if len(rates) > 1 else 1.0

    def measure(self, label, seed, metric):
        """What a comparison compares: the window, whether or when it is solved, or the metric at the arm's best."""
        arm = self.claim.arm(label)
        if self.is_window(metric):
            return self.window(arm, seed)
        if metric != self.claim.metric or self.claim.outcome not in ("solved", "steps"):
            return self.best(arm, seed, metric)
        tuned = self.chosen(arm, seed)
        if tuned is None:
            return None
        if self.claim.outcome == "steps":
            return self.steps(arm, tuned, seed)
        value = self.value(arm, tuned, seed, metric)
        return None if value is None else float(self.is_solved(value))

    # ---- of all seeds together ----
    def curve(self, label, seeds):
        """Where a group of arms stands along the flag, or an arm along the learning rates, and its mean over the seeds
        there, turned so that usable is above; None where a run is missing."""
        claim, sign = self.claim, 1 if self.claim.better == "higher" else -1
        if claim.outcome == "window":
            arm, bound = claim.arm(label), claim.usable
            sign = 1 if bound.kind == "above" else -1
            order = sorted(self.choices, key=lambda tuned: float(dict(tuned)["lr"]))
            places = [math.log10(float(dict(tuned)["lr"])) for tuned in order]
            rows = [[self.value(arm, tuned, s, claim.metric) for s in seeds] for tuned in order]
        else:
            arms = claim.groups()[label]
            places = [math.log2(float(dict(arm.flags)[claim.along])) for arm in arms]
            rows = [[self.best(arm, s, claim.metric) for s in seeds] for arm in arms]
        if any(v is None for row in rows for v in row):
            return None
        return places, [[-math.inf if math.isnan(v) else sign * v for v in row] for row in rows], sign

    def place(self, curve, positions):
        """The capacity in doublings, or the window in factors of ten, of these seeds."""
        places, rows, sign = curve
        means = [sum(row[i] for i in positions) / len(positions) for row in rows]
        if self.claim.outcome == "window":
            return width_below(places, [-m for m in means], -sign * self.claim.usable.bound)
        return crossing(places, means, sign * self.claim.threshold.bound)

    def neighbours(self, label):
        """The two values of the list between which a capacity lies, or None where it is beyond either end."""
        curve = self.curve(label, self.claim.seeds)
        if curve is None:
            return None
        places, rows, sign = curve
        above = [sum(row) / len(row) > sign * self.claim.threshold.bound for row in rows]
        if all(above) or not above[0]:
            return None
        first = above.index(False)
        return 2 ** places[first - 1], 2 ** places[first]

    def window_ends(self, label):
        """The lowest and the highest learning rate of an arm's window, of all seeds; None where it is empty or runs are
        missing."""
        curve = self.curve(label, self.claim.seeds)
        if curve is None:
            return None
        places, rows, sign = curve
        ends = ends_below(places, [-sum(row) / len(row) for row in rows], -sign * self.claim.usable.bound)
        return ends and [10 ** x for x in ends]

    def level(self, label):
        """An arm's own estimate: the number that stands for it in tables and pictures."""
        claim = self.claim
        if claim.outcome in ("capacity", "window"):
            curve, n = self.curve(label, claim.seeds), len(claim.seeds)
            return decided([]) if curve is None else \
                bootstrap_estimate(*bootstrap(lambda at: self.place(curve, at), n), n)
        values = [self.measure(label, seed, claim.metric) for seed in claim.seeds]
        values = [v for v in values if v is not None and not math.isnan(v)]
        if claim.kind != "runs":
            return span(values)
        return share(values) if claim.outcome == "solved" else decided(values)

    def is_window(self, metric):
        return self.claim.usable is not None and metric == self.claim.metric and not self.claim.outcome

    def is_coarse(self, metric):
        """Windows are whole numbers of cells, and an answer is mostly found by all of a seed's tokens or by few: n such
        values prove no more than n equal signs do, however little they vary."""
        return metric == "accuracy" or self.is_window(metric)

    def sample(self, comparison, seeds=None):
        """The differences by seed (or values, where nothing is compared with); None for what is missing."""
        def one(seed):
            a = self.measure(comparison.a, seed, comparison.metric)
            b = self.measure(comparison.b, seed, comparison.metric) if comparison.b else 0.0
            if a is None or b is None:
                return None
            return a / b if comparison.b and (self.claim.kind == "timing" or comparison.ratio) else a - b
        return [one(seed) for seed in seeds or self.claim.seeds]


def wanted(claim, records):
    """The runs that the claim's reported numbers come from and that can be named by now, and how many cannot yet."""
    if claim.tune_seeds and claim.usable is None and len(claim.runs([0])) > len(claim.arms):
        results = Results(claim, records)
        seeds = claim.pilot_seeds + claim.seeds
        chosen = [(arm, seed, results.chosen(arm, seed)) for seed in seeds for arm in claim.arms]
        reported = [Run(arm, tuned, seed) for arm, seed, tuned in chosen if tuned is not None]
        return claim.runs(claim.tune_seeds) + reported, len(chosen) - len(reported)
    return claim.runs(claim.pilot_seeds + claim.seeds), 0


def least_p(count):
    """The two-sided sign test of so many equal signs."""
    return 2 * 0.5 ** count


def span(values):
    """Of exact or timed values: their mean, and the smallest and largest as the interval."""
    if not values:
        return Estimate(math.nan, -math.inf, math.inf, math.nan, 0)
    return Estimate(sum(values) / len(values), min(values), max(values), 0.0 if min(values) == max(values) else
                    math.nan, len(values))


def together(claim, results, comparison):
    """Evidence about a capacity or a window of all seeds: the same seeds are drawn for both arms."""
    n = len(claim.seeds)
    curves = [results.curve(label, claim.seeds) for label in (comparison.a, comparison.b) if label]
    if None in curves:
        return Evidence(decided([]), 1.0, 1.0, [])

    def statistic(positions):
        found = [results.place(curve, positions) for curve in curves]
        return found[0] - found[1] if len(found) > 1 else found[0]
    value, samples = bootstrap(statistic, n)
    ends = []
    for label, curve in zip((comparison.a, comparison.b), curves):
        places = curve[0]
        if claim.outcome == "capacity" and results.place(curve, list(range(n))) in (places[0], places[-1]):
            ends.append(f"{label} stays on one side of the threshold over the whole list: its capacity is a bound")
    return Evidence(bootstrap_estimate(value, samples, n), *p_bootstrap(samples, comparison.predict, n), [],
                    note="; ".join(ends))


def certain(claim, comparison, values):
    """Evidence without chance: every value in the region, or for a refutation one (exact) or all (timing) outside."""
    inside = [comparison.predict.has(v) for v in values]
    refuted = not all(inside) if claim.kind == "exact" else not any(inside)
    found = bool(values)
    return Evidence(span(values), 0.0 if found and all(inside) else 1.0, 0.0 if found and refuted else 1.0, values)


def weigh(claim, results, comparison):
    """The evidence about one comparison."""
    counted = comparison.metric == claim.metric
    if counted and claim.outcome in ("capacity", "window"):
        return together(claim, results, comparison)
    every = results.sample(comparison)
    sample = [d for d in every if d is not None and not math.isnan(d)]
    gone = sum(d is not None and math.isnan(d) for d in every)
    note = f"{gone} of {len(every)} pairs have a run without this number" if gone else ""
    if claim.kind != "runs":
        return certain(claim, comparison, sample if len(sample) == len(every) else [])
    if counted and claim.outcome == "solved":
        e = share_difference(sample) if comparison.b else share(sample)
        holds, fails = p_shares(sample, comparison.predict, bool(comparison.b)) if sample else (1.0, 1.0)
        if comparison.b:
            note = "solved by one arm alone: {}:{}".format(*(sum(d * way > 0 for d in sample) for way in (1, -1)))
    else:
        e = decided(sample)
        least = least_p(len(sample)) if results.is_coarse(comparison.metric) else 0.0
        holds, fails = (max(least, p) for p in p_values(sample, comparison.predict))
    if counted and claim.outcome == "steps":
        arms = [label for label in (comparison.a, comparison.b) if label]
        note = ", ".join(f"{label}: {results.censored(label)} of {len(every)} unsolved" for label in arms)
    if len(sample) < len(every):
        holds = fails = 1.0
    of_shares = counted and claim.outcome == "solved"
    return Evidence(e, holds, fails, sample, math.nan if of_shares else detectable(e.spread, e.count), note)


def find(claim, results):
    evidence = [weigh(claim, results, c) for c in claim.comparisons]
    thesis = [i for i, c in enumerate(claim.comparisons) if c.role == "thesis"]
    fails = {i: e.fails for i, e in enumerate(evidence)}
    fails |= dict(zip(thesis, holm([evidence[i].fails for i in thesis])))
    findings = []
    for i, (comparison, e) in enumerate(zip(claim.comparisons, evidence)):
        verdict = "INCONCLUSIVE"
        if e.holds < LEVEL:
            verdict = "EQUIVALENT" if comparison.predict.kind == "within" and comparison.b else "HOLDS"
        elif fails[i] < LEVEL:
            verdict = "FAILS"
        p = e.holds if verdict in GOOD else min(e.holds, fails[i])
        findings.append(Finding(comparison, e.estimate, p, verdict, e.detectable, e.sample, e.note))
    return findings


def rate_edges(claim, results):
    """{label: where in its list}: rows whose best learning rate is, for one seed or more, the first or last of the
    list, so that a wider list might find a better one. Of one or two rates every one is. Only a training has a rate."""
    if claim.usable is not None or claim.kind != "runs" or claim.program != "train":
        return {}
    rates = sorted((dict(tuned)["lr"] for tuned in results.choices if "lr" in dict(tuned)), key=float)
    if len(rates) < 2:
        return dict.fromkeys(claim.groups(), "it is the only one")
    found, ends = {}, {rates[0]: "lowest", rates[-1]: "highest"}
    for label, arms in claim.groups().items():
        chosen = [dict(t)["lr"] for arm in arms for t in (results.chosen(arm, s) for s in claim.seeds) if t]
        at = [name for rate, name in ends.items() if rate in chosen]
        some = " on some seeds" if any(rate not in ends for rate in chosen) else ""
        if at:
            found[label] = f"{' or '.join(at)} of {len(rates)}{some}"
    return found


def edges(claim, results):
    """The same as one note: 'best learning rate at the edge of the list: a, b (highest of 3), c (lowest of 3)'."""
    if claim.usable is not None:
        return open_windows(claim, results)
    found, groups = rate_edges(claim, results), {}
    for label, where in found.items():
        groups.setdefault(where, []).append(label)
    if len(groups) == 1 and len(found) == len(claim.groups()) > 1:
        return [f"best learning rate at the edge of the list: all arms ({next(iter(groups))})"]
    told = ", ".join(f"{', '.join(labels)} ({where})" for where, labels in groups.items())
    return [f"best learning rate at the edge of the list: {told}"] if told else []


def free(claim):
    """What of the claim elimination reaches alone, which binds nothing (baseline.py): thresholds that it passes, and
    comparisons of arms of which it reaches more in one. Notes that name the metric which counts from there."""
    reached, notes = {arm.label: baseline.of_flags(dict(arm.flags)) for arm in claim.arms}, []
    above = {metric: name for name, metric in baseline.ABOVE.items()}

    def note(text, metric):
        notes.append(f"{text}; {above.get(metric, next(iter(baseline.ABOVE)))} counts from there")
    if claim.threshold:
        passed = [label for label, e in reached.items() if claim.metric in e and claim.threshold.has(e[claim.metric])]
        if passed:
            note(f"a model that binds nothing passes {claim.metric} {claim.threshold} in: {', '.join(passed)}",
                 claim.metric)
    for c in claim.comparisons:
        if c.metric == claim.metric and claim.outcome:
            continue
        a, b = (reached.get(label, {}).get(c.metric) for label in (c.a, c.b))
        good = "above" if c.metric == "accuracy" else "below"
        if not c.b and a and c.predict.kind == good and c.predict.has(a):
            note(f"a model that binds nothing passes {c.name}, predicted {c.predict}", c.metric)
        if c.b and None not in (a, b) and a != b:
            note(f"of {c.name} a model that binds nothing has a difference too, {a - b:+.3g} of {c.metric}", c.metric)
    return notes


def ties(claim, results):
    """Arms of whose learning rates several are equally good on the seeds that choose: a coin was tossed."""
    if claim.usable is not None or len(results.choices) < 2:
        return []
    scores = {arm.label: [results.scores(arm, seed) for seed in claim.seeds] for arm in claim.arms}
    tied = [label for label, every in scores.items() if any(s and s.count(min(s)) > 1 for s in every)]
    return [f"learning rates tie on the seeds that choose, and the first was taken: {', '.join(tied)}"] if tied else []


def open_windows(claim, results):
    """Arms whose window reaches the first or last learning rate of the list: it may be wider than what was counted."""
    choices = sorted(results.choices, key=lambda tuned: float(dict(tuned)["lr"]))
    ends = [(tuned, seed) for tuned in (choices[0], choices[-1]) for seed in claim.seeds]
    values = {arm.label: [results.value(arm, *end, claim.metric) for end in ends] for arm in claim.arms}
    cut = [label for label, at in values.items() if any(v is not None and results.is_usable(v) for v in at)]
    return [f"the window reaches an end of the list, and may be wider than counted: {', '.join(cut)}"] if cut else []


THRESHOLDS = (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5)   # of the bound that a claim picked


def at_thresholds(claim, records):
    """{bound: verdict} of a claim about windows, had another bound been picked. One that changes is no property of the
    arms but of the bound."""
    if claim.usable is None:
        return {}
    found = {}
    for factor in THRESHOLDS:
        bound = round(factor * claim.usable.bound, 6)
        moved = replace(claim, usable=replace(claim.usable, bound=bound))
        found[bound] = verdict_of(find(moved, Results(moved, records)))
    return found


def threshold_note(claim, records):
    """In one line: 'FAILS with windows below 1.2, 1.4; HOLDS with 1.6, 1.8, 2'."""
    verdicts = at_thresholds(claim, records)
    groups = {}
    for bound, verdict in verdicts.items():
        groups.setdefault(verdict, []).append(f"{bound:g}")
    if not groups:
        return []
    told = "; ".join(f"{verdict} at {', '.join(bounds)}" for verdict, bounds in groups.items())
    hangs = "the verdict hangs on the bound that was picked" if len(groups) > 1 else "the same at every bound"
    return [f"windows by other bounds, {hangs}: {told}"]


def from_measured(claim):
    """The outcome of a claim about a record of bench/bench."""
    findings = []
    for comparison in claim.comparisons:
        values = [selected(claim.measured, label, claim.record) for label in (comparison.a, comparison.b) if label]
        if len(values) > 1 and len(values[0]) != len(values[1]):
            raise UsageError(f"{claim.name}: '{comparison.name}' compares {len(values[0])} rows with {len(values[1])}")
        ratios = [x / y for x, y in zip(*values)] if len(values) > 1 else values[0]
        e = certain(claim, comparison, ratios)
        verdict = "HOLDS" if e.holds < LEVEL else "FAILS" if e.fails < LEVEL else "INCONCLUSIVE"
        findings.append(Finding(comparison, e.estimate, min(e.holds, e.fails), verdict, math.nan, ratios))
    cpu = claim.measured.get("machine", {}).get("cpu", "unknown")
    return Outcome(verdict_of(findings), findings, 0, [f"measured on one machine: {cpu}"])


def selected(found, text, name):
    """'attention context=8192: forward.times_naive.median': of these rows of a section, this number of each."""
    where, _, path = text.partition(": ")
    section, *filters = where.split()
    rows = found.get("sections", {}).get(section, [])
    for part in filters:
        key, _, value = part.partition("=")
        rows = [row for row in rows if str(row.get(key)) == value]
    values = []
    for row in rows:
        for key in path.split("."):
            row = row.get(key) if isinstance(row, dict) else None
        values.append(row)
    if not values or not all(isinstance(v, (int, float)) for v in values):
        raise UsageError(f"claims/results/{name} has no number '{text}'")
    return values


def evaluate(claim, records, notes=True):
    """notes: also what makes a number weaker than it looks."""
    if claim.record:
        return from_measured(claim) if claim.measured else Outcome("OPEN", [], 1, [])
    results = Results(claim, records)
    runs, unnamed = wanted(claim, records)
    rows = [records.get(run.key) for run in runs]
    missing = sum(row is None or row["status"] == "failed" for row in rows) + unnamed
    findings = find(claim, results)
    if not notes:
        return Outcome("OPEN" if missing else verdict_of(findings), findings, missing, [])
    notes = [f"{sum(r is not None and r['status'] == 'diverged' for r in rows)} of {len(rows)} runs diverged"]
    failed = sum(row is not None and row["status"] == "failed" for row in rows)
    notes += [f"{failed} runs failed; claims/sweep --retry trains them again"] if failed else []
    notes += edges(claim, results) + ties(claim, results) + free(claim)
    notes += threshold_note(claim, records) if not missing else []
    if len(claim.seeds) == 1 and not claim.tune_seeds and len(results.choices) > 1 and claim.usable is None:
        notes.append("one seed both chooses the learning rate and is reported: the numbers are too good")
    return Outcome("OPEN" if missing else verdict_of(findings), findings, missing, notes)


def verdict_of(findings):
    thesis = [f.verdict for f in findings if f.comparison.role == "thesis"]
    if any(f.verdict not in GOOD for f in findings if f.comparison.role == "control"):
        return "INCONCLUSIVE"
    if "FAILS" in thesis:
        return "FAILS"
    return "HOLDS" if thesis and set(thesis) <= set(GOOD) else "INCONCLUSIVE"
