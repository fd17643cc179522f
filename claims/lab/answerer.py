"""answerer.py: ./serve with models that are trained for it. `--run='--data stories ...'` says how ./train makes what
answers, and `--draft='--width 16 ...'` what guesses, both with the run's seed. A draft with --draft-loss learns from
what answers. Each is trained once, for all runs that need it. Without them this is server.py.
"""
import functools
import tempfile
from pathlib import Path

from . import asker, server, trainer
from .warm import recipe, taken_out


def model_of(flags):
    return taken_out(flags, "run")


def draft_of(flags):
    """No teacher is opened in a dry run: the model's own recipe may stand there."""
    own, then = taken_out(flags, "draft")
    return own and {**own, **({"teacher": flags["run"]} if "draft-loss" in own and "run" in flags else {})}, then


def dry_run(flags):
    """All flags as ./serve reads them; all trainings must be possible."""
    for before in (model_of(flags)[0], draft_of(flags)[0]):
        if before:
            trainer.dry_run(before)
    return server.dry_run(flags)


class Answering(asker.Training):
    """The model's ./train in the background, unless it is there, then the rest."""
    split = staticmethod(model_of)

    def then(self):
        return Training({**self.asked, "run": str(self.run)}, self.out, self.threads, self.models)


class Guessing(asker.Training):
    """The draft's, then ./serve."""
    split = staticmethod(draft_of)

    def then(self):
        return server.Training({**self.asked, "draft": str(self.run)}, self.out, self.threads)


ended_before = server.ended_before


def Training(flags, out, threads, models=None):
    kind = Answering if recipe(flags, "run") else Guessing if recipe(flags, "draft") else None
    return kind(flags, out, threads, models) if kind else server.Training(flags, out, threads)


def told_of(out, status):
    """What the receipt says, and the digests of the models."""
    digests = [asker.told_of_model(out, name).get("digest", "") for name in ("run", "draft")]
    return {**server.told_of(out, status), "model": " ".join(filter(None, digests))}


def again(row):
    """Its models are trained again too."""
    with tempfile.TemporaryDirectory() as models:
        return trainer.once_more(row, functools.partial(Training, models=models), told_of)
