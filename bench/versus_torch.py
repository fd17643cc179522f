"""versus_torch.py: tokens per second of ./train and of the same training step in eager PyTorch. `make versus`.

The setting is that of --preset shakespeare (4 layers, width 128, 4 heads, context 64, batch 12, vocabulary
65, learned positions, LayerNorm, GELU), on uniform tokens: speed does not depend on what is learned. A step
is the same on both sides: data, forward, backward, clipping, AdamW. PyTorch uses what a user would write
today: scaled_dot_product_attention, AdamW's default implementation, as many threads as there are cores. The
two take turns, so that a noisy machine is noisy for both; what counts is the median of the rounds.
"""
import json
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn
from torch.nn import functional as F

LAYERS, WIDTH, HEADS, CONTEXT, BATCH, VOCAB = 4, 128, 4, 64, 12, 65
STEPS, ROUNDS = 150, 5


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.o = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        q, k, v = (t.view(*x.shape[:2], HEADS, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(WIDTH, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x, y):
        h = self.norm(self.blocks(self.tokens(x) + self.positions(torch.arange(CONTEXT))))
        return F.cross_entropy(self.head(h).flatten(0, 1), y.flatten())


def torch_rate(model, optimizer):
    start = time.perf_counter()
    for _ in range(STEPS):
        rows = torch.randint(VOCAB, (BATCH, CONTEXT + 1))
        loss = model(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return STEPS * BATCH * CONTEXT / (time.perf_counter() - start)


def our_rate(directory):
    flags = f"--data iid --vocab {VOCAB} --context {CONTEXT} --batch {BATCH} --layers {LAYERS} --heads {HEADS} --width {WIDTH} " \
            f"--pos learned --norm-kind layer --ffn gelu --steps {STEPS} --log-every {STEPS} --eval-every {STEPS} " \
            f"--eval-tokens {CONTEXT} --sample-tokens 0 --fresh --out {directory}"
    subprocess.run(["./train", *flags.split()], check=True, stdout=subprocess.DEVNULL)
    with open(directory + "/log.jsonl") as log:
        return [json.loads(line) for line in log][-1]["tokens_per_second"]


def main():
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    torch_rate(model, optimizer)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(ROUNDS):
            theirs.append(torch_rate(model, optimizer))
            ours.append(our_rate(directory + "/run"))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"parameters  {sum(p.numel() for p in model.parameters())}, {torch.get_num_threads()} threads, {ROUNDS} rounds of {STEPS} steps")
    print(f"./train     {a:9.0f} tok/s   (rounds: {', '.join(f'{x:.0f}' for x in ours)})")
    print(f"PyTorch     {b:9.0f} tok/s   (rounds: {', '.join(f'{x:.0f}' for x in theirs)}), {torch.__version__}, eager")
    print(f"ratio       {a / b:9.2f}")


sys.exit(main())
