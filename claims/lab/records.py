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
import shlex
from pathlib import Path

from . import baseline
from .command import UsageError, parse_flags

# The numbers of a run that a claim can be about: those of run.json, and what trainer.py takes from log.jsonl.
METRICS = {
    "val_loss": "validation loss (nats per token)",
    "best_val_loss": "lowest validation loss (nats per token)",
    "excess_loss": "validation loss above the source's own (nats per token)",
    "train_loss": "training loss (nats per token)",
    "accuracy": "accuracy of the answers (share)",
    "bits_above_elimination": "bits bound, of those that elimination leaves open (share)",
    "accuracy_above_elimination": "right answers, of those that elimination gets wrong (share)",
    "acceptance": "guesses that the teacher would keep by ratio (share)",
    "rounding_cost": "loss added by rounded weights (nats per token)",
    "tokens": "tokens trained on",
    "tokens_per_second": "speed (tokens per second)",
    "peak_memory_bytes": "peak memory (bytes)",
    "activation_bytes": "kept from a forward to its backward (bytes)",
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
    "alone_loss": "loss added where every token is routed alone (nats per token)",
    "dropped": "choices lost to a full expert in the last logged step (mean of the layers)",
}
# The same of ./serve without a network: what stands under "final" in its receipt (run/receipt.c).
SERVED = {
    "finished": "requests that got all of their answer",
    "shed": "requests given up while they waited",
    "refused": "requests that the pool could never hold",
    "steps": "steps",
    "executed": "tokens computed",
    "useful": "tokens computed that had not been before",
    "recomputed": "tokens computed again",
    "recomputed_share": "tokens computed again (share of all computed)",
    "drafted": "guesses",
    "rejected": "guesses that were wrong",
    "kept": "guesses that stayed (share)",
    "gained": "guesses that stayed (per step)",
    "preempted": "preemptions",
    "swapped": "blocks swapped",
    "hits": "tokens found in the prefix cache",
    "rehits": "tokens found in the prefix cache after a preemption",
    "duty": "duty cycle (share of the time in steps)",
    "pool_share": "blocks in use (share of the pool)",
    "requests_per_second": "requests finished (per second)",
    "answer_tokens_per_second": "tokens of answers (per second)",
    "good": "good requests",
    "goodput": "good requests (per second)",
    "good_late": "good requests among the last tenth to arrive (share)",
    "ttft_late": "median wait for the first token, last tenth to arrive (seconds)",
    **{f"{time}_{rank}": f"{rank} of {words} (seconds)" for time, words in
       (("ttft", "the wait for the first token"), ("tpot", "the time per further token"),
        ("latency", "the whole time of a request"), ("session", "the whole time of a session"),
        ("begin", "the wait for a session's first token")) for rank in ("p50", "p90", "p99")},
}
# The same of ./generate --questions (infer/questions.h).
ASKED = {
    "answered": "questions answered right (share)",
    "held": "questions whose pair was still there (share)",
    "ceiling": "the pairs that were still there, and guessing of the rest (share)",
    "above_ceiling": "right answers above pairs held and guessing (share)",
    "answers": "questions asked",
    "kept_pairs": "pairs of a key and a value that a head keeps",
    "kept_bytes": "bytes of a text's cache when it is asked",
    "full_bytes": "bytes of a cache that keeps everything",
    "read_tokens": "tokens read before the questions",
}
OF_PROGRAM = {"serve": SERVED, "generate": ASKED}   # the rest is of ./train
TRAINED = [name for name in METRICS if name not in baseline.ABOVE]   # the rest follows from a row's other numbers
METRICS |= SERVED | ASKED | {"seconds": "seconds from the first step to the end, looks at the loss included"}
RECORDED = [*TRAINED, *SERVED, *ASKED]
COLUMNS = ["arm", "flags", "status", *RECORDED, "diverged_at", "digest", "commit", "data_hash", "seconds", "threads",
           "cpu", "simd", "matched", "error", "evals", "model", "promise", "seal"]
LATER = {*RECORDED, "evals", "model", "promise", "seal"}   # columns that an older table may lack
STATUSES = ("finished", "diverged", "failed")
NUMBERS = {*RECORDED, "seconds", "threads", "diverged_at"}


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
            row |= baseline.above(row, flags_of(row))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path} is damaged: {error}; git has an older one, --fresh trains all of it again") from None
    return {row["flags"]: row for row in rows}


def flags_of(row):
    """{flag: value} of the run that a row is about."""
    return {name: values[0] for name, values in parse_flags(shlex.split(row["flags"])).items()}


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


def columns_of(records):
    """A table has the columns of its program alone."""
    def has(names):
        return any(row.get(name) is not None for row in records.values() for name in names)
    own = next((names for names in OF_PROGRAM.values() if has(names)), TRAINED)
    asked = own is ASKED or any(row.get("model") for row in records.values())
    others = {*RECORDED, "model"} - {*own, *(["model"] if asked else [])}
    return [name for name in COLUMNS if name not in others]


def write_records(path, records):
    """All rows in the order of the records, replaced at once: a reader sees the old file or the new one. A row is
    sealed when it is first written, and keeps its seal."""
    path, text = Path(path), io.StringIO()
    out = csv.DictWriter(text, columns_of(records), lineterminator="\n", extrasaction="ignore")
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
