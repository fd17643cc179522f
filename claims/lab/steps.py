"""steps.py: what bench/bench recorded of one machine about the steps of a server: their three costs, the same requests
batched in three ways, how many guesses pay, and what two processes do, one of which reads and one writes; and about
steps of training: what experts cost; and what it takes to fetch a text from a disk, or to compute it again.

    bench/bench costs --out claims/results/costs.json           post 8
    bench/bench ridge --out claims/results/ridge.json           post 8, too
    bench/bench batches --out claims/results/batches.json       post 11
    bench/bench guesses --out claims/results/guesses.json       post 12
    bench/bench disagg --out claims/results/disagg.json         post 22
    bench/bench split --out claims/results/split.json           post 22
    bench/bench experts --out claims/results/experts.json       post 2
    bench/bench tier --out claims/results/tier.json             post 9

Each takes some minutes, in which the machine should have nothing else to do. A page may quote them before they are
measured: then `not measured` stands there.
"""
from fractions import Fraction

import numpy

from .bench import commit_complaints

SECTIONS = {"constants", "batches", "guessed", "throughput", "experts", "tiers", "ridge"}     # one is in such a record
NAMED = {"errors": ("model",), "grid": ("rows", "past"), "chunks": ("chunk",), "batches": ("rows", "cv", "what"),
         "apart": ("what",), "throughput": ("clients", "mix"), "bytes": ("mixer", "bits"), "link": ("bits",),
         "best": ("texts",),
         "experts": ("size", "kind", "number"), "idle": ("size",),
         "fetched": ("tier", "tokens"), "tiers": ("tier",), "crossing": ("tier",), "ridge": ("arm",),
         "written": ("texts", "tokens", "right")}       # tells rows apart
SIZES = {"book": "width 16: all in the caches", "wide": "width 256: experts are not"}
WHOLE = {"by_ridge", "moves", "apart", "least", "free", "cells"}
MANY_ROWS = 24                      # of the grid of costs: from here on arithmetic is longer than the weights by half
HEAD_FLOPS = 2 * 512 * 32000        # of a token whose logits are asked for, in the model of bench/costs.c


def text_of(name, x):
    """Shares and errors as they are, with two or three digits."""
    if name in ("worst", "median", "beyond") or name.startswith("kept") or name == "w":
        return f"{100 * x:.0f}%" if name != "w" else f"{x:.2f}"
    return f"{x:.0f}" if x >= 1000 or name in WHOLE and float(x).is_integer() else f"{x:.3g}"


def by_twos(axes, x, y, words):
    """Both axes by powers of two, at these numbers; `words` under the first."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(x, [str(n) for n in x])
    axes.set_yticks([float(Fraction(text)) for text in y], y)
    axes.minorticks_off()
    axes.set_xlabel(words)


class Steps:
    def __init__(self, found):
        self.all, self.sections = found, found["sections"]

    def complaints(self):
        effort = self.all["effort"]
        return commit_complaints(self.all) + ([f"it was measured with --{effort}"] if effort != "full" else [])

    def rows(self, section):
        return self.sections.get(section, [])

    def row(self, section, **which):
        return next(r for r in self.rows(section) if all(r[k] == v for k, v in which.items()))

    def limit(self, what):
        """The better of before and after."""
        return max(self.all[when][what] for when in ("limits", "limits_at_the_end"))

    # ---- what pages quote ----
    def facts(self):
        """{name: text}: each number of each row, as 'grid 8 128: sum_ms' or 'knee: measured'."""
        machine = self.all["machine"]
        found = {"machine": machine["cpu"], "cores": str(machine["cores"]), "commit": self.all["commit"],
                 "fma": f"{self.limit('fma_gflops'):.0f} GFLOP/s",
                 "read": f"{self.limit('read_gbytes_per_second'):.0f} GB/s",
                 "read before": f"{self.all['limits']['read_gbytes_per_second']:.0f} GB/s",
                 "read after": f"{self.all['limits_at_the_end']['read_gbytes_per_second']:.0f} GB/s",
                 "load": f"{machine['load_before']:.1f}"}       # of the minute before
        if "grid" in self.sections:
            found |= self.other_facts()
        for section in self.sections:
            for r in self.rows(section):
                keys = [k for k in NAMED.get(section, ()) if k in r]
                name = " ".join([section, *(f"{r[k]:g}" if not isinstance(r[k], str) else r[k] for k in keys)])
                found |= {f"{name}: {k}": text_of(k, x) for k, x in r.items()
                          if k not in keys and isinstance(x, (int, float))}
                found |= {f"{name}: {k}": text_of(k, x["median"]) for k, x in r.items()
                          if isinstance(x, dict) and "median" in x}
                if "step" in r:
                    found[f"{name}: ms"] = f"{1e3 * r['step']['seconds']['median']:.2f}"
        if self.rows("guessed"):
            tokens, kept = self.constant()
            found |= {"constant: tokens": f"{tokens}", "constant: kept": f"{100 * kept:.0f}%"}
        return found

    # ---- costs: what the same constants say by other formulas ----
    def formulas(self):
        """{name: milliseconds of a step, of its tokens and cached ones}. The record has the first, and a roofline that
        reads keys at the weights' bandwidth; the others change one thing at a time."""
        c = self.rows("constants")[0]
        weights, token, key = c["weights_ms"], c["token_ms"], c["key_us"] / 1e3
        shared = weights * c["key_bytes"] / c["weight_bytes"]
        return {"sum": lambda n, keys: max(weights, n * token) + key * keys,
                "larger": lambda n, keys: max(n * token, weights + key * keys),
                "sum, one bandwidth": lambda n, keys: max(weights, n * token) + shared * keys}

    def larger_ms(self, row):
        return self.formulas()["larger"](row["rows"], row["rows"] * (row["past"] + 1))

    def off(self, name, rows):
        """By which share a formula misses each of these steps of the grid."""
        formula = self.formulas()[name]
        return [abs(formula(r["rows"], r["rows"] * (r["past"] + 1)) / (1e3 * r["step"]["seconds"]["median"]) - 1)
                for r in rows]

    def chunks_off(self, head):
        """Of the steps with 32 tokens of a prompt and more, by which share the formula misses them: least and most.
        head: whether it charges each token for its logits, or only the four that are written and the chunk's last."""
        c = self.rows("constants")[0]
        each = c["token_ms"] * HEAD_FLOPS / (c["gflops"] * c["token_ms"] * 1e6)
        found = []
        for r in (r for r in self.rows("chunks") if r["chunk"] >= 32):
            n, seen = r["chunk"] + 4, 4 * 129
            told = max(c["weights_ms"], n * c["token_ms"] - (0 if head else (n - 5) * each)) + c["key_us"] / 1e3 * seen
            found.append(told / (1e3 * r["step"]["seconds"]["median"]) - 1)
        return f"{100 * min(found):+.0f}%", f"{100 * max(found):+.0f}%"

    def other_facts(self):
        grid, found = self.rows("grid"), {}
        many = [r for r in grid if r["rows"] >= MANY_ROWS]
        few = [r for r in grid if r["rows"] < MANY_ROWS]
        for name in self.formulas():
            off = self.off(name, grid)
            found |= {f"{name}: worst": f"{100 * max(off):.0f}%", f"{name}: median": f"{100 * numpy.median(off):.0f}%",
                      f"{name}, many rows: worst": f"{100 * max(self.off(name, many)):.0f}%",
                      f"{name}, many rows: median": f"{100 * numpy.median(self.off(name, many)):.0f}%",
                      f"{name}, few rows: worst": f"{100 * max(self.off(name, few)):.0f}%"}
        for name, head in (("all logits", True), ("drawn logits", False)) if self.rows("chunks") else ():
            found |= dict(zip((f"chunk, {name}: least", f"chunk, {name}: most"), self.chunks_off(head)))
        return found

    # ---- costs: pictures and tables ----
    def draw_steps(self, axes, look):
        """Milliseconds of a step by its rows, a line for each length of the past: measured, the sum and the larger."""
        grid, ends = self.rows("grid"), []
        for i, past in enumerate(sorted({r["past"] for r in grid})):
            rows = [r for r in grid if r["past"] == past]
            style, n = look(i), [r["rows"] for r in rows]
            measured = [1e3 * r["step"]["seconds"]["median"] for r in rows]
            axes.plot(n, measured, color=style["color"], marker=style["marker"], linestyle="")
            axes.plot(n, [r["sum_ms"] for r in rows], color=style["color"], linewidth=1.3)
            axes.plot(n, [self.larger_ms(r) for r in rows], color=style["color"], linewidth=0.9, linestyle=":")
            ends.append((n[-1], measured[-1], f"{past} tokens before", style["color"]))
        ridge = self.rows("knee")[0]["predicted"]
        axes.axvline(ridge, ymax=0.8, color="#777777", linewidth=0.8, linestyle="--")   # below a line's name
        axes.annotate(f" ridge, {ridge:.0f}", (ridge, 0.02), xycoords=("data", "axes fraction"), fontsize=8)
        by_twos(axes, sorted({r["rows"] for r in grid}), [f"{2 ** i}" for i in range(1, 8)],
                "texts, each a token further")
        axes.set_ylim(0.8 * min(map(self.larger_ms, grid)), 1.2 * max(r["sum_ms"] for r in grid))
        axes.set_ylabel("milliseconds of a step")
        axes.set_title("Beyond the ridge a step is nearer to the sum than to the larger of both\n"
                       "marks: measured; lines: arithmetic + keys; dotted: the larger of both", fontsize=9)
        return ends

    def draw_ridges(self, axes, look):
        """A step's time over that of one row, by its rows; dashed: twice as long, at two ridges."""
        ends = []
        for i, r in enumerate(self.rows("ridge")):
            n, times = [s["rows"] for s in r["steps"]], [s["ms"] / r["one_ms"] for s in r["steps"]]
            axes.plot(n, times, **look(i))
            axes.plot([2 * r["measured"]], [2], marker="o", markersize=11, markerfacecolor="none",
                      color=look(i)["color"])
            ends.append((n[-1], times[-1], {"one-thread": "floats, one thread"}.get(r["arm"], r["arm"]),
                         look(i)["color"]))
        axes.axhline(2, color="#777777", linewidth=0.8, linestyle="--")
        by_twos(axes, n, ["1", "2", "4", "8"], "texts, each a token further")
        axes.set_ylabel("a step, times one of one text")
        axes.set_title("With integers a step turns at fewer texts than with floats\n"
                       "a ring: a step as long as two of one text, so at twice the ridge", fontsize=9)
        return ends

    def ridges(self):
        print(f"{'':<12}{'MB':>7}{'one text':>10}{'a token':>11}{'ridge':>7}{'steps':>7}{'of floats':>11}"
              f"{'by constants':>14}{'by bytes':>10}")
        for r in self.rows("ridge"):
            print(f"{r['arm']:<12}{r['mb']:>7.1f}{r['one_ms']:>7.2f} ms{r['token_ms']:>8.3f} ms{r['predicted']:>7.1f}"
                  f"{r['measured']:>7.1f}{r['moves']:>11.2f}{r['told_moves']:>14.2f}{r['bytes_of_floats']:>10.2f}")

    def constants(self):
        c = self.rows("constants")[0]
        print(f"a pass of the weights   {c['weights_ms']:8.2f} ms   {c['weights_gbytes']:6.1f} GB/s")
        print(f"arithmetic of a token   {c['token_ms']:8.3f} ms   {c['gflops']:6.0f} GFLOP/s")
        print(f"a cached token          {c['key_us']:8.3f} us   {c['keys_gbytes']:6.1f} GB/s")
        print(f"ridge: {c['weights_ms'] / c['token_ms']:.1f} tokens; limits of the machine: "
              f"{self.limit('fma_gflops'):.0f} GFLOP/s, {self.limit('read_gbytes_per_second'):.0f} GB/s")

    def table(self):
        print(f"{'rows':>4}{'before':>8}{'ms':>9}{'sum':>9}{'off':>7}{'larger':>9}{'off':>7}{'roofline':>10}{'off':>7}")
        for r in self.rows("grid"):
            t = 1e3 * r["step"]["seconds"]["median"]
            told = [(r["sum_ms"], 9), (self.larger_ms(r), 9), (r["roofline_ms"], 10)]
            print(f"{r['rows']:>4}{r['past']:>8}{t:>9.2f}"
                  + "".join(f"{x:>{wide}.2f}{100 * (x / t - 1):>+6.0f}%" for x, wide in told))
        words = {"sum": "max(weights, arithmetic) + keys", "larger": "max(arithmetic, weights + keys)",
                 "sum, one bandwidth": "the sum, keys at the weights' bandwidth"}
        for name, what in words.items():
            off = self.off(name, self.rows("grid"))
            print(f"{what:<40} off by {100 * numpy.median(off):.1f}% in the median, {100 * max(off):.0f}% at most")
        r = self.row("errors", model="roofline")
        print(f"{'the roofline: one bandwidth, the larger':<40} off by {100 * r['median']:.1f}% in the median, "
              f"{100 * r['worst']:.0f}% at most")

    def chunks(self):
        print(f"{'tokens of a prompt beside 4 texts':>34}{'ms':>9}{'share of the best rate':>24}{'times the step':>16}")
        for r in self.rows("chunks"):
            print(f"{r['chunk']:>34}{1e3 * r['step']['seconds']['median']:>9.2f}{100 * r['share']:>23.0f}%"
                  f"{r['times']:>16.2f}")

    # ---- batches ----
    def arms(self):
        print(f"{'rows':>4}{'cv':>5}{'times':>7}{'longest/mean':>14}{'padding costs':>15}{'gain':>8}"
              f"{'by full steps':>15}{'by the line':>13}{'w':>7}")
        for r in self.rows("batches"):
            print(f"{r['rows']:>4}{r['cv']:>5g}{r.get('what', 'all'):>7}{r['longest_over_mean']:>14.2f}"
                  f"{r['padded']:>15.2f}{r['gain']:>8.2f}{r['by_steps']:>15.2f}{r['by_line']:>13.2f}{r['w']:>7.2f}")

    def acceptance(self):
        r = self.rows("acceptance")[0]
        print(f"all tokens over all steps   {r['pooled']:.4f}   (each text alone: {r['pooled'] * r['alone']:.4f})")
        print(f"mean of the requests        {r['mean']:.4f}   (each text alone: {r['mean'] * r['alone_mean']:.4f})")
        print(f"their ratio                 {r['mean'] / r['pooled']:.4f}")
        print(f"E[m] E[1/m]                 {r['factor']:.4f}")

    # ---- two processes ----
    def processes(self):
        """What is left of the requests per second, by the watch, by the formula and by the event clock."""
        print(f"{'prompt:answer':<14}{'apart':>8}{'together':>10}{'ratio':>8}{'formula':>9}{'event clock':>13}"
              f"{'its errors: apart, together, ratio':>36}")
        for r in self.rows("throughput"):
            if r is self.rows("throughput")[0] or r.get("clients") not in (None, clients):
                clients = r.get("clients")
                print(f"{clients} clients" if clients else "", end="\n" if clients else "")
            errors = ", ".join(f"{100 * r[k] - 100:+.0f}%" for k in ("said_apart", "said_together", "said_over"))
            print(f"{r['mix']:<14}{r['apart']:>8.1f}{r['together']:>10.1f}{r['ratio']:>8.3f}{r['formula']:>9.3f}"
                  f"{r['said_ratio']:>13.3f}{errors:>36}")

    def crossed(self):
        """Bytes on the pipe, and what a slow one leaves."""
        print("mixer  bits  megabytes   of the formula   answers")
        for r in self.rows("bytes"):
            alike = "alike" if r["alike"] == 1 else "other ones"
            print(f"{r['mixer']:<7}{r['bits']:>4}{r['bytes'] / 1e6:>11.3f}{r['over_formula']:>17.6f}   {alike}")
        for r in self.rows("link"):
            print(f"{r['bits']} bits over {r['link'] / 1e6:.1f} MB/s: {r['of_free']:.3f} of the requests per second "
                  f"without a limit, {r['of_link']:.3f} of what the link carries")
        for r in self.rows("overlap"):
            print(f"second token after {1e3 * r['after']:.1f} ms, layer by layer {1e3 * r['layered']:.1f} ms; reading "
                  f"takes {1e3 * r['read']:.1f} ms: {r['hidden_over']:.3f} of (L - 1) / L of that is hidden")

    # ---- a text from a disk ----
    def draw_tiers(self, axes, look):
        """Computing over fetching by length, a line for each tier; marks: measured; rings: where they cross."""
        told = {"disk": "this disk", "slow": "held back", "slower": "held back more"}
        ends = []
        for i, r in enumerate(self.rows("tiers")):
            rows = [x for x in self.rows("fetched") if x["tier"] == r["tier"]]
            n, style = [x["tokens"] for x in rows], look(i)
            axes.plot(n, [x["told"] for x in rows], color=style["color"], linewidth=1.3)
            axes.plot(n, [x["times"] for x in rows], color=style["color"], marker=style["marker"], linestyle="")
            ends.append((n[-1], rows[-1]["told"], f"{told[r['tier']]}, {r['mb']:.0f} MB/s", style["color"]))
            beside = {"slow": ((-12, 9), "right")}.get(r["tier"], ((0, -19), "center"))
            for x in (x for x in self.rows("crossing") if x["tier"] == r["tier"]):
                axes.plot([x["predicted"]], [1], marker="o", markersize=11, markerfacecolor="none",
                          color=style["color"])
                axes.annotate(f"{x['predicted']:.0f}", (x["predicted"], 1), xytext=beside[0], ha=beside[1], fontsize=8,
                              textcoords="offset points", color=style["color"])
        axes.axhline(1, color="#777777", linewidth=0.8, linestyle="--")
        by_twos(axes, n, ["1/2", "1", "2", "4", "8", "16"], "tokens that come back")
        axes.set_ylabel("computing again, times fetching")
        axes.set_title("A slow disk wins from some length on, a fast one always\n"
                       "marks: measured; lines: the formula; above the dashed line fetching wins", fontsize=9)
        return ends

    def tiers(self):
        c = self.rows("tier_constants")[0]
        print(f"a token {c['token_ms']:.3f} ms, one that sees another {c['pair_us']:.4f} us; {c['bytes']:.0f} bytes a "
              f"token, so that k/b is {c['needed_mb']:.0f} MB/s")
        for r in self.rows("tiers"):
            print(f"{r['tier']:<7}{r['mb']:>6.0f} MB/s: the ratio of the formula is within {100 * r['worst']:.0f}% "
                  f"from 256 tokens on")
        for r in self.rows("crossing"):
            print(f"{r['tier']:<7}fetching wins from {r['measured']:.0f} tokens on, by the formula from "
                  f"{r['predicted']:.0f}")

    # ---- experts ----
    def of_size(self, size, kind):
        return [r for r in self.rows("experts") if (r["size"], r["kind"]) == (size, kind)]

    def draw_experts(self, every, look):
        """A panel for each size: a step's time by parameters, dense layers and experts by hash; dotted: the sum."""
        for axes, (size, words) in zip(every, SIZES.items()):
            first, idle, ends = self.of_size(size, "dense")[0], self.row("idle", size=size), []
            one = first["step"]["seconds"]["median"]
            for i, (kind, told) in enumerate((("dense", "dense, wider"), ("hash", "experts"))):
                rows = [first] * (kind == "hash") + self.of_size(size, kind)
                stored, times = [r["parameters"] for r in rows], [r["step"]["seconds"]["median"] / one for r in rows]
                axes.plot(stored, times, **look(i))
                for r, x, y in list(zip(rows, stored, times))[1:]:
                    axes.annotate(f"{r['number']}", (x, y), xytext=(-5, 6) if kind == "dense" else (5, -11),
                                  textcoords="offset points", ha="right" if kind == "dense" else "left", fontsize=8,
                                  color=look(i)["color"])
                ends.append((stored[-1], times[-1], told, look(i)["color"]))
            line = numpy.geomspace(stored[0], stored[-1], 60)
            axes.plot(line, 1 + 1e-9 * idle["nanoseconds"] * (line - stored[0]) / one, ":", color=look(1)["color"],
                      linewidth=1)
            axes.axhline(2, color="#777777", linewidth=0.8, linestyle="--")
            axes.set_xscale("log")
            axes.set_yscale("log", base=2)
            axes.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
            axes.minorticks_off()
            axes.set_xlabel("parameters of the model")
            axes.set_title(f"{words}; 1 is {1e3 * one:.2f} ms", fontsize=9)
            yield axes, ends
        every[0].set_ylabel("a training step, times the narrow dense one")

    def experts(self):
        print(f"{'size':<6}{'layer':<22}{'parameters':>12}{'ms a step':>11}{'times':>7}{'as a dense one, times':>23}")
        for r in self.rows("experts"):
            what = f"dense, {r['number']} times wide" if r["kind"] == "dense" else f"{r['number']} by {r['kind']}"
            what = what.replace("by learned", "learned")
            print(f"{r['size']:<6}{what:<22}{r['parameters']:>12}{1e3 * r['step']['seconds']['median']:>11.3f}"
                  f"{r['longer']['median']:>7.2f}{r['as_dense']:>23.1f}")
        for r in self.rows("idle"):
            print(f"{r['size']:<6}a parameter more: {r['nanoseconds']:.2f} ns a step; the sum is within "
                  f"{100 * r['worst']:.0f}%; doubled with {r['doubled']:.0f} experts, {r['tokens']:.1f} tokens each")

    # ---- guesses ----
    @staticmethod
    def speeds(row, right):
        """{tokens of a row: its speed} of a number of texts, where a guess is right with this chance."""
        return {s["tokens"]: (1 - right ** s["tokens"]) / (1 - right) / s["ms"] for s in row["steps"]}

    def constant(self):
        """The number of tokens that keeps most of the best speed at worst, if it is the same for all texts and chances,
        as far as so many were tried: the control of rules that know something."""
        cells = [self.speeds(r, c["right"]) for r in self.rows("best") for c in r["chances"]]
        kept = {n: min(known[min(n, max(known))] / max(known.values()) for known in cells) for n in cells[0]}
        best = max(kept, key=kept.get)
        return best, kept[best]

    def draw_guesses(self, every, look, texts=(1, 4, 16)):
        """A panel for each number of texts: speed by the tokens of a row, a line for each chance of a right guess."""
        for axes, count in zip(every, texts):
            row, ends = self.row("best", texts=count), []
            n, ms = ([s[k] for s in row["steps"]] for k in ("tokens", "ms"))
            for i, c in enumerate(row["chances"]):
                style, right = look(i), c["right"]
                speed = [(1 - right ** k) / (1 - right) * ms[0] / t for k, t in zip(n, ms)]
                axes.plot(n, speed, **{**style, "marker": ""})
                axes.plot(c["best"], numpy.interp(c["best"], n, speed), marker=style["marker"], color=style["color"])
                ends.append((n[-1], speed[-1], f"{right:g}", style["color"]))
            axes.axvline(row["ridge_over_texts"], color="#777777", linewidth=0.8, linestyle="--")
            axes.axhline(1, color="#bbbbbb", linewidth=0.8)
            axes.set_ylim(bottom=0)
            axes.set_xlim(0, n[-1] * 1.02)
            axes.set_xlabel("tokens of a row: one, and guesses")
            axes.set_title(f"{count} text{'s' * (count > 1)}", fontsize=9)
            yield axes, ends
        every[0].set_ylabel("times the speed without guesses")

    def best(self):
        """In brackets: the tokens within a twentieth of the best speed."""
        chances = [c["right"] for c in self.rows("best")[0]["chances"]]
        print(f"{'texts':>5}{'ridge/texts':>13}" + "".join(f"{f'right {c:g}':>13}" for c in chances)
              + f"{'kept at ridge/texts':>21}")
        for r in self.rows("best"):
            cells = []
            for c in r["chances"]:
                known = self.speeds(r, c["right"])
                near = [n for n, speed in known.items() if speed > 0.95 * max(known.values())]
                cells.append(f"{c['best']} [{near[0]}, {near[-1]}]" if len(near) > 1 else f"{c['best']}" + " " * 5)
            print(f"{r['texts']:>5}{r['ridge_over_texts']:>13.1f}" + "".join(f"{cell:>13}" for cell in cells)
                  + f"{100 * r['kept']:>20.0f}%")

    def written(self):
        print(f"{'texts':>5}{'tokens of a row':>17}{'right':>7}{'tokens a step':>15}{'times':>8}{'promised':>10}  bits")
        for r in self.rows("written"):
            bits = "the same" if r["same"] == 1 else "others"
            print(f"{r['texts']:>5}{r['tokens']:>17}{r['right']:>7g}{r['tokens_per_step']:>15.2f}{r['gain']:>8.2f}"
                  f"{r['promised']:>10.2f}  {bits}")
