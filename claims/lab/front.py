"""front.py: the two tables that claims/table writes. README has one row per post; claims/RESULTS.md has every claim.

A claim file's headline is the finding of its post in one sentence. {FACT} stands for what the claim's own records say,
by a name that claims/table --facts lists after "CLAIM: ", as in {out+qk vs post: mean}. No other measured number may
stand in it, so that the sentence cannot say what the records do not.
"""
import re

from .command import UsageError
from .report import effect, named, settle_text

LONGEST = 25   # words of a sentence in README's table
SMALL = ".small"   # as in norm-qk.small.png
FACT = re.compile(r"\{([^{}]*)\}")
# A measured number in a text: one with a point, a per cent, or a multiple. Code and links may have any.
MEASURED = re.compile(r"(?<![\w.])[-+\u2212]?\d+\.\d+(?![\w.]*\w)|\d+(?:\.\d+)? ?%|\d+(?:\.\d+)?x\b")
EDGE, FREE = "edge of the list", "binds nothing"   # notes that RESULTS.md shows too
FRONT = "", "post", "what we found, or what is to be shown", "verdict", "", "run it", "minutes"
RESULTS = "claim", "verdict", "effect, 95% interval", "figure", "run it", "minutes, two cores"


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|")


def rows_of(names, rows):
    """A table in Markdown."""
    head = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    return "\n".join(head + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def sentence(text, where):
    """The text on one line, if it is short enough for README's table."""
    text = " ".join(text.split())
    if len(text.split()) > LONGEST:
        raise UsageError(f"{where} has {len(text.split())} words; README's table has room for {LONGEST}")
    return text


def unbacked(text, where):
    if loose := MEASURED.findall(re.sub(r"`[^`]*`", " ", FACT.sub(" ", text))):
        raise UsageError(f"{where} has the number {loose[0]}, which no record backs: write {{FACT}} instead")


def filled(text, facts, where):
    """A sentence with its {FACTS} as the records have them, and no other measured number."""
    numbers = []

    def fill(match):
        if match[1] not in facts:
            raise UsageError(f"{where} names '{match[1]}', which is no fact of the claim; "
                             "claims/table --facts lists them")
        numbers.extend(re.findall(r"\d", facts[match[1]]))
        return facts[match[1]]
    unbacked(text, where)
    if set("{}") & set(FACT.sub(" ", text)):
        raise UsageError(f"{where} has a brace without its other half")
    told = FACT.sub(fill, text)
    if not numbers:
        raise UsageError(f"{where} has no number from the records: write {{FACT}} for one")
    return told


def headline(claim, facts):
    """A claim's headline, filled in from its records."""
    where = f"claims/{claim.name}.toml: its headline"
    return sentence(filled(claim.headline, facts, where), where)


def headline_claim(lab, number):
    """The claim whose headline a post's row shows, or None where no claim of the post is settled."""
    claims = [claim for claim in lab.claims if claim.post == number]
    if all(lab.outcome(claim).verdict == "OPEN" for claim in claims):
        return None
    named = [claim for claim in claims if claim.headline]
    if len(named) != 1:
        found = " and ".join(claim.name for claim in named) or "none"
        raise UsageError(f"post {number} is settled, so exactly one of its claims has a headline; found: {found}")
    return named[0] if lab.outcome(named[0]).verdict != "OPEN" else None


def picture(claim, folder):
    """The small one, which is made for this width, and leads to the whole one."""
    image = f"{folder}results/{claim.name}"
    return f'<a href="{image}.png"><img src="{image}{SMALL}.png" width="220" alt="{claim.title}"></a>'


def thumbnails(lab):
    """The small pictures of README's rows, drawn from the records: {path: claim}."""
    shown = [headline_claim(lab, post["number"]) for post in lab.posts]
    return {lab.root / f"claims/results/{claim.name}{SMALL}.png": claim for claim in shown if claim}


def flag_words(post, built):
    return " ".join(f"`{flag}`" if flag in built else f"*{flag}*" for flag in post["flags"])


def run_it(claim):
    """The command that leaves a claim's record."""
    if claim.record:
        return f"`{claim.command} --out claims/results/{claim.record}`"
    return f"`claims/sweep claims/{claim.name}.toml`"


def minutes(lab, claim):
    return f"{claim.budget:g}" if claim.record and claim.budget else lab.facts(claim.name)["minutes"]


def post_row(lab, post):
    number, title = post["number"], post["title"]
    book = lab.notebook(number)
    named = f"[{title}](notebooks/{book.name})" if book else title
    claim, count = headline_claim(lab, number), sum(c.post == number for c in lab.claims)
    every = f"<br>[{'all ' if count > 1 else ''}{count} claim{'s' * (count > 1)}](claims/RESULTS.md#post-{number})"
    if claim:
        return [number, named, headline(claim, lab.facts(claim.name)),
                f"**{lab.outcome(claim).verdict}**{every}", picture(claim, "claims/"),
                run_it(claim), minutes(lab, claim)]
    thesis = sentence(post["thesis"], f"claims/posts.toml: the thesis of post {number}")
    return [number, named, thesis, "open" + every * bool(count), "", flag_words(post, lab.flags()), ""]


def front(lab):
    """README's table: a row per post."""
    return rows_of(FRONT, [post_row(lab, post) for post in lab.posts])


def claim_row(lab, claim):
    title, command = f"**{claim.title}.** {claim.thesis}", run_it(claim)
    outcome = lab.outcome(claim)
    if outcome.verdict == "OPEN":
        return [title, "open", "", "", command, f"at most {claim.budget:g}" if claim.budget else ""]
    told = [f"{named(claim, f.comparison)}: {effect(f)}, predicted {f.comparison.predict}"
            + (" (control)" if f.comparison.role == "control" else "") + f": {f.verdict}"
            + "".join(f"; {text}" for text in [settle_text(claim, lab.records[claim.name], f)] if text)
            for f in outcome.findings]
    told += [note for note in outcome.notes if EDGE in note or FREE in note]
    return [title, f"**{outcome.verdict}**", "<br>".join(told), picture(claim, ""), command,
            minutes(lab, claim)]


def results(lab):
    """Every claim with all its comparisons, a section per post."""
    titles, parts = {post["number"]: post["title"] for post in lab.posts}, []
    for number in sorted({claim.post for claim in lab.claims}):
        book = lab.notebook(number)
        more = f" Read about it in [its notebook](../notebooks/{book.name})." if book else ""
        rows = [claim_row(lab, claim) for claim in lab.claims if claim.post == number]
        parts.append(f"## Post {number}\n\n{titles.get(number, 'Of no post')}.{more}\n\n{rows_of(RESULTS, rows)}\n")
    return "\n".join(parts).rstrip("\n")
