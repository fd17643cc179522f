"""claim.py: a claim file, read and checked. What its keys mean is in claims/README.md.

A run belongs to an arm: a name, its own flags, and one value of each list of the command, as in `post layers=24`.
Beside the arm, a run has a value of each tuned flag (the learning rate) and a seed.
"""
import math
import re
import textwrap
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from .command import UsageError, check_count, parse_command, parse_flags, product, split_words, text_of, values_of
from .records import METRICS
from .stats import Prediction

NUMBER = (int, float)
KEYS = {"post": int, "title": str, "thesis": str, "headline": str, "command": str, "metric": str, "better": str,
        "tune": list, "tune_seeds": str, "usable": str, "worst": NUMBER, "match": str, "match_to": str,
        "budget_minutes": NUMBER, "controls": str, "arms": dict, "comparison": list, "figure": dict}
COMPARISON_KEYS = {"a": str, "b": str, "predict": str, "role": str, "metric": str}
FIGURE_KEYS = {"x": str, "x_label": str, "log_x": bool, "y_label": str, "top": NUMBER}
TYPE_NAMES = {int: "a whole number", NUMBER: "a number", str: "a text", list: "a list", dict: "a table",
              bool: "true or false"}
BUDGETS = ("params", "flops", "cache", "time")
OF_THE_SWEEP = {"out", "threads", "fresh", "dry-run", "verify"}   # arms cannot differ in what the sweep decides
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

    @property
    def name(self):
        return (f"{self.a} vs {self.b}" if self.b else self.a) + (f", {self.metric}" if self.apart else "")


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
    headline: str = ""          # of its post, where this claim has it: the finding, {FACT} for a number
    path: Path = None

    def __post_init__(self):
        seeds = len(self.seeds) + len(self.tune_seeds)
        check_count(len(self.arms) * math.prod(map(len, self.tuned.values())) * seeds, "arms, rates and seeds")

    def runs(self, seeds):
        choices = [tuple(choice.items()) for choice in product(self.tuned)]
        return [Run(arm, tuned, seed) for seed in seeds for arm in self.arms for tuned in choices]

    def arm(self, label):
        return next(arm for arm in self.arms if arm.label == label)


def check_types(row, types, what):
    for key, value in row.items():
        if key not in types:
            raise UsageError(f"unknown key '{key}' in {what}; there are {', '.join(types)}")
        if not isinstance(value, types[key]) or (isinstance(value, bool) and types[key] is not bool):
            raise UsageError(f"{key} of {what} is {TYPE_NAMES[types[key]]}, not {textwrap.shorten(repr(value), 60)}")


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


def make_arms(named, facets, fixed, taken=()):
    """Each named arm's own flags on top of the command's; an arm may set a listed flag to one value of its own, but
    none of those that are taken: what is tuned, and the seed."""
    arms = []
    for name, own in named.items():
        if clash := [flag for flag in own if flag in taken]:
            raise UsageError(f"arm '{name}' sets --{clash[0]}, which the command has a list of for all arms")
        if any(len(values) > 1 for values in own.values()):
            raise UsageError(f"arm '{name}' has a list: lists belong into the command, or write one arm for each value")
        own = {flag: values[0] for flag, values in own.items()}
        free = {flag: values for flag, values in facets.items() if flag not in own}
        for choice in product(free):
            arms.append(Arm(name, tuple({**fixed, **choice, **own}.items()), tuple(choice.items())))
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


def expand_comparison(row, arms, default_metric):
    """One comparison for each choice of the lists, where a and b are names of arms rather than labels."""
    if not isinstance(row, dict) or "a" not in row or "predict" not in row:
        raise UsageError("a [[comparison]] has a, predict, and perhaps b, role, metric")
    check_types(row, COMPARISON_KEYS, "a [[comparison]]")
    if row["a"] == row.get("b"):
        raise UsageError(f"'{row['a']}' is compared with itself")
    a, b = row["a"], row.get("b", "")
    labels = {arm.label for arm in arms}
    metric = row.get("metric", default_metric)
    rest = (parse_prediction(row["predict"]), metric, row.get("role", "thesis"), metric != default_metric)
    if rest[2] not in ("thesis", "control") or rest[1] not in METRICS:
        raise UsageError(f"comparison {a}: unknown role or metric ({rest[2]}, {rest[1]})")
    if a in labels and (not b or b in labels):
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
    tune, own = row.get("tune", ["lr"]), row.get("arms", {"": ""})
    check_types(own, dict.fromkeys(own, str), "[arms]")
    seeds, tuned, facets, fixed = split_command(parse_command(row["command"]), tune)
    named = {arm: parse_flags(split_words(flags)) for arm, flags in own.items()}
    arms = make_arms(named, facets, fixed, {*tuned, "seed"})
    if row.get("match", BUDGETS[0]) not in BUDGETS:
        raise UsageError(f"match is one of {', '.join(BUDGETS)}, not '{row['match']}'")
    if row.get("match_to", arms[0].label) not in {name for arm in arms for name in (arm.name, arm.label)}:
        raise UsageError(f"match_to = '{row['match_to']}' is no arm")
    if row["metric"] not in METRICS:
        raise UsageError(f"unknown metric '{row['metric']}'; there are {', '.join(METRICS)}")
    if row.get("better", "lower") not in ("lower", "higher"):
        raise UsageError(f"better is lower or higher, not '{row['better']}'")
    if "usable" in row and tune != ["lr"]:
        raise UsageError("usable is about a window of --lr alone: leave tune out")
    tune_seeds = seeds_of(values_of(row["tune_seeds"]), "tune_seeds") if "tune_seeds" in row else []
    if set(tune_seeds) & set(seeds):
        raise UsageError("tune_seeds and --seed share a seed: rates are chosen on other seeds than those reported")
    check_place(row.get("figure", {}).get("x"), arms)
    comparisons = [c for r in row["comparison"] for c in expand_comparison(r, arms, row["metric"])]
    if not comparisons:
        raise UsageError("a claim has at least one [[comparison]]")
    return Claim(name, row["command"], arms, tuned, seeds, tune_seeds, row["metric"], row.get("better", "lower"),
                 parse_usable(row["usable"], tuned) if "usable" in row else None,
                 row.get("worst"), row.get("post", 0), row.get("title", name), row["thesis"].strip(),
                 row.get("budget_minutes"), row.get("controls", "").strip(), row.get("match", ""),
                 row.get("match_to", ""), comparisons, row.get("figure", {}), row.get("headline", "").strip())


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
    arms = make_arms({"": {}}, facets, fixed)
    zero = Prediction("above", 0.0)
    comparisons = [Comparison(arm.label, arms[0].label, zero, metric, "thesis") for arm in arms[1:]]
    return Claim("", " ".join(words), arms, tuned, seeds, [], metric, better, comparisons=comparisons, match=match)
