"""tails.py: which format of four bits has the smaller error, by how heavy the tails of the weights are. No training.

The numbers are quantiles of a distribution (generalised normal: density exp(-|x|^p)) in a fixed random order, so every
count is the same on every machine; the formats are those of kernels/quant.h, once more in numpy, and a test compares
the two. Kurtosis is the fourth moment over the square of the second: 3 for normal numbers.

    errors(p)       relative squared error of every format on such numbers, and their kurtosis
    crossing(a, b)  the kurtosis at which two formats lose as much
    draw(found)     error over kurtosis; found: the kurtosis of some matrices (levels.body)
"""
import functools

import matplotlib.pyplot as plt
import numpy
from scipy import stats

from .figure import STYLE, label_ends, look

E2M1 = numpy.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], numpy.float32)
MIDDLES = numpy.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], numpy.float32)
GROUP, SUB_GROUP, COUNT = 32, 16, 1 << 15
f32 = numpy.float32


def e2m1(x):
    """To nearest, ties to the even code: at a middle, up where the code above is even."""
    size = abs(x)
    code = (size[..., None] > MIDDLES).sum(-1)
    code += (size[..., None] == MIDDLES[1::2]).any(-1)
    return numpy.copysign(E2M1[code], x)


def e4m3(x):
    """A positive number as a scale of NVFP4."""
    x = numpy.clip(x.astype(float), 2.0 ** -9, 448)
    unit = 2.0 ** (numpy.maximum(numpy.floor(numpy.log2(x)), -6) - 3)
    return (numpy.rint(x / unit) * unit).astype(f32)


def q4_0(x):
    wide = x.reshape(-1, GROUP)
    largest = numpy.take_along_axis(wide, abs(wide).argmax(axis=1)[:, None], axis=1)
    d = largest / f32(-8)
    q = numpy.clip(numpy.trunc(wide * (f32(1) / d) + f32(8.5)), 0, 15) - f32(8)
    return (q * d.astype(numpy.float16).astype(f32)).reshape(-1)


def int4(x):
    wide = x.reshape(-1, GROUP)
    d = (abs(wide).max(axis=1, keepdims=True) / f32(7)).astype(numpy.float16).astype(f32)
    return (numpy.clip(numpy.rint(wide / d), -7, 7) * d).reshape(-1)


def nvfp4(x):
    wide = x.reshape(-1, SUB_GROUP)
    t = abs(x).max() / f32(448 * 6)
    s = e4m3(abs(wide).max(axis=1, keepdims=True) / f32(6) / t)
    return (e2m1(wide * (f32(1) / t / s)) * (s * t)).reshape(-1)


def mxfp4(x, even=False):
    wide = x.reshape(-1, GROUP)
    digits, exponent = numpy.frexp(abs(wide).max(axis=1, keepdims=True))      # digits in 1/2 .. 1
    scale = numpy.exp2(exponent - 3 + (even & (digits >= 0.875))).astype(f32)
    return (e2m1(wide / scale) * scale).reshape(-1)


FORMATS = {"Q4_0": q4_0, "int4, 15 levels": int4, "NVFP4": nvfp4, "MXFP4, even": lambda x: mxfp4(x, True),
           "MXFP4, floor": mxfp4}


def numbers(p):
    """Quantiles of exp(-|x|^p), shuffled, with a variance near that of weights."""
    x = stats.gennorm.ppf((numpy.arange(COUNT) + 0.5) / COUNT, p)
    x *= 0.02 / x.std()
    return numpy.random.default_rng(1).permutation(x).astype(f32)


@functools.cache
def errors(p):
    x = numbers(p)
    wide = x.astype(float)
    lost = {name: float(((rounded(x) - wide) ** 2).sum() / (wide ** 2).sum()) for name, rounded in FORMATS.items()}
    return float((wide ** 4).mean() / (wide ** 2).mean() ** 2), lost


def crossing(a="Q4_0", b="NVFP4", low=1.0, high=4.0):
    """Where a, the better one with light tails, is no longer better: by bisection over p."""
    for _ in range(12):
        p = (low + high) / 2
        _, lost = errors(p)
        low, high = (low, p) if lost[a] < lost[b] else (p, high)
    return errors((low + high) / 2)[0]


def draw(found=()):
    powers = numpy.geomspace(8, 0.75, 15)
    told = [errors(float(p)) for p in powers]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.6, 3.7), layout="constrained")
        ends = []
        for i, name in enumerate(FORMATS):
            line = [lost[name] for _, lost in told]
            axes.plot([k for k, _ in told], line, color=look(i)["color"], linestyle=look(i)["linestyle"])
            ends.append((told[-1][0], line[-1], name, look(i)["color"]))
        at = crossing()
        axes.axvline(at, color="#555555", linewidth=1, linestyle=(0, (4, 2)))
        axes.text(at * 1.02, 0.0204, f"{at:.1f}", fontsize=8.5, color="#333333")
        axes.set_xscale("log")
        ticks = [2, 3, 4, 6, 10]
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 0.0222)
        if len(found):
            axes.plot(found, [0.0006] * len(found), "|", color="#000000", markersize=9)
            axes.text(max(found) * 1.03, 0.0006, "matrices of a trained model", fontsize=8, va="center")
        axes.set_xlabel("kurtosis of the weights (normal: 3)")
        axes.set_ylabel("squared error (share)")
        axes.set_title(f"Q4_0 loses less than NVFP4 until the weights' kurtosis is {at:.1f}", fontsize=10,
                       fontweight="bold")
        label_ends(axes, ends, size=8)
        return figure
