"""dial.py: one trained model with ever heavier tails, and what four and a half bits cost it: is tails.py's kurtosis,
found without any training, where the better format changes in loss, too?

    PYTHONPATH=claims python3 -m lab.dial        trains and measures again: claims/results/dial.csv (three minutes)

What a norm puts out is multiplied by its gains and then by the matrices behind it: a gain divided by s and the columns
that it meets multiplied by s are the same model. So are a row of the value or the up projection, divided, and the
column of the output or the down projection that meets it. With s = exp(sigma z), z normal, the groups along a row have
heavier tails, and the model says what it said before: its exact loss is in the table, and does not move.

    draw()      NVFP4's cost less Q4_0's over kurtosis, each model a line
    table()     means over the models
"""
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy

from .figure import STYLE
from .stats import decided
from .tails import crossing
from .trainer import ROOT, TRAIN

TABLE = ROOT / "claims/results/dial.csv"
DATA = "--data stories --context 64 --batch 8 --eval-tokens 65536 --sample-tokens 0"
MODEL = "--layers 2 --width 64 --heads 2 --steps 400 --warmup 40 --lr 6e-3 --eval-every 400"
SEEDS, SIGMAS, FORMATS = range(221, 229), (0, 0.1, 0.2, 0.3, 0.45), ("q4_0", "nvfp4")


def run(words, folder):
    """The last validation of ./train."""
    done = subprocess.run([TRAIN, *f"{DATA} {words}".split(), f"--out={folder}"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "val_loss" in line][-1]


def read(path):
    """All tensors of a safetensors file in float32."""
    data = Path(path).read_bytes()
    head = int.from_bytes(data[:8], "little")
    rows = {name: row for name, row in json.loads(data[8:8 + head]).items() if name != "__metadata__"}
    return {name: numpy.frombuffer(data[8 + head:][slice(*row["data_offsets"])], "<f4").reshape(row["shape"]).copy()
            for name, row in rows.items()}


def write(path, tensors):
    rows, at = {}, 0
    for name, x in tensors.items():
        rows[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    head = json.dumps(rows).encode()
    head += b" " * (-len(head) % 8)
    Path(path).write_bytes(len(head).to_bytes(8, "little") + head + b"".join(x.tobytes() for x in tensors.values()))


def turned(tensors, sigma, seed):
    """The same model with heavier tails."""
    rng, new = numpy.random.default_rng(seed), {name: x.copy() for name, x in tensors.items()}

    def scales(count):
        z = rng.standard_normal(count)
        return numpy.exp(sigma * (z - z.mean())).astype(numpy.float32)

    for norm in [name for name in new if name.endswith("layernorm.weight")]:
        layer, s = norm.rsplit(".", 2)[0], scales(len(new[norm]))
        new[norm] /= s
        attention = norm.endswith("input_layernorm.weight")
        for part in ("self_attn.q", "self_attn.k", "self_attn.v") if attention else ("mlp.gate", "mlp.up"):
            new[f"{layer}.{part}_proj.weight"] *= s
        rows, columns = ("self_attn.v", "self_attn.o") if attention else ("mlp.up", "mlp.down")
        s = scales(len(new[f"{layer}.{rows}_proj.weight"]))
        new[f"{layer}.{rows}_proj.weight"] /= s[:, None]
        new[f"{layer}.{columns}_proj.weight"] *= s
    return new


def kurtosis(tensors):
    """The median over the matrices of the layers."""
    wide = [x.astype(float) for name, x in tensors.items() if x.ndim == 2 and "embed" not in name]
    return float(numpy.median([(x ** 4).mean() / (x ** 2).mean() ** 2 for x in wide]))


def measure(scratch):
    for seed in SEEDS:
        model = scratch / f"{seed}"
        run(f"{MODEL} --seed {seed}", model)
        for sigma in SIGMAS:
            other = scratch / f"{seed}-{sigma}"
            other.mkdir()
            for path in [model / "config.json", *model.glob("tokenizer*")]:
                shutil.copy(path, other)
            tensors = turned(read(model / "model.safetensors"), sigma, seed)
            write(other / "model.safetensors", tensors)
            found = [run(f"--load {other} --steps 0 --quant {form}", scratch / f"{seed}-{sigma}-{form}")
                     for form in FORMATS]
            yield {"seed": seed, "sigma": sigma, "kurtosis": kurtosis(tensors), "exact": found[0]["val_loss_exact"],
                   **{form: f["val_loss"] - f["val_loss_exact"] for form, f in zip(FORMATS, found)}}
            print(f"seed {seed}, sigma {sigma}", flush=True)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(measure(Path(scratch)))
    with open(TABLE, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


# ---- what is shown -----------------------------------------------------------------------------------
def recorded(path=TABLE):
    """{sigma: rows}."""
    found = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            row = {name: float(value) for name, value in row.items()}
            found.setdefault(row["sigma"], []).append(row)
    return found


def gained(rows):
    """What NVFP4 costs more than Q4_0."""
    return [row["nvfp4"] - row["q4_0"] for row in rows]


def table():
    print("kurtosis   exact loss     Q4_0    NVFP4    NVFP4 less Q4_0, in thousandths")
    for rows in recorded().values():
        mean = {name: numpy.mean([row[name] for row in rows]) for name in rows[0]}
        e = decided(gained(rows))
        cells = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(1000 * x for x in (e.mean, e.low, e.high))).replace("-", "\u2212")
        print(f"{mean['kurtosis']:>8.2f}   {mean['exact']:>10.4f} {mean['q4_0']:>8.4f} {mean['nvfp4']:>8.4f}    "
              f"{cells}")
    print("nats per token, means of as many models as there are seeds, the matrices of the layers rounded")


def draw():
    found = recorded()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.6, 3.2), layout="constrained")
        for seed in sorted({row["seed"] for rows in found.values() for row in rows}):
            line = [row for rows in found.values() for row in rows if row["seed"] == seed]
            axes.plot([row["kurtosis"] for row in line], gained(line), color="#9a9a9a", linewidth=0.8, marker=".",
                      markersize=4)
        means = [(numpy.mean([row["kurtosis"] for row in rows]), decided(gained(rows))) for rows in found.values()]
        axes.plot([k for k, _ in means], [e.mean for _, e in means], color="#000000", linewidth=2, zorder=3)
        for k, e in means:
            axes.plot([k, k], [e.low, e.high], color="#000000", linewidth=2.4, alpha=0.6, solid_capstyle="butt")
        axes.axhline(0, color="#555555", linewidth=0.8)
        axes.axvline(crossing(), color="#555555", linewidth=1, linestyle=(0, (4, 2)))
        axes.text(crossing() * 1.01, axes.get_ylim()[0], " where squared errors are equal", fontsize=8, va="bottom",
                  color="#333333")
        axes.set_xscale("log")
        axes.set_xticks([3, 4, 5, 6, 8], ["3", "4", "5", "6", "8"])
        axes.minorticks_off()
        axes.set_xlabel("kurtosis of the same model's weights (median of its matrices)")
        axes.set_ylabel("NVFP4 \u2212 Q4_0 (nats)")
        axes.set_title("The same model with heavier tails: Q4_0 is better on the left, NVFP4 on the right", fontsize=10,
                       fontweight="bold")
        return figure


if __name__ == "__main__":
    sys.exit(main())
