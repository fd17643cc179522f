"""baseline.py: what recall and khop give to a model that binds nothing.

Answers use up the row's values: each key is asked for once, so a model that knows which values stand in the row, and
strikes out those that were answers already, does better the further it comes, without knowing which value belongs to
which key. data/elimination.c computes the same for the banner of ./train; here it is written a second time, from the
definition, for the pictures and the facts of claims (tests/claims.py compares the two).
"""
import functools
import math

import numpy

LONGEST = 128   # pairs: beyond, factorials leave the range of floats
# What a run reaches beyond that: {name of the metric: of which one}. 0 is elimination at any number of pairs, and 1 is
# perfect, so that runs with few pairs and with many can be compared, and one threshold fits all.
ABOVE = {"bits_above_elimination": "val_loss", "accuracy_above_elimination": "accuracy"}
DEFAULTS = {"pairs": 8, "keys": 64, "context": 64, "repeat-questions": 0}


def most_chances(longest, bins, most):
    """[the chance that n balls thrown into bins leave none with more than `most`] for n up to the longest: n! / bins^n
    times a coefficient of (1 + x + x^2/2! + ... + x^most/most!)^bins, by repeated squaring."""
    def product(a, b):
        return numpy.convolve(a, b)[:longest + 1]
    power = numpy.array([bins ** -j / math.factorial(j) for j in range(min(most, longest) + 1)])
    total, left = numpy.ones(1), bins
    while left:
        total, power, left = product(total, power) if left % 2 else total, product(power, power), left // 2
    return [math.factorial(n) * float(total[n]) if n < len(total) else 0.0 for n in range(longest + 1)]


def left_values(longest, values):
    """[(loss, accuracy)] where the answer is one of n values that stand in the row, drawn evenly and possibly equal,
    for n from 1 to the longest."""
    p, found = 1 / values, []
    fewer = [most_chances(longest, values, m) for m in range(longest)]
    for n in range(1, longest + 1):
        same = sum(math.comb(n - 1, j) * p ** j * (1 - p) ** (n - 1 - j) * math.log(1 + j) for j in range(n))
        found.append((math.log(n) - same, sum(1 - fewer[m][n] for m in range(n)) / n))
    return found


def recall(pairs, values, repeat):
    found = left_values(pairs, values)[-1 if repeat else 0:]
    return tuple(sum(column) / len(found) for column in zip(*found))


def khop(nodes, context, repeat):
    """The answer is one of the nodes that were no answer yet, and is not the node that is asked for."""
    questions = min(nodes, (context + 1 - 2 * nodes) // 3)
    found = []
    for q in range(questions):
        used = 0 if repeat else q / (nodes - 1)       # the chance that the node asked for was an answer
        free = nodes - (0 if repeat else q)
        cases = [(1 - used, free - 1), (used, free)]
        found.append((sum(p * math.log(n) for p, n in cases if p > 0), sum(p / n for p, n in cases if p > 0)))
    return tuple(sum(column) / len(found) for column in zip(*found))


@functools.lru_cache(maxsize=256)
def of_task(data, pairs, keys, context, repeat):
    """(loss, accuracy) that elimination reaches; None of other tasks."""
    if data == "recall" and pairs <= LONGEST:
        return recall(pairs, keys, repeat)
    return khop(pairs, context, repeat) if data == "khop" else None


def of_flags(flags):
    """{metric: what elimination reaches} of a run's flags; {} for other tasks."""
    values = [int(flags.get(name, default)) for name, default in DEFAULTS.items()]
    found = of_task(flags.get("data"), *values) if flags.get("data") in ("recall", "khop") else None
    if not found:
        return {}
    loss, accuracy = found
    return {"val_loss": loss, "best_val_loss": loss, "accuracy": accuracy, "excess_loss": loss,
            **dict.fromkeys(ABOVE, 0.0)}


def above(row, flags):
    """{metric: what a run of these flags reached above elimination}; {} of other tasks, and of one pair, which leaves
    nothing open. Negative where elimination alone would have done better."""
    reached = of_flags(flags)
    best = {"val_loss": 0.0, "accuracy": 1.0}
    return {name: (row[metric] - reached[metric]) / (best[metric] - reached[metric]) for name, metric in ABOVE.items()
            if metric in reached and row.get(metric) is not None and reached[metric] != best[metric]}


def of_claim(claim):
    """{metric: what elimination reaches} as far as it is the same in all arms of a claim."""
    found = [of_flags(dict(arm.flags)) for arm in claim.arms]
    return {name: value for name, value in found[0].items() if all(f.get(name) == value for f in found)} if found \
        else {}
