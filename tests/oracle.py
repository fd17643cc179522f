"""oracle.py PROBE: our models against PyTorch and transformers, which we did not write. Run by `make oracle`.

Theirs, read by us: small random checkpoints of every architecture that formats/hf.c knows are saved by
save_pretrained; our loader and our forward and backward give the same logits and gradients.
Ours, read by them: what hf_save writes is opened by AutoModelForCausalLM, nothing missing or left over,
with the same logits and gradients; saved again by transformers, it is read back by us bit for bit.

Linear attention: models of every recurrent mixer against their recurrences, written out below token by token in
float64 for autograd; the gated delta nets of Qwen3-Next against transformers as well, and the module Mamba2Mixer in the
place of our formula. Routers that no architecture of theirs has are written out in the same way, with the random
numbers of hash and with what balances and holds down their logits.

Documents: ./train on JSONL from a checkpoint of theirs, with its own tokenizer, has their loss on their tokens.

No norm weight is 1, no bias is 0, no selection bias is 0: a formula that ignored one would be found out.

Tolerance. Ours is float32; theirs is computed in float64 (transformers still rounds its RMSNorm and the
router of DeepSeek-V3 to float32 inside). The largest logit is between 1 and 10, and logits must agree within
3e-5; a gradient must agree within 3e-5 of the largest entry of its tensor. Sums of this length leave up to
5e-6 in float32, while the mistakes that we made on purpose are seen: one weight off by 0.001, the eps of
MLA's latent norms 1e-5 for 1e-6, a gradient of GELU off by a part in a thousand.
"""
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import traceback
import unittest.mock

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", CUDA_VISIBLE_DEVICES="", TQDM_DISABLE="1")
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from safetensors.torch import load_file as load_torch  # noqa: E402
from safetensors.torch import save_file as save_torch  # noqa: E402

PROBE = sys.argv[1] if len(sys.argv) > 1 else "build/probe"
TRAIN = "./train" if os.path.dirname(PROBE) == "build" else os.path.join(os.path.dirname(PROBE), "train")
TOLERANCE = 3e-5
ROWS, LENGTH, VOCAB = 3, 13, 67
LONG = 70  # several chunks of a linear mixer of 16, 32 or (theirs) 64 tokens, and a part of one


# ---- the two sides -------------------------------------------------------------------------------
def batch(length=LENGTH):
    return torch.randint(0, VOCAB, (ROWS, length + 1), generator=torch.Generator().manual_seed(7))


def ours(directory, *options, length=LENGTH):
    """Logits and {name: gradient} of our program for the checkpoint in a directory."""
    tokens, out = directory + ".tokens.json", directory + ".probe"
    with open(tokens, "w") as f:
        json.dump(batch(length).tolist(), f)
    done = subprocess.run([PROBE, directory, tokens, out, *options], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{PROBE} ended with status {done.returncode}")
    return load_file(out + "/logits.safetensors")["logits"], load_file(out + "/gradients.safetensors")


def theirs(model, directory, length=LENGTH, balanced=False):
    """The same of a transformers model. Its gradients get the names of a checkpoint by being saved as one. balanced: of
    the loss with what balances its experts, too."""
    model = model.double().eval()
    tokens = batch(length)
    out = model(tokens[:, :-1], use_cache=False, **({"output_router_logits": True} if balanced else {}))
    logits = out.logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    (loss + model.config.router_aux_loss_coef * out.aux_loss if balanced else loss).backward()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.grad)
    model.save_pretrained(directory + ".gradients")
    return logits.detach().numpy(), read_all(directory + ".gradients")


def read_all(directory):
    tensors = {}
    for file in sorted(os.listdir(directory)):
        if file.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(directory, file)))
    return tensors


def agree(us, them):
    """Compares logits and gradients; returns the figures, raises with the worst offender."""
    (our_logits, our_gradients), (their_logits, their_gradients) = us, them
    error = np.abs(our_logits - their_logits).max()
    if not error <= TOLERANCE:
        raise AssertionError(f"logits differ by {error:.2g}")
    largest = np.abs(their_logits).max()
    if not 1 < largest < 10:
        raise AssertionError(f"the largest logit is {largest:.2g}, but the tolerance is meant for 1 to 10")
    expected = {n for n in their_gradients if "e_score_correction_bias" not in n}  # a buffer, no gradient
    found = {n for n in our_gradients if "e_score_correction_bias" not in n}
    if expected != found:
        raise AssertionError(f"gradients of other tensors: {sorted(expected ^ found)[:4]}")
    worst = 0.0
    for name in sorted(expected):
        a, b = our_gradients[name], their_gradients[name]
        if a.shape != b.shape:
            raise AssertionError(f"gradient of {name} has shape {a.shape}, not {b.shape}")
        size = np.abs(b).max()
        difference = np.abs(a - b).max() / size if size > 0 else np.abs(a).max()
        if not difference <= TOLERANCE:
            raise AssertionError(f"gradient of {name} differs by {difference:.2g} of its largest entry {size:.2g}")
        worst = max(worst, difference)
    return f"{len(expected)} gradients; logits within {error:.1g}, gradients {worst:.1g}"


# ---- theirs, read by us --------------------------------------------------------------------------
T = transformers
NO_IDS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
SMALL = dict(NO_IDS, vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
             num_attention_heads=4, max_position_embeddings=32)
LATENT = dict(SMALL, num_key_value_heads=4, kv_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=14,
              moe_intermediate_size=24, n_routed_experts=6, num_experts_per_tok=3, n_shared_experts=2, n_group=1,
              topk_group=1, first_k_dense_replace=1, rope_interleave=False, num_mtp_layers=0)
CHOOSING = dict(SMALL, num_key_value_heads=2, num_experts=6, num_experts_per_tok=3)
LATENT2 = {k: v for k, v in dict(LATENT, q_lora_rank=18).items()
           if k not in ("n_group", "topk_group", "rope_interleave", "num_mtp_layers")}
DELTA, FULL, SLIDING = "linear_attention", "full_attention", "sliding_attention"
QWEN3_NEXT = dict(SMALL, num_key_value_heads=2, head_dim=12, num_experts=0, linear_num_key_heads=4,
                  linear_num_value_heads=4, linear_key_head_dim=10, linear_value_head_dim=12, linear_conv_kernel_dim=3)
GPT2 = dict(NO_IDS, vocab_size=VOCAB, n_embd=48, n_layer=3, n_head=4, n_positions=32)
# How rotations are slowed down. Small contexts, and theta not their default, so that it shows within 13 tokens.
SCALED = [
    dict(rope_type="linear", factor=3.0, rope_theta=500.0),
    dict(rope_type="dynamic", factor=4.0, rope_theta=500.0),
    dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16,
         rope_theta=500.0),
    dict(rope_type="llama3", factor=2.0, low_freq_factor=0.5, high_freq_factor=3.0, rope_theta=10000.0),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=8, rope_theta=500.0),
    dict(rope_type="yarn", factor=4.0, beta_fast=8.0, beta_slow=0.5, truncate=False, attention_factor=1.2,
         rope_theta=10000.0),
    dict(rope_type="yarn", factor=None, original_max_position_embeddings=8, mscale=0.5, rope_theta=10000.0),
]
YARNS = [
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, rope_theta=500.0),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.7, mscale_all_dim=1.3,
         rope_theta=500.0),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, mscale_all_dim=1.3, rope_theta=500.0),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.7, mscale_all_dim=1.3,
         attention_factor=0.8, rope_theta=500.0),
]
THEIRS = {
    "llama-mha": (T.LlamaConfig, dict(SMALL)),
    "llama-gqa": (T.LlamaConfig, dict(SMALL, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-3,
                                      rope_parameters={"rope_type": "default", "rope_theta": 500.0})),
    "llama-mqa-tied-biased": (T.LlamaConfig, dict(SMALL, num_key_value_heads=1, tie_word_embeddings=True,
                                                  attention_bias=True, mlp_bias=True)),
    "mistral": (T.MistralConfig, dict(SMALL, num_key_value_heads=2, sliding_window=5)),
    "mistral-wide-window": (T.MistralConfig, dict(SMALL, num_key_value_heads=4, sliding_window=13, head_dim=14)),
    "mistral-no-window": (T.MistralConfig, dict(SMALL, num_key_value_heads=2, sliding_window=None)),
    "qwen3": (T.Qwen3Config, dict(SMALL, num_key_value_heads=2, head_dim=10)),
    "qwen3-next": (T.Qwen3NextConfig, dict(QWEN3_NEXT, layer_types=[DELTA, DELTA, FULL], rope_parameters={
        "rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5})),
    "qwen3-next-by-default": (T.Qwen3NextConfig, dict(QWEN3_NEXT, num_hidden_layers=4, head_dim=16,
                                                      linear_value_head_dim=16, tie_word_embeddings=True)),
    "qwen3-next-all-dense-layers": (T.Qwen3NextConfig, dict(
        QWEN3_NEXT, layer_types=[FULL, DELTA, FULL], num_experts=4, mlp_only_layers=[0, 2], decoder_sparse_step=3,
        num_key_value_heads=4, partial_rotary_factor=1.0, rms_norm_eps=1e-4)),
    "qwen3-next-no-softmax": (T.Qwen3NextConfig, dict(QWEN3_NEXT, layer_types=[DELTA] * 3, num_attention_heads=6,
                                                      linear_value_head_dim=9)),
    "mixtral-window": (T.MixtralConfig, dict(SMALL, num_key_value_heads=2, num_local_experts=4, sliding_window=4)),
    "ministral": (T.MinistralConfig, dict(SMALL, num_key_value_heads=2, sliding_window=3, head_dim=12)),
    "ministral-types": (T.MinistralConfig, dict(SMALL, num_key_value_heads=4, sliding_window=5, head_dim=14,
                                                layer_types=[FULL, SLIDING, FULL], tie_word_embeddings=True)),
    "qwen3-window": (T.Qwen3Config, dict(SMALL, num_key_value_heads=2, head_dim=10, use_sliding_window=True,
                                         sliding_window=4, max_window_layers=1)),
    "qwen3-types": (T.Qwen3Config, dict(SMALL, num_key_value_heads=4, head_dim=10, use_sliding_window=True,
                                        sliding_window=2, layer_types=[SLIDING, SLIDING, FULL])),
    "qwen3-idle-window": (T.Qwen3Config, dict(SMALL, num_key_value_heads=2, head_dim=10, sliding_window=4)),
    "olmo3": (T.Olmo3Config, dict(SMALL, num_hidden_layers=4, num_key_value_heads=2, sliding_window=4)),
    "olmo3-types": (T.Olmo3Config, dict(SMALL, num_key_value_heads=4, sliding_window=6, tie_word_embeddings=True,
                                        layer_types=[FULL, SLIDING, FULL], rope_parameters={
        kind: {"rope_type": "default", "rope_theta": 200.0} for kind in (FULL, SLIDING)})),
    "olmo2": (T.Olmo2Config, dict(SMALL, num_key_value_heads=4)),
    "olmo2-gqa": (T.Olmo2Config, dict(SMALL, num_key_value_heads=2, tie_word_embeddings=True)),
    "mixtral": (T.MixtralConfig, dict(SMALL, num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2)),
    "llama-attention-bias": (T.LlamaConfig, dict(SMALL, num_key_value_heads=2, attention_bias=True)),
    "llama-mlp-bias": (T.LlamaConfig, dict(SMALL, num_key_value_heads=2, mlp_bias=True)),
    "qwen2": (T.Qwen2Config, dict(SMALL, num_key_value_heads=2)),
    "qwen2-window": (T.Qwen2Config, dict(SMALL, num_key_value_heads=4, use_sliding_window=True, sliding_window=4,
                                         max_window_layers=2, tie_word_embeddings=True)),
    "qwen3-biased": (T.Qwen3Config, dict(SMALL, num_key_value_heads=2, head_dim=10, attention_bias=True)),
    "olmo2-biased": (T.Olmo2Config, dict(SMALL, num_key_value_heads=2, attention_bias=True)),
    "smollm3": (T.SmolLM3Config, dict(SMALL, num_hidden_layers=5, num_key_value_heads=2)),
    "smollm3-listed-biased-window": (T.SmolLM3Config, dict(
        SMALL, num_key_value_heads=2, no_rope_layers=[0, 1, 1], tie_word_embeddings=False, mlp_bias=True,
        use_sliding_window=True, sliding_window=5)),  # without RoPE the gradient of a key's bias is 0 but for rounding
    "deepseek-v3-groups": (T.DeepseekV3Config, dict(LATENT, q_lora_rank=18, n_group=3, topk_group=2)),
    "deepseek-v2-groups": (T.DeepseekV2Config, dict(LATENT2, n_group=3, topk_group=2, num_experts_per_tok=2,
                                                    topk_method="group_limited_greedy")),
    **{f"llama-{r['rope_type']}-{i}": (T.LlamaConfig, dict(SMALL, num_key_value_heads=2, rope_parameters=r))
       for i, r in enumerate(SCALED)},
    **{f"{name}-yarn-{i}": (kind, dict(options, rope_parameters=r))
       for i, r in enumerate(YARNS) for name, kind, options in (
           ("deepseek-v3", T.DeepseekV3Config, dict(LATENT, q_lora_rank=18)),
           ("deepseek-v2", T.DeepseekV2Config, LATENT2),
           ("qwen3", T.Qwen3Config, dict(SMALL, num_key_value_heads=2, head_dim=16)))},
    "olmo3-yarn": (T.Olmo3Config, dict(SMALL, num_key_value_heads=2, layer_types=[SLIDING, FULL, FULL],
                                       sliding_window=4, rope_parameters={FULL: dict(YARNS[0]),
                                                                          SLIDING: dict(YARNS[0])})),
    "qwen3-next-linear": (T.Qwen3NextConfig, dict(QWEN3_NEXT, layer_types=[DELTA, DELTA, FULL], rope_parameters=dict(
        rope_type="linear", factor=3.0, rope_theta=300.0, partial_rotary_factor=0.5))),
    "qwen3-moe": (T.Qwen3MoeConfig, dict(CHOOSING, moe_intermediate_size=24, head_dim=10)),
    "qwen3-moe-window": (T.Qwen3MoeConfig, dict(CHOOSING, moe_intermediate_size=24, norm_topk_prob=True,
                                                use_sliding_window=True, sliding_window=4, tie_word_embeddings=True)),
    "qwen3-moe-some-dense": (T.Qwen3MoeConfig, dict(CHOOSING, moe_intermediate_size=24, num_hidden_layers=4,
                                                    mlp_only_layers=[3], decoder_sparse_step=2)),
    "olmoe": (T.OlmoeConfig, dict(CHOOSING)),
    "olmoe-normed": (T.OlmoeConfig, dict(CHOOSING, num_key_value_heads=4, norm_topk_prob=True)),
    "deepseek-v2": (T.DeepseekV2Config, dict(LATENT2, routed_scaling_factor=1.7, norm_topk_prob=True)),
    "deepseek-v2-no-q-rank": (T.DeepseekV2Config, dict(LATENT2, q_lora_rank=None, tie_word_embeddings=True)),
    "deepseek-v2-all-experts-biased": (T.DeepseekV2Config, dict(LATENT2, first_k_dense_replace=0, attention_bias=True)),
    "deepseek-v3": (T.DeepseekV3Config, dict(LATENT, q_lora_rank=18)),
    "deepseek-v3-no-q-rank": (T.DeepseekV3Config, dict(LATENT, q_lora_rank=None, norm_topk_prob=False,
                                                       routed_scaling_factor=1.0)),
    "deepseek-v3-all-experts-biased": (T.DeepseekV3Config, dict(LATENT, q_lora_rank=18, first_k_dense_replace=0,
                                                                attention_bias=True)),
    "deepseek-v3-dense": (T.DeepseekV3Config, dict(LATENT, q_lora_rank=None, first_k_dense_replace=3)),
    "gpt2": (T.GPT2Config, GPT2),
    "gpt2-untied": (T.GPT2Config, dict(GPT2, n_layer=2, n_head=3, n_inner=56, tie_word_embeddings=False)),
}


def random_model(kind, options, seed=1):
    """Matrices that keep activations at size 1, norm weights around 1, biases around 0, none of them there. A gated
    delta net remembers some ten tokens, and is a small part of the stream: it normalises what it reads from its state
    however small that is, and with it the rounding errors of float32."""
    torch.manual_seed(seed)
    model = T.AutoModelForCausalLM.from_config(kind(**options), experts_implementation="eager")  # does float64
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if "inv_freq" in name:
                continue
            if p.dim() > 1:
                p.normal_(0, p.shape[-1] ** -0.5 * (0.3 if "linear_attn.out_proj" in name else 1.0))
            elif name.endswith("A_log"):
                p.normal_(-2, 0.3)
            else:
                from_one = kind is T.Qwen3NextConfig and "linear_attn" not in name  # its norms store w - 1
                p.normal_(0, 0.3).add_(1.0 if name.endswith("weight") and not from_one else 0.0)
    return model


def length_of(name):
    return LONG if "qwen3-next" in name else LENGTH


def theirs_is_read(name, directory):
    model = random_model(*THEIRS[name])
    model.save_pretrained(directory)
    return agree(ours(directory, length=length_of(name)), theirs(model, directory, length_of(name)))


# ---- other ways in which a checkpoint may come -----------------------------------------------------
def edit_config(directory, **changes):
    path = os.path.join(directory, "config.json")
    with open(path) as f:
        config = json.load(f)
    for key, value in changes.items():
        config.pop(key, None)
        if value is not ...:
            config[key] = value
    with open(path, "w") as f:
        json.dump(config, f)


def shards(directory):
    model = random_model(*THEIRS["llama-gqa"])
    model.save_pretrained(directory, max_shard_size="40KB")
    count = sum(f.endswith(".safetensors") for f in os.listdir(directory))
    if count < 3:
        raise AssertionError(f"only {count} shards were made")
    return f"{count} shards, " + agree(ours(directory), theirs(model, directory))


def old_spelling(directory):
    model = random_model(*THEIRS["llama-gqa"])
    model.save_pretrained(directory)
    edit_config(directory, rope_parameters=..., rope_theta=500.0, rope_scaling=None, head_dim=16)
    return agree(ours(directory), theirs(model, directory))


def half_precision(kind):
    def check(directory):
        random_model(*THEIRS["llama-mha"]).to(kind).save_pretrained(directory)
        model = T.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        return agree(ours(directory), theirs(model, directory))
    return check


def interleaved(directory):
    """DeepSeek's own layout rotates neighbours. Our loader reorders those rows, so gradients come reordered."""
    model = random_model(T.DeepseekV3Config, dict(LATENT, q_lora_rank=18, rope_interleave=True, attention_bias=True,
                                                  first_k_dense_replace=0))
    model.save_pretrained(directory)
    logits, gradients = theirs(model, directory)
    halves = np.r_[0:6:2, 1:6:2]
    per_head = np.concatenate([h * 16 + np.r_[0:10, 10 + halves] for h in range(4)])
    for name in gradients:
        if "q_b_proj" in name:
            gradients[name] = gradients[name][per_head]
        if "kv_a_proj_with_mqa" in name:
            gradients[name] = gradients[name][np.r_[0:20, 20 + halves]]
    return agree(ours(directory), (logits, gradients))


def further_layers(directory):
    """What DeepSeek-V3 predicts further tokens with stands behind its layers."""
    model = random_model(T.DeepseekV3Config, dict(LATENT, q_lora_rank=18))
    model.save_pretrained(directory)
    tensors = read_all(directory)
    last = {n.replace(".2.", ".3."): t for n, t in tensors.items() if n.startswith("model.layers.2.")}
    save_file({**tensors, **last, "model.layers.3.eh_proj.weight": np.ones((48, 96), np.float32)},
              directory + "/model.safetensors", {"format": "pt"})
    edit_config(directory, num_mtp_layers=..., num_nextn_predict_layers=1)
    return agree(ours(directory), theirs(model, directory))


def without_prefix(directory):
    model = random_model(*THEIRS["gpt2"])
    model.transformer.save_pretrained(directory)
    if any(n.startswith("transformer.") for n in read_all(directory)):
        raise AssertionError("the names were expected without transformer.")
    return agree(ours(directory), theirs(model, directory))


# Flags of ours, the scaling of theirs, and what else their config says. Theirs has no ntk, but "dynamic" is that with
# the factor by which a text is too long, here 13 / 5.
WIDE = dict(SMALL, head_dim=24)
STRETCHED = {
    "linear": ("linear --rope-factor 3", {"factor": 3.0}, T.LlamaConfig, WIDE),
    "ntk": (f"ntk --rope-factor {LENGTH / 5!r}", {"rope_type": "dynamic", "factor": 1.0}, T.LlamaConfig,
            dict(WIDE, max_position_embeddings=5)),
    "yarn": ("yarn --rope-factor 4 --rope-trained 8", {"factor": 4.0, "original_max_position_embeddings": 8},
             T.LlamaConfig, WIDE),
    "yarn-long": ("yarn --rope-factor 16 --rope-trained 4096",
                  {"factor": 16.0, "original_max_position_embeddings": 4096}, T.LlamaConfig, WIDE),
    "yarn-set": ("yarn --rope-factor 4 --rope-trained 64 --rope-beta-fast 4 --rope-beta-slow 0.5 --rope-truncate 0 "
                 "--rope-attention-factor 1.3",
                 {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4.0, "beta_slow": 0.5,
                  "truncate": False, "attention_factor": 1.3}, T.LlamaConfig, WIDE),
    "yarn-turns": ("yarn --rope-factor 8 --rope-trained 2", {"factor": 8.0, "original_max_position_embeddings": 2},
                   T.LlamaConfig, WIDE),
    "yarn-mscale": ("yarn --rope-factor 4 --rope-trained 64 --rope-mscale 0.7 --rope-mscale-all-dim 1.3",
                    {"factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 1.3},
                    T.LlamaConfig, WIDE),
    "yarn-latent": ("yarn --rope-factor 4 --rope-trained 64 --rope-mscale 0.7 --rope-mscale-all-dim 1.3",
                    {"factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 1.3},
                    T.DeepseekV3Config, LATENT),
    "yarn-latent-scores": ("yarn --rope-factor 4 --rope-trained 64 --rope-mscale-all-dim 1.3",
                           {"factor": 4.0, "original_max_position_embeddings": 64, "mscale_all_dim": 1.3},
                           T.DeepseekV3Config, LATENT),
    "llama3": ("llama3 --rope-factor 8 --rope-trained 64",
               {"factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0}, T.LlamaConfig, WIDE),
    "llama3-set": ("llama3 --rope-factor 3 --rope-trained 32 --rope-low-freq 0.5 --rope-high-freq 2.5",
                   {"factor": 3.0, "original_max_position_embeddings": 32, "low_freq_factor": 0.5,
                    "high_freq_factor": 2.5}, T.LlamaConfig, WIDE),
}


def stretched(flags, theirs_is, config_class, options):
    def check(directory):
        model = random_model(config_class, options)
        model.save_pretrained(directory)
        scaling = dict({"rope_type": flags.split()[0], "rope_theta": 10000.0}, **theirs_is)
        config = config_class(**dict(options, rope_parameters=scaling))
        again = T.AutoModelForCausalLM.from_pretrained(directory, config=config, experts_implementation="eager")
        return agree(ours(directory, "--rope-scaling", *flags.split()), theirs(again, directory))
    return check


OTHER_WAYS = {
    "sharded": shards,
    "rope-theta-of-old": old_spelling,
    "bfloat16": half_precision(torch.bfloat16),
    "float16": half_precision(torch.float16),
    "deepseek-v3-interleaved": interleaved,
    "deepseek-v3-further-layers": further_layers,
    "gpt2-without-prefix": without_prefix,
}

# ---- ours, read by them --------------------------------------------------------------------------
COMMON = f"--vocab {VOCAB} --layers 3 --width 48 --heads 4 --context 32 --ffn-width 80 --seed 3 --init-scale 4 "
EXPERTS = "--experts 6 --expert-width 24 "
LATENTS = "--attn mla --kv-rank 20 --rope-dim 6 --nope-dim 10 --v-dim 14 "
DEEPSEEK = LATENTS + EXPERTS + "--q-rank 18 --gate sigmoid --router bias "
NEXT = "--attn-gate --qk-norm head --head-dim 14 --state-dim 10 "
OURS = {
    "default": ("LlamaForCausalLM", ""),
    "gqa": ("LlamaForCausalLM", "--attn gqa --kv-heads 2 --head-dim 10 --tie 0 --rope-theta 300 --norm-eps 1e-3"),
    "biased": ("LlamaForCausalLM", "--attn gqa --kv-heads 1 --bias"),
    "mistral": ("MistralForCausalLM", "--attn swa --window 4 --kv-heads 2 --tie 0"),
    "mistral-naive": ("MistralForCausalLM", "--attn swa --window 2 --attn-kernel naive --head-dim 10"),
    "mistral-band": ("MistralForCausalLM", "--attn swa --window 2 --attn-kernel band --head-dim 10"),
    "qk-norm-head": ("Qwen3ForCausalLM", "--attn gqa --qk-norm head --head-dim 10 --tie 0"),
    "qwen3-next": ("Qwen3NextForCausalLM", "--attn gated-delta+gated-delta+gated-delta+gqa --layers 4 --kv-heads 2 "
                   + NEXT + "--tie 0 --rope-dim 10"),
    "qwen3-next-mha-first": ("Qwen3NextForCausalLM", "--attn mha+gated-delta --short-conv 2 --rope-theta 300 " + NEXT),
    "qwen3-next-no-softmax": ("Qwen3NextForCausalLM", "--attn gated-delta --state-dim 10 --head-dim 9 --norm-eps 1e-4"),
    "olmo2": ("Olmo2ForCausalLM", "--norm out --qk-norm full --tie 0"),
    "olmo2-wide-heads": ("Olmo2ForCausalLM", "--norm out --qk-norm full --attn gqa --head-dim 14"),
    "ministral": ("MinistralForCausalLM", "--attn swa+swa+gqa --window 4 --kv-heads 2"),
    "ministral-mha": ("MinistralForCausalLM", "--attn mha+swa --window 5 --head-dim 10 --tie 0"),
    "qwen3-window": ("Qwen3ForCausalLM", "--attn swa --window 5 --kv-heads 1 --qk-norm head --tie 0"),
    "qwen3-types": ("Qwen3ForCausalLM", "--attn gqa+swa --window 3 --qk-norm head --head-dim 10"),
    "olmo3": ("Olmo3ForCausalLM", "--norm out --qk-norm full --attn swa+swa+swa+gqa --layers 4 --window 4 "
              "--rope-theta 300"),
    "olmo3-wide-heads": ("Olmo3ForCausalLM", "--norm out --qk-norm full --attn mha+swa --window 6 --head-dim 14"),
    "mixtral-window": ("MixtralForCausalLM", "--attn swa --kv-heads 2 --window 4 " + EXPERTS),
    "mixtral": ("MixtralForCausalLM", "--attn gqa --tie 0 --top-k 3 " + EXPERTS),
    "mixtral-all-chosen": ("MixtralForCausalLM", "--top-k 6 " + EXPERTS),
    "attention-bias": ("LlamaForCausalLM", "--attn gqa --attn-bias all"),
    "ffn-bias": ("LlamaForCausalLM", "--ffn-bias all --tie 0"),
    "qwen2": ("Qwen2ForCausalLM", "--attn gqa --attn-bias qkv --tie 0"),
    "qwen2-window": ("Qwen2ForCausalLM", "--attn mha+swa --window 5 --attn-bias qkv"),
    "qwen3-biased": ("Qwen3ForCausalLM", "--qk-norm head --attn-bias all"),
    "smollm3": ("SmolLM3ForCausalLM", "--attn gqa --rope-layers rope+rope+none --tie 0"),
    "smollm3-biased-window": ("SmolLM3ForCausalLM", "--attn swa+gqa --window 4 --rope-layers none+rope --ffn-bias all"),
    "linear": ("LlamaForCausalLM", "--rope-scaling linear --rope-factor 3"),
    "dynamic": ("LlamaForCausalLM", "--rope-scaling dynamic --rope-factor 3 --rope-trained 40"),
    "llama3": ("LlamaForCausalLM", "--rope-scaling llama3 --rope-factor 8 --rope-trained 16 --rope-theta 500"),
    "yarn": ("MistralForCausalLM", "--attn swa --window 9 --rope-scaling yarn --rope-factor 4 --rope-trained 16 "
             "--rope-theta 500 --rope-beta-fast 8 --rope-truncate 0 --rope-attention-factor 1.2"),
    "yarn-olmo3": ("Olmo3ForCausalLM", "--norm out --qk-norm full --attn mha+swa --window 6 --rope-scaling yarn "
                   "--rope-factor 4 --rope-trained 16 --rope-theta 500 --rope-truncate 0"),
    "yarn-qwen3-next": ("Qwen3NextForCausalLM", "--attn mha+gated-delta --rope-scaling yarn --rope-trained 16 " + NEXT
                        + "--rope-dim 6"),
    "yarn-deepseek-v3": ("DeepseekV3ForCausalLM", DEEPSEEK + "--shared-experts 1 --route-groups 3 --route-top-groups 2 "
                         "--rope-scaling yarn --rope-factor 4 --rope-trained 16 --rope-mscale 0.7 "
                         "--rope-mscale-all-dim 1.3"),
    "deepseek-v2-groups": ("DeepseekV2ForCausalLM", LATENTS + EXPERTS + "--norm-topk 0 --shared-experts 1 "
                           "--route-groups 3 --route-top-groups 2 --route-group-score max"),
    "qwen3-moe": ("Qwen3MoeForCausalLM", "--qk-norm head --norm-topk 0 --attn gqa --tie 0 --head-dim 10 " + EXPERTS),
    "qwen3-moe-window": ("Qwen3MoeForCausalLM", "--qk-norm head --attn swa --window 4 --moe-layers dense+moe+moe "
                         + EXPERTS),
    "olmoe": ("OlmoeForCausalLM", "--qk-norm full --norm-topk 0 --attn gqa --tie 0 " + EXPERTS),
    "olmoe-normed": ("OlmoeForCausalLM", "--qk-norm full --top-k 3 " + EXPERTS),
    "deepseek-v2": ("DeepseekV2ForCausalLM", LATENTS + EXPERTS + "--norm-topk 0 --shared-experts 2 --first-dense 1 "
                    "--route-scale 1.7 --q-rank 18 --tie 0"),
    "deepseek-v2-biased": ("DeepseekV2ForCausalLM", LATENTS + EXPERTS + "--norm-topk 0 --shared-experts 1 --bias"),
    "mla": ("DeepseekV3ForCausalLM", LATENTS),
    "deepseek-v3": ("DeepseekV3ForCausalLM", DEEPSEEK + "--shared-experts 2 --first-dense 1 --top-k 3 "
                    "--route-scale 1.7 --tie 0"),
    "deepseek-v3-biased": ("DeepseekV3ForCausalLM", DEEPSEEK + "--shared-experts 1 --norm-topk 0 --bias"),
    "gpt2": ("GPT2LMHeadModel", "--pos learned --norm-kind layer --ffn gelu --bias"),
    "gpt2-untied": ("GPT2LMHeadModel", "--pos learned --norm-kind layer --ffn gelu --bias --tie 0"),
}


def save_ours(flags, directory):
    subprocess.run([PROBE, "--random", COMMON + flags, directory], check=True)


def ours_is_opened(name, directory):
    architecture, flags = OURS[name]
    save_ours(flags, directory)
    open_it = T.AutoModelForCausalLM.from_pretrained
    model, report = open_it(directory, output_loading_info=True, experts_implementation="eager")
    if type(model).__name__ != architecture:
        raise AssertionError(f"opened as {type(model).__name__}, expected {architecture}")
    wrong = {k: v for k, v in report.items() if v}
    if wrong:
        raise AssertionError(f"loading was not clean: {wrong}")
    model.save_pretrained(directory + ".again")
    edit_config(directory + ".again", receipts=...)  # as a checkpoint of theirs, not a run of ours
    length = length_of(name)
    us = ours(directory, length=length)
    if not np.array_equal(us[0], ours(directory + ".again", length=length)[0]):
        raise AssertionError("saved again by transformers, it gives other bits")
    return agree(us, theirs(model, directory, length))


# ---- weights as bfloat16 -------------------------------------------------------------------------
WEIGHTS = "/model.safetensors"
# Subnormals, ties to either side, what rounds to infinity and what does not, infinities, not a number.
SPECIAL = (0, 1, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x7FFFFF, 0x3F807FFF, 0x3F808000, 0x3F808001, 0x3F818000, 0x7F7F7FFF,
           0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF)


def is_rounded(found, exact):
    """Whether each number is the bfloat16 that torch makes of it; of what is not a number it keeps no bits either."""
    expected = exact.to(torch.bfloat16)
    same = found.view(torch.int16) == expected.view(torch.int16)
    return found.dtype == torch.bfloat16 and bool((same | (found.isnan() & expected.isnan())).all())


def rounded(name):
    def check(directory):
        save_ours(OURS[name][1], directory + ".exact")
        save_ours(OURS[name][1] + " --save-dtype bf16", directory)
        found, exact = load_torch(directory + WEIGHTS), load_torch(directory + ".exact" + WEIGHTS)
        wrong = [n for n in sorted(found | exact) if not is_rounded(found[n], exact[n])]
        if wrong:
            raise AssertionError(f"not what torch rounds to: {wrong}")
        open_it = T.AutoModelForCausalLM.from_pretrained
        if open_it(directory).dtype != torch.bfloat16:
            raise AssertionError("config.json does not say bfloat16")
        model = open_it(directory, dtype=torch.float32, experts_implementation="eager")
        return agree(ours(directory, length=length_of(name)), theirs(model, directory, length_of(name)))
    return check


def rounded_bits(directory):
    """Random bits, and what is special, of either sign."""
    save_ours("", directory)
    tensors, count = load_torch(directory + WEIGHTS), 0
    for name, t in sorted(tensors.items()):
        bits = torch.randint(-2**31, 2**31, t.shape, generator=torch.Generator().manual_seed(count))
        if count == 0:
            bits.flatten()[:2 * len(SPECIAL)] = torch.tensor([s | sign for s in SPECIAL for sign in (0, -2**31)])
        tensors[name] = bits.to(torch.int32).view(torch.float32)
        count += t.numel()
    save_torch(tensors, directory + WEIGHTS, {"format": "pt"})
    subprocess.run([PROBE, "--round", directory, directory + ".rounded"], check=True)
    found = load_torch(directory + ".rounded" + WEIGHTS)
    wrong = [n for n in sorted(found | tensors) if not is_rounded(found[n], tensors[n])]
    if wrong:
        raise AssertionError(f"not what torch rounds to: {wrong}")
    return f"{count} numbers are rounded as torch does"
# ---- from a text of documents to a loss ------------------------------------------------------------
DOCUMENTS = ["Größe 12345, naïve café!", "def f(x):\n\treturn x  # 漢字 👍", "", "It's the  last one.\n"]


def trained_tokenizer(begin, end):
    """Byte-level BPE with a mark for the end of a text, and one for its begin if that is another."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(DOCUMENTS * 3, trainers.BpeTrainer(
        vocab_size=300, special_tokens=sorted({begin, end}), initial_alphabet=alphabet, show_progress=False))
    if begin != end:
        t.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, t.token_to_id(begin))])
    return T.PreTrainedTokenizerFast(tokenizer_object=t, bos_token=begin, eos_token=end)


def loss_of_documents(kind, options, begin, end):
    """./train on JSONL, from a checkpoint of theirs with its own tokenizer: the loss of the first window of tokens."""
    def check(directory):
        tokenizer, length = trained_tokenizer(begin, end), 32
        marks = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
        model = random_model(kind, dict(options, **marks, vocab_size=len(tokenizer) + 5))
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        lines = [json.dumps({"id": i, "text": d}) + "\n" for i, d in enumerate(DOCUMENTS)]
        for name, count in (("val", 1), ("some", 5)):
            with open(f"{directory}.{name}.jsonl", "w") as f:
                f.writelines(lines * count)
        done = subprocess.run(
            [TRAIN, "--load", directory, "--data", directory + ".some.jsonl", "--val", directory + ".val.jsonl",
             "--field", "text", "--context", str(length), "--steps", "0", "--eval-tokens", str(length), "--out",
             directory + ".run", "--sample-tokens", "0"], capture_output=True, text=True)
        if done.returncode != 0 or done.stderr:
            raise RuntimeError(done.stderr.strip() or f"{TRAIN} ended with status {done.returncode}")
        with open(directory + ".run/log.jsonl") as f:
            us = json.loads(f.readline())["val_loss"]
        stream = []
        for d in DOCUMENTS:
            stream += [tokenizer.bos_token_id] + tokenizer(d, add_special_tokens=False)["input_ids"]
            stream += [tokenizer.eos_token_id] if begin != end else []
        row = torch.tensor(stream[:length + 1])
        with torch.no_grad():
            logits = model.double().eval()(row[None, :-1]).logits[0]
        them = torch.nn.functional.cross_entropy(logits, row[1:]).item()
        if not abs(us - them) < TOLERANCE:
            raise AssertionError(f"the loss is {us}, not {them}")
        return f"the loss {us:.6f} of {length} tokens differs by {abs(us - them):.1e}"
    return check


DOCUMENT_MODELS = {
    "gpt2": (T.GPT2Config, dict(n_embd=48, n_layer=2, n_head=4, n_positions=32), "<|endoftext|>", "<|endoftext|>"),
    "llama": (T.LlamaConfig, dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                                  max_position_embeddings=32), "<|begin_of_text|>", "<|end_of_text|>"),
}


def llama_name(name):
    """What transformers calls a tensor of ours in a Llama."""
    ends = {"embed.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight",
            "final_norm.weight": "model.norm.weight"}
    parts = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn": "self_attn", "ffn": "mlp"}
    parts.update((p, p + "_proj") for p in ("q", "k", "v", "o", "gate", "up", "down"))
    return ends.get(name) or "model." + ".".join(parts.get(part, part) for part in name.split("."))


def alibi(heads):
    """No architecture of theirs is ours with ALiBi, but the same weights are a Llama of theirs. It gets BLOOM's own
    slopes through its attention mask (which is added to the scores), and no rotation."""
    def check(directory):
        flags = f"--heads {heads} --head-dim 10 --tie 0 "
        save_ours(flags + "--pos alibi", directory)
        save_ours(flags, directory + ".llama")  # initial values depend on the seed and a tensor's name alone
        model = T.AutoModelForCausalLM.from_pretrained(directory + ".llama", attn_implementation="eager")
        at = torch.arange(LENGTH)
        bias = T.models.bloom.modeling_bloom.build_alibi_tensor(torch.ones(1, LENGTH), heads, torch.float64)
        mask = bias.reshape(1, heads, 1, LENGTH).masked_fill(at[None, :] > at[:, None], float("-inf"))
        plain, rotary = model.forward, model.model.rotary_emb

        def no_rotation(x, *_, **__):
            angles = torch.zeros(1, LENGTH, 10, dtype=x.dtype)
            return angles + 1, angles
        rotary.forward = no_rotation
        model.forward = lambda tokens, **options: plain(tokens, attention_mask=mask, **options)
        logits, gradients = ours(directory)
        return agree((logits, {llama_name(n): g for n, g in gradients.items()}), theirs(model, directory))
    return check


def balancing_loss(directory):
    """The loss that transformers adds with the coefficient that we export. Its statistics are those of all layers and
    rows together: with one layer, and the same row three times, they are ours of a row."""
    tokens = batch()[:1].expand(ROWS, -1)
    with unittest.mock.patch.object(sys.modules[__name__], "batch", lambda length=LENGTH: tokens):
        save_ours("--attn gqa --kv-heads 2 --layers 1 --aux-loss 0.7 " + EXPERTS, directory)
        model = T.AutoModelForCausalLM.from_pretrained(directory, experts_implementation="eager")
        return agree(ours(directory, "losses"), theirs(model, directory, balanced=True))


def ours_alone(directory):
    """What transformers has no architecture for: still a sound safetensors file and a config that says so."""
    save_ours(LATENTS + EXPERTS + "--norm peri --ffn relu2 --attn gqa+mla", directory)
    with open(directory + "/config.json") as f:
        config = json.load(f)
    with safe_open(directory + "/model.safetensors", "np") as f:
        names = set(f.keys())
        shape = f.get_tensor("layers.1.moe.down.weight").shape
        if f.metadata()["format"] != "pt" or shape != (6, 48, 24) or config["model_type"] != "receipts":
            raise AssertionError(f"unexpected content: {f.metadata()} {shape} {config['model_type']}")
    logits, gradients = ours(directory)
    if set(gradients) != names or not np.isfinite(logits).all():
        raise AssertionError("our own checkpoint was not read back")
    return f"{len(names)} tensors"


# ---- linear attention, written out ---------------------------------------------------------------
RECURRENT = {
    "linear": "--attn linear --short-conv 0",
    "linear-convolved": "--attn linear --state-dim 20",
    "gla": "--attn gla --state-dim 9",
    "delta": "--attn delta --tie 0",
    "delta-not-convolved": "--attn delta --short-conv 0 --state-dim 7",
    "gated-delta": "--attn gated-delta+gla --state-dim 16 --short-conv 3",
    "gated-delta-not-convolved": "--attn gated-delta --short-conv 0",
    "mamba2": "--attn mamba2 --state-dim 16 --tie 0",
    "mamba2-not-convolved": "--attn mamba2 --short-conv 0 --state-dim 9",
    "all-of-them": "--attn linear+gla+mamba2+delta+gated-delta --layers 5",
}


def rms(x, weight, eps):
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def short_convolution(x, weight):
    """weight [taps, channels], its last row for the token itself."""
    taps = len(weight)
    before = torch.nn.functional.pad(x, (0, 0, taps - 1, 0))
    return sum(weight[j] * before[:, j:j + x.shape[1]] for j in range(taps))


def unit(x):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def recurrence(q, k, v, beta, decay):
    """[rows, tokens, heads, width]; S [rows, heads, key, value]. beta None: what is written is v."""
    state, out = 0.0, []
    for t in range(q.shape[1]):
        key = k[:, t, :, :, None]
        state = state * decay[:, t, :, :, None]
        write = v[:, t]
        if beta is not None:
            write = beta[:, t] * (write - (state * key).sum(-2))
        state = state + key * write[:, :, None, :]
        out.append((state * q[:, t, :, :, None]).sum(-2))
    return torch.stack(out, 1)


def linear_mixer(p, kind, x, heads, eps):
    def project(name, at=x):
        y = at @ p(name + ".weight").T
        return y + p(name + ".bias") if name == "attn.decay_b" else y

    def by_head(y):
        return y.unflatten(-1, (heads, -1))

    silu = torch.nn.functional.silu
    q, k, v = (project("attn." + c) for c in "qkv")
    mixed = torch.cat([q, k, v], -1)
    if p("attn.conv.weight") is not None:
        mixed = silu(short_convolution(mixed, p("attn.conv.weight")))
    elif "delta" in kind or kind == "mamba2":
        mixed = silu(mixed)
    q, k, v = (by_head(y) for y in mixed.split([q.shape[-1], k.shape[-1], v.shape[-1]], -1))
    beta, decay, width, passed = None, torch.ones_like(q), q.shape[-1], v
    if kind == "linear":
        q, k = (torch.nn.functional.elu(y) + 1 for y in (q, k))
    elif kind != "mamba2":
        q = (unit(q) if "delta" in kind else q) * width ** -0.5
    if "delta" in kind:
        k, beta = unit(k), by_head(torch.sigmoid(project("attn.beta")))
    if kind == "gla":
        decay = by_head(torch.sigmoid(project("attn.decay_b", project("attn.decay_a")))) ** (1 / 16)
    if kind in ("gated-delta", "mamba2"):
        step = torch.nn.functional.softplus(project("attn.decay") + p("attn.decay_shift"))
        decay = by_head(torch.exp(-torch.exp(p("attn.decay_rate")) * step))
    if kind == "mamba2":
        v = v * by_head(step)
    out = recurrence(q, k, v, beta, decay)
    if kind == "mamba2":
        out = (out + p("attn.skip")[:, None] * passed) * by_head(silu(project("attn.gate")))
    if kind == "linear":
        out = out / ((q * k.cumsum(1)).sum(-1, keepdim=True) + 1e-6)
    else:
        out = rms(out, p("attn.o_norm.weight"), eps)
    out = out.flatten(-2)
    if kind in ("gla", "gated-delta"):
        out = out * silu(project("attn.gate"))
    return project("attn.o", out)


# ---- routers, written out --------------------------------------------------------------------------
# Each under linear attention, whose forward is above. What a token of a running text passes (the logits of our program)
# is another model than what it passes in training (the gradients) where tokens are pooled: both are written out.
ROUTED = "--attn linear --short-conv 0 --experts 6 --expert-width 24 --top-k 2 --router "
ROUTERS = {
    "topk": "topk --shared-experts 1 --route-scale 1.5",
    "topk-aux-loss": "topk --aux-loss 0.7 --capacity 1",
    "topk-z-loss": "topk --z-loss 0.4 --aux-loss 0",
    "topk-both-losses": "topk --z-loss 0.2 --aux-loss 0.5 --norm-topk 0",
    "topk-capacity": "topk --capacity 0.75 --norm-topk 0",
    "bias-sigmoid": "bias --gate sigmoid --norm-topk 0",
    "bias-sigmoid-aux-loss": "bias --gate sigmoid --aux-loss 0.6",
    "bias-z-loss": "bias --z-loss 0.3",
    "threshold": "threshold --gate sigmoid",
    "threshold-losses": "threshold --z-loss 0.3 --aux-loss 0.6",
    "relu": "relu",
    "hash": "hash",
    "hash-three": "hash --top-k 3 --shared-experts 1 --route-scale 1.5 --capacity 1",
    "dense": "dense --top-k 6",
    "dense-z-loss": "dense --z-loss 0.5",
    "expert-choice": "expert-choice --pool time:13",
    "expert-choice-z-loss": "expert-choice --pool time:13 --z-loss 0.3",
    "expert-choice-pieces": "expert-choice --pool time:5 --gate sigmoid",
    "expert-choice-batch": "expert-choice --pool batch --top-k 4 --batch 3 --eval-tokens 96",
    "expert-choice-all": "expert-choice --pool all --batch 3 --eval-tokens 96",
    "soft": "soft --pool time:13",
    "soft-pieces": "soft --pool time:4",
    "soft-batch": "soft --pool batch --batch 3 --eval-tokens 96",
}


def pools_of(flags, rows, length):
    """Lists of places, row * length + position, that are routed together."""
    places = torch.arange(rows * length).reshape(rows, length)
    if flags["pool"] == "all":
        return [places.flatten()]
    if flags["pool"] == "batch":
        return list(places.T)
    return [piece for row in places for piece in row.split(int(flags["pool"].split(":")[1]))]


def philox(seed, purpose, index):
    """Four random words: Philox4x32-10 of Salmon et al. 2011, ten rounds over a counter of (index, purpose)."""
    low, word = 2 ** 32 - 1, [index & (2 ** 32 - 1), index >> 32, purpose & (2 ** 32 - 1), purpose >> 32]
    for turn in range(10):
        key = ((seed & low) + turn * 0x9E3779B9 & low, (seed >> 32) + turn * 0xBB67AE85 & low)
        p, q = 0xD2511F53 * word[0], 0xCD9E8D57 * word[2]
        word = [q >> 32 ^ word[1] ^ key[0], q & low, p >> 32 ^ word[3] ^ key[1], p & low]
    return word


def hashed(tokens, layer, experts, k):
    """K <= 4 different experts for each token's number, drawn one after the other from those that are left. (That a
    word falls into the few left over by an even division, and another is drawn, has a chance of one in 10^9.)"""
    chosen = torch.zeros(len(tokens), experts, dtype=torch.float64)
    for row, token in enumerate(tokens.tolist()):
        left = list(range(experts))
        for word in philox(layer, 7, token)[:k]:  # 7: the purpose of such numbers in lib/rng.h
            chosen[row, left.pop(word * len(left) >> 32)] = 1.0
    return chosen


def best(score, k):
    return torch.zeros_like(score).scatter(-1, score.topk(k, -1).indices, 1.0)


def choose(p, flags, score, writing):
    """Which experts take which tokens, [tokens, experts] of zeros and ones."""
    router, k = flags["router"], int(flags["top_k"])
    if router == "dense":
        return torch.ones_like(score)
    if router == "relu":
        return (score > 0).double()
    if router == "threshold":
        return (score > p("moe.router.threshold")).double()
    if router == "expert-choice" and not writing:
        chosen = torch.zeros_like(score)
        for pool in pools_of(flags, ROWS, LENGTH):
            share = max(1, int(len(pool) * k / score.shape[1] + 0.5))
            chosen[pool] = best(score[pool].T, share).T
        return chosen
    return best(score + (p("moe.router.bias") if router == "bias" else 0.0), k)


def admitted(flags, chosen, writing):
    """Without the choices that come after an expert's capacity is used up, in each row."""
    if float(flags["capacity"]) == 0 or writing:
        return chosen
    most = math.ceil(float(flags["capacity"]) * LENGTH * int(flags["top_k"]) / chosen.shape[1])
    by_row = chosen.reshape(ROWS, LENGTH, -1)
    return (by_row * (by_row.cumsum(1) <= most)).flatten(0, 1)


def expert(p, e, x):
    up, gate, down = (p(f"moe.{n}.weight")[e] for n in ("up", "gate", "down"))
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def soft_experts(p, flags, x, logits, writing):
    experts = len(p("moe.up.weight"))
    if writing:
        weights = logits.softmax(-1).unflatten(-1, (experts, -1)).sum(-1)
        return sum(weights[:, e, None] * expert(p, e, x) for e in range(experts))
    y = torch.zeros_like(x)
    for pool in pools_of(flags, ROWS, LENGTH):
        slots = logits[pool].softmax(0).T @ x[pool]
        out = torch.cat([expert(p, e, part) for e, part in enumerate(slots.chunk(experts))])
        y = y.index_add(0, pool, logits[pool].softmax(-1) @ out)
    return y


def router_losses(p, flags, logits, score, chosen):
    """Means over rows: of E sum_e f_e P_e, with f_e = choices / (K T) and P_e the mean share of the score (relu: the
    mean score, an L1 norm whose weight is learned); and of the mean square of a token's log-partition. Where a bias
    moves the choices, those of the scores alone count: DeepSeek-V3, eq. 18."""
    if flags["router"] == "bias":
        chosen = best(score, int(flags["top_k"])).detach()
    f = chosen.reshape(ROWS, LENGTH, -1).mean(1) / int(flags["top_k"])
    relu = flags["router"] == "relu"
    shares = (score if relu else score / score.sum(-1, keepdim=True)).reshape(ROWS, LENGTH, -1).mean(1)
    by = p("router.l1").detach() if relu else float(flags["aux_loss"])
    z = 0.0 if relu else float(flags["z_loss"]) * logits.logsumexp(-1).square().mean()
    return by * chosen.shape[1] * (f * shares).sum(-1).mean() + z


def scored(p, flags, x, writing):
    """The weights of the chosen experts, which they are, and what that adds to the loss."""
    logits = x @ p("moe.router.weight").T
    if flags["router"] == "relu":
        score = torch.relu(logits)
    else:
        score = torch.sigmoid(logits) if flags["gate"] == "sigmoid" else logits.softmax(-1)
    chosen = choose(p, flags, score, writing).detach()
    weight = score * chosen
    if flags["norm_topk"] == "1":
        weight = weight / weight.sum(-1, keepdim=True)
    return weight, chosen, router_losses(p, flags, logits, score, chosen)


def mixture(p, flags, x, writing, tokens, layer):
    """The layer's output for x [tokens, width], and what it adds to the loss."""
    if flags["router"] == "soft":
        return soft_experts(p, flags, x, x @ p("moe.router.weight").T, writing), 0.0
    if flags["router"] == "hash":
        chosen = hashed(tokens, layer, int(flags["experts"]), int(flags["top_k"]))
        weight, loss = chosen / int(flags["top_k"]), 0.0
    else:
        weight, chosen, loss = scored(p, flags, x, writing)
    weight = weight * admitted(flags, chosen, writing) * float(flags["route_scale"])
    y = sum(weight[:, e, None] * expert(p, e, x) for e in range(weight.shape[1]))
    if p("moe.shared.up.weight") is not None:
        up, gate, down = (p(f"moe.shared.{n}.weight") for n in ("up", "gate", "down"))
        y = y + (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
    return y, loss


def written_out(directory, length, writing=False, mixer=linear_mixer):
    with open(directory + "/config.json") as f:
        flags = json.load(f)["receipts"]
    routers_loss = 0.0
    values = {n: torch.tensor(t, dtype=torch.float64, requires_grad=True) for n, t in read_all(directory).items()}
    eps, kinds, tokens = float(flags["norm_eps"]), flags["attn"].split("+"), batch(length)
    x = values["embed.weight"][tokens[:, :-1]]
    for layer in range(int(flags["layers"])):
        def p(name):
            return values.get(f"layers.{layer}.{name}", values.get(name))

        kind = kinds[layer % len(kinds)]
        x = x + mixer(p, kind, rms(x, p("attn_norm.weight"), eps), int(flags["heads"]), eps)
        h = rms(x, p("ffn_norm.weight"), eps)
        if flags["experts"] != "0":
            y, loss = mixture(p, flags, h.flatten(0, 1), writing, tokens[:, :-1].flatten(), layer)
            x, routers_loss = x + y.reshape(x.shape), routers_loss + loss
            continue
        hidden = torch.nn.functional.silu(h @ p("ffn.gate.weight").T) * (h @ p("ffn.up.weight").T)
        x = x + hidden @ p("ffn.down.weight").T
    head = values.get("head.weight", values["embed.weight"])
    logits = rms(x, values["final_norm.weight"], eps) @ head.T
    (torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) + routers_loss).backward()
    return logits.detach().numpy(), {n: t.grad.numpy() for n, t in values.items() if t.grad is not None}


def recurrence_is_written_out(name, directory):
    save_ours(RECURRENT[name], directory)
    return agree(ours(directory, length=LONG), written_out(directory, LONG))


def router_is_written_out(name, directory):
    save_ours(ROUTED + ROUTERS[name], directory)
    logits, gradients = ours(directory, "losses")
    state = ("router.bias", "router.threshold", "router.l1")  # moved by rules of their own
    gradients = {n: g for n, g in gradients.items() if not n.endswith(state)}
    return agree((logits, gradients), (written_out(directory, LENGTH, True)[0], written_out(directory, LENGTH)[1]))


# Mamba2Mixer of transformers in the place of our formula, its tensors made of ours, so that autograd goes through both.
# Its models have no feed-forward layers, so the module alone is theirs.
def mamba2_mixer(p, kind, x, heads, eps):
    def of(name):
        return p("attn." + name)

    order = ("v.weight", "k.weight", "q.weight")  # x, B and C in their words
    widths = [of(n).shape[0] for n in ("q.weight", "k.weight", "v.weight")]
    convolution = torch.cat(of("conv.weight").split(widths, 1)[::-1], 1).T[:, None]
    tensors = {"in_proj.weight": torch.cat([of(n) for n in ("gate.weight", *order, "decay.weight")]),
               "conv1d.weight": convolution, "A_log": of("decay_rate"), "dt_bias": of("decay_shift"),
               "D": of("skip"), "norm.weight": of("o_norm.weight").repeat(heads), "out_proj.weight": of("o.weight")}
    config = T.Mamba2Config(hidden_size=x.shape[-1], num_hidden_layers=1, num_heads=heads, n_groups=heads,
                            head_dim=widths[2] // heads, state_size=widths[0] // heads,
                            expand=widths[2] // x.shape[-1], conv_kernel=convolution.shape[-1], use_conv_bias=False,
                            layer_norm_epsilon=eps, chunk_size=16)
    theirs = T.models.mamba2.modeling_mamba2.Mamba2Mixer(config, 0).double()
    expected = {n: t.shape for n, t in theirs.named_parameters()}
    if expected != {n: t.shape for n, t in tensors.items()}:
        raise AssertionError(f"other tensors: {expected}")
    with unittest.mock.patch.object(torch.Tensor, "float", torch.Tensor.double):  # or its scan would be in float32
        return torch.func.functional_call(theirs, tensors, (x,))


def mamba2(directory):
    save_ours("--attn mamba2 --tie 0 --state-dim 10", directory)
    return agree(ours(directory, length=LONG), written_out(directory, LONG, mixer=mamba2_mixer))


# ---- tokenizers --------------------------------------------------------------------------------------
# Against the library of tokenizers: that of every family is trained here, small, with its own steps, and texts for
# every rule are cut by both. The patterns are those of the families' tokenizer.json.
def library():
    import tokenizers
    return tokenizers


CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST
QWEN35 = CONTRACTIONS + (r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
                         r"\s+(?!\S)|\s+")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + "?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + "?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK3 = (r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SENTENCES = [
    "The quick brown fox doesn't jump; it's 12345678 times THEY'LL WE'RE I'M he'd 'Tis don'ſ IT'ſ",
    "Größenwahn, naïve café, Übermut; e\u0301te\u0301 a\u030a\u0323 \u1e69 q\u0307\u0323 \u0958"
    "\u0929\u0344\u212b\u2126",
    "Быстрая лиса 42 раза. Η γρήγορη αλεπού. שלום עולם — مرحبا بالعالم ٣٤٥٦ الْحَمْدُ لِلَّهِ",
    "मैं हिन्दी क़ख़ सीखता हूँ। ภาษาไทยน้ำผู้ใหญ่ก่อน ሰላም ልዑል ဘာသာစကား ខ្ញុំ",
    "敏捷的棕色狐狸跳过了懒狗。東京タワーへ行きました、カ\u3099キ\u3099 ヴァイオリン。한국어 문장입니다 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ❤️ 1️⃣ 𝔘𝔫𝔦 𝟙𝟚𝟛𝟜 ⅷ ½ ² ①②③④ Ⅻ",
    "def f(x):\n\tif x >= 1_000.5e-3:\n\t\treturn {'a': [1,2,3]}  # ok\r\n\r\n    }\n\n\n   \n",
    "<div class=\"a\">&nbsp;&amp;</div> // C:\\path\\file a->b ::std::vector<int>;; $$ ^^ ~~ `x` @user #tag "
    "https://x.y/z?q=1&r=2",
    "  two  three   four    spaces \t tab\t\ttabs \u00a0nbsp\u2003em\u3000ideo\u2028line\u2029par\u0085nel "
    "\u180e \u200b end  ",
    "a" * 70 + " " + "7" * 70 + " " + "!" * 70 + " " * 70 + "x" + "\n" * 70 + "é" * 40 + "漢" * 30,
    "".join(map(chr, range(1, 256))), "x\x00y\x01\x7f\ufeff\ufffd\ufffe\U0010ffff\ue000",
    "ŉ K\u212a ﬁ ﬆ ß ẞ İ ı ǅ ǆ ʰ ꟲ \u0897\u1c89\U000105c0\U0001e030 \U00011938\U00011935\U00011930",
    "", " ", "\n", "'s", "'S", " 's", "''s", "'", "s'", "12", "1234", "\r", "\r\n", " \r\n ", "\t", "a ", " a", "  a"]


def stress(seed, count=400):
    """Texts of pieces at random, all of which matter to some rule."""
    draw = np.random.default_rng(seed)
    pieces = [" ", "  ", "\n", "\r", "\t", "\u00a0", "\u2003", "\u3000", "'", "'s", "'S", "'ſ", "'LL", "'re", "a", "B",
              "ǅ", "é", "e\u0301", "\u0323", "ß", "漢", "か\u3099", "ー", "한", "\u1100\u1161", "ก็", "क्", "ع\u0651\u064e",
              "0", "12", "345", "٣", "½", "Ⅻ", ".", ",", "!", "-", "_", "$", "+", "/", "\\", "👍",
              "🏽", "\u200d", "\ufe0f",
              "\u0001", "\u200b", "<|endoftext|>", "<|", "|>", "<mark>", "<kept>", "the", "The", " world",
              "://", "\u0085"]
    return ["".join(draw.choice(pieces, draw.integers(1, 40))) for _ in range(count)]


def corpus():
    return SENTENCES[:10] + [s.lower() for s in SENTENCES[:8]] + [" ".join(SENTENCES[:9])] + stress(3, 200)


def family(name):
    """A trained tokenizer, the words for its special tokens, and other settings of its tokenizer_config.json."""
    t = library()
    N, P, D = t.normalizers, t.pre_tokenizers, t.decoders

    def splits(*patterns):
        return P.Sequence([P.Split(t.Regex(p), "isolated") for p in patterns] + [P.ByteLevel(False, use_regex=False)])

    steps = {
        "gpt2": P.ByteLevel(False), "prefix-space": P.ByteLevel(True), "llama-3": splits(LLAMA3),
        "qwen-2": splits(QWEN2), "qwen-3.5": splits(QWEN35), "o200k": splits(O200K), "deepseek-v3": splits(*DEEPSEEK3),
        "smollm": P.Sequence([P.Digits(individual_digits=True), P.ByteLevel(False)]),
        "digits": P.Sequence([P.Digits(), P.ByteLevel(True)]), "neox": P.ByteLevel(False),
        "removed": P.Sequence([P.Split(t.Regex(LLAMA3), "removed", invert=True), P.ByteLevel(False, use_regex=False)]),
        "marks": splits(QWEN2)}
    tokenizer = t.Tokenizer(t.models.BPE(ignore_merges=name in ("llama-3", "o200k")))
    tokenizer.pre_tokenizer, tokenizer.decoder = steps[name], D.ByteLevel()
    if name in ("qwen-2", "qwen-3.5", "neox", "marks"):
        tokenizer.normalizer = N.NFC()
    bos, eos = {"llama-3": ("<|begin_of_text|>", "<|end_of_text|>"),
                "deepseek-v3": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")}.get(name, ("<|endoftext|>",) * 2)
    first = [bos, eos] if name == "deepseek-v3" else []                   # theirs begin with them
    tokenizer.train_from_iterator(corpus(), t.trainers.BpeTrainer(
        vocab_size=700, special_tokens=first, initial_alphabet=P.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens([t.AddedToken(x, special=True, normalized=False) for x in (bos, eos, "<|im_end|>")])
    if name == "neox":
        tokenizer.add_tokens([t.AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    if name == "marks":
        tokenizer.add_tokens([t.AddedToken("<mark>", lstrip=True, rstrip=True),
                              t.AddedToken("é\u0323", normalized=True),
                              t.AddedToken("<kept>", lstrip=True, normalized=False), t.AddedToken("<|", rstrip=True)])
    more = {"add_bos_token": True, "add_eos_token": False} if name == "deepseek-v3" else {}
    if name in ("gpt2", "smollm"):
        tokenizer.post_processor = t.processors.ByteLevel(trim_offsets=False)
    if name == "llama-3":
        single = t.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
        tokenizer.post_processor = t.processors.Sequence([t.processors.ByteLevel(trim_offsets=False), single])
    return T.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, **more)


FAMILIES = ("gpt2", "llama-3", "qwen-2", "qwen-3.5", "deepseek-v3", "o200k", "smollm", "digits", "neox", "prefix-space",
            "removed", "marks")


def our_tokens(directory, texts, *saved):
    path = directory + ".texts.json"
    with open(path, "w") as f:
        json.dump(texts, f)
    done = subprocess.run([PROBE, "--tokens", directory, path, *saved], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{PROBE} ended with status {done.returncode}")
    return json.loads(done.stdout)


def same_tokens(directory, theirs, texts):
    """Tokens, prompts and the way back; returns the number of tokens."""
    ours, count = our_tokens(directory, texts), 0
    for text, o in zip(texts, ours["texts"], strict=True):
        tokens = theirs(text, add_special_tokens=False)["input_ids"]
        if o["tokens"] != tokens:
            raise AssertionError(f"{text[:200]!r} is {o['tokens'][:60]}, not {tokens[:60]}")
        prompt = theirs(text)["input_ids"]
        if "\0" not in text and prompt and o["prompt"] != prompt:
            raise AssertionError(f"as a prompt {text[:200]!r} is {o['prompt'][:60]}, not {prompt[:60]}")
        for key, skip in (("marked", False), ("spoken", True)):
            spoken = bytes.fromhex(o[key]).decode("utf-8", "replace")
            expected = theirs.decode(tokens, skip_special_tokens=skip)
            if spoken != expected:
                raise AssertionError(f"{tokens[:60]} is {spoken[:200]!r}, not {expected[:200]!r}")
        count += len(tokens)
    return count


def reads_family(name, directory):
    theirs = family(name)
    theirs.save_pretrained(directory)
    theirs = T.PreTrainedTokenizerFast.from_pretrained(directory)
    texts = SENTENCES + stress(1, 600) + stress(2, 3)
    count = same_tokens(directory, theirs, texts)
    end = our_tokens(directory, [])["end"]
    if end != theirs.eos_token_id:
        raise AssertionError(f"the end of a text is {end}, not {theirs.eos_token_id}")
    return f"{count} tokens of {len(texts)} texts"


def every_character(directory):
    """The class of each character, by where a pattern cuts; and NFC of each, alone and behind a letter."""
    t = library()
    every = [chr(c) for c in [*range(0x32000), *range(0xE0000, 0xE0200), *range(0xF0000, 0x110000, 997)]
             if not 0xD800 <= c < 0xE000]
    count = 0
    for name, pattern in (("L", r"\p{L}"), ("N", r"\p{N}"), ("P", r"\p{P}"), ("S", r"\p{S}"), ("M", r"\p{M}"),
                          ("s", r"\s"), ("Lu", r"\p{Lu}"), ("Ll", r"\p{Ll}"), ("Lt", r"\p{Lt}"), ("Lm", r"\p{Lm}")):
        tokenizer = t.Tokenizer(t.models.BPE(vocab={c: i for i, c in enumerate(sorted(
            t.pre_tokenizers.ByteLevel.alphabet()))} | {"aa": 256}, merges=[("a", "a")]))
        tokenizer.pre_tokenizer = t.pre_tokenizers.Sequence([
            t.pre_tokenizers.Split(t.Regex(f"{pattern}a"), "isolated"),
            t.pre_tokenizers.ByteLevel(False, use_regex=False)])
        tokenizer.normalizer, tokenizer.decoder = t.normalizers.NFC(), t.decoders.ByteLevel()
        texts = ["".join(c + "aa" for c in every[i:i + 8192]) for i in range(0, len(every), 8192)]
        theirs = T.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        theirs.save_pretrained(directory + name)
        for text, o in zip(texts, our_tokens(directory + name, texts)["texts"], strict=True):
            expected = theirs(text, add_special_tokens=False)["input_ids"]
            if o["tokens"] != expected:
                at = next(i for i, (a, b) in enumerate(zip(o["tokens"], expected)) if a != b)
                before = theirs.decode(expected[max(0, at - 12):at + 3])
                raise AssertionError(f"{pattern}: other tokens behind {before!r}")
            count += len(expected)
    return f"{count} tokens"


CLASSES = (None, "PreTrainedTokenizerFast", "TokenizersBackend", "GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer",
           "Qwen2TokenizerFast", "Qwen3_5Tokenizer", "GPTNeoXTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast",
           "NoSuchTokenizer")
MODEL_TYPES = (None, "receipts", "llama", "gpt2", "qwen2", "qwen3", "qwen3_next", "qwen3_5", "mistral", "mixtral",
               "olmo2", "olmoe", "deepseek_v3", "smollm3", "gpt_neox", "phi3")


def token(content, **more):
    return dict({"__type": "AddedToken", "content": content, "lstrip": False, "rstrip": False, "normalized": False,
                 "single_word": False, "special": True}, **more)


SETTINGS = (  # of tokenizer_config.json; None: without the key
    {}, {"add_prefix_space": True}, {"add_prefix_space": False}, {"bos_token": None}, {"eos_token": "<|im_end|>"},
    {"pad_token": "<pad>", "unk_token": "<unk>"}, {"pad_token": token("<pad>", lstrip=True), "unk_token": "the"},
    {"additional_special_tokens": ["<a>", "<|im_end|>", "<b>"]}, {"extra_special_tokens": ["<a>", "<b>"]},
    {"extra_special_tokens": {"image_token": "<image>", "b_token": "<b>"}},
    {"image_token": "<image>", "pad_token": "<a>"},
    {"sep_token": "<image>", "video_token": token("<b>", rstrip=True), "mask_token": "<mask>"},
    {"additional_special_tokens": [token("<a>", special=False, normalized=True), "<b>"], "add_prefix_space": True},
    {"extra_special_tokens": [], "additional_special_tokens": ["<a>"]}, {"clean_up_tokenization_spaces": True},
    {"add_bos_token": True, "add_eos_token": True})
BESIDE = ({}, {"special_tokens_map.json": {"pad_token": "<pad>", "additional_special_tokens": ["<a>", "<b>"]}},
          {"special_tokens_map.json": {"image_token": "<image>", "eos_token": dict(
              content="<a>", lstrip=True, rstrip=True, normalized=False, single_word=False)}},
          {"added_tokens.json": {"<a>": 703, "<b>": 704}},
          {"special_tokens_map.json": {"extra_special_tokens": ["<b>"]}})


def decoder_of(directory, change):
    """The list that tokenizer_config.json has in files of transformers 4."""
    with open(directory + "/tokenizer.json") as f:
        listed = {str(a.pop("id")): a for a in json.load(f)["added_tokens"]}
    if change == "fewer":
        listed.pop(max(listed))
    if change == "other":
        listed[min(listed)].update(lstrip=True, rstrip=True, special=False)
    return listed


ARCHITECTURES = (("llama", "LlamaForCausalLM"), ("gpt2", "GPT2LMHeadModel"), ("qwen2", "Qwen2ForCausalLM"),
                 ("qwen3", "Qwen3ForCausalLM"), ("mistral", "MistralForCausalLM"), ("olmoe", "OlmoeForCausalLM"))


def same_in_a_run(directory, theirs, texts, architecture):
    """A run that is trained with a tokenizer has its tokens, for us and for AutoTokenizer, whatever its model is."""
    saved = directory + ".run"
    our_tokens(directory, [], saved, architecture[1])
    with open(saved + "/config.json", "w") as f:
        json.dump({"model_type": architecture[0]}, f)
    again = T.AutoTokenizer.from_pretrained(saved)
    same_tokens(saved, again, texts)
    for text in texts:
        if again(text)["input_ids"] != theirs(text)["input_ids"]:
            raise AssertionError(f"in a run of {architecture[0]}, {text!r} has other tokens than before")


def as_auto(directory, draw):
    """A directory of files drawn at random; whether we read it, and as AutoTokenizer does."""
    family(("gpt2", "llama-3", "qwen-2", "marks", "prefix-space")[draw.integers(5)]).save_pretrained(directory)
    path = directory + "/tokenizer_config.json"
    with open(path) as f:
        config = json.load(f)
    config.pop("backend", None)
    name, model = CLASSES[draw.integers(len(CLASSES))], MODEL_TYPES[draw.integers(len(MODEL_TYPES))]
    config.update(tokenizer_class=name, **SETTINGS[draw.integers(len(SETTINGS))])
    if draw.integers(2):
        config.update(SETTINGS[draw.integers(len(SETTINGS))])
    if draw.integers(3) == 0:
        config["added_tokens_decoder"] = decoder_of(directory, ("same", "fewer", "other")[draw.integers(3)])
    if name is None:
        del config["tokenizer_class"]
    with open(path, "w") as f:
        json.dump(config, f)
    if draw.integers(9) == 0:
        os.remove(path)
    if model:
        with open(directory + "/config.json", "w") as f:
            json.dump({"model_type": model}, f)
    for beside, content in BESIDE[draw.integers(len(BESIDE)) if draw.integers(2) else 0].items():
        with open(os.path.join(directory, beside), "w") as f:
            json.dump(content, f)
    try:
        theirs = T.AutoTokenizer.from_pretrained(directory)
    except Exception:
        return 0
    texts = ["", " a<a> <b>c<pad> d<unk> the<image>.<mask> e <|im_end|> f<|endoftext|> g", *SENTENCES[:24],
             *stress(draw.integers(1 << 30), 6)]
    try:
        same_tokens(directory, theirs, texts)
        same_in_a_run(directory, theirs, texts, ARCHITECTURES[draw.integers(len(ARCHITECTURES))])
        if theirs.eos_token and our_tokens(directory, [])["end"] != theirs.eos_token_id:
            raise AssertionError(f"the end is {our_tokens(directory, [])['end']}, not {theirs.eos_token_id}")
    except AssertionError as error:
        raise AssertionError(f"{type(theirs).__name__}, {model}, {os.listdir(directory)}, {json.dumps(config)}: "
                             f"{error}") from None
    except RuntimeError as error:
        if directory not in str(error) or len([x for x in str(error).splitlines() if not x.startswith("note")]) != 1:
            raise
        return 1
    return 2


def classes_as_auto(directory, rounds=150):
    draw, outcomes = np.random.default_rng(11), [0, 0, 0]
    for i in range(rounds):
        outcomes[as_auto(f"{directory}-{i}", draw)] += 1
    if outcomes[2] < 0.8 * sum(outcomes[1:]):
        raise AssertionError(f"of {rounds} directories {outcomes} were refused by transformers, by us, and read")
    return f"{outcomes[2]} of {rounds} directories, {outcomes[1]} refused, {outcomes[0]} by transformers"


def gapped_vocabulary(directory):
    """New tokens are numbered by the entries of a vocabulary, not its largest number; a taken number is refused."""
    family("gpt2").save_pretrained(directory)
    path, count = directory + "/tokenizer.json", 0
    with open(path) as f:
        whole = f.read()
    for gap in (1, 3, 40):
        changed = json.loads(whole)
        vocab = changed["model"]["vocab"]
        last = sorted(vocab, key=vocab.get)[-40:]
        for word in last[-gap:]:
            vocab[word] += 500
        changed["added_tokens"] = [a for a in changed["added_tokens"] if a["id"] <= len(vocab)]
        with open(path, "w") as f:
            json.dump(changed, f)
        with open(directory + "/tokenizer_config.json", "w") as f:
            json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "pad_token": "<a>",
                       "extra_special_tokens": ["<b>"]}, f)
        texts = [*SENTENCES, "x<a>y <b>z<|endoftext|>"]
        count += same_tokens(directory, T.AutoTokenizer.from_pretrained(directory), texts)
        vocab[last[-1]] = len(vocab) + 1                         # where <a> comes to stand
        with open(path, "w") as f:
            json.dump(changed, f)
        try:
            our_tokens(directory, texts)
        except RuntimeError as error:
            if "comes to the number" not in str(error):
                raise
        else:
            raise AssertionError("two tokens of one number were read")
    return f"{count} tokens"


def lists_of_classes(directory):
    """The lists of data/bytelevel_class.c are those of the installed transformers."""
    auto, names = T.models.auto.tokenization_auto, T.models.auto.tokenization_auto.TOKENIZER_MAPPING_NAMES
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/bytelevel_class.c")) as f:
        source = re.sub(r'"\s*"', "", f.read())
    backend, wrong = {}, auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    for kind, name in names.items():
        backend.setdefault((name or "").removesuffix("Fast"), set()).add(kind)

    def listed(pattern):
        return set(re.search(pattern + r'\s*"([^"]*)"', source)[1].split())

    def same(what, ours, theirs):
        if ours != theirs:
            raise AssertionError(f"{what}: {sorted(ours ^ theirs)}")

    same("as written", listed(r"as_written\[\] ="), backend["TokenizersBackend"])
    ours = re.findall(r'\.name = "(\w+)"', source)
    for name in ours:
        start = r'\.name = "' + name + r'"[^}]*?'
        same(name, listed(start + r"\.types ="), backend[name])
        against = re.search(start + r'\.against = "([^"]*)"', source)
        same(f"{name} always", set(against[1].split()) if against else set(), backend[name] & wrong)
    built = set()
    for name in {n for n in backend if n} | {"CodeGenTokenizer"}:
        found = auto.tokenizer_class_from_name(name)
        plain = found and issubclass(found, auto.TokenizersBackend) and (
            found is auto.TokenizersBackend or "__init__" not in vars(found))
        if found and not plain and name not in ours:
            built.add(name)
    same("not read", listed(r"others\[\] ="), built)
    return f"{len(names)} model types, {len(ours)} and {len(built)} classes"


REFUSED = {  # what is changed in GPT-2's tokenizer.json, and a part of what is said about it
    "byte-fallback": (lambda j: j["model"].update(byte_fallback=True), "SentencePiece"),
    "unigram": (lambda j: j["model"].update(type="Unigram"), "its model is Unigram"),
    "lowercase": (lambda j: j.update(normalizer={"type": "Lowercase"}), "its normalizer is Lowercase"),
    "metaspace": (lambda j: j.update(pre_tokenizer={"type": "Metaspace"}), "Metaspace"),
    "pattern": (lambda j: j.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\w+|(?<=a)b"}, "behavior": "Isolated", "invert": False},
        j["pre_tokenizer"]]}), r"\w+|(?<=a)b"),
    "dropout": (lambda j: j["model"].update(dropout=0.1), "dropout"),
    "single-word": (lambda j: j["added_tokens"][0].update(single_word=True), "single_word"),
    "merge": (lambda j: j["model"]["merges"].append(["q", "q"]), "merge"),
    "number": (lambda j: j["added_tokens"][0].update(id=5), "has the number 5"),
    "decoder": (lambda j: j.update(decoder={"type": "Metaspace"}), "its decoder is Metaspace"),
    "roberta": (lambda j: j.update(post_processor={"type": "RobertaProcessing"}), "RobertaProcessing"),
}


def refusals(directory):
    family("gpt2").save_pretrained(directory)
    path = os.path.join(directory, "tokenizer.json")
    with open(path) as f:
        whole = f.read()
    for name, (change, expected) in REFUSED.items():
        changed = json.loads(whole)
        change(changed)
        with open(path, "w") as f:
            json.dump(changed, f)
        try:
            our_tokens(directory, ["a"])
        except RuntimeError as error:
            lines = str(error).splitlines()
            if expected not in lines[0] or len(lines) != 1 or "tokenizer.json" not in lines[0]:
                raise AssertionError(f"{name}: {error}") from None
        else:
            raise AssertionError(f"{name} was read")
    return f"{len(REFUSED)} refused"


def mixed_text():
    return "\n".join(SENTENCES[:-20] + stress(5, 1800) + SENTENCES[-20:]).replace("\0", "")


def writes_tokenizer(kind):
    def check(directory):
        os.makedirs(directory)
        text = mixed_text()
        with open(directory + "/text", "w", newline="") as f:
            f.write(text)
        done = subprocess.run([PROBE, "--tokenizer", kind, directory], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        theirs = T.PreTrainedTokenizerFast.from_pretrained(directory)
        known = set(text)
        texts = [text] + ["".join(c for c in x if kind != "char" or c in known) for x in SENTENCES + stress(6, 900)]
        texts = [x for x in texts if x]
        count = same_tokens(directory, theirs, texts)
        if our_tokens(directory, [])["kind"] != kind.split(":")[0]:
            raise AssertionError("it is read as another kind")
        if kind == "char":
            try:
                theirs("\u2603")
            except Exception as error:
                if "WordLevel" not in str(error):
                    raise
            else:
                raise AssertionError("a character that is not there has tokens")
        theirs.save_pretrained(directory + ".again")
        if same_tokens(directory + ".again", theirs, texts) != count:
            raise AssertionError("saved again it is another")
        if count < 50000:
            raise AssertionError(f"only {count} tokens")
        return f"{count} tokens of {len(texts)} texts"
    return check


def program(name):
    """./train beside build/probe; build/double/train beside build/double/probe."""
    place = os.path.dirname(PROBE)
    return os.path.join("." if os.path.basename(place) == "build" else place, name)


def run_program(*words):
    done = subprocess.run(words, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode().strip())
    return done.stdout.decode("utf-8", "replace")


def quiet_pipeline(directory):
    return T.pipeline("text-generation", directory, device="cpu", dtype=torch.float32)


def pipeline_speaks(kind, flags):
    """A run of a few steps: AutoTokenizer has our tokens, and pipeline continues a text as ./generate does."""
    def check(directory):
        with open(directory + ".txt", "w") as f:
            f.write(("The cat sat on the mat. It's 1234 o'clock, naïve café 漢字かな 👍🏽.\n" + "  Words  and words\n") * 60)
        run_program(program("train"), "--data", directory + ".txt", "--tokenizer", kind, "--out", directory,
                    "--steps", "30", "--layers", "2", "--heads", "2", "--width", "32", "--context", "48",
                    "--batch", "4",
                    *flags.split())
        tokenizer = T.AutoTokenizer.from_pretrained(directory)
        prompt = "The cat 漢字 o'clock 12"
        same_tokens(directory, tokenizer, [prompt, "naïve  Words\n", "  and 👍🏽"])
        written = quiet_pipeline(directory)(prompt, max_new_tokens=25, do_sample=False)[0]["generated_text"]
        ours = run_program(program("generate"), "--run", directory, "--prompt", prompt, "--tokens", "25",
                           "--temperature", "0")
        if ours != written + "\n":
            raise AssertionError(f"{ours!r}, not {written!r}")
        return f"{written[len(prompt):][:30]!r}"
    return check


def prompted(name):
    """A checkpoint of theirs with its own tokenizer: the same text from the same words, to its end."""
    def check(directory):
        theirs = family(name)
        config = dict(SMALL, vocab_size=len(theirs) + 12, num_key_value_heads=2, max_position_embeddings=256,
                      bos_token_id=theirs.bos_token_id, eos_token_id=theirs.eos_token_id)
        model = random_model(T.LlamaConfig, config)
        model.save_pretrained(directory)
        theirs.save_pretrained(directory)
        speak, ended, prompts = quiet_pipeline(directory), 0, SENTENCES[:9]

        def write(prompt, ends):
            tokens = torch.tensor([speak.tokenizer(prompt)["input_ids"]])
            return model.generate(tokens, max_new_tokens=30, do_sample=False, eos_token_id=ends)[0]

        ends = [theirs.eos_token_id, int(write(prompts[0], theirs.eos_token_id)[-20])]    # so that texts do end
        with open(directory + "/generation_config.json", "w") as f:
            json.dump({"eos_token_id": ends}, f)
        for prompt in prompts:
            out = write(prompt, ends)
            ended += int(out[-1]) in ends
            for show in (0, 1):
                ours = run_program(program("generate"), "--run", directory, "--prompt", prompt, "--tokens", "30",
                                   "--temperature", "0", "--show-special", str(show))
                expected = theirs.decode(out, skip_special_tokens=not show)
                if ours.rstrip("\n\ufffd") != expected.rstrip("\n\ufffd"):    # we leave out half a character
                    raise AssertionError(f"{prompt!r}: {ours!r}, not {expected!r}")
        if not ended:
            raise AssertionError("no text came to its end")
        return f"{len(prompts)} texts of 30 tokens, {ended} of them ended"
    return check


def tokenizer_checks():
    for name in FAMILIES:
        yield f"tokenizers/reads-{name}", lambda d, n=name: reads_family(n, d)
    yield "tokenizers/characters", every_character
    yield "tokenizers/refusals", refusals
    yield "tokenizers/classes", classes_as_auto
    yield "tokenizers/lists-of-classes", lists_of_classes
    yield "tokenizers/gapped-vocabulary", gapped_vocabulary
    for kind in ("byte", "char", "bpe:600"):
        yield f"tokenizers/writes-{kind.split(':')[0]}", writes_tokenizer(kind)
    for kind, flags in (("byte", "--preset llama"), ("char", "--pos learned --norm-kind layer --ffn gelu --bias 1"),
                        ("bpe:300", "--attn gqa --kv-heads 1")):
        yield f"tokenizers/pipeline-{kind.split(':')[0]}", pipeline_speaks(kind, flags)
    for kind in ("char", "bpe:300"):
        yield f"tokenizers/pipeline-qwen2-{kind.split(':')[0]}", pipeline_speaks(kind, "--attn-bias qkv")
    for name in ("gpt2", "llama-3", "qwen-2", "deepseek-v3"):
        yield f"tokenizers/prompted-{name}", prompted(name)


# ---- running ---------------------------------------------------------------------------------------
def all_checks():
    for name in THEIRS:
        yield f"theirs/{name}", lambda d, n=name: theirs_is_read(n, d)
    for name, check in OTHER_WAYS.items():
        yield f"theirs/{name}", check
    for name, options in STRETCHED.items():
        yield f"theirs/rope-{name}", stretched(*options)
    for name in OURS:
        yield f"ours/{name}", lambda d, n=name: ours_is_opened(n, d)
    for name in ("gqa", "gpt2", "qwen3-next-mha-first", "deepseek-v3"):
        yield f"ours/{name}-as-bfloat16", rounded(name)
    yield "ours/bits-as-bfloat16", rounded_bits
    for heads in (4, 6):
        yield f"ours/alibi-{heads}-heads", alibi(heads)
    yield "ours/mixtral-balancing-loss", balancing_loss
    yield "ours/no-such-architecture", ours_alone
    for name in RECURRENT:
        yield f"written-out/{name}", lambda d, n=name: recurrence_is_written_out(n, d)
    for name in ROUTERS:
        yield f"written-out/{name}", lambda d, n=name: router_is_written_out(n, d)
    yield "theirs/mamba2", mamba2
    for name, options in DOCUMENT_MODELS.items():
        yield f"documents/{name}", loss_of_documents(*options)
    yield from tokenizer_checks()


def main():
    """oracle.py PROBE [PART]: those checks alone whose name has this part."""
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {PROBE}")
    passed = failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, check in all_checks():
            if len(sys.argv) > 2 and sys.argv[2] not in name:
                continue
            try:
                print(f"ok     {name:38} {check(os.path.join(scratch, name.replace('/', '-')))}")
                passed += 1
            except Exception as error:
                if not isinstance(error, (AssertionError, RuntimeError)):
                    traceback.print_exc(file=sys.stdout)
                print(f"FAILED {name:38} {error}")
                failed += 1
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
