"""server.py: what trainer.py is to ./train, for ./serve without a network: asks what a run would be, starts it, and
reads its receipt. On the event clock all of a receipt but its seconds follows from the flags, on every machine."""
import json
import tempfile
from pathlib import Path

from . import trainer
from .command import UsageError
from .trainer import ROOT, error_line, read_json, words

SERVE = ROOT / "serve"


def dry_run(flags):
    return trainer.plan_of(SERVE, flags)


class Training(trainer.Training):
    """One ./serve in the background. It saves nothing on the way: what is interrupted begins again."""

    def command(self, flags, threads):
        return [SERVE, *words(flags), f"--receipt={self.out / 'run.json'}", f"--records={self.out / 'requests.jsonl'}",
                f"--threads={threads}"]

    def step(self):
        return 0

    def result(self):
        error, code = self.process.communicate()[1], self.process.returncode
        if code == 0:
            return "finished", ""
        if code < 0 or code in (130, 143):
            return "interrupted", ""
        return "failed", error_line(error) or f"./serve ended with status {code}"


def told_of(out, status):
    told = read_json(Path(out) / "run.json") if status == "finished" else {}
    machine, final = told.get("machine", {}), told.get("final", {})
    stayed = final.get("drafted", 0) - final.get("rejected", 0)
    kept = {"kept": stayed / final["drafted"], "gained": stayed / final["steps"]} if final.get("drafted") else {}
    return {**final, **kept, "digest": told.get("digest", ""), "commit": told.get("commit", ""),
            "seconds": machine.get("wall_seconds"), "threads": machine.get("threads"), "cpu": machine.get("cpu", ""),
            "simd": machine.get("simd", "")}


def ended_before(_):
    """A receipt is all there is, so nothing is left to recover without its row."""


def simulate(flags):
    """("final" of the receipt, a dict for each request) of a run on the event clock."""
    with tempfile.TemporaryDirectory() as out:
        status, error = Training(flags, out, 1).result()
        if status != "finished":
            raise UsageError(error or status)
        lines = (Path(out) / "requests.jsonl").read_text().splitlines()
        return read_json(Path(out) / "run.json")["final"], [json.loads(line) for line in lines]


def again(row):
    return trainer.once_more(row, Training, told_of)
