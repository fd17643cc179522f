"""levels.py: the pictures of post 13: which numbers a weight can be, and which weights there are.

    levels()            the sixteen levels of Q4_0 and of E2M1 in a group, over how many weights lie where
    trained(flags)      trains these flags into a folder: the kurtosis of each matrix (normal numbers: 3)
    kurtosis(flags)     prints it
"""
import functools
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy

from . import trainer
from .command import parse_command
from .diagram import DARK, INK, LIGHT
from .figure import STYLE

E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
GROUP = 32


def largest(rounds=20000, seed=1):
    """The mean of the largest magnitude of a group of normal numbers, in their standard deviations."""
    return float(numpy.abs(numpy.random.default_rng(seed).normal(size=(rounds, GROUP))).max(axis=1).mean())


def levels():
    amax = largest()
    rows = {"Q4_0: integers": [q / 8 for q in range(-8, 8)],
            "NVFP4, MXFP4: E2M1": sorted({sign * v / 6 for v in E2M1 for sign in (1, -1)})}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.8, 2.4), layout="constrained")
        x = numpy.linspace(-1.08, 1.08, 400)
        density = numpy.exp(-(x * amax) ** 2 / 2)
        axes.fill_between(x, 0, density, color=LIGHT, linewidth=0)
        for place, (name, values) in enumerate(rows.items()):
            y = -0.22 - 0.3 * place
            axes.vlines(values, y - 0.09, y + 0.09, color=INK if place else DARK, linewidth=1.4)
            axes.text(-1.14, y, name, ha="right", va="center", fontsize=8)
        axes.text(-1.14, 0.3, "how many weights", ha="right", va="center", fontsize=8)
        axes.set_xlim(-1.9, 1.12)
        axes.set_ylim(-0.7, 1.05)
        axes.set_yticks([])
        axes.set_xticks([-1, 0, 1], ["minus the largest", "0", "the largest"])
        axes.grid(False)
        axes.spines["bottom"].set_bounds(-1.08, 1.08)
        for side in ("left", "top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_title("A float's levels crowd at 0 and are far apart where many weights still are", fontsize=9)
        return figure


def tensors(path):
    """The float32 matrices of a safetensors file, by name."""
    data = Path(path).read_bytes()
    head = int.from_bytes(data[:8], "little")
    for name, row in json.loads(data[8:8 + head]).items():
        if name != "__metadata__" and row["dtype"] == "F32" and len(row["shape"]) == 2:
            begin, end = row["data_offsets"]
            yield name, numpy.frombuffer(data[8 + head + begin:8 + head + end], dtype="<f4").astype(float)


@functools.cache
def trained(command):
    """The kurtosis of each matrix of the run of this command, by name."""
    flags = {name: values[0] for name, values in parse_command(command).items()}
    with tempfile.TemporaryDirectory() as out:
        status, error = trainer.Training(flags, out, trainer.cores()).result()
        if status != "finished":
            raise RuntimeError(error or status)
        found = {}
        for name, x in tensors(Path(out) / "model.safetensors"):
            x = x - x.mean()
            found[name] = float((x ** 4).mean() / (x ** 2).mean() ** 2)
    return found


def body(found):
    return sorted(value for name, value in found.items() if "embed" not in name)


def kurtosis(command):
    found = trained(command)
    matrices = body(found)
    embedding = [value for name, value in found.items() if "embed" in name]
    print(f"kurtosis of {len(matrices)} matrices: median {numpy.median(matrices):.2f}, from {matrices[0]:.2f} to "
          f"{matrices[-1]:.2f}; of the embedding {', '.join(f'{value:.2f}' for value in embedding)}; normal numbers "
          "have 3")
