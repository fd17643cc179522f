"""knobs.py: what the knobs of the trainer cost in lines of C, and what they earn in nats (notebooks/14-trainer.ipynb).

A line belongs to a knob if it would go, or become shorter, were the knob's flag removed and the knob off for good.
Below stand the patterns by which such lines are found, file by file. Comments do not count, nor what a knob shares with
others (the norm that QK-norm calls, the sine that a cosine calls), nor import and export. A pattern that finds nothing
is an error, so the list cannot outlive the code.

    python3 -m lab.knobs        in claims/: every line that is counted, knob by knob

    idea()                      where a knob sits in a training step, and how many lines it takes
    table(receipt) draw(...)    what leaving each out costs: nats, seeds' noise, nats per line; Holm over all knobs
    pooled(receipts)            the same over the seeds of several claims
    by_rate(receipt)            the same at every learning rate, the good ones and the bad
    budget(receipts)            the lines of all knobs, and of those that could go
    shrinkage(claim)            what weight decay can do in so many steps, by arithmetic
"""
import math
import re
import statistics
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt

from .command import UsageError, product
from .figure import STYLE, aside, look
from .report import number, signed
from .stats import LEVEL, decided, holm, one_sided

ROOT = Path(__file__).resolve().parents[2]

# {knob: [(file, pattern)]}; "name()" is a whole function, anything else a pattern of single lines.
LINES = {
    "warm-up": [
        ("config/optim.def", r"warmup"), ("config/optim.c", "config_refuse_jump()"), ("train.c", r"config_refuse_jump"),
        ("kernels/optim.c", r"warmup"), ("kernels/optim.h", r"warmup, steps"), ("model/optimizer.c", r"warmup"),
        ("run/report.c", "print_warmup()"), ("run/report.c", r"    print_warmup")],
    "clipping": [
        ("config/optim.def", r"\(clip"), ("model/optimizer.c", r"c->clip|double norm, size_t step"),
        ("train.c", r"optimizer_step\(.*grad_norm"), ("model/optimizer.h", r"double norm"),
        ("kernels/optim.c", r"optim_clip_scale|gradient_scale|vec scale|c->scale"),
        ("kernels/optim.h", r"optim_clip_scale|gradient_scale, AdamW")],
    "weight decay": [
        ("config/optim.def", r"weight_decay"), ("model/optimizer.c", r"p->decay|weight_decay"),
        ("kernels/optim.c", r"decayed|minus_decay|bool decay|if \(decay\)|weight_decay"),
        ("kernels/optim.h", r"bool decay|weight_decay"), ("model/params.h", r"bool decay"),
        ("model/table.c", r"\.decay")],
    "short memory": [("config/optim.def", r"beta2")],
    "cosine": [
        ("config/optim.def", r"cosine|min_lr"), ("config/values.h", r"SCHEDULE, cosine"),
        ("config/optim.c", r"c->min_lr [=<]"), ("kernels/optim.h", r"LR_COSINE"),
        ("kernels/optim.c", r"LR_COSINE|num_sincos|cosine\)|double progress|progress > 1|size_t left"),
        ("model/optimizer.c", r"LR_COSINE")],
    "tying": [
        ("config/model.def", r"\(tie"), ("model.c", r"c->tie|tied_gradient"), ("model.c", "model_finish_gradients()"),
        ("model.h", r"model_finish_gradients"), ("train.c", r"model_finish_gradients"),
        ("model/layer.h", r"tied_gradient"), ("model/memory.c", r"tied_gradient|->tie\b")],
    "scaled init": [("config/model.def", r"scaled_init"), ("model/table.c", r"scaled_init")],
    "biases": [
        ("config/model.def", r"bias\b"), ("config/values.h", r"_BIAS"), ("config/model.c", "config_qkv_bias()"),
        ("config/model.c", "config_o_bias()"), ("config/model.c", "config_ffn_bias()"),
        ("config/model.c", "config_name_biases()"), ("config/model.h", r"config_\w*bias"), ("run/loaded.c", r"bias"),
        ("model.c", r"bias"), ("attention.c", r"bias"), ("linear.c", r"bias"), ("model/table.c", r"bias"),
        ("model/table.h", r"bias"), ("model/pieces.c", r"bias"), ("model/pieces.h", r"bool bias"),
        ("kernels/matmul.c", r"bias"), ("kernels/matmul.h", r"bias")],
    "QK-norm": [
        ("config/model.def", r"qk_norm"), ("config/values.h", r"QK_NORM_VALUES"),
        ("attention.c", r"qk_norm|q_norm|k_norm|qkv_raw|\braw\b|norm\[i\]"), ("model/layer.h", r"q_norm, k_norm")],
}
# The arm of a claim from which the knob is left out, and that which has all.
ALL = "all nine"
ARMS = {"warm-up": "no warm-up", "clipping": "no clipping", "weight decay": "no weight decay",
        "short memory": "beta2 0.999", "cosine": "constant rate", "tying": "untied head",
        "scaled init": "plain init", "biases": "no biases", "QK-norm": "no QK-norm"}
APART = re.compile(r"dyt|[Rr]outer|ROUTER|moe\b")   # biases of another kind
COMMENT = re.compile(r"^\s*(//.*)?$")


def function_lines(lines, name, path):
    """The numbers of a function's lines: from where it is defined to the brace that closes it."""
    start = next((i for i, line in enumerate(lines) if re.match(rf"\w[\w *]*\b{name}\(", line)
                  and not line.rstrip().endswith(";")), None)
    if start is None:
        raise UsageError(f"{path} has no function {name}, which lab/knobs.py counts")
    if lines[start].rstrip().endswith("}"):
        return {start}
    end = next(i for i in range(start, len(lines)) if lines[i].startswith("}"))
    return set(range(start, end + 1))


def found(knob, root=ROOT):
    """[(file, number of the line, line)] of a knob."""
    at = {}
    for path, pattern in LINES[knob]:
        lines = (root / path).read_text().split("\n")
        if pattern.endswith("()"):
            hits = function_lines(lines, pattern[:-2], path)
        else:
            hits = {i for i, line in enumerate(lines) if re.search(pattern, line)}
        hits = {i for i in hits if not COMMENT.match(lines[i]) and not (knob == "biases" and APART.search(lines[i]))}
        if not hits:
            raise UsageError(f"{path} has no line with '{pattern}', which lab/knobs.py counts for {knob}")
        at |= {(path, i): lines[i] for i in hits}
    return [(path, i + 1, line) for (path, i), line in sorted(at.items())]


def count(knob, root=ROOT):
    return len(found(knob, root))


# ---- what they earn --------------------------------------------------------------------------------
class Earned:
    """A knob of one claim: the nats that its seeds lose without it."""

    def __init__(self, receipt, knob):
        claim, results = receipt.claim, receipt.results
        self.knob, self.lines = knob, count(knob)
        self.every = [results.best(claim.arm(ARMS[knob]), seed, claim.metric)
                      - results.best(claim.arm(ALL), seed, claim.metric) for seed in claim.seeds]
        self.estimate = decided(self.every)
        self.p = min(1.0, 2 * min(one_sided(self.every, 0)))
        self.margin = margin(receipt)

    def verdict(self):
        e = self.estimate
        if e.low > self.margin:
            return "pays"
        if e.high < -self.margin:
            return "costs"
        if e.high < self.margin:
            return "noise" if e.low > -self.margin else "earns less"
        return "unsettled"


def margin(receipt):
    """One standard deviation of a seed, as the claim wrote it down before its runs."""
    return next(c.predict.bound for c in receipt.claim.comparisons
                if c.predict.kind in ("within", "below") and c.predict.bound > 0)


def earned(receipt):
    """Of every knob that the claim leaves out, the dearest first; with Holm's p that it does anything at all."""
    there = {arm.label for arm in receipt.claim.arms}
    every = sorted((Earned(receipt, knob) for knob, arm in ARMS.items() if arm in there),
                   key=lambda one: -one.estimate.mean)
    for one, p in zip(every, holm([one.p for one in every])):
        one.p = p
    return every


def tally(receipt):
    """{verdict: the knobs}"""
    every = {}
    for one in earned(receipt):
        every.setdefault(one.verdict(), []).append(one.knob)
    return every


def lines_of(knobs, path=None):
    """How many lines these knobs take together, in one file or in all: a line that serves two counts once."""
    return len({(where, i) for knob in knobs for where, i, _ in found(knob) if path in (None, where)})


def deletable(receipts):
    """Knobs that earn less than a seed in every claim, as far as it asked: what could go, at these sizes."""
    kinds = [{one.knob: one.verdict() for one in earned(receipt)} for receipt in receipts]
    told = {knob: {kind[knob] for kind in kinds if knob in kind} for knob in LINES}
    return [knob for knob, verdicts in told.items() if verdicts and verdicts <= {"noise", "earns less", "costs"}]


def budget(receipts):
    """The lines of the trainer, of all knobs, and of those that could go."""
    length, gone = len((ROOT / "train.c").read_text().splitlines()), deletable(receipts)
    print(f"train.c has {length} lines; {lines_of(LINES, 'train.c')} of them name a knob")
    print(f"the nine knobs take {lines_of(LINES)} lines of the whole program, biases alone {lines_of(['biases'])}")
    print(f"earn less than a seed's standard deviation: {', '.join(gone) or 'none'}: {lines_of(gone)} lines")


def table(receipt):
    print(f"{'':<13}  lines  of train.c  nats lost without it          Holm p   in thousandths of a nat per line")
    for one in earned(receipt):
        e, mine = one.estimate, sum(path == "train.c" for path, _, _ in found(one.knob))
        per_line = [1000 * x / one.lines for x in (e.mean, e.low, e.high)]
        each = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*per_line).replace("-", "\u2212")
        print(f"{one.knob:<13}  {one.lines:>5}  {mine:>10}  {signed(e.mean)} [{signed(e.low)}, {signed(e.high)}]  "
              f"{one.p:>7.2g}   {each:<26} {one.verdict()}")
    base = [receipt.results.best(receipt.claim.arm(ALL), seed, receipt.claim.metric) for seed in receipt.claim.seeds]
    print(f"a seed's standard deviation: {margin(receipt):g}, as written down; of these {len(base)} seeds "
          f"{statistics.stdev(base):.4f}")
    print("noise: the whole interval within that; pays, costs: beyond it; earns less: below it")


def pooled(receipts):
    """What each knob earns over the seeds of several claims together, where all of them ask for it."""
    every = [{one.knob: one.every for one in earned(receipt)} for receipt in receipts]
    bound = margin(receipts[0])
    for knob in (one for one in every[0] if all(one in each for each in every)):
        sample = sum((each[knob] for each in every), [])
        e = decided(sample)
        print(f"{knob:<13}  {signed(e.mean)} [{signed(e.low)}, {signed(e.high)}]  {len(sample)} seeds, "
              f"{'below' if e.high < bound else 'not below'} {bound:g}")


def by_rate(receipt):
    """The same at every rate, no best one chosen: mean over the seeds, and in how many of them the knob helps."""
    claim, results = receipt.claim, receipt.results
    print(f"{'lost at --lr':<13}" + "".join(f"{rate:>19}" for rate in claim.tuned["lr"]))
    for one in earned(receipt):
        told = []
        for tuned in results.choices:
            lost = [results.value(claim.arm(ARMS[one.knob]), tuned, seed, claim.metric)
                    - results.value(claim.arm(ALL), tuned, seed, claim.metric) for seed in claim.seeds]
            told.append(f"{signed(sum(lost) / len(lost))}, {sum(x > 0 for x in lost):>2} of {len(lost)}")
        print(f"{one.knob:<13}" + "".join(f"{text:>19}" for text in told))


def draw(receipts, names):
    """Knobs sorted by what the first claim loses without them; behind them a seed's noise."""
    order = [one.knob for one in earned(receipts[0])]
    with plt.rc_context(STYLE):
        picture, axes = plt.subplots(1, len(receipts), figsize=(6.2 + 3.0 * (len(receipts) - 1), 3.9), sharey=True,
                                     layout="constrained", squeeze=False)
        for panel, receipt, name in zip(axes[0], receipts, names):
            band, every = margin(receipt), {one.knob: one for one in earned(receipt)}
            panel.axvspan(-band, band, color="#dcdcdc", linewidth=0)
            panel.axvline(0, color="#777777", linewidth=0.8)
            for row, knob in enumerate(order):
                if knob not in every:
                    continue
                one, colour = every[knob], look(1 if every[knob].verdict() in ("pays", "costs") else 0)["color"]
                e = one.estimate
                panel.plot(one.every, [row] * len(one.every), ".", markersize=3, color=colour, alpha=0.4,
                           transform=aside(panel, 0, -6))
                panel.plot([e.low, e.high], [row] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
                panel.plot(e.mean, row, "|", markersize=11, markeredgewidth=2.2, color=colour)
                panel.update_datalim([(x, row) for x in one.every])
            panel.autoscale_view()
            panel.set_title(f"{name}\ngrey: one seed's standard deviation, {band:g} nats", fontsize=9)
            panel.grid(axis="y", visible=False)
        axes[0][0].set_yticks(range(len(order)), [f"{knob}, {count(knob)} line{'s' * (count(knob) > 1)}"
                                                  for knob in order])
        axes[0][0].set_ylim(len(order) - 0.4, -0.6)
        picture.supxlabel("nats per token lost without the knob; dots: seeds; stroke: mean, 95% interval",
                          fontsize=9)
        return picture


def rates_of(flags, peak):
    """The learning rate of every step of a cosine that ends at a tenth (optim_lr in kernels/optim.c)."""
    steps, warmup = int(flags["steps"]), int(flags["warmup"])
    last = max(1, steps - warmup - 1)
    rates = [peak * (i + 1) / warmup for i in range(warmup)]
    return rates + [peak * (0.1 + 0.45 * (1 + math.cos(math.pi * i / last))) for i in range(steps - warmup)]


def shrinkage(claim):
    """exp(-sum of rate x decay): what decay leaves of a matrix that no gradient holds, at each rate of the claim."""
    flags = dict(claim.arm(ALL).flags)
    for (_, rate), in [tuple(choice.items()) for choice in product(claim.tuned)]:
        total = sum(rates_of(flags, float(rate)))
        print(f"--lr {rate:<7} the rates of all steps sum to {number(total)}; decay alone would leave "
              f"{number(math.exp(-float(flags['weight-decay']) * total))} of a matrix")


# ---- the idea ---------------------------------------------------------------------------------------
# A training step, and the knobs that hang on it.
STEPS = [("start", ["scaled init"]), ("forward", ["QK-norm", "biases", "tying"]), ("backward", []),
         ("gradient", ["clipping"]), ("AdamW", ["short memory", "weight decay"]), ("rate", ["warm-up", "cosine"])]


def idea():
    with plt.rc_context(STYLE):
        picture, axes = plt.subplots(figsize=(8.6, 2.3), layout="constrained")
        for i, (name, hung) in enumerate(STEPS):
            axes.add_patch(plt.Rectangle((i, 0), 0.78, 0.6, facecolor="#e4e4e4", edgecolor="black", linewidth=0.8))
            axes.text(i + 0.39, 0.3, name, ha="center", va="center", fontsize=9)
            if i:
                axes.annotate("", (i, 0.3), (i - 0.22, 0.3), arrowprops={"arrowstyle": "-|>", "color": "black"})
            for k, knob in enumerate(hung):
                axes.text(i + 0.39, -0.35 - 0.62 * k, f"{knob}\n{count(knob)} line{'s' * (count(knob) > 1)}",
                          ha="center", va="top", fontsize=8.5,
                          bbox={"facecolor": "#f0c9a0", "edgecolor": "black", "linewidth": 0.6, "pad": 2.2})
            if hung:
                axes.plot([i + 0.39] * 2, [0, -0.3], color="black", linewidth=0.8, zorder=0)
        axes.set_xlim(-0.1, len(STEPS))
        axes.set_ylim(-2.1, 0.75)
        axes.axis("off")
        return picture


if __name__ == "__main__":
    for one in LINES:
        told = found(one)
        files = Counter(path for path, _, _ in told)
        print(f"\n{one}: {len(told)} lines, " + ", ".join(f"{n} in {path}" for path, n in files.items()))
        for where, number, text in told:
            print(f"  {where}:{number}: {text.strip()[:110]}")
