"""warm.py: trainings of ./train that another one comes before, made once for all runs that need the same, and kept
beside the models that asker.py asks. `--from='--pairs 4 --steps 4000'` says by which flags a first training differs
from the run, which loads what it left; what only a first one can have, such as --init-scale, stands in there alone.
`--teacher='--width 64 ...'` says all flags but the seed of what a draft learns from. Without them this is trainer.py.
"""
import functools
import tempfile
from pathlib import Path

from . import asker, trainer
from .command import UsageError, parse_flags, split_words


def recipe(flags, name):
    """The flags in one flag's value, where a directory could stand; None if it is one, or not there."""
    if not flags.get(name, "").startswith("--"):
        return None
    own = {key: values[0] for key, values in parse_flags(split_words(flags[name])).items()}
    if wrong := {"from", "load", "seed", "teacher"} & set(own):
        raise UsageError(f"--{name} has --{min(wrong)}: it is one training, from nothing, with the run's seed")
    return own


def taken_out(flags, name):
    """(flags of the ./train in one flag's value, or None; the other flags)"""
    own = recipe(flags, name)
    then = {key: value for key, value in flags.items() if own is None or key != name}
    return own and {**own, "seed": flags.get("seed", "1")}, then


def teacher_of(flags):
    return taken_out(flags, "teacher")


def split(flags):
    """(flags of the first training, or None; flags of the run)"""
    then = {name: value for name, value in flags.items() if name != "from"}
    if "from" not in flags:
        return None, then
    if "load" in flags:
        raise UsageError("--load: what --from says is trained first, and loaded")
    if wrong := {"init-scale", "scaled-init"} & set(then):
        raise UsageError(f"--{wrong.pop()} is of the first training alone: it belongs into --from")
    if not (own := recipe(flags, "from")):
        raise UsageError(f"--from: expected a flag, found '{flags['from']}'")
    return {**then, **own}, then


def dry_run(flags):
    """All flags of the run as ./train reads them; all trainings must be possible. No teacher is opened for that."""
    first, then = split(flags)
    for before in (teacher_of(flags)[0], first):
        if before:
            trainer.dry_run(before)
    return trainer.dry_run(then)


class Continued(asker.Training):
    """The first ./train in the background, unless it is there, then the run that starts from it."""
    split = staticmethod(split)

    def then(self):
        return trainer.Training({**self.asked, "load": str(self.run)}, self.out, self.threads)

    def step(self):
        return self.asking.step() if self.asking else 0


class Taught(Continued):
    """The teacher's ./train, unless it is there, then the draft, which may start from a training of its own."""
    split = staticmethod(teacher_of)

    def then(self):
        return Training({**self.asked, "teacher": str(self.run)}, self.out, self.threads, self.models)


ended_before = trainer.ended_before


def Training(flags, out, threads, models=None):
    if recipe(flags, "teacher"):
        return Taught(flags, out, threads, models)
    return Continued(flags, out, threads, models) if "from" in flags else trainer.Training(flags, out, threads)


def told_of(out, status):
    """What the run left, and the digests of the training that it started from and of its teacher."""
    digests = [asker.told_of_model(out, name).get("digest", "") for name in ("load", "teacher")]
    return {**trainer.told_of(out, status), "model": " ".join(filter(None, digests))}


def again(row):
    """What it started from is trained again too."""
    with tempfile.TemporaryDirectory() as models:
        return trainer.once_more(row, functools.partial(Training, models=models), told_of)
