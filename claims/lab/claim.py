"""claim.py: a claim file, read and checked. What its keys mean is in claims/README.md.

A run belongs to an arm: a name, its own flags, and one value of each list of the command, as in `post layers=24`.
Beside the arm, a run has a value of each tuned flag (the learning rate) and a seed.
"""
import hashlib
import json
import math
import re
import shlex
import textwrap
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import baseline
from .command import (UsageError, check_count, parse_command, parse_flags, product, program_of, split_words, text_of,
                      values_of)
from .records import METRICS, OF_PROGRAM, TRAINED
from .stats import Prediction

NUMBER = (int, float)
KEYS = {"post": int, "title": str, "thesis": str, "headline": str, "command": str, "metric": str, "better": str,
        "tune": list, "tune_seeds": str, "usable": str, "worst": NUMBER, "match": str, "match_to": str,
        "budget_minutes": NUMBER, "controls": str, "arms": dict, "comparison": list, "figure": dict,
        "kind": str, "outcome": str, "threshold": str, "along": str, "tied": list, "pilot_seeds": str,
        "tolerance": NUMBER, "record": str}
COMPARISON_KEYS = {"a": str, "b": str, "predict": str, "role": str, "metric": str, "expect": NUMBER,
                   "ratio": bool}
FIGURE_KEYS = {"x": str, "x_label": str, "log_x": bool, "log_y": bool, "y_label": str, "top": NUMBER,
               "words": dict, "finding": str, "unit": str}
TYPE_NAMES = {int: "a whole number", NUMBER: "a number", str: "a text", list: "a list", dict: "a table",
              bool: "true or false"}
BUDGETS = ("params", "flops", "cache", "time")
# Arms cannot differ in what the sweep decides.
OF_THE_SWEEP = {"out", "threads", "fresh", "dry-run", "verify", "receipt", "records"}
KINDS = ("runs", "exact", "timing")   # judged by statistics; every value must be so; of one machine, and a ratio
OUTCOMES = ("", "solved", "steps", "capacity", "window")
MACHINES = ("tokens_per_second", "seconds", "peak_memory_bytes")   # metrics that are of the machine
# What is promised before the runs. A change of it after them is seen by the hash that every row carries.
PROMISED = ("kind", "thesis", "metric", "better", "tune", "usable", "worst", "outcome", "threshold", "along", "tied",
            "match", "match_to", "tolerance", "arms", "comparison")
UNEVEN = 0.15   # by how much a cell of a grid of learning rates may differ from their mean


@dataclass(frozen=True)
class Arm:
    name: str     # of the claim's [arms], or "" where there are none
    flags: tuple  # (flag, value) pairs: all but the tuned flags and the seed
    facet: tuple  # those of them that the command lists

    @property
    def label(self):
        return " ".join([self.name] * bool(self.name) + [f"{k}={v}" for k, v in self.facet]) or "all"


@dataclass(frozen=True)
class Run:
    arm: Arm
    tuned: tuple
    seed: int

    @property
    def flags(self):
        return {**dict(self.arm.flags), **dict(self.tuned), "seed": str(self.seed)}

    @property
    def key(self):
        return text_of(self.flags)


@dataclass(frozen=True)
class Comparison:
    a: str        # label of an arm
    b: str        # or "": then a's metric itself is predicted
    predict: Prediction
    metric: str
    role: str     # thesis, or control: without which the claim shows nothing
    apart: bool = False   # its metric is not the claim's own, and is named
    expect: float = None  # the size that is expected, for the power; the bound is what must be cleared
    ratio: bool = False   # a / b is predicted, not a - b

    @property
    def name(self):
        named = f"{self.a} {'/' if self.ratio else 'vs'} {self.b}" if self.b else self.a
        return named + (f", {self.metric}" if self.apart else "")


@dataclass
class Claim:
    name: str
    command: str
    arms: list
    tuned: dict          # {flag: [values]}
    seeds: list          # reported
    tune_seeds: list     # on which each arm's learning rate is chosen; none: each seed's on the others
    metric: str = "val_loss"
    better: str = "lower"
    usable: Prediction = None   # then the metric is the width of the window of learning rates, in factors of ten
    worst: float = None         # what a diverged run counts as; no run counts as worse
    post: int = 0
    title: str = ""
    thesis: str = ""
    budget: float = None
    controls: str = ""
    match: str = ""
    match_to: str = ""
    comparisons: list = field(default_factory=list)
    figure: dict = field(default_factory=dict)
    kind: str = "runs"
    outcome: str = ""           # solved, steps, capacity, window: what is made of the metric
    threshold: Prediction = None   # when a run has solved the task
    along: str = ""             # the listed flag over which a capacity is interpolated
    pilot_seeds: list = field(default_factory=list)   # from which the power is known; not reported
    tolerance: float = 0.1      # of a timing, when it is measured again
    record: str = ""            # of a timing: the file in claims/results/ that bench/bench left
    measured: dict = None       # what stands in it
    promise: str = ""           # the hash of PROMISED
    headline: str = ""          # of its post, where this claim has it: the finding, {FACT} for a number
    program: str = "train"      # whose command it is: train, serve or generate
    path: Path = None

    def __post_init__(self):
        seeds = len(self.seeds) + len(self.tune_seeds)
        check_count(len(self.arms) * math.prod(map(len, self.tuned.values())) * seeds, "arms, rates and seeds")

    @property
    def spread(self):
        """What stands in brackets behind a mean: without chance there is no interval of it."""
        return "mean and 95% interval" if self.kind == "runs" else "mean, least and most"

    def runs(self, seeds):
        choices = [tuple(choice.items()) for choice in product(self.tuned)]
        return [Run(arm, tuned, seed) for seed in seeds for arm in self.arms for tuned in choices]

    def arm(self, label):
        return next(arm for arm in self.arms if arm.label == label)

    def group_label(self, arm):
        """Of all arms that differ only in the flag along which a capacity is measured."""
        return replace(arm, facet=tuple(f for f in arm.facet if f[0] != self.along)).label

    def groups(self):
        """{label: its arms, by growing values}"""
        found = {}
        for arm in self.arms:
            found.setdefault(self.group_label(arm), []).append(arm)
        return {label: sorted(arms, key=lambda arm: float(dict(arm.flags)[self.along]))
                for label, arms in found.items()} if self.along else {arm.label: [arm] for arm in self.arms}


def check_types(row, types, what):
    for key, value in row.items():
        if key not in types:
            raise UsageError(f"unknown key '{key}' in {what}; there are {', '.join(types)}")
        if not isinstance(value, types[key]) or (isinstance(value, bool) and types[key] is not bool):
            raise UsageError(f"{key} of {what} is {TYPE_NAMES[types[key]]}, not {textwrap.shorten(repr(value), 60)}")


def promise_of(row):
    """Twelve digits of what a claim file promises; spaces and the order of keys do not count."""
    told = {key: row[key] for key in PROMISED if key in row}
    if "thesis" in told:
        told["thesis"] = " ".join(told["thesis"].split())
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def parse_exact(text):
    """What claims of exact quantities and of timings may also predict: '= 4', or '0.8 to 1.3'."""
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
    if match := re.fullmatch(rf"=\s*({number})", str(text).strip()):
        return Prediction("equals", float(match[1]))
    if match := re.fullmatch(rf"({number}) to ({number})", str(text).strip()):
        if float(match[1]) >= float(match[2]):
            raise UsageError(f"'{text}': the smaller number comes first")
        return Prediction("between", float(match[1]), float(match[2]))
    return parse_prediction(text)


def parse_prediction(text):
    match = re.fullmatch(r"(>|<|within)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)", str(text).strip())
    if not match or (match[1] == "within" and float(match[2]) <= 0):
        raise UsageError(f"'{text}' is no prediction: write '> 0.05', '< 0' or 'within 0.02'")
    return Prediction({">": "above", "<": "below"}.get(match[1], match[1]), float(match[2]))


def parse_usable(text, tuned):
    """The region of usable values. A window is counted in cells of a grid, so the grid must have even ones."""
    usable = parse_prediction(text)
    if usable.kind == "within":
        raise UsageError(f"usable = '{text}': a metric is usable below or above a bound")
    try:
        rates = sorted(math.log10(float(rate)) for rate in tuned.get("lr", []))
    except ValueError:
        raise UsageError("a window of learning rates needs rates above 0") from None
    cells = [high - low for low, high in zip(rates, rates[1:])]
    if not cells or max(abs(cell * len(cells) / sum(cells) - 1) for cell in cells) > UNEVEN:
        raise UsageError("usable needs a list of --lr with equal factors between them: a window is counted in these")
    return usable


def seeds_of(values, what):
    try:
        return [int(value) for value in values]
    except ValueError as error:
        raise UsageError(f"{what} takes whole numbers: {error}") from None


def split_command(flags, tune):
    """The seeds, the tuned lists, the other lists and the single values of a command's flags."""
    flags = dict(flags)
    seeds = seeds_of(flags.pop("seed", ["1"]), "--seed")
    tuned = {name: flags.pop(name) for name in tune if name in flags}
    facets = {name: values for name, values in flags.items() if len(values) > 1}
    fixed = {name: values[0] for name, values in flags.items() if len(values) == 1}
    return seeds, tuned, facets, fixed


def check_tied(tied, facets):
    """Lists that go together: the n-th value of each with the n-th of the first, which alone names the arm."""
    for flag in tied:
        if not isinstance(flag, str) or flag not in facets or len(facets[flag]) != len(facets[tied[0]]):
            raise UsageError(f"tied = {json.dumps(tied)}: the command has no list of --{flag} as long as that of "
                             f"--{tied[0]}")


def make_arms(named, facets, fixed, taken=(), tied=()):
    """Each named arm's own flags on top of the command's; an arm may set a listed flag to one value of its own, but
    none of those that are taken: what is tuned, and the seed."""
    check_tied(tied, facets)
    arms = []
    for name, own in named.items():
        if clash := [flag for flag in own if flag in taken]:
            raise UsageError(f"arm '{name}' sets --{clash[0]}, which the command has a list of for all arms")
        if any(len(values) > 1 for values in own.values()):
            raise UsageError(f"arm '{name}' has a list: lists belong into the command, or write one arm for each value")
        own = {flag: values[0] for flag, values in own.items()}
        if clash := [flag for flag in own if flag in tied]:
            raise UsageError(f"arm '{name}' sets --{clash[0]}, whose list is tied to others")
        free = {flag: values for flag, values in facets.items() if flag not in own and flag not in tied[1:]}
        for choice in product(free):
            also = {flag: facets[flag][facets[tied[0]].index(choice[tied[0]])] for flag in tied[1:]}
            arms.append(Arm(name, tuple({**fixed, **choice, **also, **own}.items()), tuple(choice.items())))
    if not arms:
        raise UsageError("a claim has at least one arm")
    given = {}
    for arm in arms:
        if own := OF_THE_SWEEP & set(dict(arm.flags)):
            raise UsageError(f"--{own.pop()} is not for a sweep, which gives every run its own (--into, --jobs)")
        if "?" in dict(arm.flags).values():
            continue
        if (twin := given.setdefault(frozenset(arm.flags), arm)) is not arm:
            raise UsageError(f"the arms '{twin.label}' and '{arm.label}' have the same flags")
    return arms


def expand_comparison(row, arms, default_metric, parse=parse_prediction):
    """One comparison for each choice of the lists, where a and b are names of arms rather than labels."""
    if not isinstance(row, dict) or "a" not in row or "predict" not in row:
        raise UsageError("a [[comparison]] has a, predict, and perhaps b, role, metric")
    check_types(row, COMPARISON_KEYS, "a [[comparison]]")
    if row["a"] == row.get("b"):
        raise UsageError(f"'{row['a']}' is compared with itself")
    a, b = row["a"], row.get("b", "")
    labels = {arm.label for arm in arms}
    metric = row.get("metric", default_metric)
    rest = (parse(row["predict"]), metric, row.get("role", "thesis"), metric != default_metric, row.get("expect"),
            row.get("ratio", False))
    if rest[2] not in ("thesis", "control") or (rest[1] not in METRICS and arms):
        raise UsageError(f"comparison {a}: unknown role or metric ({rest[2]}, {rest[1]})")
    if row.get("ratio") and (not b or rest[0].kind == "within"):
        raise UsageError("ratio = true is about a / b: it needs b, and a region such as '> 1.2' or, in an exact claim, "
                         "'0.9 to 1.1'")
    if not arms or a in labels and (not b or b in labels):
        return [Comparison(a, b, *rest)]
    facets = [arm.facet for arm in arms if arm.name == a]
    pairs = [(Arm(a, (), f).label, Arm(b, (), f).label if b else "") for f in facets]
    missing = {x for pair in pairs for x in pair if x and x not in labels} or ({a} if not pairs else set())
    if missing:
        raise UsageError(f"comparison of unknown arm '{missing.pop()}'; the arms are {', '.join(sorted(labels))}")
    return [Comparison(*pair, *rest) for pair in pairs]


def read_claim(path):
    path = Path(path)
    try:
        row = tomllib.loads(path.read_text())
        claim = claim_of(row, path.stem)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None
    return replace(claim, path=path)


def claim_of(row, name):
    check_types(row, KEYS, "a claim")
    check_types(row.get("figure", {}), FIGURE_KEYS, "[figure]")
    if missing := {"thesis", "command", "metric", "comparison"} - set(row):
        raise UsageError(f"the key '{missing.pop()}' is missing")
    if row.get("kind", "runs") not in KINDS:
        raise UsageError(f"kind is one of {', '.join(KINDS)}, not '{row['kind']}'")
    if "record" in row:
        return recorded_claim(row, name)
    program = program_of(row["command"])
    tune, own = row.get("tune", ["lr"]), row.get("arms", {"": ""})
    check_types(own, dict.fromkeys(own, str), "[arms]")
    seeds, tuned, facets, fixed = split_command(parse_command(row["command"]), tune)
    named = {arm: parse_flags(split_words(flags)) for arm, flags in own.items()}
    arms = make_arms(named, facets, fixed, {*tuned, "seed"}, row.get("tied", []))
    if row.get("match", BUDGETS[0]) not in BUDGETS:
        raise UsageError(f"match is one of {', '.join(BUDGETS)}, not '{row['match']}'")
    if row.get("match_to", arms[0].label) not in {name for arm in arms for name in (arm.name, arm.label)}:
        raise UsageError(f"match_to = '{row['match_to']}' is no arm")
    if row["metric"] not in METRICS:
        raise UsageError(f"unknown metric '{row['metric']}'; there are {', '.join(METRICS)}")
    check_program(row, program)
    if row.get("better", "lower") not in ("lower", "higher"):
        raise UsageError(f"better is lower or higher, not '{row['better']}'")
    if "usable" in row and tune != ["lr"]:
        raise UsageError("usable is about a window of --lr alone: leave tune out")
    tune_seeds = seeds_of(values_of(row["tune_seeds"]), "tune_seeds") if "tune_seeds" in row else []
    if set(tune_seeds) & set(seeds):
        raise UsageError("tune_seeds and --seed share a seed: rates are chosen on other seeds than those reported")
    pilot_seeds = seeds_of(values_of(row["pilot_seeds"]), "pilot_seeds") if "pilot_seeds" in row else []
    if set(pilot_seeds) & {*seeds, *tune_seeds}:
        raise UsageError("pilot_seeds are seeds of their own: not reported, and not those that choose rates")
    check_place(row.get("figure", {}).get("x"), arms)
    along = check_outcome(row, tuned, facets, tune_seeds)
    kind = row.get("kind", "runs")
    if kind != "runs" and (tuned and any(len(v) > 1 for v in tuned.values()) or row.get("outcome")):
        raise UsageError(f"a claim of kind {kind} has one rate for each arm and no outcome: nothing in it is chosen")
    if kind == "exact" and row["metric"] in MACHINES:
        raise UsageError(f"{row['metric']} is of the machine: kind = \"timing\"")
    shown = compared_arms(arms, along)
    parse = parse_prediction if kind == "runs" else parse_exact
    comparisons = [c for r in row["comparison"] for c in expand_comparison(r, shown, row["metric"], parse)]
    if not comparisons:
        raise UsageError("a claim has at least one [[comparison]]")
    return Claim(name, row["command"], arms, tuned, seeds, tune_seeds, row["metric"], row.get("better", "lower"),
                 parse_usable(row["usable"], tuned) if "usable" in row else None,
                 row.get("worst"), row.get("post", 0), row.get("title", name), row["thesis"].strip(),
                 row.get("budget_minutes"), row.get("controls", "").strip(), row.get("match", ""),
                 row.get("match_to", ""), comparisons, row.get("figure", {}), kind, row.get("outcome", ""),
                 parse_prediction(row["threshold"]) if "threshold" in row else None, along, pilot_seeds,
                 row.get("tolerance", 0.1), headline=row.get("headline", "").strip(), promise=promise_of(row),
                 program=program)


def check_program(row, program):
    """A metric is of one program; what is of trainings alone does not go with ./serve."""
    for metric in [row["metric"], *(c["metric"] for c in row["comparison"] if isinstance(c, dict) and "metric" in c)]:
        if metric in METRICS and metric not in OF_PROGRAM.get(program, {*TRAINED, *baseline.ABOVE, "seconds"}):
            raise UsageError(f"./{program} has no {metric}")
    if program != "train" and (wrong := {"match", "tune", "usable", "tune_seeds"} & set(row)):
        raise UsageError(f"'{wrong.pop()}' is for trainings, and this is a command of ./{program}")


def compared_arms(arms, along):
    """What comparisons name: arms, or where a capacity is measured along a flag, arms without it."""
    if not along:
        return arms
    cut = [replace(arm, facet=tuple(f for f in arm.facet if f[0] != along)) for arm in arms]
    return list({arm.label: arm for arm in cut}.values())


def check_outcome(row, tuned, facets, tune_seeds):
    """The keys that belong to an outcome; the flag along which it is measured, where there is one."""
    outcome, along = row.get("outcome", ""), row.get("along", "")
    if outcome not in OUTCOMES:
        raise UsageError(f"outcome is one of {', '.join(OUTCOMES[1:])}, not '{outcome}'")
    if ("threshold" in row) != (outcome in ("solved", "steps", "capacity")):
        raise UsageError("threshold = \"> 0.9\" says when a run has solved its task: it belongs to outcome = "
                         "\"solved\", \"steps\" and \"capacity\", and to nothing else")
    if "threshold" in row and parse_prediction(row["threshold"]).kind == "within":
        raise UsageError("threshold is a bound: '> 0.9' or '< 0.1'")
    if (outcome == "capacity") != bool(along):
        raise UsageError("along names the listed flag over which outcome = \"capacity\" is measured")
    if along:
        try:
            places = sorted(float(value) for value in facets[along])
        except (KeyError, ValueError):
            raise UsageError(f"along = '{along}' is no flag of which the command lists numbers") from None
        if places[0] <= 0:
            raise UsageError(f"along = '{along}' is interpolated in logs: its values are above 0")
    if (outcome == "window") != ("usable" in row and outcome != ""):
        raise UsageError("outcome = \"window\" goes with usable, and usable with no other outcome")
    if outcome and "usable" not in row and "worst" not in row and outcome == "capacity":
        raise UsageError("a capacity needs worst: what a diverged run counts as")
    return along


def recorded_claim(row, name):
    """A claim about what bench/bench measured of one machine."""
    if row.get("kind") != "timing":
        raise UsageError("record = \"FILE.json\" is for claims with kind = \"timing\"")
    if wrong := {"arms", "outcome", "usable", "match", "tune_seeds", "pilot_seeds"} & set(row):
        raise UsageError(f"'{wrong.pop()}' has no meaning where the record is a file of bench/bench")
    comparisons = [c for r in row["comparison"] for c in expand_comparison(r, [], row["metric"], parse_exact)]
    return Claim(name, row["command"], [], {}, [], [], row["metric"], row.get("better", "higher"), None, None,
                 row.get("post", 0), row.get("title", name), row["thesis"].strip(), row.get("budget_minutes"),
                 row.get("controls", "").strip(), comparisons=comparisons, kind="timing", record=row["record"],
                 figure=row.get("figure", {}),
                 tolerance=row.get("tolerance", 0.1), headline=row.get("headline", "").strip(),
                 promise=promise_of(row))


def check_place(x, arms):
    """What stands along the bottom of the figure: a recorded number, or a flag with a number in every arm."""
    values = [dict(arm.flags).get(x) for arm in arms]
    try:
        [float(value) for value in values if value != "?"]
    except (TypeError, ValueError):
        if x is not None and x not in METRICS:
            raise UsageError(f"[figure] x = '{x}': neither a metric nor a flag with a number in every arm") from None


def ad_hoc(words, metric="val_loss", better="lower", match=""):
    """A sweep without a claim: every list but the learning rate and the seed makes arms; the first is the baseline."""
    seeds, tuned, facets, fixed = split_command(parse_command(words), ["lr"])
    if metric not in METRICS:
        raise UsageError(f"unknown metric '{metric}'; there are {', '.join(METRICS)}")
    program = program_of(words)
    check_program({"metric": metric, "comparison": [], **({"match": match} if match else {})}, program)
    arms = make_arms({"": {}}, facets, fixed)
    zero = Prediction("above", 0.0)
    comparisons = [Comparison(arm.label, arms[0].label, zero, metric, "thesis") for arm in arms[1:]]
    return Claim("", shlex.join(words), arms, tuned, seeds, [], metric, better, comparisons=comparisons, match=match,
                 program=program)
