"""match.py: gives arms an equal budget. A flag whose value is `?` is solved for, so that the arm has as many
parameters, training FLOPs, cache bytes or training seconds as the first arm that has none.

Sizes are those of ./train --dry-run json. Each is a whole number of the flag's steps, so the match is rarely exact:
how near it is stands in the records.
"""
import shlex
from dataclasses import replace

from .claim import BUDGETS
from .command import UsageError, parse_flags
from .trainer import dry_run

MATCHES = BUDGETS
NEAR = 0.1   # of the budget: a match that misses it by more is none
DEFAULT_FLAG = {"params": "ffn-width", "flops": "steps", "cache": "head-dim", "time": "steps"}
LARGEST = 1 << 24


def tokens_of(flags):
    return flags["steps"] * flags["batch"] * flags["context"]


def quantity(what, flags, speed=None):
    """What a run with these flags takes of the budget."""
    plan = dry_run(flags)
    if what == "params":
        return plan["model"]["parameters"]
    if what == "cache":
        return plan["model"]["cache_bytes_per_token"]
    if what == "flops":
        return plan["model"]["flops_per_token"] * tokens_of(plan["flags"])
    return tokens_of(plan["flags"]) / speed(flags)


def unknown_of(arm):
    names = [name for name, value in arm.flags if value == "?"]
    if len(names) > 1:
        raise UsageError(f"arm '{arm.label}' has two flags to solve for: {', '.join(names)}")
    return names[0] if names else None


def with_flag(arm, name, value):
    return replace(arm, flags=tuple((n, str(value) if n == name else v) for n, v in arm.flags))


def solve_integer(size, target):
    """The whole number whose size is nearest to the target, of a size that grows. size(n) is None where ./train refuses
    n, as a width that the heads do not divide: then only multiples of a power of two are tried."""
    for grain in (1, 2, 4, 8, 16, 32, 64):
        low, high = grain, 2 * grain
        if size(low) is None and size(high) is None:
            continue
        while (size(high) or 0) < target and high < LARGEST:
            low, high = high, 2 * high
        while high - low > grain:
            middle = (low + high) // 2 // grain * grain
            if size(middle) is None:
                break
            low, high = (middle, high) if size(middle) < target else (low, middle)
        sizes = {n: size(n) for n in (low, high) if size(n) is not None}
        if sizes and high - low <= grain:
            return min(sizes, key=lambda n: abs(sizes[n] - target))
    return None


def solve(arm, name, what, target, complete, speed):
    """The value of the flag, or a UsageError with what ./train says to 1 where it never agrees."""
    known, refusal = {}, {}

    def size(n):
        if n not in known:
            try:
                known[n] = quantity(what, complete(with_flag(arm, name, n)), speed)
            except UsageError as error:
                known[n], refusal[n] = None, error
        return known[n]

    found = solve_integer(size, target)
    if found is None:
        reason = next(iter(refusal.values()), "no value is large enough")
        raise UsageError(f"no --{name} gives arm '{arm.label}' {what} of {target:.6g}: {reason}")
    return found


def reference_of(claim, arm):
    """The arm that the claim's match_to names, or else the first without a ?; if possible one with the same values of
    the command's lists."""
    given = [a for a in claim.arms if not unknown_of(a) and claim.match_to in ("", a.name, a.label)]
    if not given and claim.match_to:
        raise UsageError(f"match_to = '{claim.match_to}' is no arm whose flags are all given")
    if not given:
        raise UsageError(f"arm '{arm.label}' has nothing to be matched with: every arm has a ?")
    return next((a for a in given if a.facet == arm.facet), given[0])


def solve_claim(claim, speed=None, records=None):
    """The claim with every `?` solved, and {label: what was matched, to what precision}; as recorded, where it is: a
    match of seconds would come out anew every time."""
    matched = {r["arm"]: r["matched"] for r in (records or {}).values() if r.get("matched")}
    if matched and all(arm.label in matched for arm in claim.arms if unknown_of(arm)):
        return recall_claim(claim, records), matched
    if not any(unknown_of(arm) for arm in claim.arms):
        return claim, {}
    if claim.match not in MATCHES:
        raise UsageError(f"a flag with the value ? needs a match: one of {', '.join(MATCHES)}")

    def complete(arm):
        return next(run for run in replace(claim, arms=[arm]).runs(claim.seeds[:1])).flags

    arms, notes = [], {}
    for arm in claim.arms:
        name = unknown_of(arm)
        if not name:
            arms.append(arm)
            continue
        reference = reference_of(claim, arm)
        target = quantity(claim.match, complete(reference), speed)
        arms.append(with_flag(arm, name, solve(arm, name, claim.match, target, complete, speed)))
        got = quantity(claim.match, complete(arms[-1]), speed)
        if abs(got / target - 1) > NEAR:
            raise UsageError(f"no --{name} matches the {claim.match} of '{reference.label}': the nearest for "
                             f"'{arm.label}' is {100 * (got / target - 1):+.0f}%")
        error = f"{100 * (got / target - 1):+.3f}%"
        notes[arm.label] = f"{claim.match} {got:.9g} for {target:.9g} of {reference.label} ({error})"
    return replace(claim, arms=arms), notes


def recall_claim(claim, records):
    """The same from the records, without ./train: what was solved for stands in the flags of the rows."""
    arms = []
    for arm in claim.arms:
        name = unknown_of(arm)
        row = next((r for r in records.values() if r["arm"] == arm.label), None) if name else None
        arms.append(with_flag(arm, name, parse_flags(shlex.split(row["flags"]))[name][0]) if row else arm)
    return replace(claim, arms=arms)


def mark_unknown(claim, flag):
    """For a sweep without a claim file: every arm but the first is solved for this flag."""
    if len(claim.arms) < 2:
        raise UsageError("--match needs a list that makes at least two arms")
    flag = flag or DEFAULT_FLAG[claim.match]
    if flag in claim.tuned or flag == "seed":
        raise UsageError(f"--solve {flag}: this flag is not the same in all runs of an arm")
    rest = [replace(arm, flags=(*((n, v) for n, v in arm.flags if n != flag), (flag, "?"))) for arm in claim.arms[1:]]
    return replace(claim, arms=claim.arms[:1] + rest)
