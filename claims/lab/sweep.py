"""sweep.py: runs what a claim asks for and is not recorded yet, then says what the records say.

    claims/sweep CLAIM.toml [options]
    claims/sweep ./train --norm pre,post --lr 3e-4,1e-3 --seed 1..5 [options]
    claims/sweep ./serve --admit chunk,prompt --rate 1,2,4 --seed 1..5 --metric goodput --higher [options]
    claims/sweep ./generate --model='--data recall ...' --questions 4 --kv-bits 4,2 --seed 1..5 [options]
    claims/sweep ./train --data recall --pairs 32 --from='--pairs 4 --steps 4000' --seed 1..5 [options]
    claims/sweep ./train --width 16 --teacher='--width 64' --draft-loss ce,kl,tv --seed 1..5 --metric acceptance [...]
    claims/sweep ./serve --run='--width 64' --draft='--width 16 --draft-loss kl' --gamma 1,4 --seed 1..5 [options]

    --jobs N       N runs at once with fewer threads each; the digests are the same either way
    --dry-run      show what would run, and for how long, then stop
    --fresh        train all of this sweep again, and compare the digests with those recorded
    --retry        train again what failed (a full disk, no memory); a divergence is a result and stays
    --keep         keep the weights; without it only run.json, log.jsonl and the curve of each run stay
    --yes          start even if the prediction is over the budget, or the seeds cannot settle the claim
    --match params|flops|cache|time    give the arms an equal budget, by the flag whose value is ? in the claim file
    --solve FLAG   without a claim file: the flag that gives every arm the budget of the first one
    --into DIR     keep the runs and the records there, not in runs/sweeps/ and claims/results/
    --metric NAME --higher             without a claim file: what is compared (val_loss, of ./serve ttft_p50, of
                                       ./generate answered; lower is better)

Ctrl-C lets the runs save and stops; the same command goes on. A sweep begins with a few steps of every arm for the
prediction of its minutes. Then run the seeds that are not reported, those on which rates are chosen and those of the
claim's pilot, and the sweep says with which power the reported seeds will find what is expected. Where that is too
little it stops, names the number of seeds that would do, and starts with --yes alone. A sweep without a claim file
leaves its table, picture and summary in runs/sweeps/, under a name made of its lists.
"""
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)   # the next imports take seconds: ends without a traceback

import argparse  # noqa: E402
import fcntl  # noqa: E402
import hashlib  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

from . import answerer, asker, trainer, warm  # noqa: E402
from .claim import ad_hoc, read_claim  # noqa: E402
from .command import UsageError, parse_command, program_of  # noqa: E402
from .match import MATCHES, mark_unknown, solve_claim  # noqa: E402
from .programs import WORKERS  # noqa: E402
from .records import METRICS, read_records, write_records  # noqa: E402
from .report import outcome_lines, print_outcome, print_power  # noqa: E402
from .verdict import free, wanted  # noqa: E402

RESULTS = trainer.ROOT / "claims" / "results"
WORK = trainer.ROOT / "runs" / "sweeps"
PILOT_STEPS = 6
PILOT_REQUESTS = 300
PILOT_ROWS = 16
START_SECONDS = 0.1   # of a run beside its steps


# ---- how long ------------------------------------------------------------------------------------
class Interrupted(Exception):
    """Ctrl-C where no run has to save first."""


class Clock:
    """Seconds of a run: those of recorded runs of the same arm with as many threads, else by a pilot."""

    def __init__(self, base, threads, worker=warm):
        self.base, self.threads, self.worker, self.plans, self.speeds = base, threads, worker, {}, {}
        self.arms = 1    # of a claim whose runs need models: so many share one
        self.left = {}   # what the first steps of an arm left: which numbers its runs will have

    def plan(self, flags):
        """What the program makes of the flags; asked once for all seeds."""
        key = tuple(word for word in trainer.words(flags) if not word.startswith("--seed="))
        if key not in self.plans:
            self.plans[key] = self.worker.dry_run(flags)
        return self.plans[key]

    def tokens_per_second(self, flags, reported=True):
        """The median over a few steps; the first ones touch memory for the first time. A teacher is not reported."""
        other = ("seed", "lr", "steps", "warmup")
        key = tuple(word for name, word in zip(flags, trainer.words(flags)) if name not in other)
        if key not in self.speeds:
            out = self.base / "pilot"
            trainer.forget(out)
            c = self.plan(flags)["flags"]
            batch = c["batch"] * c["context"]   # a router that pools across the batch validates on whole ones
            short = {**flags, "steps": PILOT_STEPS, "eval-every": PILOT_STEPS, "eval-tokens": batch, "log-every": 1}
            pilot = warm.Training(short, out, self.threads)
            try:
                while not pilot.ended():
                    time.sleep(0.02)
            finally:
                pilot.interrupt()
                status, error = pilot.result()
            if status == "finished" and reported:
                self.left[key] = warm.told_of(out, status)
            lines = trainer.last_lines(out / "log.jsonl", PILOT_STEPS - 2)
            speeds = sorted(line["tokens_per_second"] for line in lines if line.get("tokens_per_second"))
            if not speeds:
                raise UsageError(f"the pilot {status}: {error}")
            self.speeds[key] = speeds[len(speeds) // 2]
            trainer.forget(out)
        return self.speeds[key]

    def served_seconds(self, flags):
        """Of ./serve, by fewer requests."""
        key = tuple(word for name, word in zip(flags, trainer.words(flags)) if name != "seed")
        if key not in self.speeds:
            out, asked = self.base / "pilot", self.plan(flags)["flags"]
            few = min(asked["requests"], PILOT_REQUESTS)
            trainer.forget(out)
            pilot = answerer.Training({**flags, "requests": str(few), "backlog": str(min(few, asked["backlog"]))}
                                      if asked["arrivals"] != "closed" else {**flags, "requests": str(few)},
                                      out, self.threads)
            status, error = pilot.result()
            if status != "finished":
                raise UsageError(f"the pilot {status}: {error}")
            self.left[key] = answerer.told_of(out, status)
            self.speeds[key] = (self.left[key]["seconds"] * asked["requests"] / few
                                + asker.seconds_of_models(out) / self.arms)
            trainer.forget(out)
        return self.speeds[key]

    def asked_seconds(self, flags):
        """Of ./generate, by fewer rows; its model is trained once for all arms."""
        key = tuple(word for name, word in zip(flags, trainer.words(flags)) if name != "seed")
        if key not in self.speeds:
            out, rows = self.base / "pilot", self.plan(flags)["flags"]["rows"]
            few = min(rows, PILOT_ROWS)
            pilot = asker.Training({**flags, "rows": str(few)}, out, self.threads)
            status, error = pilot.result()
            if status != "finished":
                raise UsageError(f"the pilot {status}: {error}")
            self.left[key] = asker.told_of(out, status)
            self.speeds[key] = self.left[key]["seconds"] * rows / few + asker.seconds_of_models(out) / self.arms
            trainer.forget(out)
        return self.speeds[key]

    def seconds(self, run, records):
        known = [r["seconds"] for r in records.values() if r["arm"] == run.arm.label and r["status"] == "finished"
                 and r["threads"] == self.threads and r["seconds"]]
        if known:
            return sum(known) / len(known)
        if self.worker is answerer:
            return self.served_seconds(run.flags) + START_SECONDS
        if self.worker is asker:
            return self.asked_seconds(run.flags) + START_SECONDS
        (first, then), teacher = warm.split(run.flags), warm.teacher_of(run.flags)[0]
        return ((self.trained_seconds(first) if first else 0) + self.trained_seconds(then)
                + (self.trained_seconds(teacher, False) / self.arms if teacher else 0))

    def trained_seconds(self, flags, reported=True):
        """Of ./train, were it to go on for all its steps."""
        c = self.plan(flags)["flags"]
        train, evaluations = c["steps"] * c["batch"] * c["context"], 1 + c["steps"] // c["eval_every"]
        return (train + evaluations * c["eval_tokens"] / 3) / self.tokens_per_second(flags, reported) + START_SECONDS


# ---- running -------------------------------------------------------------------------------------
class Sweep:
    def __init__(self, claim, results, base, options):
        self.claim, self.results, self.base, self.options = claim, results, base, options
        self.threads = max(1, trainer.cores() // options.jobs)
        self.stop, self.has_runs, self.waits = False, False, False
        self.worker = WORKERS[claim.program]
        self.clock = Clock(base, self.threads, self.worker)
        self.clock.arms = len(claim.arms)
        self.before = read_records(results) if options.fresh and not options.dry_run else {}   # to compare digests with
        self.records = {} if options.fresh else read_records(results)
        self.matched = {}
        self.expected = {}        # {run: predicted seconds}
        self.total_seconds, self.total, self.begun = 0.0, 0, time.monotonic()   # of all that this process has to do
        self.done_seconds, self.done = 0.0, 0                                   # of what it has finished

    def is_done(self, run):
        row = self.records.get(run.key)
        return row is not None and not (self.options.retry and row["status"] == "failed")

    def todo(self):
        return [run for run in wanted(self.claim, self.records)[0] if not self.is_done(run)]

    def keep_record(self, run, out, status, error):
        """A new row, in the order of the claim rather than of the clock."""
        row = {"arm": run.arm.label, "flags": run.key, "status": status, "error": error,
               "matched": self.matched.get(run.arm.label, ""), **self.worker.told_of(out, status)}
        self.records[run.key] = {**row, "promise": self.claim.promise}
        order = {r.key: i for i, r in enumerate(wanted(self.claim, self.records)[0])}
        self.records = dict(sorted(self.records.items(), key=lambda item: order.get(item[0], len(order))))
        write_records(self.results, {**self.before, **self.records})   # --fresh, interrupted, loses no run
        if not self.options.keep:
            trainer.forget_weights(out)

    def on_signal(self, *_):
        ends, self.stop = not self.stop and not self.has_runs, True
        if ends:
            raise Interrupted

    @contextmanager
    def with_runs(self):
        """A signal in here is noted only: runs save, and rows are written."""
        self.has_runs = True
        try:
            yield
        finally:
            self.has_runs = False

    def run_all(self, queue):
        """Trains every run of the queue; True if none was interrupted."""
        with self.with_runs():
            queue = [run for run in queue if not self.recover(run)]
        self.expected |= {run: self.clock.seconds(run, self.records) for run in queue}
        with self.with_runs():
            whole = self.train_all(queue)
        self.clear_bar()
        return whole and not self.stop

    def train_all(self, queue):
        running, whole = [], True
        while running or (queue and not self.stop):
            while len(running) < self.options.jobs and not self.stop and (run := self.next_free(queue, running)):
                queue.remove(run)
                running.append(self.start(run))
            for run, training in [r for r in running if r[1].ended()]:
                running.remove((run, training))
                whole &= self.collect(run, training)
            if self.stop:
                for _, training in running:
                    training.interrupt()
            self.draw_bar(running)
            time.sleep(0.1 if running or queue else 0)
        return whole

    def next_free(self, queue, running):
        """The first run whose directory no process works in, as the orphan of a sweep that was killed would."""
        for run in queue:
            if not trainer.is_held(trainer.directory(self.base, run)):
                return run
        if queue and not running and not self.waits:
            self.waits = True
            print(f"waiting  another process trains in {trainer.directory(self.base, queue[0])}", flush=True)
        return None

    def recover(self, run):
        """Records a run that has ended without its row, as where the table was lost; False if it must be trained."""
        out = trainer.directory(self.base, run)
        status = None if self.options.fresh or self.options.retry else self.worker.ended_before(out)
        if status:
            self.keep_record(run, out, status, "")
            print(f"recovered  {run.key}", flush=True)
        return status is not None

    def start(self, run):
        out = trainer.directory(self.base, run)
        if self.options.fresh or self.options.retry:
            trainer.forget(out)
        return run, self.worker.Training(run.flags, out, self.threads)

    def collect(self, run, training):
        """Records a run that has ended; False if it was interrupted, and will go on."""
        status, error = training.result()
        if status == "interrupted":
            return False
        self.keep_record(run, training.out, status, error)
        self.done_seconds, self.done = self.done_seconds + self.expected[run], self.done + 1
        self.clear_bar()
        self.say(run, status, error)
        return True

    # ---- what is seen ----
    def say(self, run, status, error):
        row = self.records[run.key]
        value = row.get(self.claim.metric)
        number = f"{self.claim.metric} {value:.4f}" if value is not None else ""
        tuned = " ".join(f"{n}={v}" for n, v in run.tuned)
        seconds = f"{row['seconds']:.1f} s" if row.get("seconds") else ""
        parts = [status, run.arm.label, tuned, f"seed={run.seed}", number, seconds, row["digest"], error]
        print("  ".join(part for part in parts if part), flush=True)

    def draw_bar(self, running):
        """How much of the whole sweep is done, by predicted seconds; what is left goes by the speed so far."""
        if not sys.stdout.isatty() or not self.total_seconds:
            return
        steps = {run: max(1, self.clock.plan(run.flags)["flags"].get("steps", 1)) for run, _ in running}
        part = sum(self.expected[run] * min(1, training.step() / steps[run]) for run, training in running)
        share = min(1.0, (self.done_seconds + part) / self.total_seconds)
        passed = time.monotonic() - self.begun
        predicted = self.total_seconds * (1 - share) / self.options.jobs
        left = passed / share - passed if passed > 5 and share > 0 else predicted
        width = max(10, min(40, shutil.get_terminal_size().columns - 50))
        filled = round(width * share)
        bar = "#" * filled + "." * (width - filled)
        print(f"\r\033[K[{bar}] {100 * share:3.0f}%  {self.done} of {self.total} runs, {len(running)} running, "
              f"{clock_text(left)} left", end="", flush=True)

    def clear_bar(self):
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)


def clock_text(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# ---- the command ---------------------------------------------------------------------------------
def check_possible(claim):
    """Every arm at every tuned value; a refusal is the program's own reason."""
    refused = []
    for run in claim.runs(claim.seeds[:1]):
        try:
            plan = WORKERS[claim.program].dry_run(run.flags)
        except UsageError as error:
            refused.append(f"{run.arm.label}: {error}")
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        hint = "" if claim.path else "; a flag of some arms alone goes into [arms] of a claim file"
        raise UsageError(f"impossible: {refused[0]}{more}{hint}")
    return plan


def announce(sweep):
    """How many runs, how long."""
    claim, records = sweep.claim, sweep.records
    named, unnamed = wanted(claim, records)
    todo = sweep.todo()
    seconds = [sweep.clock.seconds(run, records) for run in todo]
    mean = {arm: sweep.clock.seconds(replace_run(claim, arm), records) for arm in claim.arms} if unnamed else {}
    later = unnamed / len(claim.arms) * sum(mean.values()) if unnamed else 0
    sweep.total_seconds, sweep.total, sweep.begun = sum(seconds) + later, len(todo) + unnamed, time.monotonic()
    minutes = sweep.total_seconds / sweep.options.jobs / 60
    print(f"sweep    {len(named) + unnamed} runs: {len(claim.arms)} arms, {len(named) - len(todo)} recorded, "
          f"{len(todo) + unnamed} to do")
    print(f"time     {minutes:.1f} minutes predicted, {sweep.options.jobs} at once with {sweep.threads} threads each")
    if claim.budget and minutes > claim.budget and not (sweep.options.yes or sweep.options.dry_run):
        raise UsageError(f"that is over the claim's budget of {claim.budget:g} minutes; --yes starts anyway")


def check_metrics(sweep):
    """A number that the task or the flags do not have is refused before anything is trained for it."""
    asked = {sweep.claim.metric, *(c.metric for c in sweep.claim.comparisons)}
    for left in sweep.clock.left.values():
        for metric in sorted(asked):
            if left.get(metric) is None:
                have = [name for name in METRICS if left.get(name) is not None]
                raise UsageError(f"these runs will have no {metric}: accuracy is of tasks with answers, excess_loss of "
                                 "synthetic ones, rms_* and grad_* of --log-layers, drop_* of --drop-layers; this one "
                                 f"has {', '.join(have)}")


def check_free(sweep):
    """A claim that a model settles which binds nothing is refused before anything is trained for it."""
    found = free(sweep.claim) if sweep.claim.path and sweep.todo() else []
    for text in found:
        print(f"free     {text}")
    if found and not (sweep.options.yes or sweep.options.dry_run):
        raise UsageError("a model that binds nothing has a share in what this claim measures (above), so nothing was "
                         "trained; change the metric, or --yes starts anyway")


def minutes_of(sweep):
    """n -> minutes of so many reported seeds."""
    claim = sweep.claim
    tuned_here = not claim.tune_seeds or claim.usable is not None
    each = sum(sweep.clock.seconds(replace_run(claim, arm), sweep.records) for arm in claim.arms)
    each *= len(claim.runs([0])) / len(claim.arms) if tuned_here else 1
    return lambda n: n * each / sweep.options.jobs / 60


def replace_run(claim, arm):
    return next(run for run in claim.runs(claim.seeds[:1]) if run.arm == arm)


def sweep_all(sweep):
    """The pilot's phase, then what it decides; 130 after Ctrl-C."""
    claim = sweep.claim
    pilot = claim.pilot_seeds or claim.tune_seeds or claim.seeds[:2]
    done = sweep.run_all([run for run in sweep.todo() if run.seed in claim.tune_seeds])
    if done:
        done = sweep.run_all([run for run in sweep.todo() if run.seed in pilot])
    if done and sweep.todo():
        can = print_power(claim, sweep.records, pilot, minutes_of(sweep))
        if not can and claim.path and not sweep.options.yes:
            raise UsageError("these seeds cannot settle the claim (above), so none to be reported was trained; "
                             "change the design, or --yes starts anyway")
    if done:
        done = sweep.run_all(sweep.todo())
    if not done:
        print("interrupted; what was done is kept, and the same command goes on" if not sweep.before else
              "interrupted; rows that were not reached stay as recorded, and the same command begins again")
        return 130
    print_outcome(claim, sweep.records)
    again = [key for key in sweep.before if key in sweep.records]
    changed = [key for key in again if sweep.before[key]["digest"] != sweep.records[key]["digest"]]
    if sweep.before:
        write_records(sweep.results, sweep.records)
        print(f"digests  {len(again) - len(changed)} of {len(again)} are those recorded before")
    for key in changed:
        was, now = (rows[key]["digest"] or "none" for rows in (sweep.before, sweep.records))
        print(f"changed  {was} is now {now}: {key}")
    print(f"records  {os.path.relpath(sweep.results)}")
    from . import figure  # matplotlib takes a second to load
    figure.draw(claim, sweep.records, sweep.results.with_suffix(".png"))
    print(f"figure   {os.path.relpath(sweep.results.with_suffix('.png'))}")
    if not claim.path:
        summary = sweep.results.with_suffix(".txt")
        summary.write_text("\n".join([f"claims/sweep {claim.command}", *outcome_lines(claim, sweep.records)]) + "\n")
        print(f"summary  {os.path.relpath(summary)}")
    return 1 if changed or any(row["status"] == "failed" for row in sweep.records.values()) else 0


def parse(words):
    """The options, and what is left: a claim file, or a command."""
    parser = argparse.ArgumentParser(prog="claims/sweep", description=__doc__, add_help=True, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    for flag in ("--dry-run", "--fresh", "--retry", "--keep", "--yes", "--higher"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--match", choices=MATCHES, default="", help=argparse.SUPPRESS)
    parser.add_argument("--metric", default="", help=argparse.SUPPRESS)
    parser.add_argument("--solve", default="", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(words)
    if options.into == Path("") or (options.into and options.into.exists() and not options.into.is_dir()):
        raise UsageError(f"--into takes a directory, not '{options.into if options.into != Path('') else ''}'")
    if options.solve and not options.match:
        raise UsageError("--solve says by which flag, --match what: give both")
    options.into = options.into and options.into.resolve()
    if options.into:
        asker.MODELS = options.into / "models"
    if not rest:
        raise UsageError("expected a claim file, or ./train, ./serve or ./generate with flags; --help says more")
    if options.jobs < 1:
        raise UsageError("--jobs takes a number of runs, 1 or more")
    return options, rest


def open_sweep(options, rest):
    if rest[0].endswith(".toml"):
        if len(rest) > 1:
            raise UsageError(f"unknown option '{rest[1]}'; --help lists them")
        given = [f"--{name}" for name in ("metric", "higher", "solve") if getattr(options, name)]
        if given:
            raise UsageError(f"{given[0]} is for commands; a claim file says it itself")
        claim = read_claim(rest[0])
        if claim.record:
            raise UsageError(f"{rest[0]} is about what bench/bench measured: run {claim.command} --out "
                             f"claims/results/{claim.record}")
        if claim.kind == "timing" and options.jobs > 1:
            raise UsageError("a claim of timings has the machine to itself: leave --jobs out")
        claim = replace(claim, match=options.match or claim.match)
        results = (options.into or RESULTS) / f"{claim.name}.csv"
        return Sweep(claim, results, (options.into or WORK) / claim.name, options)
    usual = {"train": "val_loss", "serve": "ttft_p50", "generate": "answered"}
    metric = options.metric or usual[program_of(rest)]
    claim = ad_hoc(rest, metric, "higher" if options.higher else "lower", options.match)
    if options.match:
        claim = mark_unknown(claim, options.solve.lstrip("-"))
    base = options.into or WORK / readable(claim, options)
    return Sweep(claim, base / "results.csv", base, options)


def readable(claim, options):
    """A folder's name: the data, what is varied, and a few digits of the command, 'recall_attn=mha,mla_1f3c9a'."""
    key = f"{claim.command} {options.match} {options.solve}"
    flags = parse_command(claim.command)
    lists = [f"{name}={','.join(values)}" for name, values in flags.items() if len(values) > 1 and name != "seed"]
    data = Path(flags.get("data", ["stories"])[0]).stem if claim.program == "train" else claim.program
    name = re.sub(r"[^\w=,.+-]", "-", "_".join([data, *lists]))[:80]
    return f"{name}_{hashlib.sha256(key.encode()).hexdigest()[:6]}"


def lock(base):
    """Two sweeps of one claim would take each other's runs and overwrite each other's table."""
    base.mkdir(parents=True, exist_ok=True)
    held = os.open(base, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another sweep works in {os.path.relpath(base)}; wait for it") from None


def main(words):
    options, rest = parse(words)
    sweep = open_sweep(options, rest)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:   # nohup ignores SIGHUP
            signal.signal(number, sweep.on_signal)

    lock(sweep.base)
    sweep.claim, sweep.matched = solve_claim(sweep.claim, sweep.clock.tokens_per_second, sweep.records)
    for label, note in sweep.matched.items():
        print(f"matched  {label}: {note}")
    commit = check_possible(sweep.claim)["commit"]
    if commit.endswith("-dirty") or commit == "unknown":
        print(f"note     ./{sweep.claim.program} is of commit {commit}: these results name no commit that others have")
    announce(sweep)
    check_metrics(sweep)
    check_free(sweep)
    return 0 if options.dry_run else sweep_all(sweep)


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.exit(status)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted:
        print("interrupted between runs; what is recorded is kept, and the same command goes on", flush=True)
        os._exit(130)
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        os._exit(1)
