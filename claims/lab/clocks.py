"""clocks.py: what the event clock of ./serve is worth on one machine, and what posts 7, 10, 11, 17 and 22 need of its
real one.

    claims/clocks replay ends train --out claims/results/clocks.json        measures again (4 minutes), alone
    claims/clocks uneven pace --out claims/results/clocks-again.json        (two minutes)
    claims/clocks pace --out claims/results/clocks-pace.json                (one to three)
    claims/clocks held --out claims/results/clocks-agents.json              (a minute)

A small model with random weights is calibrated, on one thread, and requests are replayed in both clocks: below and
above saturation, and as sessions of agents. Then a smaller one answers ten thousand requests from empty and after a
burst, in a pool as large for its short requests as that of paging-loop for long ones, on the real clock and on the
event clock by a table of its own costs; and ./train says its speed by the batch. Rates are shares of what was
measured just before.

uneven: a backlog of uneven answers, static and continuous, in both clocks, in turns. pace: two processes that do both,
and one that reads beside one that writes, in both clocks, in turns; figures are medians of five. A turn in which other
programs used more than a twentieth of the cores is made again, some times, and the calmest of them counts; `others` is
their share in those that count. held: sessions of
agents on the real clock in a pool where they fit and in one where they do not, with blocks held for a time, and
without.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import server, trainer
from .bench import commit_complaints
from .report import number

SMALL = "--data markov --order 1 --vocab 512 --context 512 --layers 6 --width 256 --heads 4 --batch 1 --steps 1"
PAGED = "--data markov --order 1 --vocab 32 --context 256 --layers 2 --width 64 --heads 2 --batch 1 --steps 1"
LENGTHS = "--prompt-length 64 --answer-length 32 --budget 64 --running 32 --blocks 2048"
SESSIONS = ("--agent-turns 10 --spread 0 --prompt-length 200 --answer-length 10 --tool-tokens 30 --tool-seconds 0.2 "
            "--budget 64 --running 32 --prefix-cache 1 --blocks 4096 --requests 200")
UNEVEN = ("--arrivals closed --clients 200 --requests 200 --prompt-length 1 --answer-length 64 --lengths lognormal "
          "--budget 64 --running 32 --blocks 2048")
APART = "--requests 200 --prompt-length 64 --answer-length 32 --budget 64 --running 32 --blocks 2048"
SHARED = 0.9            # of what one worker finishes, for two: enough to write beside each other, and no queue
TOOL = 0.15             # seconds
AGENTS = ("--agent-turns 10 --spread 0 --prompt-length 200 --answer-length 10 --tool-tokens 30 --budget 64 "
          f"--running 32 --prefix-cache 1 --tool-seconds {TOOL}")
AGENTS_RATE = 1.1       # of what it finishes of other requests: half of what it could if all were found
POOLS = {"fits": 2048, "short": 600}
HELD = {"just over": 1.1, "twice": 2}      # of the time that the tool takes
SEEDS = (1,)
STEPS = "--block 4 --blocks 2048 --running 512 --budget 512 --chunk 64"
PAGES = f"--prompt-length 64 --answer-length 128 --watermark 0 {STEPS}"
TRAINED = ("--data markov --order 1 --vocab 32 --context 32 --layers 2 --width 32 --heads 2 --warmup 0 --schedule "
           "constant --eval-tokens 1024 --lr 3e-3")
BATCHES = {1: 3000, 4: 2000, 16: 800, 64: 200, 256: 50}
ROUNDS = 3
TURNS = 5        # of uneven and pace
CALM = 0.05      # of the cores: what others may use of them in a turn of pace
TRIES = 6        # of each turn, until one is calm
NEAR = 320       # blocks: with them a table is measured at contexts as these two sections have, and not far beyond
BETWEEN = 0.5    # of the two ends' logarithms: where the rate of `ends` lies
TIMES = ("ttft", "tpot", "latency")


def program(name, text, folder):
    done = subprocess.run([trainer.ROOT / name, *text.split()], capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise SystemExit(f"./{name} {text}: {done.stderr.strip()}")
    return done.stdout


class Bed:
    """A folder with models, and the receipts of what they served."""

    def __init__(self, folder):
        self.folder = Path(folder)
        for name, flags in (("small", SMALL), ("paged", PAGED)):
            program("train", f"{flags} --out {name}", folder)

    def serve(self, text):
        program("serve", f"{text} --receipt receipt.json", self.folder)
        return json.loads((self.folder / "receipt.json").read_text())["final"]

    def both(self, what, text):
        """A run on the real clock and its replay: the real receipt, and how far off the percentiles are."""
        told = self.serve(f"--run small --threads 1 --clock both --cost cost.json {text}")
        noted = json.loads((self.folder / "cost.json").read_text())["replay"]
        kept = ("good", "goodput", "duty", "executed", "hits", "requests_per_second", "finished", "shed")
        return {"what": what, "requests": noted["requests"], **{k: told[k] for k in kept},
                **{name: noted[name] for name in TIMES}}

    def most(self):
        """How many requests per second the small model finishes of a backlog."""
        endless = self.serve(f"--run small --threads 1 --arrivals closed --clients 400 --requests 400 {LENGTHS}")
        return endless["requests_per_second"]

    def table(self, blocks=2048):
        """The small model's costs, measured once, and what it finishes at that time."""
        if not (self.folder / "cost.json").exists():
            program("serve", "--run small --threads 1 --calibrate cost.json --budget 64 --running 32 "
                             f"--blocks {blocks}", self.folder)
            self.finished = self.most()
        return json.loads((self.folder / "cost.json").read_text()), self.finished


def replays(bed):
    table, most = bed.table()
    limits = f"--slo-ttft {22 / most:.6g} --slo-tpot {0.6 / most:.6g} --requests 500 {LENGTHS}"
    yield {"what": "held out", "median": table["median"], "worst": table["worst"], "most": most}
    for load in (0.8, 1.3):
        yield bed.both(f"load {load}", f"--rate {load * most:.6g} {limits}")
    yield bed.both("load 1.3, shed", f"--rate {1.3 * most:.6g} --shed {16 / most:.6g} {limits}")
    yield bed.both("sessions", f"--rate {0.3 * most:.6g} {SESSIONS}")
    yield bed.both("sessions, volatile", f"--rate {0.3 * most:.6g} {SESSIONS} --volatile-prefix 100")


def middle(rows):
    """Of rows that are alike, the medians, number by number."""
    def of(values):
        if isinstance(values[0], list):
            return [of(list(v)) for v in zip(*values)]
        return statistics.median(values) if isinstance(values[0], (int, float)) else values[0]
    return {k: of([r[k] for r in rows]) for k in rows[0]}


def uneven(bed):
    """Replays at the run's pace; and requests per second, and the gain, as the table alone says them. Both in turns."""
    bed.table(NEAR)
    rounds = {"static": [], "continuous": []}
    for _ in range(TURNS):
        for sched, rows in rounds.items():
            rows.append(bed.both(sched, f"{UNEVEN} --sched {sched}"))
    found = []
    for sched, rows in rounds.items():
        simulated = bed.serve(f"--cost cost.json {UNEVEN} --sched {sched}")["requests_per_second"]
        found.append({**middle(rows), "requests_per_second, simulated": simulated})
    static, other = found
    real, said = (other[k] / static[k] for k in ("requests_per_second", "requests_per_second, simulated"))
    return [*found, {"what": "gain", "real": real, "simulated": said, "off": said / real - 1}]


def used(own):
    """Seconds of all cores so far, or of those programs that this one has ended; None: the system does not say."""
    if own:
        return sum(os.times()[2:4])
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, interrupts, soft = (int(x) for x in stat.read_text().split()[1:8])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def calmly(run):
    """(what run() says, the share of the cores that others used meanwhile), of the calmest of some tries."""
    found = []
    for _ in range(TRIES):
        start, own, every = time.monotonic(), used(True), used(False)
        said = run()
        if every is None:
            return said, None
        others = (used(False) - every) - (used(True) - own)
        found.append((max(0, others) / (time.monotonic() - start) / os.cpu_count(), said))
        if found[-1][0] <= CALM:
            break
    others, said = min(found, key=lambda x: x[0])
    return said, others


def pace(bed):
    """Of two processes: by percentile what the real clock says, and the errors of the table and at the run's pace."""
    most = bed.table(NEAR)[1]
    rounds = {"0:2": [], "1:1": []}
    for _ in range(TURNS):
        for workers, rows in rounds.items():
            text = (f"--run small --disagg {workers} --clock both --cost cost.json {APART} "
                    f"--rate {SHARED * most:.6g} --slo-ttft {22 / most:.6g} --slo-tpot 1")
            told, others = calmly(lambda text=text: program("serve", text, bed.folder))
            row = {"what": workers, "requests": 200, **({} if others is None else {"others": others})}
            for name in TIMES:
                lines = re.findall(rf"^  {name} +p(\d+) +(\S+) s +\S+ s +(\S+)% +\S+ s +(\S+)%", told, re.M)
                row |= {name: [float(paced) / 100 for *_, paced in lines],
                        f"{name}, by the table": [float(priced) / 100 for _, _, priced, _ in lines],
                        f"{name}, seconds": [float(real) for _, real, *_ in lines]}
            rows.append(row)
    yield from (middle(rows) for rows in rounds.values())


def held(bed):
    """Sessions in two pools, without a time-to-live and with each: times, and what was found and computed. `over`: of
    the same seed's without one."""
    most = bed.most()
    for seed in SEEDS:
        medians = {}
        for pool, blocks in POOLS.items():
            text = f"{AGENTS} --requests 700 --rate {AGENTS_RATE * most:.6g} --blocks {blocks} --seed {seed}"
            alone = None
            for what, share in {"list": 0, **HELD}.items():
                if (pool, what) == ("fits", "just over"):
                    continue
                told = bed.serve(f"--run small --threads 1 {text} --ttl {share * TOOL:g}")
                alone = alone or told
                medians.setdefault(pool, told["session_p50"])
                yield {"what": f"{pool}, {what}, seed {seed}", "pool": pool, "held": what.replace(" ", "_"),
                       "seed": seed, **{k: told[k] for k in ("session_p50", "begin_p99", "hits", "executed", "duty")},
                       "found": told["hits"] / (told["hits"] + told["executed"]),
                       "session_over": told["session_p50"] / alone["session_p50"],
                       "computed_over": told["executed"] / alone["executed"]}
        yield {"what": f"cliff, seed {seed}", "seed": seed, "pool": "both", "held": "cliff",
               "session_over": medians["short"] / medians["fits"]}


def ends(bed):
    """Endless work under both admissions, then a rate between the two ends, from empty and after a burst. Each on the
    real clock, and simulated by a table that was measured just before: the same requests, costs in place of steps."""
    program("serve", f"--run paged --threads 1 --calibrate paged.json {STEPS}", bed.folder)
    kept = ("good_late", "ttft_late", "pool_share", "duty", "requests_per_second", "preempted", "recomputed_share")

    def twice(text):
        real = bed.serve(f"--run paged --threads 1 {text} {PAGES}")
        simulated = bed.serve(f"--cost paged.json {text} {PAGES}")
        return {**{k: real[k] for k in kept}, **{f"{k}, simulated": simulated[k] for k in kept}}
    most, least = (twice(f"--arrivals closed --clients 3000 --requests 3000 --admit {admit}") for admit in
                   ("full", "chunk"))
    most, least, tau = most["requests_per_second"], least["requests_per_second"], least["recomputed_share"]
    between = most ** BETWEEN * least ** (1 - BETWEEN)
    yield {"what": "endless work", "full": most, "chunk": least, "recomputed_share": tau, "rate": between}
    limits = f"--slo-ttft {500 / most:.6g} --slo-tpot {50 / most:.6g}"
    for admit in ("chunk", "full"):
        for backlog in (0, 500):
            yield {"what": f"{admit}, {backlog} at once", **twice(f"--requests 10000 --rate {between:.6g} "
                                                                   f"--backlog {backlog} --admit {admit} {limits}")}


def speeds(bed):
    found = {batch: [] for batch in BATCHES}
    for _ in range(ROUNDS):
        for batch, steps in BATCHES.items():
            program("train", f"{TRAINED} --batch {batch} --steps {steps} --eval-every {steps} --log-every 1 "
                             "--out speed --fresh", bed.folder)
            lines = (bed.folder / "speed/log.jsonl").read_text().splitlines()
            each = sorted(x for x in (json.loads(line).get("tokens_per_second") for line in lines) if x)
            found[batch].append(each[len(each) // 2])
    return [{"what": f"batch {batch}", "batch": batch, "tokens_per_second": sorted(each)[ROUNDS // 2], "all": each}
            for batch, each in found.items()]


UNSAID = ("all", *(f"{name}, seconds" for name in TIMES))
SECTIONS = {"replay": replays, "ends": ends, "train": speeds, "uneven": uneven, "pace": pace, "held": held}


def measure(names, path):
    plan = server.dry_run({})
    found = {"commit": plan["commit"], "machine": plan["machine"], "sections": {}}
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(folder)
        for name in names:
            found["sections"][name] = list(SECTIONS[name](bed))
    Path(path).write_text(json.dumps(found, indent=1) + "\n")


def worst(values):
    return f"{100 * max(abs(x) for x in values if x is not None):.0f}%"


class Clocks:
    def __init__(self, found):
        self.all, self.sections = found, found["sections"]

    def row(self, section, what):
        return next(r for r in self.sections[section] if r["what"] == what)

    def facts(self):
        """{name: text}: everything that a page may quote. Errors are the largest of p50, p90, p99,
        as far as there were requests enough."""
        found = {"machine": self.all["machine"]["cpu"]}
        for name in ("uneven", "pace"):
            for r in self.sections.get(name, []):
                found |= {f"{r['what']}: {k}": worst(v) if isinstance(v, list) and "seconds" not in k else
                          f"{100 * abs(v):.0f}%" if k == "off" else number(v)
                          for k, v in r.items() if k != "what" and not (isinstance(v, list) and "seconds" in k)}
        for r in self.sections.get("held", []):
            found |= {f"{r['what']}: {k}": number(v) for k, v in r.items() if isinstance(v, (int, float))}
        for r in self.sections.get("replay", []):
            if "ttft" in r:
                found |= {f"{r['what']}: {name}": worst(r[name]) for name in TIMES}
                found |= {f"{r['what']}: {k}": number(r[k]) for k in ("good", "goodput", "duty", "executed", "requests",
                                                                     "requests_per_second")}
            else:
                found |= {"held out: median": f"{100 * r['median']:.1f}%",
                          "held out: worst": f"{100 * r['worst']:.0f}%", "most": number(r["most"])}
        for r in self.sections.get("ends", []):
            found |= {f"{r['what']}: {k}": number(x) for k, x in r.items() if k != "what"}
        for r in self.sections.get("train", []):
            found[f"{r['what']}: tok/s"] = f"{r['tokens_per_second']:,.0f}"
        return found

    def complaints(self):
        return commit_complaints(self.all)

    def tell(self, section):
        """The rows of a section, for a page."""
        for r in self.sections[section]:
            said = [f"{k} {' '.join(f'{100 * x:+.0f}%' for x in v if x is not None)}" if isinstance(v, list)
                    else f"{k} {number(v)}" for k, v in r.items() if not isinstance(v, str) and k not in UNSAID]
            print(f"{r['what']}: " + ", ".join(said))


def recorded(name="clocks"):
    path = trainer.ROOT / f"claims/results/{name}.json"
    return Clocks(json.loads(path.read_text())) if path.exists() else None


if __name__ == "__main__":
    *sections, option, out = sys.argv[1:] if len(sys.argv) > 3 else ("", "", "")
    if option != "--out" or not set(sections) <= set(SECTIONS):
        sys.exit(f"error: claims/clocks SECTION... --out FILE; sections are {', '.join(SECTIONS)}")
    measure(sections, out)
