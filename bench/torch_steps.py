"""torch_steps.py: training steps in PyTorch, on request. bench/bench starts it, and asks by lines on its stdin:

    eager|compiled LAYERS WIDTH HEADS CONTEXT BATCH VOCAB STEPS

Each is answered by one line on stdout: the seconds that the steps took, or "error" and why. A setting's first steps,
which may compile, are asked for and thrown away. The model is the one of the settings small, mid and baby (learned
positions, LayerNorm, GELU, no biases, tied head), and a step is the same on both sides: random tokens, forward,
backward, clipping, AdamW. PyTorch gets what is fastest there: scaled_dot_product_attention and the fused AdamW.
"""
import os
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.o = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        parts = self.qkv(self.norm1(x)).split(x.shape[2], 2)
        q, k, v = (t.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for t in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, layers, width, heads, context, vocab):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, vocab, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, x, y):
        h = self.norm(self.blocks(self.tokens(x) + self.positions.weight))
        return F.cross_entropy(self.head(h).flatten(0, 1), y.flatten())


class Trainer:
    def __init__(self, mode, layers, width, heads, context, batch, vocab):
        self.shape, self.vocab = (batch, context + 1), vocab
        self.model = GPT(layers, width, heads, context, vocab)
        self.call = torch.compile(self.model) if mode == "compiled" else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1,
                                           fused=True)

    def seconds(self, steps):
        start = time.perf_counter()
        for _ in range(steps):
            rows = torch.randint(self.vocab, self.shape)
            loss = self.call(rows[:, :-1], rows[:, 1:])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return time.perf_counter() - start


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)   # what libraries print must not look like an answer
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[1]))
    print(torch.__version__, file=answers)
    trainers = {}
    for line in sys.stdin:
        mode, *numbers = line.split()
        *sizes, steps = map(int, numbers)
        key = (mode, *sizes)
        try:
            if key not in trainers:
                trainers[key] = Trainer(*key)
            print(trainers[key].seconds(steps), file=answers)
        except Exception as error:  # whatever a compiler may lack: the other mode goes on
            print("error", " ".join(str(error).split())[:200], file=answers)


sys.exit(main())
