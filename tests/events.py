"""events.py TRAIN: the event files of ./train --tensorboard, read back by TensorBoard itself, which we did not write.
Run by `make oracle`.

Every number of log.jsonl that has a curve is in the file at its step, rounded to float32, once, and nothing else is:
after a run from beginning to end, after one that was stopped and went on, after one that was killed, where the flag
came only with the second process, where the file was torn, and after --fresh.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

TRAIN = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "./train")
FLAGS = ("--data recall --pairs 2 --keys 8 --layers 1 --width 32 --heads 2 --context 16 --batch 4 --warmup 2 "
         "--eval-tokens 64 --log-every 1 --eval-every 5 --save-every 5 --sample-tokens 0 --threads 1 ").split()
CURVES = {"train_loss": "train/loss", "val_loss": "val/loss", "accuracy": "val/accuracy", "lr": "lr",
          "grad_norm": "grad_norm", "tokens_per_second": "tokens_per_second"}


def train(directory, *more, signal_at=None, number=signal.SIGINT):
    """One process; with signal_at, it gets a signal when its log has this step."""
    process = subprocess.Popen([TRAIN, *FLAGS, "--out", directory, *more], stdout=subprocess.DEVNULL)
    log = os.path.join(directory, "log.jsonl")
    while signal_at is not None and process.poll() is None:
        time.sleep(0.002)
        if os.path.exists(log) and f'"step":{signal_at},' in open(log).read():
            process.send_signal(number)
            signal_at = None
    return process.wait()


def event_file(directory):
    found = [f for f in os.listdir(directory) if ".tfevents." in f]
    if len(found) != 1:
        raise AssertionError(f"{len(found)} event files")
    return os.path.join(directory, found[0])


def expected(directory):
    """{curve: [(step, value), ...]} of the log."""
    curves = {}
    for line in map(json.loads, open(os.path.join(directory, "log.jsonl"))):
        for key, tag in CURVES.items():
            if key in line:
                curves.setdefault(tag, []).append((line["step"], float(np.float32(line[key]))))
    return curves


def check(directory, began):
    """Raises where TensorBoard sees anything but the log; returns how many numbers it saw."""
    events = list(EventFileLoader(event_file(directory)).Load())
    if events[0].file_version != "brain.Event:2":
        raise AssertionError(f"the first record is {events[0]}")
    times = [e.wall_time for e in events]
    if times != sorted(times) or not began - 1 < times[0] <= times[-1] < time.time() + 1:
        raise AssertionError(f"from {times[0]} to {times[-1]}, but it began at {began}")
    everything = EventAccumulator(directory, size_guidance={"scalars": 0, "tensors": 0}, purge_orphaned_data=False)
    everything.Reload()
    tags = everything.Tags()
    seen = {tag: [(e.step, float(e.value)) for e in everything.Scalars(tag)] for tag in tags["scalars"]}
    seen.update({tag: [(e.step, float(np.array(e.tensor_proto.float_val[0]))) for e in everything.Tensors(tag)]
                 for tag in tags["tensors"]})
    wanted = expected(directory)
    if seen != wanted:
        differ = [tag for tag in sorted(seen | wanted) if seen.get(tag) != wanted.get(tag)]
        raise AssertionError(f"{differ}: {seen.get(differ[0])} instead of {wanted.get(differ[0])}")
    if sorted(seen) != sorted(CURVES.values()):
        raise AssertionError(f"only {sorted(seen)}")
    return f"{sum(map(len, seen.values()))} numbers of {len(seen)} curves"


# ---- what happens to a run -----------------------------------------------------------------------
def whole(directory):
    assert train(directory, "--steps", "20", "--tensorboard") == 0


def stopped(directory):
    assert train(directory, "--steps", "4000", "--tensorboard", signal_at=12) == 128 + signal.SIGINT
    before = open(event_file(directory), "rb").read()
    assert train(directory, "--steps", "4000", "--tensorboard", signal_at=700) == 128 + signal.SIGINT
    if not open(event_file(directory), "rb").read().startswith(before):
        raise AssertionError("what was written before the run went on has changed")


def killed(directory):
    assert train(directory, "--steps", "4000", "--save-every", "50", "--tensorboard", signal_at=77,
                 number=signal.SIGKILL) == -signal.SIGKILL
    assert train(directory, "--steps", "4000", "--save-every", "50", "--tensorboard", signal_at=200) != 0


def late(directory):
    assert train(directory, "--steps", "4000", signal_at=12) != 0
    assert train(directory, "--steps", "4000", "--tensorboard", signal_at=40) != 0


def torn(directory):
    stopped(directory)
    with open(event_file(directory), "r+b") as f:
        f.truncate(os.path.getsize(f.name) - 7)
    assert train(directory, "--steps", "4000", "--tensorboard", signal_at=800) != 0


def fresh(directory):
    stopped(directory)
    assert train(directory, "--steps", "20", "--tensorboard", "--fresh") == 0


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for case in (whole, stopped, killed, late, torn, fresh):
            directory, began = os.path.join(scratch, case.__name__), time.time()
            try:
                case(directory)
                print(f"ok     tensorboard/{case.__name__:26} {check(directory, began)}")
            except AssertionError as error:
                print(f"FAILED tensorboard/{case.__name__:26} {error}")
                failed += 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
