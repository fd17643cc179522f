"""table.py: README's table of posts and RESULTS.md's of claims, from the records and claims/posts.toml (front.py).

    claims/table            writes both, and refreshes every number that a page or a notebook quotes from the records
    claims/table --print    only shows README's
    claims/table --execute  also runs the cells of every notebook, and keeps what they show

A quoted number stands between two comments, <!-- claim NAME: FACT --> and <!-- / -->; claims/table --facts lists them.
Links to C, [`FUNCTION`](../FILE.c#L1), are moved to the line on which the function begins.
"""
import json
import re
import sys
import tomllib

from . import figure, front, size
from .bench import Bench
from .claim import read_claim
from .command import UsageError
from .clocks import Clocks
from .flash import Flash, Unmeasured
from .records import read_records
from .report import facts
from .speed import Speeds
from .steps import SECTIONS, Steps
from .match import recall_claim
from .trainer import ROOT
from .verdict import evaluate

BEGIN, END = "<!-- claims: written by claims/table -->", "<!-- /claims -->"
QUOTE = re.compile(r"(<!-- claim (\S+): (.+?) -->)(.*?)(<!-- / -->)", re.S)
LINK = re.compile(r"(\[`(\w+)`\]\(((?:\.\./)?[\w/]+\.[ch])#L)(\d+)\)")   # [`mla_forward`](../attention.c#L260)
ROW = re.compile(r"^(?:SIZE|REAL|BOOL|ENUM|PATTERN|TEXT)\((\w+)", re.M)


def measured(path):
    """What bench/bench left in a file: decoding by context, flash attention taken apart, or the rest."""
    try:
        found = json.loads(path.read_text())
        sections = found["sections"]
        if {"replay", "pace", "held"} & set(sections):
            return Clocks(found)
        return (Steps if SECTIONS & set(sections) else Flash if "crossing" in sections or "left" in sections else
                Speeds if list(sections) == ["context"] else Bench)(found)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None


class Lab:
    """Everything that is recorded: claims, their records, the posts. root is that of the repository."""

    def __init__(self, root=ROOT):
        self.root = root
        files = sorted(path for path in (root / "claims").glob("*.toml") if path.name != "posts.toml")
        self.claims = sorted(map(read_claim, files), key=lambda claim: (claim.post, claim.name))
        self.records = {c.name: read_records(root / f"claims/results/{c.name}.csv") for c in self.claims}
        for claim in self.claims:
            path = root / f"claims/results/{claim.record}"
            claim.measured = json.loads(path.read_text()) if claim.record and path.exists() else None
        self.speeds = {path.stem: measured(path) for path in sorted((root / "claims/results").glob("*.json"))}
        self.posts = tomllib.loads((root / "claims/posts.toml").read_text())["post"]
        self._facts, self._outcomes = {}, {}

    def outcome(self, claim):
        if claim.name not in self._outcomes:
            records = self.records[claim.name]
            self._outcomes[claim.name] = evaluate(recall_claim(claim, records), records)
        return self._outcomes[claim.name]

    def pictures(self, claim):
        """[(path, how it is drawn)] of a claim."""
        folder = self.root / "claims/results"
        small = folder / f"{claim.name}{front.SMALL}.png"
        return [(folder / f"{claim.name}.png", figure.draw), (small, figure.draw_small)]

    def facts(self, name):
        if name == "code":
            return size.facts(self.root)
        if name in self.speeds and all(c.name != name for c in self.claims):    # a claim may be named as its record is
            return self.speeds[name].facts()
        claim = next((c for c in self.claims if name in (c.name, c.record.removesuffix(".json"))), None)
        if claim and claim.record and not claim.measured:
            return Unmeasured(facts(claim, {}) if name == claim.name else {})
        if not claim:
            raise UsageError(f"a page quotes the claim '{name}', which is no file in claims/")
        if name not in self._facts:
            self._facts[name] = facts(claim, self.records[name])
            if claim.record:
                self._facts[name] |= self.speeds[claim.record.removesuffix(".json")].facts()
        return self._facts[name]

    def flags(self):
        """Those that are built, as they are typed."""
        names = [ROW.findall(path.read_text()) for path in (self.root / "config").glob("*.def")]
        return {"--" + name.replace("_", "-") for group in names for name in group}

    def notebook(self, number):
        return next((self.root / "notebooks").glob(f"{number:02d}-*.ipynb"), None)

    def pages(self):
        """Those whose every measured number is quoted from the records."""
        texts = [self.root / "README.md", self.root / "CONTRIBUTING.md", self.root / "claims/RESULTS.md"]
        return [path for path in texts if path.exists()] + sorted((self.root / "docs").glob("*.md")) \
            + sorted((self.root / "notebooks").glob("*.ipynb"))


def with_table(text, name, table):
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(f"{name} has no place for the table: {BEGIN} and {END} stand in it once each")
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1]


def quoted(text, lab):
    """The text with every quoted number as the records have it."""
    def fill(match):
        known = lab.facts(match[2])
        if match[3] not in known:
            raise UsageError(f"a page quotes '{match[3]}' of the claim {match[2]}, which has no such fact; "
                             "claims/table --facts lists them")
        return match[1] + known[match[3]] + match[5]
    return QUOTE.sub(fill, text)


def linked(text, folder):
    """A page's links to lines of C, moved to where the function of that name is defined now."""
    def fill(match):
        name, path = match[2], folder / match[3]
        lines = path.read_text().splitlines() if path.exists() else []
        starts = [i for i, line in enumerate(lines, 1) if re.match(rf"\w[^;=]*\b{name}\b[^;]*$", line)]
        if not starts:
            raise UsageError(f"a page links to {name} in {match[3]}, which defines no such thing")
        return f"{match[1]}{starts[0]})"
    return LINK.sub(fill, text)


TABLES = {"README.md": front.front, "RESULTS.md": front.results}


def refreshed(path, lab):
    """What a page should say."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        book = json.loads(text)
        for c in book["cells"]:
            if c["cell_type"] == "markdown":
                c["source"] = linked(quoted("".join(c["source"]), lab), path.parent).splitlines(keepends=True)
        return json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    if path.name in TABLES:
        text = with_table(text, path.name, TABLES[path.name](lab))
    return linked(quoted(text, lab), path.parent)


def run_cells(book, path):
    """Runs the cells of a notebook that lies at this path; each may take five minutes."""
    import nbclient
    place = {"metadata": {"path": path.parent}}
    try:
        nbclient.NotebookClient(book, timeout=300, startup_timeout=300, kernel_name="python3",
                                resources=place).execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise UsageError(f"a cell fails: {str(error).strip().splitlines()[-1]}") from None
    for c in book.cells:
        if c.cell_type == "code":
            c.outputs = whole_streams(c.outputs)


def whole_streams(outputs):
    """What a cell printed in one piece: a kernel sends it in as many as the load of the machine makes."""
    found = []
    for output in outputs:
        if found and output.get("name") and output["name"] == found[-1].get("name"):
            found[-1]["text"] += output["text"]
        else:
            found.append(output)
    return found


def keep_outputs(path):
    """Outputs as they come, without what a front end adds: a run with the same records leaves the same file."""
    import nbformat
    book = nbformat.read(path, as_version=4)
    run_cells(book, path)
    for c in book.cells:
        c.metadata.pop("execution", None)
    path.write_text(nbformat.writes(book).rstrip("\n") + "\n")


def main(words):
    if unknown := set(words) - {"--print", "--facts", "--execute"}:
        raise UsageError(f"unknown option '{unknown.pop()}'; there are --print, --facts and --execute")
    lab = Lab()
    if "--print" in words:
        print(front.front(lab))
    elif "--facts" in words:
        for source in [claim.name for claim in lab.claims] + list(lab.speeds) + ["code"]:
            for name, text in lab.facts(source).items():
                print(f"{source}: {name} = {text}")
    else:
        for claim in lab.claims:
            for path, draw in lab.pictures(claim) if lab.records[claim.name] or claim.measured else []:
                draw(claim, lab.records[claim.name], path)
        for path in lab.pages():
            text = refreshed(path, lab)
            if text != path.read_text():
                path.write_text(text)
                print(f"written {path.relative_to(lab.root)}")
            if path.suffix == ".ipynb" and "--execute" in words:
                keep_outputs(path)
                print(f"executed {path.relative_to(lab.root)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
