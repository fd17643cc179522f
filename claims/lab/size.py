"""size.py: how much code there is, as facts that pages quote: <!-- claim code: program -->16,300<!-- / -->.

A count changes with every commit, so claims/check lets a page be a little behind (is_close).
"""
import re

PROGRAM = ["*.[ch]"] + [f"{room}/*.{kind}" for room in ("lib", "kernels", "config", "data", "formats", "model", "infer",
                                                        "run", "plot") for kind in ("[ch]", "def")]
KINDS = {"program": PROGRAM, "tests": ["tests/**/*.[ch]"], "bench": ["bench/*.[ch]"], "chapters": ["*.[ch]"]}
APART = "gpt.c"   # the whole of it once more
SLACK = 0.1       # of a count


def counts(root):
    files = {kind: {path for pattern in patterns for path in root.glob(pattern)
                    if path.name != APART} for kind, patterns in KINDS.items()}
    return {kind: sum(path.read_bytes().count(b"\n") for path in paths) for kind, paths in files.items()}


def facts(root):
    """{name: text}: lines of C, rounded to hundreds."""
    return {kind: f"{round(lines, -2):,}" for kind, lines in counts(root).items()}


def is_close(text, fact):
    told, counted = (int(x.replace(",", "")) if re.fullmatch(r"[\d,]+", x) else -1 for x in (text, fact))
    return told >= 0 and abs(told - counted) <= SLACK * counted
