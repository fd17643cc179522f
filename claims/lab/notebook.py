"""notebook.py: what a notebook shows of a claim. Everything but live() is computed from the records.

    import sys; sys.path.insert(0, "../claims")
    from lab.notebook import Receipt
    mla = Receipt("mla")
    mla.findings()          the comparisons, their intervals and verdicts
    mla.figure()            the figure, drawn from the records
    mla.live("gqa 32")      one recorded run of this arm, the quickest, trained here and now: the same digest?

A cell that calls live() has the tag `live`: what it prints depends on the machine's speed. Numbers in the text are
quoted (claims/table --facts), and claims/check --notebooks executes the notebook and compares what its cells print.
"""
import tempfile
import time
from pathlib import Path

from . import figure, trainer
from .claim import read_claim
from .match import recall_claim
from .records import read_records
from .report import effect, facts
from .speed import Speeds
from .verdict import Results, evaluate

CLAIMS = trainer.ROOT / "claims"


class Receipt:
    def __init__(self, name, folder=CLAIMS):
        self.path = Path(folder) / f"{name}.toml"
        self.records = read_records(Path(folder) / f"results/{name}.csv")
        self.claim = recall_claim(read_claim(self.path), self.records)
        self.outcome = evaluate(self.claim, self.records)
        self.results = Results(self.claim, self.records)
        self.facts = facts(self.claim, self.records)

    def command(self):
        """What reproduces all of it."""
        print(f"claims/sweep claims/{self.path.name}")

    def findings(self):
        for f in self.outcome.findings:
            role = "" if f.comparison.role == "thesis" else " (control)"
            print(f"{f.verdict:<12} {f.comparison.name}{role}: {effect(f)}, predicted {f.comparison.predict}")
        print(f"{self.outcome.verdict}, from {self.facts['runs']} runs")

    def figure(self):
        from IPython.display import Image
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figure.png"
            figure.draw(self.claim, self.records, path)
            return Image(path.read_bytes(), width=760)

    def rows(self, arm):
        return [row for row in self.records.values() if row["arm"] == arm and row["status"] == "finished"]

    def live(self, arm):
        """Trains the arm's quickest recorded run again, and compares its digest with the recorded one."""
        row = min(self.rows(arm), key=lambda r: r["seconds"])
        begun = time.monotonic()
        status, digest, error = trainer.again(row)
        same = "the same" if digest == row["digest"] else "NOT the same"
        print(f"./train {row['flags']}")
        print(f"recorded {row['digest']}, here {digest or status + error}: {same}, {time.monotonic() - begun:.1f} s")
        assert digest == row["digest"], "the digest differs from the recorded one"
