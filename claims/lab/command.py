"""command.py: commands of our programs whose flags hold lists, `--lr 1e-3,3e-3`, or ranges, `--seed 1..5`."""
import itertools
import math
import re
import shlex


class UsageError(Exception):
    """What a user can cause; shown as one line."""


PROGRAMS = ("train", "serve", "generate")
MOST = 10000   # values of a range, runs of a sweep


def same_value(text):
    """What two spellings of one number have in common: 1e-3 and 0.001."""
    try:
        return float(text)
    except ValueError:
        return text


def values_of(text):
    """Every value of a list or a range: '1..3' is 1 2 3, 'pre,post' is two words."""
    values = []
    for part in text.split(","):
        ends = re.fullmatch(r"(\d+)\.\.(\d+)", part)
        if ends and int(ends[2]) < int(ends[1]):
            raise UsageError(f"the range {part} is empty: write the smaller number first")
        if ends and int(ends[2]) - int(ends[1]) >= MOST:
            raise UsageError(f"the range {part} has more than {MOST} values")
        values += [str(i) for i in range(int(ends[1]), int(ends[2]) + 1)] if ends else [part]
    if "" in values:
        raise UsageError(f"'{text}' is a list with an empty place")
    if len(set(map(same_value, values))) < len(values):
        raise UsageError(f"'{text}' has a value twice")
    return values


def parse_flags(words):
    """{flag: [values]} of --flag value, --flag=value and --flag alone, which is 1; a later one wins."""
    flags, i = {}, 0
    while i < len(words):
        if not words[i].startswith("--") or len(words[i]) < 3:
            raise UsageError(f"expected a flag, found '{words[i]}'")
        name, equals, value = words[i][2:].partition("=")
        if not equals:
            alone = i + 1 == len(words) or words[i + 1].startswith("--")
            value = "1" if alone else words[i + 1]
            i += not alone
        flags[name.replace("_", "-")] = values_of(value)
        i += 1
    return flags


def split_words(text):
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"'{text}': {str(error).lower()}") from None


def program_of(text):
    """Which of our programs a command runs: train, serve or generate."""
    words = split_words(text) if isinstance(text, str) else list(text)
    if not words or words[0].removeprefix("./") not in PROGRAMS:
        raise UsageError("a command begins with ./train, ./serve or ./generate, this one with "
                         f"'{words[0] if words else ''}'")
    return words[0].removeprefix("./")


def parse_command(text):
    """The flags of './train --flag values ...'."""
    program_of(text)
    words = split_words(text) if isinstance(text, str) else list(text)
    return parse_flags(words[1:])


def check_count(runs, what):
    """Before they are made: a product of lists is soon larger than any memory."""
    if runs > MOST:
        raise UsageError(f"{what} make {runs} runs, and a sweep has at most {MOST}: shorten a list")


def product(lists):
    """Every choice of one value per flag, as dicts; the last flag turns fastest."""
    check_count(math.prod(len(values) for values in lists.values()), "the lists of " + ", ".join(lists))
    return [dict(zip(lists, choice)) for choice in itertools.product(*lists.values())]


def text_of(flags):
    """The flags of one run, as they are typed. This text is the name of the run in the records."""
    return " ".join(f"--{name}{'=' if value.startswith('--') else ' '}{shlex.quote(value)}"
                    for name, value in flags.items())
