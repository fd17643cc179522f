"""trainer.py: asks ./train what a run would be, starts it, and reads what it left behind."""
import ctypes
import fcntl
import hashlib
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import tempfile
from pathlib import Path

from . import baseline
from .command import UsageError, parse_flags

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "train"
WEIGHTS = ("state.safetensors", "model.safetensors", "config.json", "tokenizer.json",
           "tokenizer_config.json", "tokenizer.receipts.json", "generation_config.json")


def words(flags):
    return [f"--{name}={value}" for name, value in flags.items()]


def cores():
    """Those that this process may use; OMP_NUM_THREADS says fewer."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(asked)) if asked.isdigit() and int(asked) else allowed


def error_line(text):
    lines = [line for line in text.strip().splitlines() if line.startswith("error: ")]
    return lines[-1].removeprefix("error: ") if lines else " ".join(text.split())[-200:]


def plan_of(program, flags, how="--dry-run"):
    """What one of our programs says that it would do: all flags, commit, machine. UsageError with its reason if it
    refuses."""
    if not program.exists():
        raise UsageError(f"{program} is not built: make")
    done = subprocess.run([program, *words(flags), how], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise UsageError(error_line(done.stderr))
    return json.loads(done.stdout)


def dry_run(flags):
    """The same of ./train, which also knows sizes."""
    return plan_of(TRAIN, flags, "--dry-run=json")


def directory(base, run):
    return Path(base) / hashlib.sha256(run.key.encode()).hexdigest()[:12]


PRCTL = getattr(ctypes.CDLL(None), "prctl", None)   # Linux alone has it
PR_SET_PDEATHSIG = 1


def end_with_parent():
    """Called in a child: where this process is killed, the child gets a signal and saves. Elsewhere it goes on, and who
    needs its directory waits (is_held)."""
    if PRCTL:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)


def is_held(out):
    """Whether a process trains in this directory."""
    try:
        held = os.open(out, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(held)
    return False


class Training:
    """One ./train in the background. It has a session of its own, so that Ctrl-C in the terminal reaches the sweep
    alone, which passes it on once: a second one would keep ./train from saving."""

    def __init__(self, flags, out, threads):
        self.out, self.interrupted = Path(out), False
        self.out.mkdir(parents=True, exist_ok=True)
        # The run's own variables count: threads are given by flag.
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        self.process = subprocess.Popen(self.command(flags, threads), stdout=subprocess.DEVNULL, cwd=ROOT,
                                        stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment,
                                        preexec_fn=end_with_parent)

    def command(self, flags, threads):
        extra = [f"--out={self.out}", f"--threads={threads}"] + ["--sample-tokens=0"] * ("sample-tokens" not in flags)
        return [TRAIN, *words(flags), *extra]

    def ended(self):
        return self.process.poll() is not None

    def interrupt(self):
        """Once, however often it is called."""
        if not self.interrupted and not self.ended():
            self.process.send_signal(signal.SIGINT)
        self.interrupted = True

    def step(self):
        """The last step in the log; 0 before there is one."""
        last = last_lines(self.out / "log.jsonl", 1)
        return last[-1].get("step", 0) if last else 0

    def result(self):
        """(status, error): finished, diverged, failed or interrupted."""
        error = self.process.communicate()[1]
        code = self.process.returncode
        status = read_json(self.out / "run.json").get("status")
        if code == 0 and status == "finished":
            return "finished", ""
        if code == 1 and status == "diverged":
            return "diverged", ""
        if code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
            return "interrupted", ""
        return "failed", error_line(error) or f"./train ended with status {code}"


def read_json(path):
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def ended_before(out):
    """How the run in this directory ended whose weights were forgotten since, or None; its row can be read from it."""
    told = read_json(Path(out) / "run.json")
    gone = told.get("status") in ("finished", "diverged") and not (Path(out) / "model.safetensors").exists()
    return told["status"] if gone and (Path(out) / "log.jsonl").exists() else None


def last_lines(path, count):
    """The last objects of a log; what is being written at the moment is left out."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536 * count))
            lines = file.read().split(b"\n")[:-1][-count:]
        return [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []


def log_numbers(path):
    """What a log says beyond run.json: the largest gradient norm, with --log-layers the first and last layer, with
    --drop-layers what the last validation loses without each layer, with --eval-alone what it loses where tokens are
    routed alone, and of experts what the last line says."""
    try:
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    except (OSError, ValueError):
        return {}
    norms = [line["grad_norm"] for line in lines if line.get("grad_norm") is not None]
    layers = [line["layers"] for line in lines if line.get("layers")]
    found = {"max_grad_norm": max(norms)} if norms else {}
    if evals := evaluations(lines):
        found["evals"] = evals
    if layers:
        first, last = layers[-1][0], layers[-1][-1]
        found |= {"rms_first": first["rms"], "rms_last": last["rms"], "grad_first": first["grad_norm"],
                  "grad_last": last["grad_norm"]}
    without = lines[-1].get("val_loss_without") if lines else None
    if without and len(without) > 1 and None not in without:      # null: not a finite loss
        added, half = [loss - lines[-1]["val_loss"] for loss in without], len(without) // 2
        found |= {"drop_shallow": sum(added[:half]) / half, "drop_deep": sum(added[-half:]) / half,
                  "drop_first": added[0], "drop_last": added[-1], "drop_median": statistics.median(added)}
    if lines and None not in (alone := lines[-1].get("val_loss_alone"), seen := lines[-1].get("val_loss")):
        found["alone_loss"] = alone - seen
    exact = lines[-1].get("val_loss_exact") if lines else None
    if exact is not None and lines[-1].get("val_loss") is not None:
        found["rounding_cost"] = lines[-1]["val_loss"] - exact
    experts = lines[-1].get("experts") if lines else None
    if experts:
        found |= {name: statistics.mean(layer[name] for layer in experts)
                  for name in ("experts_per_token", "max_violation", "dropped")}
        found["dead_experts"] = sum(layer["dead"] for layer in experts)
    return found


def evaluations(lines):
    """'100:2.3026:0.25 200:...': after which step which validation loss and accuracy, to six digits."""
    def text(x):
        return "" if x is None else f"{x:.6g}"
    return " ".join(f"{line['step']}:{text(line['val_loss'])}:{text(line.get('accuracy'))}".rstrip(":")
                    for line in lines if line.get("val_loss") is not None and "step" in line)


def recalled_bits(facts, loss):
    """How much of the telephone book a model knows (data/facts.c): four digits a fact, each of log2 10 bits, less what
    is still asked of each."""
    return facts * 4 * (math.log2(10) - loss / math.log(2))


def told_of(out, status):
    """What a run that has ended left about itself."""
    told = read_json(Path(out) / "run.json")
    final, machine = told.get("final", {}), told.get("machine", {})
    row = {**told.get("model", {}), **final, **log_numbers(Path(out) / "log.jsonl"),
           "digest": told.get("digest", ""), "commit": told.get("commit", ""), "data_hash": told.get("data_hash", ""),
           "threads": machine.get("threads"), "cpu": machine.get("cpu", ""), "simd": machine.get("simd", ""),
           "diverged_at": told.get("diverged_at")}
    source = told.get("data", {}).get("source_loss")
    if source is not None and row.get("val_loss") is not None:
        row["excess_loss"] = row["val_loss"] - source
    floor = told.get("data", {}).get("floor")
    if floor is not None and row.get("val_loss") is not None:
        row["leak_bits"] = (floor - row["val_loss"]) / math.log(2)
    if told.get("data", {}).get("name") == "facts" and row.get("val_loss") is not None:
        row["recalled_bits"] = recalled_bits(told["flags"]["facts"], row["val_loss"])
    row |= baseline.above(row, {name.replace("_", "-"): value for name, value in told.get("flags", {}).items()})
    if status != "finished":  # what the last log line says; there is no receipt
        row["seconds"] = (last_lines(Path(out) / "log.jsonl", 1) or [{}])[-1].get("seconds")
    return row


def once_more(row, training, told):
    """A recorded run again, by a worker's class and what it reads: its row."""
    flags = {name: values[0] for name, values in parse_flags(shlex.split(row["flags"])).items()}
    with tempfile.TemporaryDirectory() as out:
        status, error = training(flags, out, cores()).result()
        return {**told(out, status), "status": status, "error": error}


def again(row):
    return once_more(row, Training, told_of)


def forget_weights(out):
    for name in WEIGHTS:
        (Path(out) / name).unlink(missing_ok=True)


def forget(out):
    shutil.rmtree(out, ignore_errors=True)
