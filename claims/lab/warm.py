"""warm.py: trainings of ./train that start where another one ended. `--from='--pairs 4 --steps 4000'` says by which
flags that one differs from the run, whose seed and other flags it has; what only a first training can have, such as
--init-scale, stands in there alone. It is trained once, kept beside the models that asker.py asks, and loaded by every
run that differs from it in the same way. Without --from all of this is trainer.py.
"""
import functools
import tempfile
from pathlib import Path

from . import asker, trainer
from .command import UsageError, parse_flags, split_words


def split(flags):
    """(flags of the first training, or None; flags of the run)"""
    then = {name: value for name, value in flags.items() if name != "from"}
    if "from" not in flags:
        return None, then
    if "load" in flags:
        raise UsageError("--load: what --from says is trained first, and loaded")
    if wrong := {"init-scale", "scaled-init"} & set(then):
        raise UsageError(f"--{wrong.pop()} is of the first training alone: it belongs into --from")
    own = parse_flags(split_words(flags["from"]))
    if wrong := {"from", "load", "seed"} & set(own):
        raise UsageError(f"--from has --{wrong.pop()}: it is one training, from nothing, with the run's seed")
    return {**then, **{name: values[0] for name, values in own.items()}}, then


def dry_run(flags):
    """All flags of the run as ./train reads them; both trainings must be possible."""
    first, then = split(flags)
    if first:
        trainer.dry_run(first)
    return trainer.dry_run(then)


class Continued(asker.Training):
    """The first ./train in the background, unless it is there, then the run that starts from it."""
    split = staticmethod(split)

    def then(self):
        return trainer.Training({**self.asked, "load": str(self.run)}, self.out, self.threads)

    def step(self):
        return self.asking.step() if self.asking else 0


ended_before = trainer.ended_before


def Training(flags, out, threads, models=None):
    return Continued(flags, out, threads, models) if "from" in flags else trainer.Training(flags, out, threads)


def told_of(out, status):
    """What the run left, and the digest of the training that it started from."""
    first = trainer.read_json(Path(out) / "run.json").get("flags", {}).get("load") or ""
    row = trainer.told_of(out, status)
    return {**row, "model": trainer.read_json(Path(first) / "run.json").get("digest", "")} if first else row


def again(row):
    """What it started from is trained again too."""
    with tempfile.TemporaryDirectory() as models:
        return trainer.once_more(row, functools.partial(Training, models=models), told_of)
