"""mxfp4.py FILE PYTHON...: what public libraries make of one model of ours when they are asked for "MXFP4", written to
FILE, a table. PYTHON... are those of the environments of tests/quant-requirements.txt and tests/mxfp4-requirements.txt;
it runs in that of tests/oracle-requirements.txt. `make mxfp4` does all that, in two minutes; claims/lab/mxfp4.py draws
the table. The model is one of those of claims/qat-formats.toml, its weights written as bfloat16, as models are shipped:
so scaled weights can lie exactly between two codes, and who rounds such a tie where is seen, too.

Every matrix, the embedding too, is rounded by the library itself, to scales (a power of two for 32 weights) and E2M1
codes, and goes back into the file; ./train says what the loss is then. A row of the table says which scale and codes
one block of 32 has, how many weights of the model are others than those of the first row, their squared error, and the
loss.
"""
import csv
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path

FILE, OTHERS = sys.argv[1], sys.argv[2:]
for python in OTHERS:
    sys.path += glob.glob(os.path.join(os.path.dirname(python), "..", "lib", "python3*", "site-packages"))
warnings.simplefilter("ignore")
os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TORCHDYNAMO_DISABLE"] = "", "1"


class Unused(types.ModuleType):
    """In place of `datasets`, which auto-round imports for texts to calibrate by: none is read here."""
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return object


sys.modules["datasets"] = Unused("datasets")
sys.modules["datasets"].__spec__ = ModuleSpec("datasets", None)
import numpy as np  # noqa: E402
import torch  # noqa: E402
from auto_round.data_type.mxfp import quant_mx_opt_rtn  # noqa: E402
from compressed_tensors.quantization import QuantizationArgs  # noqa: E402
from compressed_tensors.quantization.lifecycle.forward import quantize as ct_quantize  # noqa: E402
from compressed_tensors.quantization.utils.helpers import calculate_qparams  # noqa: E402
from gguf.constants import GGMLQuantizationType  # noqa: E402
from gguf.quants import quantize as gguf_quantize  # noqa: E402
from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor  # noqa: E402
from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DATA = "--data stories --context 64 --batch 8 --eval-tokens 65536 --sample-tokens 0"
MODEL = ("--layers 2 --width 64 --heads 2 --steps 400 --warmup 40 --lr 6e-3 --eval-every 400 --seed 211 "
         "--save-dtype bf16")
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0.0, -.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BLOCK = 32


# ---- libraries: x [blocks, 32] to exponents [blocks] and what the codes mean [blocks, 32] -------------
def split(packed):
    return E2M1[np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1, BLOCK)]


def torchao(x):
    scale, packed = to_mx(torch.from_numpy(x), torch.float4_e2m1fn_x2, BLOCK, ScaleCalculationMode.FLOOR)
    return scale.view(torch.uint8).numpy().reshape(-1).astype(int) - 127, split(packed.view(torch.uint8).numpy())


def gguf(x):
    block = gguf_quantize(x, GGMLQuantizationType.MXFP4)
    return block[:, 0].astype(int) - 127, E2M1[np.concatenate([block[:, 1:] & 15, block[:, 1:] >> 4], axis=1)]


def compressed_tensors(x):
    args = QuantizationArgs(num_bits=4, type="float", symmetric=True, strategy="group", group_size=BLOCK,
                            scale_dtype=torch.uint8)
    x = torch.from_numpy(x)
    scale, zero = calculate_qparams(x.amin(1, True), x.amax(1, True), args)
    codes = ct_quantize(x, scale.float(), zero, args).float().numpy()
    return np.rint(np.log2(scale.float().numpy().reshape(-1))).astype(int), codes


def modelopt(x):
    packed, scale = MXFP4QTensor.quantize(torch.from_numpy(x), BLOCK)
    return scale.numpy().reshape(-1).astype(int) - 127, split(packed._quantized_data.numpy())


def auto_round(x):
    meant, exponent, _ = quant_mx_opt_rtn(torch.from_numpy(x.copy()), 4, BLOCK, data_type="mx_fp4")
    exponent = exponent.numpy().reshape(-1).astype(int)
    return exponent, meant.numpy() / np.exp2(exponent)[:, None].astype(np.float32)


LIBRARIES = [("torchao", "torchao", torchao), ("gguf", "llama.cpp's gguf", gguf),
             ("compressed-tensors", "vLLM's compressed-tensors", compressed_tensors),
             ("nvidia-modelopt", "NVIDIA's modelopt", modelopt), ("auto-round", "Intel's auto-round", auto_round)]


# ---- models ------------------------------------------------------------------------------------------
def train(words, folder):
    command = [ROOT / "train", *f"{DATA} {words}".split(), f"--out={folder}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["val_loss"] for line in lines if "val_loss" in line][-1]


def read(path):
    data = path.read_bytes()
    head = int.from_bytes(data[:8], "little")
    rows, found = json.loads(data[8:8 + head]), {}
    for name, row in rows.items():
        if name != "__metadata__":
            begin, end = row["data_offsets"]
            bits = np.frombuffer(data[8 + head + begin:8 + head + end], "<u2").astype(np.uint32)
            found[name] = (bits << 16).view(np.float32).reshape(row["shape"])
    return found


def write(path, tensors):
    rows, at = {}, 0
    for name, x in tensors.items():
        rows[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + 4 * x.size]}
        at += 4 * x.size
    head = json.dumps(rows).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(x.tobytes() for x in tensors.values()))


def loss_of(model, tensors, folder):
    """Of the model in a folder, with these tensors in place of its own."""
    folder.mkdir()
    for path in [model / "config.json", *model.glob("tokenizer*")]:
        shutil.copy(path, folder)
    write(folder / "model.safetensors", tensors)
    return train(f"--load {folder} --steps 0", folder.with_suffix(".run"))


def told(values):
    return " ".join(f"{v:.9g}" for v in values)


def main(scratch):
    model = scratch / "model"
    train(MODEL, model)
    tensors = read(model / "model.safetensors")
    names = [name for name, x in tensors.items() if x.ndim == 2]
    x = np.concatenate([tensors[name].reshape(-1, BLOCK) for name in names])
    answers = []                                             # a negative zero counts as a zero
    for *_, rounded in LIBRARIES:
        scale, codes = rounded(x)
        answers.append((scale, codes * np.exp2(scale)[:, None].astype(np.float32) + np.float32(0)))
    # The block to be shown: as many different answers as there are, and most weights of which there are several.
    every = np.stack([meant for _, meant in answers])
    apart = [len({meant[b].tobytes() for meant in every}) for b in range(len(x))]
    other = (every != every[:1]).sum(axis=(0, 2))
    at = max(range(len(x)), key=lambda b: (apart[b], other[b]))
    rows = [{"library": "the weights", "version": "", "exponent": "", "values": told(x[at]), "differ": 0, "error": 0,
             "loss": loss_of(model, tensors, scratch / "exact")}]
    for i, ((package, name, _), (scale, meant)) in enumerate(zip(LIBRARIES, answers)):
        new, begin = dict(tensors), 0
        for part in names:
            size = tensors[part].size
            new[part] = meant.reshape(-1)[begin:begin + size].reshape(tensors[part].shape)
            begin += size
        rows.append({"library": name, "version": version(package), "exponent": scale[at], "values": told(meant[at]),
                     "differ": float((meant != every[0]).mean()),
                     "error": float(((meant - x).astype(float) ** 2).sum() / (x.astype(float) ** 2).sum()),
                     "loss": loss_of(model, new, scratch / f"library-{i}")})
    with open(FILE, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(f"block {at} of {len(x)}, {apart[at]} answers to it; {sum(a == len(LIBRARIES) for a in apart)} such blocks")
    for row in rows:
        print(f"{row['library']:28} {row['version']:8} differ {row['differ']:.4f} error {row['error']:.6f} "
              f"loss {row['loss']:.6f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
