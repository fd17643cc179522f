"""llama_steps.py: batched decoding in llama.cpp, on request. bench/bench starts it with one argument, the numbers

    THREADS LAYERS WIDTH HEADS KV-HEADS FFN-WIDTH VOCAB TYPE

of a llama with random weights and a tied head, which it writes as a GGUF file with matrices of that type (F32, Q8_0,
Q4_0), and asks by lines on its stdin:

    ROWS PAST STEPS

Each is answered by one line on stdout: the seconds that STEPS steps took in which ROWS texts, each PAST tokens long and
not sharing any, went on by a token; with 0 rows, in which a text of PAST tokens was read; or "error" and why. What is timed is llama_decode() until its logits are there.
llama.cpp gets what is fastest there: of each number of rows the first question tries its caches (one for each text, or
one for all) and its attention (flash or not), and keeps the best.
"""
import contextlib
import importlib.metadata
import os
import sys
import tempfile
import time

import gguf
import numpy as np

AFTER = 64  # tokens behind PAST, after which texts are cut back to it, outside of the time


def write_model(path, kind, layers, width, heads, kv_heads, ffn, vocab):
    random = np.random.default_rng(1)
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(4096)
    w.add_embedding_length(width)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(width // heads)
    w.add_vocab_size(vocab)
    w.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    kind = gguf.GGMLQuantizationType[kind]
    kinds = gguf.TokenType
    words = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + 256 * [kinds.BYTE]
    words += [f"t{i}" for i in range(vocab - len(words))]
    types += [kinds.NORMAL] * (vocab - len(types))
    w.add_tokenizer_model("llama")
    w.add_token_list(words)
    w.add_token_scores([-float(i) for i in range(vocab)])
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)

    def matrix(name, rows, columns):
        numbers = (0.02 * random.standard_normal((rows, columns))).astype(np.float32)
        w.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)

    def norm(name):
        w.add_tensor(name, np.ones(width, np.float32))

    matrix("token_embd.weight", vocab, width)
    norm("output_norm.weight")
    kv = width // heads * kv_heads
    for i in range(layers):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        for name, rows, columns in (("attn_q", width, width), ("attn_k", kv, width), ("attn_v", kv, width),
                                    ("attn_output", width, width), ("ffn_gate", ffn, width), ("ffn_up", ffn, width),
                                    ("ffn_down", width, ffn)):
            matrix(f"blk.{i}.{name}.weight", rows, columns)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Texts:
    """`rows` texts of `past` tokens in a context of their own."""

    def __init__(self, llama, model, threads, rows, past, unified, flash):
        self.llama, self.rows, self.past, self.length = llama, rows, past, past
        p = llama.llama_context_default_params()
        each = (past + AFTER + 255) // 256 * 256
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = each * rows, 512, 512, rows
        p.n_threads = p.n_threads_batch = threads
        p.flash_attn_type = int(flash)
        p.kv_unified, p.offload_kqv, p.op_offload = unified, False, False
        self.context = llama.llama_init_from_model(model, p)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.batch = llama.llama_batch_init(512, 0, 1)
        for row in range(rows):
            self.decode([(row, i, 3 + (7919 * i + row) % 1000, i + 1 == past) for i in range(past)])

    def decode(self, tokens):
        b = self.batch
        b.n_tokens = len(tokens)
        for i, (row, position, token, wanted) in enumerate(tokens):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0], b.logits[i] = token, position, 1, row, wanted
        start = time.perf_counter()
        if self.llama.llama_decode(self.context, b):
            raise RuntimeError("llama_decode failed")
        self.llama.llama_synchronize(self.context)
        self.llama.llama_get_logits_ith(self.context, len(tokens) - 1)
        return time.perf_counter() - start

    def seconds(self, steps):
        taken = 0.0
        for _ in range(steps):
            if self.length == self.past + AFTER:
                memory = self.llama.llama_get_memory(self.context)
                for row in range(self.rows):
                    self.llama.llama_memory_seq_rm(memory, row, self.past, -1)
                self.length = self.past
            taken += self.decode([(row, self.length, 3 + row, True) for row in range(self.rows)])
            self.length += 1
        return taken

    def reading(self, steps):
        taken = 0.0
        for _ in range(steps):
            self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
            taken += self.decode([(0, i, 3 + 7919 * i % 1000, i + 1 == self.past) for i in range(self.past)])
        return taken

    def free(self):
        self.llama.llama_batch_free(self.batch)
        self.llama.llama_free(self.context)


def fastest(llama, model, threads, rows, past):
    best = None
    for unified in (False, True):
        for flash in (False, True):
            texts = Texts(llama, model, threads, max(rows, 1), past, unified, flash)
            work = texts.seconds if rows else texts.reading
            work(1)
            took = min(work(1) for _ in range(10 if rows else 2))
            if best is None or took < best[0]:
                if best:
                    best[1].free()
                best = took, texts, work
            else:
                texts.free()
    return best[2]


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)   # what libraries print must not look like an answer
    os.dup2(2, 1)
    import llama_cpp.llama_cpp as llama
    *numbers, kind = sys.argv[1].split()
    threads, *shape = map(int, numbers)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = folder + "/random.gguf"
        write_model(path, kind, *shape)
        llama.llama_backend_init()
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = 0
        model = llama.llama_model_load_from_file(path.encode(), parameters)
        if not model:
            raise RuntimeError("llama.cpp cannot read the model")
        stack.callback(llama.llama_model_free, model)
        print("llama.cpp of llama-cpp-python", importlib.metadata.version("llama-cpp-python"), file=answers)
        work = {}
        for line in sys.stdin:
            rows, past, steps = map(int, line.split())
            try:
                if rows not in work:
                    work[rows] = fastest(llama, model, threads, rows, past)
                print(work[rows](steps), file=answers)
            except Exception as error:
                print("error", " ".join(str(error).split())[:200], file=answers)


sys.exit(main())
