"""speed.py: what bench/bench recorded of one machine: tokens per second of writing, by the length of the text before.

    make bench ARGS="context --out claims/results/decode.json"      measures again; leave it alone meanwhile

Unlike the records of training, these are of the machine that they name, and of no other. What carries over is beside
every figure: the share of that machine's read bandwidth, and so the tokens per second that bytes alone predict.
"""
from .bench import commit_complaints
from .report import number

KINDS = {"mha": "MHA", "gqa": "GQA", "wide": "one wide head", "mla": "MLA"}


class Speeds:
    def __init__(self, found):
        self.all = found
        self.rows = self.all["sections"]["context"]
        self.bandwidth = 1e9 * self.all["limits"]["read_gbytes_per_second"]

    def row(self, kind, context):
        return next(r for r in self.rows if r["attention"] == kind and r["context"] == context)

    def contexts(self):
        return sorted({r["context"] for r in self.rows})

    def predicted(self, row):
        """Tokens per second if reading memory were all that there is to do."""
        return self.bandwidth / row["bytes_per_token"]

    def facts(self):
        """{name: text}: everything that a page may quote."""
        found = {"machine": self.all["machine"]["cpu"], "bandwidth": f"{number(self.bandwidth / 1e9)} GB/s"}
        for r in self.rows:
            name = f"{r['attention']} {r['context']}"
            base = self.row("mha", r["context"])["tokens_per_second"]
            found |= {f"{name}: tok/s": number(r["tokens_per_second"]),
                      f"{name}: bytes": f"{r['bytes_per_token'] / 1e6:.0f} MB",
                      f"{name}: share": f"{100 * r['tokens_per_second'] / self.predicted(r):.0f}%",
                      f"{name}: over mha": f"{r['tokens_per_second'] / base:.2f}x"}
        for kind in KINDS:
            found[f"{kind}: cache"] = f"{self.row(kind, self.contexts()[0])['cache_bytes_per_token'] / 1024:.0f} KiB"
        return found

    def complaints(self):
        return commit_complaints(self.all)

    def draw(self, axes, look):
        """Measured: marks and lines, named at their ends. What bytes over bandwidth predicts: thin."""
        ends = []
        for i, (kind, label) in enumerate(KINDS.items()):
            rows = [self.row(kind, context) for context in self.contexts()]
            cache = rows[0]["cache_bytes_per_token"] // 1024
            style = look(i)
            axes.plot(self.contexts(), [r["tokens_per_second"] for r in rows], **style)
            axes.plot(self.contexts(), [self.predicted(r) for r in rows], color=style["color"], linewidth=0.7, zorder=1,
                      linestyle=style["linestyle"])
            ends.append((self.contexts()[-1], rows[-1]["tokens_per_second"], f"{label}, {cache} KiB", style["color"]))
        axes.set_xscale("log", base=2)
        axes.set_xticks(self.contexts(), [str(c) for c in self.contexts()])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("context (tokens before the one that is written)")
        axes.set_ylabel("decode speed (tokens/s, batch 1)")
        axes.set_title("Equal bytes are not equal speed\n"
                       "thin: what reading the weights and the cache alone would allow", fontsize=9)
        return ends
