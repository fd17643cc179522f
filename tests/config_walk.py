"""config_walk.py PROBE [--all] [CLASS]: config.json, edited one key at a time, against transformers. `make oracle` runs
a fixed sample of it; --all is every edit, about a quarter of an hour.

For every class that formats/hf_config_keys.c knows a small random checkpoint is saved. Then each field of its
configuration class, each alias, each name that its modeling file or the files that all share ask a configuration for,
and each key of our own tables is set to several values of fitting and unfitting types, to null, and removed. Two
outcomes are allowed: the same logits as transformers within 3e-5, or one line with status 1 that names the directory.
What transformers refuses itself (or fills with random weights) is skipped. Anything else is a silent difference, and a
failure; so is a field of the class that our tables do not know.
"""
import collections
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import oracle  # noqa: E402
from oracle import CHOOSING, GPT2, LATENT, LATENT2, LENGTH, QWEN3_NEXT, SMALL, T, np, torch  # noqa: E402

ALL = "--all" in sys.argv
ONE_OF = 30  # the sample: of so many edits, one
ABSENT = "(absent)"
LONG = 24    # tokens; more than the context below, as rotations that depend on it need
GROUPED = dict(SMALL, num_key_value_heads=2, max_position_embeddings=16)
DELTA, FULL, SLIDING = oracle.DELTA, oracle.FULL, oracle.SLIDING


def shorter(options):
    return dict(options, max_position_embeddings=16)


BASES = {
    "llama": (T.LlamaConfig, dict(GROUPED, head_dim=12)),
    "llama-biased": (T.LlamaConfig, dict(GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "mistral": (T.MistralConfig, dict(GROUPED, sliding_window=5)),
    "ministral": (T.MinistralConfig, dict(GROUPED, sliding_window=5, head_dim=12, layer_types=[FULL, SLIDING, FULL])),
    "qwen3": (T.Qwen3Config, dict(GROUPED, head_dim=10)),
    "qwen3-window": (T.Qwen3Config, dict(GROUPED, head_dim=10, use_sliding_window=True, sliding_window=4,
                                         max_window_layers=1)),
    "olmo2": (T.Olmo2Config, dict(GROUPED)),
    "olmo3": (T.Olmo3Config, dict(GROUPED, sliding_window=4, num_hidden_layers=4)),
    "mixtral": (T.MixtralConfig, dict(GROUPED, num_local_experts=4)),
    "qwen3-moe": (T.Qwen3MoeConfig, dict(shorter(CHOOSING), moe_intermediate_size=24, mlp_only_layers=[0],
                                         use_sliding_window=True, sliding_window=4)),
    "olmoe": (T.OlmoeConfig, shorter(CHOOSING)),
    "deepseek-v2": (T.DeepseekV2Config, shorter(LATENT2)),
    "deepseek-v3": (T.DeepseekV3Config, dict(shorter(LATENT), q_lora_rank=18, rope_interleave=True)),
    "qwen3-next": (T.Qwen3NextConfig, dict(shorter(QWEN3_NEXT), num_hidden_layers=4, head_dim=16,
                                           linear_value_head_dim=16)),
    "gpt2": (T.GPT2Config, GPT2),
    "qwen2": (T.Qwen2Config, dict(GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "smollm3": (T.SmolLM3Config, dict(GROUPED, num_hidden_layers=4)),
    "smollm3-window": (T.SmolLM3Config, dict(GROUPED, no_rope_layers=[1, 0, 0], use_sliding_window=True,
                                             sliding_window=4, mlp_bias=True, tie_word_embeddings=False)),
    "deepseek-v3-groups": (T.DeepseekV3Config, dict(shorter(LATENT), q_lora_rank=None, n_group=3, topk_group=2,
                                                    first_k_dense_replace=0, attention_bias=True)),
    "deepseek-v2-groups": (T.DeepseekV2Config, dict(shorter(LATENT2), n_group=3, topk_group=2, num_experts_per_tok=2,
                                                    topk_method="group_limited_greedy")),
    "llama-yarn": (T.LlamaConfig, dict(GROUPED, rope_parameters=dict(oracle.YARNS[0]))),
    "olmo3-yarn": (T.Olmo3Config, dict(GROUPED, layer_types=[SLIDING, FULL, FULL], sliding_window=4, rope_parameters={
        kind: dict(oracle.YARNS[0]) for kind in (FULL, SLIDING)})),
}
ROPES = [
    {}, {"rope_type": "default"}, {"rope_type": "default", "rope_theta": 77.0}, {"rope_theta": 77.0},
    {"type": "default"},
    {"rope_type": None}, {"rope_type": "default", "rope_theta": None}, {"rope_type": "default", "factor": 3.0},
    {"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0},
    {"type": "linear", "rope_type": "default"}, {"type": "linear", "factor": 4.0, "mscale_all_dim": 1.0},
    {"rope_type": "linear", "factor": 4.0, "rope_theta": 77.0}, {"rope_type": "linear"},
    {"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "ntk", "factor": 2.0}, {"rope_type": "proportional"},
    {"rope_type": "yarn", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 16, "beta_slow": 2},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "attention_factor": 0.7},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.5, "mscale_all_dim": 0.5},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.5, "mscale_all_dim": 0.5,
     "attention_factor": 0.9}, {"rope_type": "yarn", "factor": 4.0, "mscale": 1.5},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": None, "beta_slow": 0, "truncate": None},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "mscale_all_dim": 1.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "truncate": False},
    {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 4},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 16},
    {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 77.0},
    {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 6, "long_factor": [2.0] * 6},
    {"rope_type": "default", "partial_rotary_factor": 0.5}, {"rope_type": "linear", "factor": 2.0,
                                                            "partial_rotary_factor": 0.5},
    {"full_attention": {"rope_type": "default", "rope_theta": 77.0}},
    {"sliding_attention": {"rope_type": "default", "rope_theta": 77.0}},
    {"full_attention": {"rope_type": "default", "rope_theta": 77.0},
     "sliding_attention": {"rope_type": "default", "rope_theta": 77.0}},
    {"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}},
    {"full_attention": None, "sliding_attention": None},
]
KINDS = [FULL, SLIDING, DELTA, "chunked_attention", "attention", "mamba"]
ACTIVATIONS = ["silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "relu2", "sigmoid"]
WORDS = {
    "hidden_act": ACTIVATIONS, "activation_function": ACTIVATIONS, "rope_parameters": ROPES, "rope_scaling": ROPES,
    "rope_theta": [77.0, 77, 500000.0, 0], "partial_rotary_factor": [0.5, 1.0, 1, 0.25],
    "topk_method": ["greedy", "group_limited_greedy", "noaux_tc"], "scoring_func": ["softmax", "sigmoid"],
    "n_group": [1, 2, 3], "topk_group": [1, 2, 3], "mlp_only_layers": [[], [0], [1, 2], [0, 1, 2, 3], [7]],
    "no_rope_layers": [[1, 1, 0], [0, 0, 0], [1, 1, 1], []], "sliding_window": [1, 2, 5, 13, 100],
    "dtype": ["float32", "bfloat16"], "torch_dtype": ["float32", "bfloat16"],
    "model_type": [],  # another class, not another value
}


def kinds_of_layers(layers):
    yield [[kind] * layers for kind in KINDS]
    yield [[SLIDING, FULL] * 9, [FULL, SLIDING] * 9, [FULL] * (layers - 1), [FULL] * (layers + 1), []]
    yield [([SLIDING, FULL] * 9)[:layers], ([FULL, SLIDING] * 9)[:layers], ([DELTA, FULL] * 9)[:layers]]


def values_for(key, now, layers, known):
    if not known and now is None and key not in WORDS and key != "layer_types":
        return [False, 4]  # a name that few read, if anybody
    if key == "layer_types":
        return [v for some in kinds_of_layers(layers) for v in some]
    fitting = list(WORDS.get(key, []))
    if key in WORDS and key not in ("sliding_window", "n_group", "topk_group", "rope_theta"):
        return fitting
    if isinstance(now, bool):
        return [not now, now]
    if isinstance(now, int):
        return fitting + [now + 1, now - 1, now * 2, 1, 0, float(now)]
    if isinstance(now, float):
        return fitting + [now * 2, 0.5, 0.0, 1]
    if isinstance(now, list):
        return [[], now[:-1], now + now]
    return fitting + [True, False, 0, 1, 4, 0.5, "eager", [0, 1], {}]


def words_asked_for(kind):
    """Names that the sources of a class read from a configuration, however they spell it."""
    files = [inspect.getsourcefile(kind), inspect.getsourcefile(T.AutoModelForCausalLM._model_mapping[kind]),
             T.masking_utils.__file__, T.modeling_rope_utils.__file__, T.modeling_layers.__file__]
    pattern = r'config\.(\w+)|[sg]etattr\((?:\w+\.)?(?:text_)?config, "(\w+)"|kwargs\.(?:pop|get|setdefault)\("(\w+)"'
    words = set()
    for file in files:
        with open(file) as f:
            words.update(w for found in re.findall(pattern, f.read()) for w in found if w)
    return {w for w in words if not callable(getattr(kind, w, None))} - {"get_text_config"}


def words_of_ours():
    with open(os.path.join(os.path.dirname(__file__), "../formats/hf_config_keys.c")) as f:
        return {w for text in re.findall(r'"([a-z_ 0-9]+)"', f.read()) for w in text.split() if len(w) > 3}


def known_fields(kind):
    return {f.name for f in dataclasses.fields(kind)} | set(kind.attribute_map)


def edits(kind, saved):
    """Pairs of what is said about an edit and the edited configuration."""
    extra = {"sliding_window_pattern", "full_attention_interval", "attention_chunk_size", "is_causal",
             "per_layer_config", "original_max_position_embeddings", "logit_scale", "no_rope_layers",
             "no_rope_layer_interval", "n_ctx", "num_experts", "qk_norm"}
    keys = known_fields(kind) | words_asked_for(kind) | words_of_ours() | extra
    layers = saved.get("num_hidden_layers", saved.get("n_layer"))
    old = dict(saved, rope_theta=300.0)
    old.pop("rope_parameters", None)
    for key in sorted(keys):
        for value in values_for(key, saved.get(key), layers, key in known_fields(kind)) + [None, ABSENT]:
            bases = {"": saved, " of old": old} if "rope" in key or "rotary" in key else {"": saved}
            for name, base in bases.items():
                config = dict(base)
                config.pop(key, None)
                if value != ABSENT:
                    config[key] = value
                if config != saved and not (value == ABSENT and key not in base):
                    yield key, f"{key}{name} = {value if value == ABSENT else json.dumps(value)}", config


def ours(directory, tokens):
    """Logits and notes, or (None, what is wrong with the refusal, or '')."""
    done = subprocess.run([oracle.PROBE, directory, tokens, directory + ".probe"], capture_output=True, text=True)
    notes = [line for line in done.stderr.splitlines() if line.startswith("note")]
    rest = [line for line in done.stderr.splitlines() if not line.startswith("note")]
    if done.returncode == 0:
        return oracle.load_file(directory + ".probe/logits.safetensors")["logits"], notes
    clear = done.returncode == 1 and len(rest) == 1 and rest[0].startswith("error: ")
    clear = clear and (directory in rest[0] or "dynamic" in rest[0])  # which is known only up to the trained context
    return None, "" if clear else f"status {done.returncode}: {done.stderr.strip()[:300]}"


def theirs(directory, batch):
    """Logits, or None where transformers refuses, or has to invent weights."""
    try:
        model, report = T.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, dtype=torch.float64,
                                                               experts_implementation="eager")
        if report["missing_keys"] or report["mismatched_keys"]:
            return None
        with torch.no_grad():
            return model.eval()(batch[:, :-1], use_cache=False, return_dict=True).logits.double().numpy()
    except Exception:  # whatever it is, they do not compute this
        return None


def judge(directory, key, tokens, batch, fields):
    """What came of an edit: one of the allowed outcomes, or what is wrong, which begins with a capital."""
    found, said = ours(directory, tokens)
    if found is None:
        return f"Not one clear line: {said}" if said else "refused"
    if key in fields and any(re.search(rf"\b{key}\b.*passed over", note) for note in said):
        return "A field of the class that our tables do not know"
    expected = theirs(directory, batch)
    if expected is None:
        return "refused by transformers alone"
    error = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
    return "same logits" if error <= oracle.TOLERANCE else f"Silent difference: {error:.2g}"


def walk(name, scratch, counts):
    kind, options = BASES[name]
    directory = os.path.join(scratch, name)
    oracle.random_model(kind, options).save_pretrained(directory)
    batch = oracle.batch(LONG)
    with open(os.path.join(scratch, "tokens.json"), "w") as f:
        json.dump(batch.tolist(), f)
    with open(os.path.join(directory, "config.json")) as f:
        saved = json.load(f)
    mine, failures = collections.Counter(), 0
    for key, text, config in [("", "as it was saved", saved), *edits(kind, saved)]:
        if key and not ALL and zlib.crc32(f"{name} {text}".encode()) % ONE_OF:
            continue
        with open(os.path.join(directory, "config.json"), "w") as f:
            json.dump(config, f)
        outcome = judge(directory, key, os.path.join(scratch, "tokens.json"), batch, known_fields(kind))
        if not key and outcome != "same logits":
            outcome = f"Else nothing is learned: {outcome}"
        mine[outcome if outcome[0].islower() else "FAILED"] += 1
        if outcome[0].isupper():
            failures += 1
            print(f"FAILED {name}: {text[:150]}: {outcome}", flush=True)
    print(f"ok     {name:16} " if not failures else f"FAILED {name:16} ", dict(sorted(mine.items())), flush=True)
    counts.update(mine)


def main():
    print(f"transformers {T.__version__}, {oracle.PROBE}, {'every edit' if ALL else f'one edit of {ONE_OF}'}")
    torch.set_num_threads(1)
    T.utils.logging.set_verbosity(100)  # what they think of an edit is not asked
    counts, wanted = collections.Counter(), [a for a in sys.argv[2:] if not a.startswith("--")]
    with tempfile.TemporaryDirectory() as scratch:
        for name in BASES:
            if not wanted or name in wanted:
                walk(name, scratch, counts)
    print(f"{sum(counts.values())} edits: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    sys.exit(1 if counts["FAILED"] or not counts["same logits"] else 0)


if __name__ == "__main__":
    main()
