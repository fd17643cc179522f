"""notebook.py: what a notebook shows of a claim. Everything but live() is computed from the records.

    import sys; sys.path.insert(0, "../claims")
    from lab.notebook import Receipt
    mla = Receipt("mla")
    mla.arms()              each arm: what it reached, at which learning rate
    mla.findings()          the comparisons, their intervals and verdicts
    mla.figure()            the figure, drawn from the records
    mla.depth() without()   with --log-layers, --drop-layers: what changes with depth, what leaving a layer out costs
    mla.live("gqa 32")      one recorded run of this arm, the quickest, trained here and now: the same digest?

    Measured("decode")      what bench/bench measured of one machine: rows() and figure()

A cell that calls live() has the tag `live`: what it prints depends on the machine's speed. Numbers in the text are
quoted (claims/table --facts), and claims/check --notebooks executes the notebook and compares what its cells print.
"""
import io
import json
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
from IPython.display import Image

from . import figure, trainer
from .claim import read_claim
from .flash import COMMAND, Flash
from .front import run_it
from .match import recall_claim
from .records import METRICS, read_records
from .report import (best_loss, chosen_text, effect, facts, level, measured_text, named, number, rows_of_arms,
                     settle_text)
from .programs import WORKERS
from .speed import KINDS, Speeds
from .steps import Steps
from .verdict import Results, evaluate

CLAIMS = trainer.ROOT / "claims"


class Receipt:
    def __init__(self, name, folder=CLAIMS):
        self.path = Path(folder) / f"{name}.toml"
        self.records = read_records(Path(folder) / f"results/{name}.csv")
        self.claim = recall_claim(read_claim(self.path), self.records)
        record = Path(folder) / "results" / self.claim.record
        self.claim.measured = json.loads(record.read_text()) if self.claim.record and record.exists() else None
        self.outcome = evaluate(self.claim, self.records)
        self.results = Results(self.claim, self.records)
        self.facts = facts(self.claim, self.records)

    def command(self):
        """What reproduces all of it."""
        print(run_it(self.claim).strip("`"))

    def arms(self):
        rows = rows_of_arms(self.claim, self.results)
        width = max(len(label) for label, _, _ in rows)
        what = measured_text(self.claim) if self.claim.usable or self.claim.outcome else METRICS[self.claim.metric]
        print(f"{'':<{width}}  {what}: {self.claim.spread} over {len(self.claim.seeds)} seeds")
        for label, arm, e in rows:
            rate = f"  at --lr {chosen_text(self.results, self.claim, arm)}" if arm and not self.claim.usable else ""
            loss = f"  loss at its best rate {level(best_loss(self.claim, self.records, label))}" \
                if self.claim.usable else ""
            print(f"{label:<{width}}  {level(e)}{rate}{loss}")

    def findings(self):
        for f in self.outcome.findings:
            role = "" if f.comparison.role == "thesis" else " (control)"
            name = named(self.claim, f.comparison) + role
            print(f"{f.verdict:<12} {name}: {effect(f)}, predicted {f.comparison.predict}")
            if text := settle_text(self.claim, self.records, f):
                print(f"{'':<12} {text}")
        if self.claim.record and not self.claim.measured:
            print("not measured yet")
        print(self.outcome.verdict + f", from {self.facts['runs']} runs" * (not self.claim.record))
        for note in self.outcome.notes:
            print(f"note: {note}")

    def depth(self, **facet):
        """How stream and gradient change from the first layer to the last: medians of the finished runs."""
        print(f"{'':<10}  RMS of the stream, last/first layer   gradient norm, first/last layer   runs")
        for arm in self.claim.arms:
            if dict(arm.facet) == {name: str(value) for name, value in facet.items()}:
                rows = [r for r in self.rows(arm.label) if r["rms_first"] and r["grad_last"]]
                stream = numpy.median([r["rms_last"] / r["rms_first"] for r in rows])
                gradient = numpy.median([r["grad_first"] / r["grad_last"] for r in rows])
                print(f"{arm.name:<10}  {number(stream):>36}  {number(gradient):>32}  {len(rows):>5}")

    def without(self):
        """Nats per token that leaving a layer out adds: means over the seeds, each arm at its best learning rate."""
        kinds = {"drop_first": "first layer", "drop_shallow": "mean, 1st half", "drop_median": "median of all",
                 "drop_deep": "mean, 2nd half", "drop_last": "last layer"}
        print(f"{'':<10}" + "".join(f"{text:>16}" for text in kinds.values()))
        for arm in self.claim.arms:
            best = [[self.results.best(arm, seed, kind) for seed in self.claim.seeds] for kind in kinds]
            print(f"{arm.label:<10}" + "".join(f"{number(numpy.mean(values)):>16}" for values in best))

    def figure(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figure.png"
            figure.draw(self.claim, self.records, path)
            return Image(path.read_bytes(), width=920)

    def rows(self, arm):
        """Its finished runs, of the seeds that are reported: those of a pilot have no part in any mean."""
        reported = {run.key for run in self.claim.runs(self.claim.seeds) if run.arm.label == arm}
        return [row for key, row in self.records.items() if key in reported and row["status"] == "finished"]

    def live(self, arm):
        """Trains the arm's quickest recorded run again, and compares its digest with the recorded one."""
        row = min(self.rows(arm), key=lambda r: r["seconds"])
        begun = time.monotonic()
        now = WORKERS[self.claim.program].again(row)
        digest = now["digest"]
        same = "the same" if digest == row["digest"] else "NOT the same"
        print(f"./{self.claim.program} {row['flags']}")
        here = digest or now["status"] + now["error"]
        print(f"recorded {row['digest']}, here {here}: {same}, {time.monotonic() - begun:.1f} s")
        assert digest == row["digest"], "the digest differs from the recorded one"


class Measured:
    """Speeds that bench/bench measured."""

    def __init__(self, name, folder=CLAIMS):
        self.speeds = Speeds(json.loads((Path(folder) / f"results/{name}.json").read_text()))

    def rows(self):
        speeds = self.speeds
        print(f"{speeds.all['machine']['cpu']}, reading memory at {speeds.bandwidth / 1e9:.1f} GB/s; tokens per second")
        print("context " + "".join(f"{label:>20}" for label in KINDS.values()))
        for context in speeds.contexts():
            rows = [speeds.row(kind, context) for kind in KINDS]
            told = [(r["tokens_per_second"], 100 * r["tokens_per_second"] / speeds.predicted(r)) for r in rows]
            print(f"{context:<8}" + "".join(f"{f'{speed:.1f} ({share:.0f}%)':>20}" for speed, share in told))
        print("in brackets: of what reading the weights and the cache alone would allow")

    def figure(self):
        with plt.rc_context(figure.STYLE):
            picture, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
            figure.label_ends(axes, self.speeds.draw(axes, figure.look))
            return show(picture)


class FlashMeasured:
    """What bench/bench measured of flash attention; where that is still to be done, it says so."""

    def __init__(self, name="flash", folder=CLAIMS):
        path = Path(folder) / f"results/{name}.json"
        self.flash = Flash(json.loads(path.read_text())) if path.exists() else None

    def tell(self, how):
        if self.flash:
            how(self.flash)
        else:
            print(f"not measured yet: {COMMAND}")

    def table(self, width=64):
        self.tell(lambda flash: flash.table(width))

    def crossings(self):
        self.tell(Flash.crossings)

    def levels(self):
        self.tell(Flash.levels)

    def bytes_of_backward(self):
        self.tell(Flash.bytes_of_backward)

    def figure(self):
        """Speed over naive beside the FLOPs saved."""
        if not self.flash:
            return self.tell(None)
        with plt.rc_context(figure.STYLE):
            picture, every = plt.subplots(1, 2, figsize=(9.4, 3.8), layout="constrained", sharey=True)
            for axes, ends in self.flash.draw_left(every, figure.look):
                figure.label_ends(axes, ends)
            left = self.flash.facts()["left"]
            picture.suptitle(f"The speed of flash over naive is the FLOPs that it saves, times {left}", fontsize=10,
                             fontweight="bold")
            picture.supxlabel("Grey: the FLOPs saved, times what the claim allows", fontsize=8)
            return show(picture)

    def tile(self):
        """A tile's roofline: where the products of a pair meet the matrix."""
        if not self.flash:
            return self.tell(None)
        with plt.rc_context(figure.STYLE):
            picture, axes = plt.subplots(figsize=(7.6, 4), layout="constrained")
            figure.label_ends(axes, self.flash.draw_tile(axes, figure.look))
            wide = self.flash.row("crossing", place="all-cores")["measured"]
            title = f"With all cores, heads narrower than {wide:.0f} pay more for the matrix than for products"
            picture.suptitle(title, fontsize=10, fontweight="bold")
            return show(picture)


class StepsMeasured:
    """What bench/bench measured of the steps of a server, in costs, batches or guesses.json, or of training steps, in
    experts.json; where that is still to be done, it says so."""

    def __init__(self, name, folder=CLAIMS):
        path = Path(folder) / f"results/{name}.json"
        self.name, self.steps = name, Steps(json.loads(path.read_text())) if path.exists() else None

    def __getattr__(self, what):
        """constants(), table(), chunks(), arms(), acceptance(), best(), written(): printed."""
        if self.steps:
            return getattr(self.steps, what)
        return lambda: print(f"not measured yet: bench/bench {self.name} --out claims/results/{self.name}.json")

    def costs(self):
        """Steps by their rows: measured, the sum and the roofline."""
        if not self.steps:
            return self.table()
        with plt.rc_context(figure.STYLE):
            picture, axes = plt.subplots(figsize=(7.6, 4), layout="constrained")
            figure.label_ends(axes, self.steps.draw_steps(axes, figure.look))
            return show(picture)

    def fetching(self):
        """Computing a text again over fetching it, by its length."""
        if not self.steps:
            return self.tiers()
        with plt.rc_context(figure.STYLE):
            picture, axes = plt.subplots(figsize=(7.6, 3.9), layout="constrained")
            figure.label_ends(axes, self.steps.draw_tiers(axes, figure.look))
            return show(picture)

    def turning(self):
        """Where steps of floats, integers and one thread turn compute-bound."""
        if not self.steps:
            return self.ridges()
        with plt.rc_context(figure.STYLE):
            picture, axes = plt.subplots(figsize=(7.6, 3.9), layout="constrained")
            figure.label_ends(axes, self.steps.draw_ridges(axes, figure.look))
            return show(picture)

    def sparse(self):
        """Seconds of a training step by the parameters of the model, dense and sparse."""
        if not self.steps:
            return self.experts()
        with plt.rc_context(figure.STYLE):
            picture, every = plt.subplots(1, 2, figsize=(9.4, 3.8), sharey=True, layout="constrained")
            for axes, ends in self.steps.draw_experts(every, figure.look):
                figure.label_ends(axes, ends)
            book, wide = (self.steps.row("idle", size=size)["doubled"] for size in ("book", "wide"))
            picture.suptitle(f"{wide:.0f} experts of width 256 double a training step, as do {book:.0f} of width 16",
                             fontsize=10, fontweight="bold")
            picture.supxlabel("Numbers: experts, or times the width of the narrow dense layer. Dotted: a constant for "
                              "each parameter more.", fontsize=8)
            return show(picture)

    def guesses(self):
        """Speed by the tokens of a row; a mark where it is best, dashed: ridge over texts."""
        if not self.steps:
            return self.best()
        with plt.rc_context(figure.STYLE):
            picture, every = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
            for axes, ends in self.steps.draw_guesses(every, figure.look):
                figure.label_ends(axes, ends)
            best = [c["best"] for c in self.steps.row("best", texts=1)["chances"]]
            picture.suptitle(f"The best number of free guesses follows the chance, too: one text wants {min(best)} to "
                             f"{max(best)} tokens a step", fontsize=10, fontweight="bold")
            picture.supxlabel("Marks: the best; dashed: ridge over texts; numbers: the chance that a guess is right",
                              fontsize=8)
            return show(picture)


def show(picture):
    """A matplotlib figure as the PNG of a cell, and closed."""
    data = io.BytesIO()
    picture.savefig(data, format="png", metadata={"Software": None})
    plt.close(picture)
    return Image(data.getvalue(), width=92 * picture.get_figwidth())
