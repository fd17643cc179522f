"""table.py: the README's table of posts, between its two markers, from the records and claims/posts.toml.

    claims/table            writes it, and refreshes every number that README or a notebook quotes from the records
    claims/table --print    only shows it
    claims/table --execute  also runs the cells of every notebook, and keeps what they show

A quoted number stands between two comments, <!-- claim NAME: FACT --> and <!-- / -->; claims/table --facts lists them.
A notebook's links to C, [`FUNCTION`](../FILE.c#L1), are moved to the line on which the function begins.
"""
import json
import re
import sys
import tomllib

from .bench import Bench
from .claim import read_claim
from .command import UsageError
from .records import read_records
from .report import effect, facts
from .speed import Speeds
from .match import recall_claim
from .trainer import ROOT
from .verdict import evaluate

BEGIN, END = "<!-- claims: written by claims/table -->", "<!-- /claims -->"
QUOTE = re.compile(r"(<!-- claim (\S+): (.+?) -->)(.*?)(<!-- / -->)", re.S)
LINK = re.compile(r"(\[`(\w+)`\]\(\.\./([\w/]+\.[ch])#L)(\d+)\)")   # [`mla_forward`](../attention.c#L260)
ROW = re.compile(r"^(?:SIZE|REAL|BOOL|ENUM|PATTERN|TEXT)\((\w+)", re.M)


def measured(path):
    """What bench/bench left in a file: decoding by context, or the rest."""
    try:
        found = json.loads(path.read_text())
        return Speeds(found) if list(found["sections"]) == ["context"] else Bench(found)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None


class Lab:
    """Everything that is recorded: claims, their records, the posts. root is that of the repository."""

    def __init__(self, root=ROOT):
        self.root = root
        files = sorted(path for path in (root / "claims").glob("*.toml") if path.name != "posts.toml")
        self.claims = sorted(map(read_claim, files), key=lambda claim: (claim.post, claim.name))
        self.records = {c.name: read_records(root / f"claims/results/{c.name}.csv") for c in self.claims}
        self.speeds = {path.stem: measured(path) for path in sorted((root / "claims/results").glob("*.json"))}
        self.posts = tomllib.loads((root / "claims/posts.toml").read_text())["post"]
        self._facts = {}

    def facts(self, name):
        if name in self.speeds:
            return self.speeds[name].facts()
        if name not in self.records:
            raise UsageError(f"a page quotes the claim '{name}', which is no file in claims/")
        if name not in self._facts:
            claim = next(c for c in self.claims if c.name == name)
            self._facts[name] = facts(claim, self.records[name])
        return self._facts[name]

    def flags(self):
        """Those that are built, as they are typed."""
        names = [ROW.findall(path.read_text()) for path in (self.root / "config").glob("*.def")]
        return {"--" + name.replace("_", "-") for group in names for name in group}

    def post(self, number):
        """Its number, as a link to its notebook where there is one."""
        book = next((self.root / "notebooks").glob(f"{number:02d}-*.ipynb"), None)
        return f"[{number}](notebooks/{book.name})" if book else str(number)

    def pages(self):
        return [self.root / "README.md", *sorted((self.root / "notebooks").glob("*.ipynb"))]


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|")


def claim_row(lab, claim):
    records = lab.records[claim.name]
    named = lab.post(claim.post), f"**{claim.title}.** {claim.thesis}"
    command = f"`claims/sweep claims/{claim.name}.toml`"
    outcome = evaluate(recall_claim(claim, records), records)
    if outcome.verdict == "OPEN":
        budget = f"at most {claim.budget:g}" if claim.budget else ""
        post = next((p for p in lab.posts if p["number"] == claim.post), {"flags": []})
        flags = flag_words(post, lab.flags())
        return [*named, "open", "", "", f"{command} {flags}", budget]
    told = [f"{f.comparison.name}: {effect(f)}, predicted {f.comparison.predict}" for f in outcome.findings
            if f.comparison.role == "thesis"]
    image = f"claims/results/{claim.name}.png"
    picture = f'<a href="{image}"><img src="{image}" width="200" alt="{claim.title}"></a>'
    return [*named, f"**{outcome.verdict}**", "<br>".join(told), picture, command,
            lab.facts(claim.name)["minutes"]]


def flag_words(post, built):
    return " ".join(f"`{flag}`" if flag in built else f"*{flag}*" for flag in post["flags"])


def open_row(post, built):
    return [post["number"], f"**{post['title']}.** {post['thesis']}", "open", "", "", flag_words(post, built), ""]


def table(lab):
    names = "post", "thesis", "verdict", "effect, 95% interval", "figure", "run it", "minutes, two cores"
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    rows = [(claim.post, claim_row(lab, claim)) for claim in lab.claims]
    settled, built = {claim.post for claim in lab.claims}, lab.flags()
    rows += [(post["number"], open_row(post, built)) for post in lab.posts if post["number"] not in settled]
    lines += ["| " + " | ".join(cell(c) for c in row) + " |" for _, row in sorted(rows, key=lambda r: r[0])]
    return "\n".join(lines)


def with_table(text, lab):
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(f"README.md has no place for the table: {BEGIN} and {END} stand in it once each")
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table(lab) + "\n" + END + rest.split(END)[1]


def quoted(text, lab):
    """The text with every quoted number as the records have it."""
    def fill(match):
        known = lab.facts(match[2])
        if match[3] not in known:
            raise UsageError(f"a page quotes '{match[3]}' of the claim {match[2]}, which has no such fact; "
                             "claims/table --facts lists them")
        return match[1] + known[match[3]] + match[5]
    return QUOTE.sub(fill, text)


def linked(text, root):
    """Links to lines of C, moved to where the function of that name is defined now."""
    def fill(match):
        name, path = match[2], root / match[3]
        lines = path.read_text().splitlines() if path.exists() else []
        starts = [i for i, line in enumerate(lines, 1) if re.match(rf"\w[^;=]*\b{name}\b[^;]*$", line)]
        if not starts:
            raise UsageError(f"a page links to {name} in {match[3]}, which defines no such thing")
        return f"{match[1]}{starts[0]})"
    return LINK.sub(fill, text)


def refreshed(path, lab):
    """What a page should say."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        book = json.loads(text)
        for c in book["cells"]:
            if c["cell_type"] == "markdown":
                c["source"] = linked(quoted("".join(c["source"]), lab), lab.root).splitlines(keepends=True)
        return json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    return quoted(with_table(text, lab) if path.name == "README.md" else text, lab)


def run_cells(book, path):
    """Runs the cells of a notebook that lies at this path; each may take a minute."""
    import nbclient
    place = {"metadata": {"path": path.parent}}
    try:
        nbclient.NotebookClient(book, timeout=60, kernel_name="python3", resources=place).execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise UsageError(f"a cell fails: {str(error).strip().splitlines()[-1]}") from None


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
        print(table(lab))
    elif "--facts" in words:
        for source in [claim.name for claim in lab.claims] + list(lab.speeds):
            for name, text in lab.facts(source).items():
                print(f"{source}: {name} = {text}")
    else:
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
