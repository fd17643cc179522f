"""records.py: the results of a claim, one CSV row per run, small enough for git. Verdicts, tables and figures
are computed from these rows alone.

A table without the column of a metric is older than that metric: its runs have none.

A row says which run it is (arm, flags), how it ended (finished, diverged, failed), its numbers, its receipt (digest,
commit, data_hash), and where and how long it ran. Numbers are written so that they read back equal.

Two columns are seals. `promise` is the hash of what the claim file predicted when the run was recorded (claim.py,
PROMISED), so a prediction that was changed afterwards is seen. `seal` is the hash of the rest of the row, so that a
changed digit is seen without training again. Neither is a signature: who changes a seal too is seen in git.
"""
import csv
import hashlib
import io
import os
from pathlib import Path

from .command import UsageError

# The numbers of a run that a claim can be about: those of run.json, and what trainer.py takes from log.jsonl.
METRICS = {
    "val_loss": "validation loss (nats per token)",
    "best_val_loss": "lowest validation loss (nats per token)",
    "excess_loss": "validation loss above the source's own (nats per token)",
    "train_loss": "training loss (nats per token)",
    "accuracy": "accuracy of the answers (share)",
    "acceptance": "guesses that the teacher would keep by ratio (share)",
    "tokens": "tokens trained on",
    "tokens_per_second": "speed (tokens per second)",
    "peak_memory_bytes": "peak memory (bytes)",
    "parameters": "parameters",
    "active_parameters": "parameters active per token",
    "flops_per_token": "FLOPs per token, training",
    "cache_bytes_per_token": "cache (bytes per token)",
    "max_grad_norm": "largest gradient norm before clipping",
    "rms_first": "RMS of the residual stream after the first layer",
    "rms_last": "RMS of the residual stream after the last layer",
    "grad_first": "gradient norm of the first layer",
    "grad_last": "gradient norm of the last layer",
    "drop_shallow": "loss added without a layer of the first half (nats per token)",
    "drop_deep": "loss added without a layer of the second half (nats per token)",
    "drop_first": "loss added without the first layer (nats per token)",
    "drop_last": "loss added without the last layer (nats per token)",
    "drop_median": "loss added without a layer, median over the layers (nats per token)",
    "leak_bits": "leak: loss below the floor (bits per token)",
    "recalled_bits": "bits of the book that are recalled",
    "experts_per_token": "experts that a token passed, measured (mean of the layers)",
    "max_violation": "load of the busiest expert above its fair share (share, mean of the layers)",
    "dead_experts": "experts without a token in the last logged step (sum of the layers)",
    "dropped": "choices lost to a full expert (share, mean of the layers)",
}
COLUMNS = ["arm", "flags", "status", *METRICS, "diverged_at", "digest", "commit", "data_hash", "seconds", "threads",
           "cpu", "simd", "matched", "error", "evals", "promise", "seal"]
LATER = {*METRICS, "evals", "promise", "seal"}   # columns that an older table may lack
STATUSES = ("finished", "diverged", "failed")
NUMBERS = {*METRICS, "seconds", "threads", "diverged_at"}


def read_records(path):
    """{flags: row}; numbers are floats, None where a run has none."""
    if not Path(path).exists():
        return {}
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        for row in rows:
            known, whole = set(COLUMNS) >= set(row) >= set(COLUMNS) - LATER, None not in row.values()
            if not known or not whole or row["status"] not in STATUSES:
                raise ValueError(f"the row of '{row.get('flags')}' is not whole")
            for name in NUMBERS:
                row[name] = float(row[name]) if row.get(name) else None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path} is damaged: {error}; git has an older one, --fresh trains all of it again") from None
    return {row["flags"]: row for row in rows}


def text_of_number(x):
    """Shortest text that reads back equal; whole numbers without a point."""
    return "" if x is None else repr(int(x)) if float(x).is_integer() and abs(x) < 2 ** 53 else repr(float(x))


def texts_of(row):
    """A row as it is written, unsealed."""
    return {c: (text_of_number(row.get(c)) if c in NUMBERS else row.get(c) or "") for c in COLUMNS if c != "seal"}


def seal_of(row):
    """Twelve digits of all that a row says; columns that it leaves empty do not count."""
    told = "\n".join(f"{name}={text}" for name, text in sorted(texts_of(row).items()) if text)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def solved_at(row, metric, threshold):
    """(the first step after which an evaluation found the task solved, or None; the last step that was evaluated)."""
    column = {"val_loss": 1, "accuracy": 2}.get(metric)
    if column is None:
        raise UsageError(f"steps until solved are known of val_loss and accuracy, not of {metric}")
    if not row.get("evals") and row["status"] == "diverged":
        return None, 0
    if not row.get("evals"):
        raise UsageError(f"the row of '{row['flags']}' does not say how the run went; --fresh records it")
    points = [part.split(":") for part in row["evals"].split()]
    solved = [int(p[0]) for p in points if len(p) > column and p[column] and threshold.has(float(p[column]))]
    return (solved[0] if solved else None), int(points[-1][0])


def write_records(path, records):
    """All rows in the order of the records, replaced at once: a reader sees the old file or the new one. A row is
    sealed when it is first written, and keeps its seal."""
    path, text = Path(path), io.StringIO()
    out = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    out.writeheader()
    for row in records.values():
        out.writerow({**texts_of(row), "seal": row.get("seal") or seal_of(row)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(partial, "w") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
