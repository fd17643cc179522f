"""quant.py PROBE PYTHON: our quantised formats against implementations of others, whose packages (those of
tests/quant-requirements.txt) are in the environment of PYTHON. Run by `make oracle`.

A million numbers and more for each format: normal and heavy tails, in float and rounded to bfloat16 (where ties are
common), and every edge: zeros, subnormals, ties, numbers beside powers of two, what saturates.

gguf (llama.cpp's package): bytes of Q8_0 and Q4_0, and what it reads from ours in every format of ggml's. torchao: all
scale rules of MXFP4, and NVFP4. compressed-tensors (vLLM's): integer codes and scales, MXFP4's "even". ml_dtypes: E2M1,
E4M3, E8M0.

Where they are known to differ from what we say, the difference is stated here and counted, so that it cannot grow
unseen:
- gguf's MXFP4 rounds ties toward zero, knows no -0, and takes floor(log2(amax)) from a logarithm, which is one too
  large just below a power of two.
- compressed-tensors adds the zero point before it rounds, which is another number at ties and within rounding of them;
  its int4 goes to -8, where a scale that is a subnormal half is rounded far down.
- torchao's rceil on a CPU takes ceil(log2(amax/6)) from a logarithm, too small just above a power of two, where the
  instruction of NVIDIA that it stands for is exact.
- torchao has no scale of MXFP4 below 2^-126, and none of NVFP4 below 2^-6.
"""
import glob
import os
import subprocess
import sys
import tempfile
import warnings

PROBE, THEIRS = sys.argv[1:3]
sys.path += glob.glob(os.path.join(os.path.dirname(THEIRS), "..", "lib", "python3*", "site-packages"))
warnings.simplefilter("ignore")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import numpy as np  # noqa: E402
import torch  # noqa: E402
import ml_dtypes  # noqa: E402
from compressed_tensors.quantization import QuantizationArgs  # noqa: E402
from compressed_tensors.quantization.lifecycle.forward import quantize as ct_quantize  # noqa: E402
from compressed_tensors.quantization.utils.helpers import calculate_qparams  # noqa: E402
from gguf.constants import GGMLQuantizationType as Type  # noqa: E402
from gguf.quants import dequantize, quantize  # noqa: E402
from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx  # noqa: E402
from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale  # noqa: E402

COLUMNS, MILLION = 256, 1 << 20


# ---- numbers ---------------------------------------------------------------------------------------
def beside(x):
    return np.concatenate([np.nextafter(x, np.float32(0)), x, np.nextafter(x, np.float32(np.inf))])


def edges():
    """Blocks of 64: a largest number, then what may go wrong beside it."""
    rng = np.random.default_rng(2)
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 0.5, 1.5, 4.5, 6.5, 7.5], np.float32)
    blocks = []
    for exponent in range(-20, 16, 2):                       # so that half floats can hold the scales
        power = np.float32(2.0 ** exponent)
        for largest in beside(power * np.array([1, 1.25, 1.5, 1.75, 1.875], np.float32)):
            pool = np.concatenate([beside(ties * power / 4), -beside(ties * power / 4), [0, -0.0, 1e-40, -1e-45]])
            block = rng.choice(pool.astype(np.float32), 64)
            block = np.where(abs(block) > largest, largest / 2, block).astype(np.float32)
            block[[5, 20, 40, 63]] = [largest, -largest, -largest, largest]
            blocks.append(block)
    blocks += [np.zeros(64, np.float32), np.full(64, -0.0, np.float32), np.ones(64, np.float32)]
    blocks += [rng.normal(size=64).astype(np.float32) * np.float32(10.0 ** k) for k in range(-44, 5)]
    return np.concatenate(blocks)


def numbers():
    rng = np.random.default_rng(1)
    yield "normal", (0.02 * rng.standard_normal(MILLION)).astype(np.float32)
    yield "heavy tails", (0.02 * rng.standard_t(4, MILLION)).astype(np.float32)
    rounded = (0.02 * rng.standard_normal(MILLION)).astype(ml_dtypes.bfloat16).astype(np.float32)
    yield "bfloat16", rounded
    e = edges()
    yield "edges", np.concatenate([e, np.zeros(-len(e) % COLUMNS, np.float32)])


def ours(x, form, rule="floor", columns=COLUMNS):
    """The scale of the tensor, rows of bytes, and what they mean."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = [os.path.join(scratch, "in"), os.path.join(scratch, "out")]
        x.astype(np.float32).tofile(paths[0])
        subprocess.run([PROBE, "--quant", form, rule, str(columns), *paths], check=True, stderr=subprocess.PIPE)
        raw = np.fromfile(paths[1], np.uint8)
    rows = raw[4:len(raw) - 4 * x.size].reshape(x.size // columns, -1)
    return raw[:4].view(np.float32)[0], rows, raw[len(raw) - 4 * x.size:].view(np.float32)


def nibbles(block, half):
    """[..., half] bytes to [..., 2 half] codes, the low ones first."""
    return np.concatenate([block & 15, block >> 4], axis=-1)


def blocks_of(rows, size):
    return rows.reshape(-1, size)


def halves(block):
    return np.ascontiguousarray(block[:, :2]).view(np.float16).astype(np.float32)


def same(a, b, what):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}"
    off = np.flatnonzero((a != b).reshape(-1))
    assert len(off) == 0, f"{what}: {len(off)} of {a.size} differ, first {a.flat[off[0]]} and {b.flat[off[0]]}"
    return a.size


# ---- checks ----------------------------------------------------------------------------------------
def ggml_bytes(x, form, kind, most):
    """Bytes, but of blocks so small that 1/d is beyond the floats: there ggml has no rule, and all mean 0."""
    _, rows, meant = ours(x, form)
    size = rows.shape[1] // (COLUMNS // 32)
    with np.errstate(all="ignore"):
        theirs = blocks_of(quantize(x.reshape(-1, COLUMNS), kind), size)
        tiny = np.isinf(1 / (abs(x.reshape(-1, 32)).max(axis=1) / np.float32(most))) & (abs(
            x.reshape(-1, 32)).max(axis=1) > 0)
    found = blocks_of(rows, size)
    assert tiny.sum() < 20 and np.all(meant.reshape(-1, 32)[tiny] == 0), "blocks without a rule"
    same(dequantize(rows, kind).reshape(-1), meant, f"{form} as gguf reads it")
    return same(found[~tiny], theirs[~tiny], form)


def q8_0(x):
    return ggml_bytes(x, "q8_0", Type.Q8_0, 127)


def q4_0(x):
    return ggml_bytes(x, "q4_0", Type.Q4_0, 8)


def q4_0_by_others(x):
    """int4 and int4_full are read as Q4_0; their codes and scales are compressed-tensors'."""
    args = QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=32)
    wide = torch.from_numpy(x.reshape(-1, 32))
    for form, divisor in (("int4", 7), ("int4_full", 7.5)):
        _, rows, meant = ours(x, form)
        same(dequantize(rows, Type.Q4_0).reshape(-1), meant, f"{form} as gguf reads it")
        block = blocks_of(rows, 18)
        d = halves(block)
        amax = abs(x.reshape(-1, 32)).max(axis=1, keepdims=True)
        same(d, (amax / np.float32(divisor)).astype(np.float16).astype(np.float32), f"scales of {form}")
        if form == "int4_full":
            scale, _ = calculate_qparams(wide.amin(1, True), wide.amax(1, True), args)
            whole = amax > 1e-38                              # they do not let a scale be 0
            same(d[whole], scale.numpy().astype(np.float16).astype(np.float32)[whole], "scales of int4_full, theirs")
        live = d[:, 0] > 0
        q = ct_quantize(wide[live], torch.from_numpy(d[live]), torch.zeros(int(live.sum()), 1), args).numpy()
        q = np.maximum(q, -7) if form == "int4" else q
        same(nibbles(block[:, 2:], 16)[live].astype(int) - 8, q.astype(int), f"codes of {form}")
        assert np.all(block[~live, 2:] == 0x88), "codes without a scale"
    return 2 * x.size


def int4_asym(x):
    args = QuantizationArgs(num_bits=4, symmetric=False, strategy="group", group_size=32)
    _, rows, meant = ours(x, "int4_asym")
    wide = torch.from_numpy(x.reshape(-1, 32))
    count = COLUMNS // 32
    block = blocks_of(np.ascontiguousarray(rows[:, :18 * count]), 18)
    z = np.stack([rows[:, 18 * count:] & 15, rows[:, 18 * count:] >> 4], axis=-1).reshape(-1, 1).astype(int)
    d = halves(block)
    low, high = wide.amin(1, True).clamp(max=0), wide.amax(1, True).clamp(min=0)
    scale, _ = calculate_qparams(low, high, args)
    whole = (high - low > 1e-38).numpy()
    same(d[whole], scale.numpy().astype(np.float16).astype(np.float32)[whole], "scales, theirs")
    live = d[:, 0] > 0
    with np.errstate(all="ignore"):
        same(z[live], np.clip(np.rint(-low.numpy()[live] / d[live]), 0, 15).astype(int), "zero points")
    q = ct_quantize(wide[live], torch.from_numpy(d[live]), torch.from_numpy(z[live] - 8).float(), args).numpy() + 8
    codes = nibbles(block[:, 2:], 16).astype(int)
    with np.errstate(all="ignore"):
        scaled = x.reshape(-1, 32)[live].astype(np.float64) / d[live]
    tie = abs(scaled - np.floor(scaled) - 0.5) < 1e-6
    assert tie.sum() < 0.01 * x.size + 2000, f"{tie.sum()} ties"
    same(np.where(tie, 0, codes[live]), np.where(tie, 0, q.astype(int)), "codes")
    same(codes[live], np.clip(np.rint((x.reshape(-1, 32)[live] / d[live])) + z[live], 0, 15).astype(int), "ties")
    return same(((codes - z).astype(np.float32) * d).reshape(-1), meant, "what it means")


def int8(x):
    args = QuantizationArgs(num_bits=8, symmetric=True, strategy="channel")
    _, rows, meant = ours(x, "int8")
    d = np.ascontiguousarray(rows[:, :4]).view(np.float32)
    wide = x.reshape(-1, COLUMNS)
    same(d, abs(wide).max(axis=1, keepdims=True) / np.float32(127), "scales")
    live = d[:, 0] > 0
    q = ct_quantize(torch.from_numpy(wide[live]), torch.from_numpy(d[live]), torch.zeros(int(live.sum()), 1), args)
    same(rows[live, 4:].view(np.int8).astype(int), q.numpy().astype(int), "codes")
    return same((rows[:, 4:].view(np.int8).astype(np.float32) * d).reshape(-1), meant, "what it means")


def bits(rows, count, width):
    """[blocks, bytes] to [blocks, count] numbers of so many bits each."""
    one = np.unpackbits(rows, axis=1, bitorder="little").reshape(len(rows), count, width)
    return (one * (1 << np.arange(width))).sum(axis=2)


def few_bits(x):
    """int3, int2 and ternary, which no package packs so: their table, written out in numpy."""
    wide = x.reshape(-1, 32)
    largest = np.take_along_axis(wide, abs(wide).argmax(axis=1)[:, None], axis=1)
    total = np.zeros((len(wide), 1), np.float32)
    for i in range(32):
        total[:, 0] += abs(wide[:, i])
    for form, size, wanted, low, high in (("int3", 14, largest / np.float32(-4), -4, 3),
                                          ("int2", 10, abs(largest) / np.float32(1.5), -2, 1),
                                          ("ternary", 9, total / np.float32(32), -1, 1)):
        _, rows, meant = ours(x, form)
        block = blocks_of(rows, size)
        d, payload = halves(block), np.ascontiguousarray(block[:, 2:])
        same(d, wanted.astype(np.float16).astype(np.float32), f"scales of {form}")
        if form == "ternary":
            codes = (payload[:, :, None] // 3 ** np.arange(5) % 3).reshape(len(payload), 35)[:, :32].astype(int) - 1
        else:
            codes = bits(payload, 32, 3 if form == "int3" else 2).astype(int) + low
        with np.errstate(all="ignore"):
            q = (np.floor if form == "int2" else np.rint)(wide / d)
        q = np.where(d != 0, np.clip(q, low, high), 0).astype(int)
        same(codes, q, f"codes of {form}")
        half = np.float32(0.5 if form == "int2" else 0)
        same(((codes.astype(np.float32) + half) * d).reshape(-1), meant, f"what {form} means")
    return 3 * x.size


def mx_parts(x, rule):
    _, rows, meant = ours(x, "mxfp4", rule)
    block = blocks_of(rows, 17)
    same(dequantize(rows, Type.MXFP4).reshape(-1), meant, f"{rule} as gguf reads it")
    return block[:, 0], nibbles(block[:, 1:], 16), meant


def mxfp4_torchao(x):
    for rule in ("floor", "even", "rceil"):
        e, codes, _ = mx_parts(x, rule)
        scale, packed = to_mx(torch.from_numpy(x.reshape(-1, COLUMNS)), torch.float4_e2m1fn_x2, 32,
                              ScaleCalculationMode[rule.upper()])
        packed = packed.view(torch.uint8).numpy().reshape(-1, 16)
        theirs = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1, 32)
        amax = abs(x.reshape(-1, 32)).max(axis=1)
        digits = (amax / np.float32(6)).view(np.uint32) & 0x7fffff
        agree = (digits == 0) | (digits > 16) if rule == "rceil" else digits >= 0
        same(e[agree], scale.view(torch.uint8).numpy().reshape(-1)[agree], f"scales, {rule}")
        normal = agree & ((e > 0) | (amax == 0))
        assert (~normal).sum() < 60, f"{(~normal).sum()} blocks are left out"
        same(codes[normal], theirs[normal], f"codes, {rule}")
    return 3 * x.size


def mxfp4_gguf(x):
    """Their codes from our scales are ours, but for ties and the sign of zeros; scales, but for their logarithm."""
    e, codes, _ = mx_parts(x, "floor")
    with np.errstate(all="ignore"):
        theirs = blocks_of(quantize(x.reshape(-1, COLUMNS), Type.MXFP4), 17)
    amax = abs(x.reshape(-1, 32)).max(axis=1)
    below = amax < 2.0 ** -124                               # a scale below E8M0's
    digits = amax.view(np.uint32) & 0x7fffff
    off = (theirs[:, 0] != e) & ~below
    assert np.all(digits[off] > 0x7fffff - 8), "scales differ far from a power of two"
    agree = ~off & ~below
    scaled = abs(x.reshape(-1, 32)) / np.exp2(e.astype(np.float64) - 127)[:, None]
    tie = np.isin(scaled, [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5])
    plain = np.where(codes == 8, 0, codes)
    same(np.where(tie, 0, plain)[agree], np.where(tie, 0, nibbles(theirs[:, 1:], 16))[agree], "codes")
    return x.size


def mxfp4_vllm(x):
    """compressed-tensors' scales are those of "even"."""
    e, _, _ = mx_parts(x, "even")
    args = QuantizationArgs(num_bits=4, type="float", symmetric=True, strategy="group", group_size=32,
                            scale_dtype=torch.uint8)
    wide = torch.from_numpy(x.reshape(-1, 32))
    scale, _ = calculate_qparams(wide.amin(1, True), wide.amax(1, True), args)
    live = e > 1
    return same(np.exp2(e[live].astype(np.float32) - 127), scale.float().numpy().reshape(-1)[live], "scales")


def nvfp4(x):
    """torchao's scales and codes where its least scale, 2^-6, is not in the way; ml_dtypes' E4M3 everywhere."""
    x = np.concatenate([x, np.zeros(-len(x) % COLUMNS, np.float32)])
    t, rows, meant = ours(x, "nvfp4")
    block = blocks_of(rows, 36)
    scales, codes = block[:, :4].reshape(-1), nibbles(block[:, 4:].reshape(-1, 4, 8), 8).reshape(-1, 16)
    amax = abs(x.reshape(-1, 16)).max(axis=1)
    same(t, np.float32(per_tensor_amax_to_scale(torch.tensor(abs(x).max())).item()), "scale of the tensor")
    wanted = np.clip(amax / np.float32(6) / t, np.float32(2 ** -9), np.float32(448))
    same(scales, wanted.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), "scales, ml_dtypes")
    theirs, packed = nvfp4_quantize(torch.from_numpy(x.reshape(-1, COLUMNS)), 16, torch.tensor(t))
    packed = packed.view(torch.uint8).numpy().reshape(-1, 8)
    normal = scales >= 8
    same(scales[normal], theirs.view(torch.uint8).numpy().reshape(-1)[normal], "scales, torchao")
    same(codes[normal], np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1, 16)[normal], "codes, torchao")
    value = scales.view(ml_dtypes.float8_e4m3fn).astype(np.float32)[:, None]
    fours = codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    same((fours * (value * t)).reshape(-1), meant, "what it means, ml_dtypes")
    unit = dequantize(rows, Type.NVFP4).reshape(-1)          # without the tensor's scale, which rounds once more
    assert np.all(abs(unit.astype(np.float64) * t - meant) <= 2e-7 * abs(meant)), "as gguf reads it"
    return x.size


def small_floats(_):
    """E2M1 of ml_dtypes, through blocks whose scale is 1, and its E8M0."""
    x = np.random.default_rng(3).uniform(-7.9, 7.9, MILLION).astype(np.float32)
    x[::7] = np.round(x[::7] * 8) / 8                        # ties
    x[::32] = 4
    e, codes, _ = mx_parts(x, "floor")
    assert np.all(e == 127), "a scale of 1"
    same(codes.reshape(-1), np.clip(x, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8), "E2M1")
    powers = np.exp2(np.arange(-124, 127, dtype=np.float32)).repeat(32)
    e, _, _ = mx_parts(np.concatenate([powers, np.zeros(-len(powers) % COLUMNS, np.float32)]), "floor")
    want = (np.exp2(np.arange(-126, 125, dtype=np.float32))).astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    same(e[:len(want)], want, "E8M0")
    return x.size


CHECKS = {"gguf/q8_0": q8_0, "gguf/q4_0": q4_0, "compressed-tensors/int4": q4_0_by_others,
          "compressed-tensors/int4_asym": int4_asym, "compressed-tensors/int8": int8, "numpy/few-bits": few_bits,
          "torchao/mxfp4": mxfp4_torchao, "gguf/mxfp4": mxfp4_gguf, "compressed-tensors/mxfp4": mxfp4_vllm,
          "torchao/nvfp4": nvfp4}


def refused():
    """What is no number is refused, in every format."""
    for form in ("int8", "q8_0", "q4_0", "int4", "int4_full", "int4_asym", "int3", "int2", "ternary", "mxfp4", "nvfp4"):
        for bad in (np.nan, np.inf, -np.inf):
            x = np.zeros(COLUMNS, np.float32)
            x[77] = bad
            try:
                ours(x, form)
            except subprocess.CalledProcessError as error:
                assert error.returncode == 1 and b"column 77" in error.stderr, f"{form}: {error.stderr}"
            else:
                raise AssertionError(f"{form} took {bad}")
    return 33


def main():
    passed = failed = 0
    sets = list(numbers())
    runs = [(f"{name}, {kind}", lambda c=check, x=x: c(x)) for name, check in CHECKS.items() for kind, x in sets]
    runs += [("ml_dtypes/small-floats", lambda: small_floats(None)), ("refused", refused)]
    for name, check in runs:
        try:
            print(f"ok     {name:44} {check()} numbers", flush=True)
            passed += 1
        except AssertionError as error:
            print(f"FAILED {name:44} {error}", flush=True)
            failed += 1
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
