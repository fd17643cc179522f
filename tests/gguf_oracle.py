"""gguf_oracle.py BUILD: our GGUF files against llama.cpp and its gguf package, which we did not write; `make oracle`.

Ours, read by them: ./quantize writes small random models of every architecture; llama.cpp opens them and has our
log-probabilities and our greedy tokens, from texts and from tokens; the package finds the tensors and their values.
Theirs, read by us: the same models, converted to GGUF by the package and by the lines below as convert_hf_to_gguf.py
does (rows of queries and keys permuted, experts stacked, kv_b split), give our logits bit for bit.

Tolerance: 2e-5 on log-probabilities between 1 and 10 in float32; llama.cpp takes GELU from a table of half floats, so
5e-3 for gpt2. In other types llama.cpp rounds activations too: those are held to a share of the spread of the logits.
"""
import json
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from safetensors.numpy import load_file
import xllamacpp

BIN = sys.argv[1] if len(sys.argv) > 1 else "build"
TOP = "." if os.path.basename(BIN) == "build" and os.path.dirname(BIN) == "" else BIN
CHARACTERS = "\n 0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VOCAB, LENGTH, GREEDY = len(CHARACTERS), 13, 12
COMMON = f"--data iid --vocab {VOCAB} --layers 2 --width 64 --heads 4 --context 64 --ffn-width 96"
MLA = "--attn mla --kv-rank 32 --rope-dim 8 --norm-eps 1e-6"
SHARED = "--shared-experts 1 --first-dense 1 --expert-width 32"
V3 = f"{MLA} --router bias --gate sigmoid {SHARED}"
MODELS = {
    "llama": "",
    "llama-gqa-untied": "--attn gqa --kv-heads 2 --tie 0 --rope-theta 500 --norm-eps 1e-3",
    "llama-biased": "--bias 1",
    "llama-wide-heads": "--head-dim 24 --attn gqa --kv-heads 1",
    "llama-3.1": "--rope-scaling llama3 --rope-factor 8 --rope-trained 8192 --rope-theta 1e6",
    "llama-linear": "--rope-scaling linear --rope-factor 3",
    "llama-yarn": "--rope-scaling yarn --rope-factor 4 --rope-trained 16",
    "llama-yarn-attention": "--rope-scaling yarn --rope-factor 4 --rope-trained 16 --rope-attention-factor 1.2",
    "mixtral": "--experts 6 --top-k 3 --expert-width 32",
    "qwen2": "--attn-bias qkv --attn gqa --kv-heads 2",
    "qwen3": "--qk-norm head --head-dim 24 --attn gqa --kv-heads 2",
    "qwen3moe": "--qk-norm head --experts 6 --top-k 3 --expert-width 32 --attn gqa --kv-heads 2",
    "gpt2": "--pos learned --norm-kind layer --ffn gelu --bias 1",
    "gpt2-untied": "--pos learned --norm-kind layer --ffn gelu --bias 1 --tie 0",
    "deepseek2-dense": MLA,
    "deepseek2-v3": f"{V3} --q-rank 24 --nope-dim 16 --v-dim 20 --experts 6 --top-k 2 --route-scale 1.7",
    "deepseek2-v3-groups": f"{V3} --experts 8 --top-k 2 --route-groups 4 --route-top-groups 2",
    "deepseek2-v2": f"{MLA} {SHARED} --q-rank 24 --experts 6 --top-k 2 --norm-topk 0 --route-scale 1.3",
    "deepseek2-yarn": f"{MLA} --q-rank 24 --rope-scaling yarn --rope-factor 4 --rope-trained 16 --rope-mscale 0.7 "
                      "--rope-mscale-all-dim 0.7",
}


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done


def random_model(name, directory):
    run(f"{BIN}/probe", "--random", f"{COMMON} {MODELS[name]}", directory)
    with open(directory + "/text", "w") as f:
        f.write(CHARACTERS)
    run(f"{BIN}/probe", "--tokenizer", "char", directory)


def tokens_of(name, length=LENGTH):
    return np.random.default_rng(len(name)).integers(0, VOCAB, length + 1).tolist()


def our_logits(source, tokens, out):
    with open(out + ".json", "w") as f:
        json.dump([tokens], f)
    run(f"{BIN}/probe", source, out + ".json", out)
    return load_file(out + "/logits.safetensors")["logits"][0]


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max()
    return x - np.log(np.exp(x).sum())


# ---- theirs ----------------------------------------------------------------------------------------
class Llama:
    """A file in llama.cpp, with a cache of floats and one thread."""

    def __init__(self, path):
        p = xllamacpp.CommonParams()
        p.model.path, p.n_ctx, p.n_parallel, p.warmup = path, 64, 1, False
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
        p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(p)

    def ask(self, prompt, tokens):
        out = self.server.handle_completions(dict(
            prompt=prompt, max_tokens=tokens, temperature=0, logprobs=280, n_probs=280, cache_prompt=False,
            ignore_eos=True))
        out = json.loads(out) if isinstance(out, str) else out
        if "choices" not in out:
            raise RuntimeError(str(out)[:200])
        return out["choices"][0]["logprobs"]["content"]

    def log_probabilities(self, prompt):
        found = {}
        for entry in self.ask(prompt, 1)[0]["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return np.array([found[i] for i in sorted(found)])

    def greedy(self, prompt):
        return [entry["id"] for entry in self.ask(prompt, GREEDY)]


def check_llama(name, directory, path, logits, tokens, tolerance):
    llama, worst = Llama(path), 0
    for n in (1, 5, LENGTH):
        theirs = llama.log_probabilities(tokens[:n])
        worst = max(worst, np.abs(theirs - log_softmax(logits[n - 1])).max())
    if not worst <= tolerance:
        raise AssertionError(f"log-probabilities differ by {worst:.2g}")
    text = "".join(CHARACTERS[t] for t in tokens[:LENGTH])
    if not np.array_equal(llama.log_probabilities(text), theirs):
        raise AssertionError("the text has other tokens in llama.cpp")
    greedy = llama.greedy(text)
    ours = our_logits(path, tokens[:LENGTH] + greedy, directory + ".greedy")[LENGTH - 1:]
    for i, token in enumerate(greedy):
        top = np.sort(ours[i])[-2:]
        if int(ours[i].argmax()) != token and top[1] - top[0] > 2 * tolerance:
            raise AssertionError(f"greedy token {i + 1} is {token}, not {ours[i].argmax()}")
    return f"llama.cpp within {worst:.1g}"


# ---- the package -------------------------------------------------------------------------------------
def check_package(path, directory, kind):
    """The package reads our file: types, and for a tensor in plain order its values."""
    reader = gguf.GGUFReader(path)
    ours = load_file(directory + "/model.safetensors")
    name = "transformer.wte.weight" if "transformer.wte.weight" in ours else "model.embed_tokens.weight"
    tensors = {t.name: t for t in reader.tensors}
    embed = tensors["token_embd.weight"]
    if embed.tensor_type != gguf.GGMLQuantizationType[kind.upper()]:
        raise AssertionError(f"token_embd is {embed.tensor_type}")
    found = gguf.quants.dequantize(embed.data, embed.tensor_type).reshape(ours[name].shape)
    expected = gguf.quants.dequantize(gguf.quants.quantize(ours[name], embed.tensor_type), embed.tensor_type)
    if not np.array_equal(found, expected.reshape(ours[name].shape)):
        raise AssertionError(f"token_embd has other values as {kind}")
    return len(tensors)


def permuted(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def converted(directory):
    """Names and tensors of a GGUF for a checkpoint, as llama.cpp's converters make them."""
    with open(directory + "/config.json") as f:
        c = json.load(f)
    tensors = load_file(directory + "/model.safetensors")
    arch = {"mixtral": "llama", "qwen3_moe": "qwen3moe", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"}.get(
        c["model_type"], c["model_type"])
    layers = c.get("num_hidden_layers", c.get("n_layer"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], layers)
    experts, out = {}, {}
    for name, w in tensors.items():
        if ".experts." in name:
            before, after = name.split(".experts.")
            number, after = after.split(".", 1)
            experts.setdefault(f"{before}.experts.{after}", {})[int(number)] = w
            continue
        if c["model_type"] in ("llama", "mixtral"):
            if ".q_proj." in name:
                w = permuted(w, c["num_attention_heads"])
            if ".k_proj." in name:
                w = permuted(w, c["num_key_value_heads"])
        if c["model_type"] == "gpt2" and w.ndim == 2 and (".c_" in name):
            w = w.T
        if c["model_type"] == "deepseek_v3" and not c["rope_interleave"]:      # their files have neighbours
            rope = c["qk_rope_head_dim"]
            rows = c["qk_nope_head_dim"] + rope
            if ".q_proj." in name or ".q_b_proj." in name:
                w = w.reshape(c["num_attention_heads"], rows, -1).copy()
                for h in range(len(w)):
                    w[h, rows - rope:] = permuted(w[h, rows - rope:], 1)
                w = w.reshape(-1, w.shape[-1])
            if ".kv_a_proj_with_mqa." in name:
                w = w.copy()
                w[-rope:] = permuted(w[-rope:], 1)
        if ".kv_b_proj." in name:
            kv = w.reshape(c["num_attention_heads"], c["qk_nope_head_dim"] + c["v_head_dim"], -1)
            k, v = kv[:, :c["qk_nope_head_dim"]], kv[:, c["qk_nope_head_dim"]:]
            block = name.split(".")[2]
            out[f"blk.{block}.attn_k_b.weight"] = np.ascontiguousarray(k.transpose(0, 2, 1))
            out[f"blk.{block}.attn_v_b.weight"] = np.ascontiguousarray(v)
            continue
        if name.endswith("e_score_correction_bias"):
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise AssertionError(f"the package has no name for {name}")
        out[new] = np.ascontiguousarray(w)
    for name, all_of_them in experts.items():
        new = names.get_name(name.replace(".experts.", ".experts."), try_suffixes=(".weight",))
        out[new] = np.stack([all_of_them[e] for e in range(len(all_of_them))])
    return arch, c, out


def write_theirs(directory, path, kind):
    arch, c, tensors = converted(directory)
    w = gguf.GGUFWriter(path, arch)
    reals, latent = c.get("rope_parameters", {}), arch == "deepseek2"
    heads = c.get("num_attention_heads", c.get("n_head"))
    width = c.get("hidden_size", c.get("n_embd"))
    w.add_context_length(c.get("max_position_embeddings", c.get("n_positions")))
    w.add_embedding_length(width)
    w.add_block_count(c.get("num_hidden_layers", c.get("n_layer")))
    w.add_feed_forward_length(c.get("intermediate_size", c.get("n_inner")))
    w.add_head_count(heads)
    w.add_head_count_kv(1 if latent else c.get("num_key_value_heads", heads))
    if arch == "gpt2":
        w.add_layer_norm_eps(c["layer_norm_epsilon"])
    else:
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
        w.add_rope_freq_base(reals["rope_theta"])
    if latent:
        w.add_kv_lora_rank(c["kv_lora_rank"])
        if c["q_lora_rank"]:
            w.add_q_lora_rank(c["q_lora_rank"])
        w.add_key_length(c["kv_lora_rank"] + c["qk_rope_head_dim"])
        w.add_value_length(c["kv_lora_rank"])
        w.add_key_length_mla(c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
        w.add_value_length_mla(c["v_head_dim"])
        w.add_rope_dimension_count(c["qk_rope_head_dim"])
        w.add_leading_dense_block_count(c["first_k_dense_replace"])
        w.add_expert_shared_count(c["n_shared_experts"])
        w.add_expert_weights_scale(c["routed_scaling_factor"])
        w.add_expert_weights_norm(bool(c.get("norm_topk_prob", False)))
        if c["n_group"] > 1:
            w.add_expert_group_count(c["n_group"])
            w.add_expert_group_used_count(c["topk_group"])
        if c["model_type"] == "deepseek_v3":
            w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    elif arch != "gpt2" and c.get("head_dim"):
        w.add_key_length(c["head_dim"])
        w.add_value_length(c["head_dim"])
        w.add_rope_dimension_count(c["head_dim"])
    if any("_exps" in name for name in tensors):
        w.add_expert_count(c.get("num_local_experts", c.get("num_experts", c.get("n_routed_experts"))))
        w.add_expert_used_count(c["num_experts_per_tok"])
    if latent or arch == "qwen3moe":
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    scale = reals.get("rope_type", "default")
    if scale in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(scale))
        w.add_rope_scaling_factor(reals["factor"])
    if scale == "yarn":
        w.add_rope_scaling_orig_ctx_len(reals["original_max_position_embeddings"])
        if "attention_factor" in reals:
            w.add_rope_scaling_attn_factors(reals["attention_factor"] / (0.1 * np.log(reals["factor"]) + 1))
        if "mscale_all_dim" in reals:
            w.add_rope_scaling_yarn_log_mul(0.1 * reals["mscale_all_dim"])
    if scale == "llama3":
        d, t = c["head_dim"], reals["original_max_position_embeddings"]
        turns = t * reals["rope_theta"] ** (-np.arange(0, d, 2) / d) / (2 * np.pi)
        low, high = reals["low_freq_factor"], reals["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        w.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / reals["factor"] + smooth)).astype(np.float32))
    for name, x in tensors.items():
        exact = x.ndim == 1 or "ffn_gate_inp" in name or "position" in name or kind == "f32"
        if exact:
            w.add_tensor(name, x.astype(np.float32))
        else:
            raw = gguf.GGMLQuantizationType[kind.upper()]
            if x.shape[-1] % gguf.GGML_QUANT_SIZES[raw][0]:
                raw = gguf.GGMLQuantizationType.F16
            w.add_tensor(name, gguf.quants.quantize(x, raw), raw_dtype=raw)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# ---- tests ---------------------------------------------------------------------------------------------
def model_is_theirs(name, directory):
    random_model(name, directory)
    tokens = tokens_of(name)
    logits = our_logits(directory, tokens, directory + ".dir")
    path = directory + ".gguf"
    run(f"{TOP}/quantize", directory, "f32", "-o", path)
    count = check_package(path, directory, "f32")
    if not np.array_equal(our_logits(path, tokens, directory + ".back"), logits):
        raise AssertionError("we read another model back")
    write_theirs(directory, directory + ".theirs.gguf", "f32")
    if not np.array_equal(our_logits(directory + ".theirs.gguf", tokens, directory + ".theirs"), logits):
        raise AssertionError("the file of the package is another model to us")
    return f"{count} tensors; " + check_llama(name, directory, path, logits, tokens, 5e-3 if "gpt2" in name else 2e-5)


def spread(path, tokens, logits, tolerance):
    theirs = Llama(path).log_probabilities(tokens[:LENGTH])
    error = np.abs(theirs - log_softmax(logits[LENGTH - 1])).max() / logits.std()
    if not error < tolerance:
        raise AssertionError(f"llama.cpp differs by {error:.2g} of the logits' spread")
    return f"llama.cpp within {error:.1g} of the logits' spread"


def type_is_theirs(name, directory):
    """kind/architecture: what we write is what the package rounds, and both read it alike."""
    kind, model = name.split("/")
    random_model(model, directory)
    tokens, path = tokens_of(name), directory + ".gguf"
    run(f"{TOP}/quantize", directory, kind, "-o", path)
    check_package(path, directory, kind)
    write_theirs(directory, directory + ".theirs.gguf", kind)
    logits = our_logits(path, tokens, directory + ".back")
    if not np.array_equal(our_logits(directory + ".theirs.gguf", tokens, directory + ".theirs"), logits):
        raise AssertionError("the file of the package is another model to us")
    return spread(path, tokens, logits, 0.15)


def scaled_is_theirs(name, directory):
    """NVFP4, whose tensors have scales in tensors of their own: llama.cpp multiplies by them."""
    random_model(name, directory)
    tokens, path = tokens_of(name), directory + ".gguf"
    run(f"{TOP}/quantize", directory, "nvfp4", "-o", path)
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    if not any(t.tensor_type == gguf.GGMLQuantizationType.NVFP4 for t in tensors.values()):
        raise AssertionError("no tensor is NVFP4")
    logits = our_logits(path, tokens, directory + ".back")
    return f"{len(tensors)} tensors; " + spread(path, tokens, logits, 0.15)


# ---- tokenizers ----------------------------------------------------------------------------------------
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
REST = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
SIGNS = r"| ?[^\s\p{L}\p{N}]+"
# As the tokenizer.json of GPT-2, Llama 3, Qwen, DeepSeek-V3 and SmolLM have them.
CUTS = {
    "gpt-2": (None, [], True, False),
    "llama-bpe": (None, [CONTRACTIONS + WORDS + r"\p{N}{1,3}" + SIGNS + REST], False, True),
    "qwen2": ({"type": "NFC"}, [CONTRACTIONS + WORDS + r"\p{N}" + SIGNS + REST], False, False),
    "deepseek-v3": (None, [
        r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
        " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"], False, False),
    "smollm": (None, [r"\p{N}"], True, False),
}
TEXTS = ["the then 12345 cats' it's  IT'S\n\n  end", "a\u00e9 \u4e2d\u6587 x=1;\r\n\ttabs  ", "<s>the</s> th", " ",
         "!the ?12 3"]


def letters():
    shown = [b for b in range(256) if 33 <= b < 127 or 161 <= b < 173 or b >= 174]
    others = [b for b in range(256) if b not in shown]
    return {b: chr(b) if b in shown else chr(256 + others.index(b)) for b in range(256)}


def write_tokenizer(name, directory):
    normalizer, splits, regex, whole = CUTS[name]
    vocab = {letter: b for b, letter in letters().items()}
    merges = ["t h", "th e", "\u0120 the", "1 2", "12 3", "\u0120 \u0120", "\u010a \u010a", "' s", "I T",
              "\u00c3 \u00a9"]
    for pair in merges:
        vocab.setdefault(pair.replace(" ", ""), len(vocab))
    if whole:
        vocab["cats"] = len(vocab)      # a whole piece that no merges make
    marks = [dict(id=len(vocab) + i, content=c, single_word=False, lstrip=False, rstrip=False, normalized=False,
                  special=True) for i, c in enumerate(["<s>", "</s>"])]
    begin = marks[0]["id"]
    steps = [dict(type="Digits", individual_digits=True)] if name == "smollm" else [
        dict(type="Split", pattern={"Regex": r}, behavior="Isolated", invert=False) for r in splits]
    steps.append(dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=regex))
    template = dict(type="TemplateProcessing", single=[{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                       {"Sequence": {"id": "A", "type_id": 0}}],
                    pair=[], special_tokens={"<s>": {"id": "<s>", "ids": [begin], "tokens": ["<s>"]}})
    root = dict(added_tokens=marks, normalizer=normalizer, pre_tokenizer=dict(type="Sequence", pretokenizers=steps),
                post_processor=template if whole else None, decoder=dict(type="ByteLevel"),
                model=dict(type="BPE", ignore_merges=whole, vocab=vocab, merges=merges))
    with open(directory + "/tokenizer.json", "w") as f:
        json.dump(root, f)
    with open(directory + "/tokenizer_config.json", "w") as f:
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>"), f)
    with open(directory + "/generation_config.json", "w") as f:
        json.dump(dict(bos_token_id=begin, eos_token_id=begin + 1), f)


def tokens_of_texts(source):
    with open(source + ".texts.json", "w") as f:
        json.dump(TEXTS, f)
    return json.loads(run(f"{BIN}/probe", "--tokens", source, source + ".texts.json").stdout)["texts"]


def tokenizer_is_theirs(name, directory):
    """llama.cpp makes our tokens of a text; we make the same of the file, whole and by llama.cpp's keys alone."""
    run(f"{BIN}/probe", "--random", f"{COMMON} --vocab 280", directory)
    write_tokenizer(name, directory)
    path = directory + ".gguf"
    note = run(f"{TOP}/quantize", directory, "f32", "-o", path).stderr
    if note:
        raise AssertionError(note.strip())
    expected = tokens_of_texts(directory)
    if tokens_of_texts(path) != expected:
        raise AssertionError("we read another tokenizer back")
    with open(path, "rb") as f:
        data = f.read()
    with open(directory + ".alone.gguf", "wb") as f:
        f.write(data.replace(b"tokenizer.huggingface.json", b"tokenizer.huggingface.jsox"))
    if tokens_of_texts(directory + ".alone.gguf") != expected:
        raise AssertionError("we read another tokenizer from llama.cpp's keys")
    llama = Llama(path)
    for text, ours in zip(TEXTS, expected):
        a, b = llama.log_probabilities(text), llama.log_probabilities(ours["prompt"])
        if not np.array_equal(a, b):
            raise AssertionError(f"llama.cpp makes other tokens of {text!r} than {ours['prompt']}")
    return f"{len(TEXTS)} texts, {sum(len(t['tokens']) for t in expected)} tokens"


TESTS = {f"gguf/{name}": (model_is_theirs, name) for name in MODELS}
for kind in ("f16", "bf16", "q8_0", "q4_0", "mxfp4"):
    TESTS.update({f"gguf/{kind}/{m}": (type_is_theirs, f"{kind}/{m}") for m in ("llama", "mixtral", "gpt2",
                                                                                 "deepseek2-v3")})
TESTS.update({f"gguf/nvfp4/{m}": (scaled_is_theirs, m) for m in ("llama", "mixtral", "qwen3", "qwen3moe")})

TESTS.update({f"gguf/tokens/{name}": (tokenizer_is_theirs, name) for name in CUTS})


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as top:
        for name, (test, argument) in TESTS.items():
            try:
                print(f"ok     {name:32s} {test(argument, os.path.join(top, name.replace('/', '-')))}", flush=True)
            except Exception as e:  # the next one all the same
                failed += 1
                print(f"FAILED {name:32s} {e}", flush=True)
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
