"""asker.py: what trainer.py is to ./train, for the questions of ./generate: what a model recalls after its cache let
pairs go (--questions). `--model='--data recall ...'` says how ./train makes that model, with the run's seed. Each is
trained once, for all runs that ask it, and what chance keeps (--kv-policy random) follows from the same seed.
"""
import functools
import hashlib
import tempfile
import time
from pathlib import Path

from . import server, trainer
from .command import UsageError, parse_flags, split_words, text_of
from .trainer import ROOT

GENERATE = ROOT / "generate"
MODELS = ROOT / "runs" / "sweeps" / "models"


def split(flags):
    """(flags of ./train, flags of ./generate)"""
    if "model" not in flags or "questions" not in flags:
        raise UsageError("./generate is swept for its --questions, and --model='--data recall ...' says how ./train "
                         "makes what is asked")
    if "run" in flags:
        raise UsageError("--run: the sweep asks models that it has trained itself, as --model says")
    model = {name: values[0] for name, values in parse_flags(split_words(flags["model"])).items()}
    asked = {name: value for name, value in flags.items() if name not in ("model", "seed")}
    if asked.get("kv-policy") == "random":
        asked.setdefault("kv-seed", flags.get("seed", "1"))
    return {**model, "seed": flags.get("seed", "1")}, asked


def dry_run(flags):
    """All flags as ./generate reads them, its commit and the machine. UsageError with its reason if it refuses."""
    model, asked = split(flags)
    trainer.dry_run(model)
    return trainer.plan_of(GENERATE, asked, "--plan")


def place_of(models, model):
    """Where a model's run is: its flags and what ./train is built from make its name."""
    key = f"{text_of(model)} {trainer.dry_run(model)['commit']}"
    return Path(models) / hashlib.sha256(key.encode()).hexdigest()[:12]


def is_there(run):
    return trainer.read_json(run / "run.json").get("status") == "finished" and (run / "model.safetensors").exists()


class Training:
    """The model's ./train in the background, unless it is there, then its ./generate."""
    split = staticmethod(split)

    def __init__(self, flags, out, threads, models=None):
        self.out, self.threads, self.interrupted = Path(out), threads, False
        self.out.mkdir(parents=True, exist_ok=True)
        self.model, self.asked = self.split(flags)
        self.models = models or MODELS
        self.run = place_of(self.models, self.model)
        self.training, self.asking = None, None
        self.failure = ()           # of the training: status, error

    def ended(self):
        """Also goes on: from the training to the questions. Waits while another process trains the same model."""
        if self.failure:
            return True
        if self.asking:
            return self.asking.ended()
        if self.training and self.training.ended():
            status, error = self.training.result()
            self.training = None
            if status == "finished" and not is_there(self.run):
                status = "lost"
            late = status == "failed" and (trainer.is_held(self.run) or is_there(self.run))   # another process began
            if status != "finished" and not late:                                             # a moment before
                self.failure = (status, "") if status == "interrupted" else ("failed", f"its model {status} {error}")
                return True
        if not self.training and not self.interrupted:
            if is_there(self.run):
                self.asking = self.then()
            elif not trainer.is_held(self.run):
                self.training = trainer.Training(self.model, self.run, self.threads)
        return self.interrupted and not self.training and not self.asking

    def then(self):
        return Asking({**self.asked, "run": str(self.run)}, self.out, self.threads)

    def interrupt(self):
        self.interrupted = True
        for process in (self.training, self.asking):
            if process:
                process.interrupt()

    def step(self):
        return 0

    def result(self):
        while not self.ended():
            time.sleep(0.02)
        return self.failure or (self.asking.result() if self.asking else ("interrupted", ""))


class Asking(server.Training):
    """One ./generate in the background."""

    def command(self, flags, threads):
        return [GENERATE, *trainer.words(flags), f"--receipt={self.out / 'run.json'}", f"--threads={threads}"]


def told_of(out, status):
    """What the questions left, and the digest of the model that they were asked."""
    return {**server.told_of(out, status), "model": told_of_model(out, "run").get("digest", "")}


def ended_before(_):
    """A receipt is all there is, so nothing is left to recover without its row."""


def again(row):
    """Its model is trained again too."""
    with tempfile.TemporaryDirectory() as models:
        return trainer.once_more(row, functools.partial(Training, models=models), told_of)


def told_of_model(out, flag):
    """What the training left that is named by a flag of the run in this directory."""
    run = trainer.read_json(Path(out) / "run.json").get("flags", {}).get(flag)
    return trainer.read_json(Path(run) / "run.json") if run else {}


def seconds_of_models(out):
    """How long the trainings took that the run in this directory needed first."""
    return sum(told_of_model(out, flag).get("final", {}).get("seconds", 0) for flag in ("run", "draft"))
