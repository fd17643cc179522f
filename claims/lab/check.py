"""check.py: holds what the project says against what it recorded.

    claims/check                recomputes every verdict from the records, and compares figures, pages and notebooks
    claims/check --rerun        also trains the quickest run of every claim again, and compares all that it recorded
    claims/check --notebooks    also executes the notebooks, and compares what their cells print

Nothing but the records decides a verdict. A page fails that shows a number or a digest which they do not hold; a
record, whose rows are not as they were sealed, or were made for another prediction than the claim file's; a figure that
is not what the records draw. Claims of timings are measured again within their tolerance, and never by digest.
"""
import functools
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy

from . import figure, size, trainer
from .claim import MACHINES
from .command import UsageError
from .front import MEASURED
from .match import recall_claim
from .records import METRICS, NUMBERS, seal_of
from .report import effect, named, number
from .programs import WORKERS
from .table import BEGIN, END, QUOTE, Lab, refreshed, run_cells, whole_streams
from .verdict import selected, wanted

DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
BUSY = 0.5     # processes that want a core: a timing would be compared with another one
VISIBLE = 48   # of 255: two renderings of one picture differ by less in every pixel
NOT_PROSE = re.compile(r"```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)|\$[^$]*\$|https?://\S+|goal (?:was |of )?[\d.]+%?", re.S)


def check_records(claim, records):
    """Complaints about one claim's records."""
    if claim.record:
        return []      # where it is not there yet, the claim is open
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
    return found + check_seals(claim, records)


def check_seals(claim, records):
    """Rows that were changed after they were written, and predictions that were changed after their rows."""
    open_ = [r for r in records.values() if not r.get("seal") or not r.get("promise")]
    broken = [r for r in records.values() if r.get("seal") and r["seal"] != seal_of(r)]
    other = [r for r in records.values() if r.get("promise") and r["promise"] != claim.promise]
    found = []
    if open_:
        found.append(f"{len(open_)} rows without a seal or a promise, such as: {open_[0]['flags']}")
    if broken:
        found.append(f"{len(broken)} rows were changed after they were recorded, such as: {broken[0]['flags']}")
    if other:
        found.append(f"its prediction was changed after {len(other)} rows were recorded: it is {claim.promise} now and "
                     f"was {other[0]['promise']}; another prediction is another claim, on fresh seeds")
    return found


def same_picture(path, other):
    """Whether two PNG files show the same."""
    try:
        a, b = (figure.plt.imread(p)[..., :3] for p in (path, other))
    except (OSError, SyntaxError, ValueError):
        return False
    return a.shape == b.shape and float(numpy.abs(a - b).max()) <= VISIBLE / 255


def check_figures(claim, records, lab):
    """Its pictures, drawn once more."""
    if not records and not claim.measured:
        return []
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for path, draw in lab.pictures(claim):
            draw(claim, records, Path(folder) / path.name)
            if not path.exists():
                found.append(f"its figure {path.name} is missing; claims/table draws it")
            elif not same_picture(path, Path(folder) / path.name):
                found.append(f"its figure {path.name} is not what the records draw; claims/table draws it")
    return found


def known_digests(lab):
    """Those of the records, and those that tests/digests.sh keeps."""
    kept = lab.root / "tests/digests.txt"
    texts = [kept.read_text()] if kept.exists() else []
    return {r["digest"] for rows in lab.records.values() for r in rows.values()} | set(DIGEST.findall(" ".join(texts)))


def unknown_digests(text, lab):
    found = sorted(set(DIGEST.findall(text)) - known_digests(lab))
    return [f"the digest {x} is in no record, nor in tests/digests.txt" for x in found]


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
        return ([] if same else differs) + broken_links(path, text) + loose + unknown_digests(text, lab)
    book = json.loads(text)
    found = [] if json.loads(fresh) == book else differs
    found += unknown_digests("\n".join("".join(c["source"]) for c in book["cells"]), lab)
    found += broken_links(path, "\n".join("".join(c["source"]) for c in book["cells"] if c["cell_type"] == "markdown"))
    for c in book["cells"]:
        loose = unbacked("".join(c["source"])) if c["cell_type"] == "markdown" else []
        if loose:
            found.append(f"the number {loose[0]} is not quoted from the records: {''.join(c['source'])[:60]!r}")
    return found


def rerun(claim, records):
    """The quickest recorded run again: a complaint, or none."""
    if claim.kind == "timing":
        return rerun_timing(claim, records)
    rows = [r for r in records.values() if r["status"] == "finished"]
    if not rows:
        return []
    row = min(rows, key=lambda r: r["seconds"])
    if missing := missing_data(row):
        print(f"rerun    {claim.name}: not without {missing}; data/get.sh downloads it")
        return []
    now = WORKERS[claim.program].again(row)
    differs = differences(row, now)
    print(f"rerun    {claim.name}: {now['digest'] or now['status']} {'is not' if differs else 'is'} the recorded run")
    return [f"{row['flags']}: {text} {now['error']}".rstrip() for text in differs]


def missing_data(row):
    data = re.search(r"--data (\S*/\S+)", row["flags"])
    return data[1] if data and not (trainer.ROOT / data[1]).exists() else ""


def differences(row, now):
    """What a run has otherwise than its record: everything that is not of the machine."""
    names = ["status", "digest", *(m for m in METRICS if m not in MACHINES), "diverged_at", "evals"]
    found = []
    for name in names:
        was, new = row.get(name), now.get(name)
        if was in (None, ""):      # an older table has no such column
            continue
        if (float(new) != was if name in NUMBERS and new is not None else (new or "") != was):
            found.append(f"the {name} was {was}, now {new or now['status']}")
    return found


def rerun_timing(claim, records):
    """A timing again: the median of what is compared, within the claim's tolerance. Only on the machine of its record,
    while nothing else runs there; elsewhere a note says that it was left out."""
    if claim.record:
        return rerun_bench(claim)
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"rerun    {claim.name}: not while other processes want a core ({load:.1f} in the last minute)")
        return []
    found = []
    for c in claim.comparisons:
        rows = [next((r for r in records.values() if r["arm"] == label and r["status"] == "finished"), None)
                for label in (c.a, c.b) if label]
        if None in rows:
            continue
        again = [WORKERS[claim.program].again(row) for row in rows]
        now = [row.get(c.metric) for row in again]
        if None in now:
            found.append(f"{c.name}: it does not run again")
            continue
        if again[0]["cpu"] != rows[0]["cpu"]:
            print(f"rerun    {claim.name}: {again[0]['cpu']} is another machine than its record's, {rows[0]['cpu']}")
            return found
        was, new = (values[0] / values[1] if c.b else values[0] for values in ([r[c.metric] for r in rows], now))
        found += compared(claim, c.name, was, new)
    return found


@functools.lru_cache
def measure_again(command):
    """(what bench/bench leaves, or None; its error). Once for all claims of one record."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "again.json"
        done = subprocess.run([*shlex.split(command), "--out", out], cwd=trainer.ROOT, capture_output=True, text=True)
        return (json.loads(out.read_text()), "") if done.returncode == 0 else (None, trainer.error_line(done.stderr))


def rerun_bench(claim):
    """On the machine of its record, while nothing else runs there; elsewhere a note says that it was left out."""
    program, load = shlex.split(claim.command)[0], os.getloadavg()[0]
    if not claim.measured:
        return []
    if not (trainer.ROOT / program).exists():
        print(f"rerun    {claim.name}: not without {program}; make bench builds it")
        return []
    if load > BUSY:
        print(f"rerun    {claim.name}: not while other processes want a core ({load:.1f} in the last minute)")
        return []
    again, error = measure_again(claim.command)
    if not again:
        return [f"{claim.command}: {error}"]
    if again["machine"]["cpu"] != claim.measured["machine"]["cpu"]:
        print(f"rerun    {claim.name}: not on {again['machine']['cpu']}, which is another machine than its record's")
        return []
    found = []
    for c in claim.comparisons:
        pairs = [[numpy.array(selected(record, label, claim.record)) for label in (c.a, c.b) if label]
                 for record in (claim.measured, again)]
        was, new = (float(numpy.median(p[0] / p[1] if c.b else p[0])) for p in pairs)
        found += compared(claim, c.name, was, new)
    return found


def compared(claim, name, was, new):
    off = new / was - 1
    print(f"rerun    {claim.name}: {name} was {number(was)}, now {number(new)} ({100 * off:+.0f}%, at most "
          f"{100 * claim.tolerance:.0f}% off)")
    return [] if abs(off) <= claim.tolerance else [f"{name} was {number(was)}, now {number(new)}: more than "
                                                   f"{100 * claim.tolerance:.0f}% off, or another machine"]


def outputs(c):
    """What a cell printed, without pictures and addresses."""
    parts = []
    for output in whole_streams(c.get("outputs", [])):
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


def executed(paths):
    """Complaints by notebook, two at a time: a kernel mostly uses one core."""
    with ProcessPoolExecutor(2) as pool:
        return dict(zip(paths, pool.map(execute, paths)))


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
        for f in outcome.findings if records or claim.measured else []:
            sure = f", p {f.p:.2g}" if claim.kind == "runs" else ""
            told = f"{named(claim, f.comparison)}: {effect(f)}, predicted {f.comparison.predict}{sure}"
            print(f"  {f.verdict:<12} {told}")
        if len(commits := {r["commit"] for r in records.values()}) > 1:
            print(f"  rows of {len(commits)} commits: {', '.join(sorted(commits))}")
        found = check_records(claim, records) + check_figures(claim, records, lab)
        found += rerun(claim, records) if "--rerun" in words else []
        complaints += [f"{claim.name}: {text}" for text in found]
        checks += 1
    for name, speeds in lab.speeds.items():
        print(f"{'measured':<12} {name}: on {speeds.all['machine']['cpu']}, commit {speeds.all['commit']}")
        complaints += [f"{name}: {text}" for text in speeds.complaints()]
        checks += 1
    books = [path for path in lab.pages() if path.suffix == ".ipynb" and "--notebooks" in words]
    cells = executed(books)
    for path in lab.pages():
        found = check_page(path, lab) + cells.get(path, [])
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
