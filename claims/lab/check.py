"""check.py: holds what the project says against what it recorded.

    claims/check                recomputes every verdict from the records, in seconds, and compares pages and notebooks
    claims/check --rerun        also trains the quickest run of every claim again, and compares its digest
    claims/check --notebooks    also executes the notebooks, and compares what their cells print

Nothing but the records decides a verdict. A page fails that shows a number which they do not hold.
"""
import json
import re
import sys

from . import size, trainer
from .command import UsageError
from .front import MEASURED
from .match import recall_claim
from .report import effect
from .table import BEGIN, END, QUOTE, Lab, refreshed, run_cells
from .verdict import wanted

NOT_PROSE = re.compile(r"```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)|\$[^$]*\$|https?://\S+|goal (?:was |of )?[\d.]+%?", re.S)


def check_records(claim, records, root):
    """Complaints about one claim's records."""
    claim = recall_claim(claim, records)
    asked = {run.key for run in wanted(claim, records)[0]}
    extra = [key for key in records if key not in asked]
    dirty = [r for r in records.values() if r["commit"].endswith("-dirty") or r["commit"] in ("", "unknown")]
    finished = [r for r in records.values() if r["status"] == "finished"]
    blank = [r for r in finished if not re.fullmatch(r"[0-9a-f]{16}", r["digest"])]
    found = []
    if extra:
        found.append(f"{len(extra)} rows that the claim does not ask for, such as: {extra[0]}")
    if dirty:
        found.append(f"{len(dirty)} rows without a commit that others have, such as: {dirty[0]['flags']}")
    if blank:
        found.append(f"{len(blank)} finished rows without a digest, such as: {blank[0]['flags']}")
    if records and not (root / f"claims/results/{claim.name}.png").exists():
        found.append("its figure is missing")
    return found


def unbacked(text):
    """Measured numbers in a text that are not quoted from the records."""
    return MEASURED.findall(NOT_PROSE.sub(" ", QUOTE.sub(" ", text)))


def as_built(text):
    """Flags that were built since the table was written are no number."""
    return re.sub(r"\*(--[a-z-]+)\*", r"`\1`", text)


def as_counted(text, lab):
    """Counts of lines may be a little behind."""
    def settle(match):
        fact = lab.facts("code").get(match[3], "") if match[2] == "code" else ""
        return match[1] + fact + match[5] if fact and size.is_close(match[4], fact) else match[0]
    return QUOTE.sub(settle, text)


def without_table(text):
    return re.sub(f"{BEGIN}.*{END}", " ", text, flags=re.S)


def check_page(path, lab):
    try:
        fresh = refreshed(path, lab)
    except UsageError as error:
        return [str(error)]
    text = path.read_text()
    differs = ["it differs from the records; claims/table writes what they say"]
    if path.suffix != ".ipynb":
        loose = [f"the number {x} is not quoted from the records" for x in unbacked(without_table(text))]
        same = as_built(fresh) == as_built(as_counted(text, lab))
        return ([] if same else differs) + broken_links(path, text) + loose
    book = json.loads(text)
    found = [] if json.loads(fresh) == book else differs
    found += broken_links(path, "\n".join("".join(c["source"]) for c in book["cells"] if c["cell_type"] == "markdown"))
    for c in book["cells"]:
        loose = unbacked("".join(c["source"])) if c["cell_type"] == "markdown" else []
        if loose:
            found.append(f"the number {loose[0]} is not quoted from the records: {''.join(c['source'])[:60]!r}")
    return found


def rerun(claim, records):
    """The quickest recorded run again: a complaint, or none."""
    rows = [r for r in records.values() if r["status"] == "finished"]
    if not rows:
        return []
    row = min(rows, key=lambda r: r["seconds"])
    data = re.search(r"--data (\S*/\S+)", row["flags"])
    if data and not (trainer.ROOT / data[1]).exists():
        print(f"rerun    {claim.name}: not without {data[1]}; data/get.sh downloads it")
        return []
    status, digest, error = trainer.again(row)
    same = digest == row["digest"]
    print(f"rerun    {claim.name}: {digest or status} {'is' if same else 'is not'} the recorded digest")
    return [] if same else [f"the digest of {row['flags']} was {row['digest']}, now {digest or status} {error}"]


def outputs(c):
    """What a cell printed, without pictures and addresses."""
    parts = []
    for output in c.get("outputs", []):
        parts.append("".join(output.get("text", "")) or "".join(output.get("data", {}).get("text/plain", "")))
    return [re.sub(r"0x[0-9a-f]+", "0x", part) for part in parts]


def execute(path):
    """A notebook again: complaints about cells that print something else than what is stored. Cells tagged `live`
    measure this machine, and may."""
    import nbformat
    book = nbformat.read(path, as_version=4)
    stored = [outputs(c) for c in book.cells]
    try:
        run_cells(book, path)
    except UsageError as error:
        return [str(error)]
    return [f"a cell prints something else than is stored: {c.source[:60]!r}" for c, before in zip(book.cells, stored)
            if c.cell_type == "code" and "live" not in c.metadata.get("tags", []) and outputs(c) != before]


def anchors(path):
    """What a link to a page may name behind its #: its headings, as GitHub spells them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def is_there(folder, link):
    target, _, anchor = link.partition("#")
    path = folder / target
    if not path.exists():
        return False
    if re.fullmatch(r"L\d+", anchor):
        return int(anchor[1:]) <= path.read_bytes().count(b"\n")
    return not anchor or path.suffix == ".md" and anchor in anchors(path)


def broken_links(path, text):
    """Links of a page to files, lines or headings that are not there."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    found = re.findall(r"\]\(([^)\s]+)\)|<(?:a href|img src)=\"([^\"]+)\"", text)
    links = {link if link[0] != "#" else path.name + link for pair in found for link in pair if link}
    return [f"it links to {link}, which is not there" for link in sorted(links)
            if not link.startswith(("http:", "https:", "mailto:")) and not is_there(path.parent, link)]


def main(words, lab=None):
    if unknown := set(words) - {"--rerun", "--notebooks"}:
        raise UsageError(f"unknown option '{unknown.pop()}'; there are --rerun and --notebooks")
    lab, complaints, checks = lab or Lab(), [], 0
    for claim in lab.claims:
        records = lab.records[claim.name]
        outcome = lab.outcome(claim)
        missing = f", {outcome.missing} runs are missing" if outcome.missing else ""
        print(f"{outcome.verdict:<12} {claim.name}: {claim.title}{missing}")
        for f in outcome.findings if records else []:
            print(f"  {f.verdict:<12} {f.comparison.name}: {effect(f)}, predicted {f.comparison.predict}, p {f.p:.2g}")
        if len(commits := {r["commit"] for r in records.values()}) > 1:
            print(f"  rows of {len(commits)} commits: {', '.join(sorted(commits))}")
        found = check_records(claim, records, lab.root) + (rerun(claim, records) if "--rerun" in words else [])
        complaints += [f"{claim.name}: {text}" for text in found]
        checks += 1
    for name, speeds in lab.speeds.items():
        print(f"{'measured':<12} {name}: on {speeds.all['machine']['cpu']}, commit {speeds.all['commit']}")
        complaints += [f"{name}: {text}" for text in speeds.complaints()]
        checks += 1
    for path in lab.pages():
        found = check_page(path, lab)
        if path.suffix == ".ipynb" and "--notebooks" in words:
            found += execute(path)
        complaints += [f"{path.relative_to(lab.root)}: {text}" for text in found]
        checks += 1
    for complaint in complaints:
        print(f"error: {complaint}", file=sys.stderr)
    print(f"{max(0, checks - len(complaints))} passed, {len(complaints)} failed")
    return 1 if complaints else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
