"""verdict.py: from the records of a claim to its verdict. Nothing here trains, and nothing is written by hand.

Comparisons are paired by seed: the same seed is the same data stream, and the same initial weights wherever shapes
agree. Each arm stands at its best learning rate, chosen on the tuning seeds, or where there are none, for each seed on
the others: never on the seed that is reported. A comparison HOLDS where the whole (Holm-adjusted) evidence lies in the
predicted region, FAILS where it lies outside, and is INCONCLUSIVE otherwise. The claim HOLDS if every comparison of its
thesis does, FAILS if one of them fails, and says nothing if a control does not hold.
"""
import math
from dataclasses import dataclass, field

from .claim import Run
from .command import UsageError
from .stats import LEVEL, Estimate, detectable, estimate, holm, p_values


@dataclass
class Finding:
    """One comparison."""
    comparison: object
    estimate: Estimate
    p: float            # of the likelier of "as predicted" and "not so", Holm-adjusted
    verdict: str
    detectable: float   # the smallest difference that this many pairs of this spread find in 4 cases of 5
    differences: list = field(default_factory=list)
    note: str = ""


@dataclass
class Outcome:
    verdict: str        # HOLDS, FAILS, INCONCLUSIVE, or OPEN: runs are missing
    findings: list
    missing: int
    notes: list


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
        decide are missing."""
        others = self.claim.tune_seeds or [s for s in self.claim.seeds if s != seed] or self.claim.seeds
        sign, scores = 1 if self.claim.better == "lower" else -1, []
        for tuned in self.choices:
            values = [self.value(arm, tuned, s, self.claim.metric) for s in others]
            if None in values:
                return None
            scores.append(sum(math.inf if math.isnan(v) else sign * v for v in values))
        return scores

    def chosen(self, arm, seed):
        """The arm's best value of the tuned flags for reporting this seed: of equal ones the first of the list."""
        scores = [0] if len(self.choices) == 1 else self.scores(arm, seed)
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
        """What a comparison compares: the window, or the metric at the arm's best."""
        arm = self.claim.arm(label)
        return self.window(arm, seed) if self.is_window(metric) else self.best(arm, seed, metric)

    def is_window(self, metric):
        return self.claim.usable is not None and metric == self.claim.metric

    def is_coarse(self, metric):
        """Windows are whole numbers of cells, and an answer is mostly found by all of a seed's tokens or by few: n such
        values prove no more than n equal signs do, however little they vary."""
        return metric == "accuracy" or self.is_window(metric)

    def sample(self, comparison, seeds=None):
        """The differences by seed (or values, where nothing is compared with); None for what is missing."""
        def one(seed):
            a = self.measure(comparison.a, seed, comparison.metric)
            b = self.measure(comparison.b, seed, comparison.metric) if comparison.b else 0.0
            return None if a is None or b is None else a - b
        return [one(seed) for seed in seeds or self.claim.seeds]


def wanted(claim, records):
    """The runs that the claim's reported numbers come from and that can be named by now, and how many cannot yet."""
    if claim.tune_seeds and claim.usable is None and len(claim.runs([0])) > len(claim.arms):
        results = Results(claim, records)
        chosen = [(arm, seed, results.chosen(arm, seed)) for seed in claim.seeds for arm in claim.arms]
        reported = [Run(arm, tuned, seed) for arm, seed, tuned in chosen if tuned is not None]
        return claim.runs(claim.tune_seeds) + reported, len(chosen) - len(reported)
    return claim.runs(claim.seeds), 0


def least_p(count):
    """The two-sided sign test of so many equal signs."""
    return 2 * 0.5 ** count


def judge(adjusted, sample, comparison):
    holds, fails = p_values(sample, comparison.predict)
    if adjusted >= LEVEL:
        return "INCONCLUSIVE"
    return "HOLDS" if holds < fails else "FAILS"


def find(claim, results):
    samples = [results.sample(c) for c in claim.comparisons]
    clean = [[d for d in s if d is not None and not math.isnan(d)] for s in samples]
    whole = [len(c) == len(s) for c, s in zip(clean, samples)]
    floor = [least_p(len(c)) if results.is_coarse(k.metric) else 0.0 for c, k in zip(clean, claim.comparisons)]
    adjusted = holm([max(least, min(p_values(c, k.predict))) if ok else 1.0
                     for c, k, ok, least in zip(clean, claim.comparisons, whole, floor)])
    findings = []
    for comparison, sample, p, ok, every in zip(claim.comparisons, clean, adjusted, whole, samples):
        e = estimate(sample)
        gone = sum(d is not None and math.isnan(d) for d in every)
        note = f"{gone} of {len(every)} pairs have a run without this number" if gone else ""
        findings.append(Finding(comparison, e, p, judge(p, sample, comparison) if ok else "INCONCLUSIVE",
                                detectable(e.spread, e.count, len(claim.comparisons)), sample, note))
    return findings


def edges(claim, results):
    """Arms whose best learning rate is the first or last of the list: a wider list might find a better one."""
    rates = [dict(tuned).get("lr") for tuned in results.choices]
    if claim.usable is not None:
        return open_windows(claim, results)
    if len(rates) < 3 or None in rates:
        return []
    at_edge = [arm.label for arm in claim.arms
               if any(t is not None and dict(t).get("lr") in (min(rates, key=float), max(rates, key=float))
                      for t in (results.chosen(arm, s) for s in claim.seeds))]
    return [f"best learning rate at the edge of the list: {', '.join(at_edge)}"] if at_edge else []


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


def evaluate(claim, records):
    results = Results(claim, records)
    runs, unnamed = wanted(claim, records)
    rows = [records.get(run.key) for run in runs]
    missing = sum(row is None or row["status"] == "failed" for row in rows) + unnamed
    findings = find(claim, results)
    notes = [f"{sum(r is not None and r['status'] == 'diverged' for r in rows)} of {len(rows)} runs diverged"]
    failed = sum(row is not None and row["status"] == "failed" for row in rows)
    notes += [f"{failed} runs failed; claims/sweep --retry trains them again"] if failed else []
    notes += edges(claim, results) + ties(claim, results)
    if len(claim.seeds) == 1 and not claim.tune_seeds and len(results.choices) > 1 and claim.usable is None:
        notes.append("one seed both chooses the learning rate and is reported: the numbers are too good")
    return Outcome("OPEN" if missing else verdict_of(findings), findings, missing, notes)


def verdict_of(findings):
    thesis = [f.verdict for f in findings if f.comparison.role == "thesis"]
    if any(f.verdict != "HOLDS" for f in findings if f.comparison.role == "control"):
        return "INCONCLUSIVE"
    if "FAILS" in thesis:
        return "FAILS"
    return "HOLDS" if thesis and set(thesis) == {"HOLDS"} else "INCONCLUSIVE"
