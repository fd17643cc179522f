"""clocks.py: what the event clock of ./serve is worth on one machine, and what posts 7, 10 and 17 need of its real one.

    PYTHONPATH=claims python3 -m lab.clocks claims/results/clocks.json      measures again (4 minutes), alone

A small model with random weights is calibrated, on one thread, and requests are replayed in both clocks: below and
above saturation, and as sessions of agents. Then a smaller one answers ten thousand requests from empty and after a
burst, in a pool as large for its short requests as that of paging-loop for long ones, on the real clock and on the
event clock by a table of its own costs; and ./train says its speed by the batch. Rates are shares of what was
measured just before.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from . import server, trainer
from .bench import commit_complaints
from .report import number

SMALL = "--data markov --order 1 --vocab 512 --context 512 --layers 6 --width 256 --heads 4 --batch 1 --steps 1"
PAGED = "--data markov --order 1 --vocab 32 --context 256 --layers 2 --width 64 --heads 2 --batch 1 --steps 1"
LENGTHS = "--prompt-length 64 --answer-length 32 --budget 64 --running 32 --blocks 2048"
SESSIONS = ("--agent-turns 10 --spread 0 --prompt-length 200 --answer-length 10 --tool-tokens 30 --tool-seconds 0.2 "
            "--budget 64 --running 32 --prefix-cache 1 --blocks 4096 --requests 200")
STEPS = "--block 4 --blocks 2048 --running 512 --budget 512 --chunk 64"
PAGES = f"--prompt-length 64 --answer-length 128 --watermark 0 {STEPS}"
TRAINED = ("--data markov --order 1 --vocab 32 --context 32 --layers 2 --width 32 --heads 2 --warmup 0 --schedule "
           "constant --eval-tokens 1024 --lr 3e-3")
BATCHES = {1: 3000, 4: 2000, 16: 800, 64: 200, 256: 50}
ROUNDS = 3
BETWEEN = 0.5    # of the two ends' logarithms: where the rate of `ends` lies
TIMES = ("ttft", "tpot", "latency")


def program(name, text, folder):
    done = subprocess.run([trainer.ROOT / name, *text.split()], capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise SystemExit(f"./{name} {text}: {done.stderr.strip()}")


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


def replays(bed):
    program("serve", "--run small --threads 1 --calibrate cost.json --budget 64 --running 32 --blocks 2048", bed.folder)
    table = json.loads((bed.folder / "cost.json").read_text())
    endless = bed.serve(f"--run small --threads 1 --arrivals closed --clients 400 --requests 400 {LENGTHS}")
    most = endless["requests_per_second"]
    limits = f"--slo-ttft {22 / most:.6g} --slo-tpot {0.6 / most:.6g} --requests 500 {LENGTHS}"
    yield {"what": "held out", "median": table["median"], "worst": table["worst"], "most": most}
    for load in (0.8, 1.3):
        yield bed.both(f"load {load}", f"--rate {load * most:.6g} {limits}")
    yield bed.both("load 1.3, shed", f"--rate {1.3 * most:.6g} --shed {16 / most:.6g} {limits}")
    yield bed.both("sessions", f"--rate {0.3 * most:.6g} {SESSIONS}")
    yield bed.both("sessions, volatile", f"--rate {0.3 * most:.6g} {SESSIONS} --volatile-prefix 100")


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


def measure(path):
    plan = server.dry_run({})
    found = {"commit": plan["commit"], "machine": plan["machine"], "sections": {}}
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(folder)
        for name, rows in (("replay", replays), ("ends", ends), ("train", speeds)):
            found["sections"][name] = list(rows(bed))
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
        for r in self.sections["replay"]:
            if "ttft" in r:
                found |= {f"{r['what']}: {name}": worst(r[name]) for name in TIMES}
                found |= {f"{r['what']}: {k}": number(r[k]) for k in ("good", "goodput", "duty", "executed", "requests",
                                                                     "requests_per_second")}
            else:
                found |= {"held out: median": f"{100 * r['median']:.1f}%",
                          "held out: worst": f"{100 * r['worst']:.0f}%", "most": number(r["most"])}
        for r in self.sections["ends"]:
            found |= {f"{r['what']}: {k}": number(x) for k, x in r.items() if k != "what"}
        for r in self.sections["train"]:
            found[f"{r['what']}: tok/s"] = f"{r['tokens_per_second']:,.0f}"
        return found

    def complaints(self):
        return commit_complaints(self.all)

    def tell(self, section):
        """The rows of a section, for a page."""
        for r in self.sections[section]:
            said = [f"{k} {' '.join(f'{100 * x:+.0f}%' for x in v if x is not None)}" if k in TIMES
                    else f"{k} {number(v)}" for k, v in r.items() if k not in ("what", "all")]
            print(f"{r['what']}: " + ", ".join(said))


def recorded():
    path = trainer.ROOT / "claims/results/clocks.json"
    return Clocks(json.loads(path.read_text())) if path.exists() else None


if __name__ == "__main__":
    measure(sys.argv[1])
