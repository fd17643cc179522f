"""flash.py: what bench/bench recorded of one machine about flash attention: each step from naive to flash, and where
the T x T matrix would cost more than the products.

    bench/bench flash starved context --out claims/results/flash.json   measures again (5 minutes); leave it alone then

A page may quote it before it is measured: then `not measured` stands there, and pictures and tables say what to run.
"""
import matplotlib.pyplot as plt

from .bench import commit_complaints, span
from .figure import STYLE, label_ends, look
from .report import number

COMMAND = "bench/bench flash starved context --out claims/results/flash.json"
WIDTH = 64                                  # of a head: that of the claims
PASSES = ("forward", "backward")
STEPS = {"band_times_naive": "the masked half", "strip_times_band": "no matrix in memory",
         "flash_times_strip": "smaller tiles"}
PLACES = {"all-cores": "all cores", "one-core": "one core", "starved": "one core beside a hog"}
MATRIX_BYTES = 64 << 20                     # of a head of 4096 tokens
ROWS = 24                                   # queries of a strip
LONG = 1024                                 # tokens, from which a page looks at the bytes of a backward


class Unmeasured(dict):
    """The facts of a record that is not there yet."""

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return "not measured"


def two(x):
    return f"{x:.2f}"


class Flash:
    def __init__(self, found):
        self.all, self.sections = found, found["sections"]

    def complaints(self):
        effort = self.all["effort"]
        return commit_complaints(self.all) + ([f"it was measured with --{effort}"] if effort != "full" else [])

    # ---- rows ----
    def row(self, section, **which):
        return next((r for r in self.sections.get(section, []) if all(r[k] == v for k, v in which.items())), None)

    def contexts(self):
        return sorted({r["context"] for r in self.sections.get("flash", [])})

    def widths(self):
        return sorted({r["width"] for r in self.sections.get("starved", [])})

    def speed(self, way, context, width=WIDTH):
        return self.row("flash", **{"pass": way}, context=context, width=width)

    def cost(self, place, width):
        """Nanoseconds per pair of a query and a key, forward: of the matrix, and of all else."""
        r = self.row("starved", place=place, width=width, **{"pass": "forward"})
        return [1e9 * x / pairs_of(r["context"]) for x in
                (r["band"]["seconds"]["median"] - r["strip"]["seconds"]["median"], r["strip"]["seconds"]["median"])]

    def peak(self, place):
        return self.row("crossing", place=place)["fma_gflops"]

    def streams(self, place, most=MATRIX_BYTES):
        """The largest size that is no larger than so many bytes; by default a matrix of 4096 tokens, in memory."""
        rows = [r for r in self.sections["streams"] if r["place"] == place and r["bytes"] <= most]
        return max(rows, key=lambda r: r["bytes"])

    def backward(self, context, width=WIDTH):
        """Nanoseconds per pair that band's backward should take, by the rate of flash's products and the bytes: one
        matrix is written, updated and read, the other, the probabilities, read twice; and every strip of queries
        updates the gradients of all keys and values before it, and reads these. Flash keeps all that in a cache."""
        r = self.speed("backward", context, width)
        ns = {kind: 1e9 * r[kind]["seconds"]["median"] / pairs_of(context) for kind in ("band", "flash")}
        matrix = self.streams("all-cores", 4 * context ** 2)
        keys = self.streams("all-cores", 4 * 4 * context * width)
        parts = {"products": ns["band"] * r["band"]["gflops"] / r["flash"]["gflops"],
                 "matrix": 4 * (1 / matrix["write"] + 1 / matrix["update"] + 3 / matrix["read"]),
                 "keys": 2 * 4 * width / ROWS * (1 / keys["update"] + 1 / keys["read"])}
        parts["sum"] = sum(parts.values())
        without = parts["sum"] - parts["keys"]
        return parts | ns | {"left": r["left"], "left predicted": r["left"] * parts["sum"] / ns["band"],
                             "left by the matrix alone": r["left"] * without / ns["band"]}

    # ---- what pages quote ----
    def facts(self):
        """{name: text}"""
        machine = self.all["machine"]
        found = {"machine": machine["cpu"], "cores": str(machine["cores"]),
                 "fma": f"{self.all['limits']['fma_gflops']:.0f} GFLOP/s",
                 "read": f"{self.all['limits']['read_gbytes_per_second']:.0f} GB/s"}
        if "flash" in self.sections:
            found |= self.of_speeds()
        if "crossing" in self.sections:
            found |= self.of_crossings()
        if "flash" in self.sections and "streams" in self.sections:
            longest = self.contexts()[-1]
            found |= {f"backward {name}: {what}": two(x) + (" ns" if "left" not in what else "")
                      for context in self.contexts() if context >= LONG
                      for name in [str(context)] + ["longest"] * (context == longest)
                      for what, x in self.backward(context).items() if what != "left"}
        for r in self.sections.get("context", []):      # writing: bytes over bandwidth, of plain attention
            if r["attention"] == "mha":
                found[f"decode {r['context']}: share"] = f"{100 * r['decode']['share']['median']:.0f}%"
        return found

    def of_speeds(self):
        longest, found = self.contexts()[-1], {}
        for way in PASSES:
            for context in self.contexts():
                r = self.speed(way, context)
                told = {"times": r["flash_times_naive"]["median"], "saved": r["flops_saved"], "left": r["left"],
                        "over band": r["flash_times_band"]["median"], **{s: r[s]["median"] for s in STEPS}}
                names = [f"{way} {context}"] + ([f"{way} longest"] if context == longest else [])
                found |= {f"{name}: {what}": two(x) for name in names for what, x in told.items()}
            for width in sorted({r["width"] for r in self.sections["left"]}):
                r = self.row("left", width=width, **{"pass": way})
                found[f"{way} width {width}: left"] = span([r["low"], r["high"]], two)
            some = [self.speed(way, context)["left"] for context in self.contexts() if context >= 512]
            found |= {f"{way} from 512: left": span([min(some), max(some)], two)} if some else {}
        ends = [x for way in PASSES for r in [self.row("left", width=WIDTH, **{"pass": way})]
                for x in (r["low"], r["high"])]
        return found | {"longest": str(longest), "left": span(ends, two)}

    def of_crossings(self):
        found = {}
        for place in PLACES:
            r = self.row("crossing", place=place)
            s = self.streams(place)
            costs = [self.cost(place, width)[0] for width in self.widths()]
            found |= {f"{place}: costs": span(costs, two) + " ns",
                      f"{place}: part": "smaller" if r["measured"] < WIDTH else "larger",
                      f"{place}: predicted": f"{r['predicted']:.0f}", f"{place}: measured": f"{r['measured']:.0f}",
                      f"{place}: read": f"{s['read']:.0f} GB/s", f"{place}: update": f"{s['update']:.0f} GB/s",
                      f"{place}: over": two(r["measured"] / r["predicted"])}
        return found

    # ---- pictures ----
    def draw_left(self, every, look):
        """Panels of the passes: the FLOPs saved, and the speed of flash over naive, by context. One scale for all."""
        told = [self.speed(way, context) for way in PASSES for context in self.contexts()]
        top = 1.06 * max(max(r[name]["median"] for name in ("flash_times_naive", "band_times_naive")) for r in told)
        top = max(top, *(1.3 * r["flops_saved"] for r in told))
        for axes, way in zip(every, PASSES):
            rows = [self.speed(way, context) for context in self.contexts()]
            ends = []
            for i, (label, value) in enumerate((("FLOPs saved", lambda r: r["flops_saved"]),
                                                ("flash over naive", lambda r: r["flash_times_naive"]["median"]),
                                                ("band over naive", lambda r: r["band_times_naive"]["median"]))):
                style = look(i)
                axes.plot(self.contexts(), [value(r) for r in rows], **style)
                ends.append((self.contexts()[-1], value(rows[-1]), label, style["color"]))
            saved = [r["flops_saved"] for r in rows]
            axes.fill_between(self.contexts(), [0.8 * x for x in saved], [1.3 * x for x in saved], color="#e9e9e9",
                              linewidth=0, zorder=0)
            axes.set_xscale("log", base=2)
            axes.set_xticks(self.contexts(), [str(c) for c in self.contexts()], rotation=45)
            axes.minorticks_off()
            axes.set_ylim(0, top)
            axes.set_xlabel("context (tokens)")
            axes.set_title(f"{way}: what is left is {self.facts()[f'{way} width {WIDTH}: left']}", fontsize=9)
            yield axes, ends
        every[0].set_ylabel(f"times naive, heads of {WIDTH}")

    def draw(self):
        """Both passes, and what they say together."""
        with plt.rc_context(STYLE):
            figure, every = plt.subplots(1, 2, figsize=(9.4, 3.9), layout="constrained", sharey=True)
            for axes, ends in self.draw_left(every, look):
                label_ends(axes, ends)
            facts = self.facts()
            figure.suptitle(f"Flash is as fast as its FLOPs forward, times {facts[f'forward width {WIDTH}: left']}; "
                            f"backward bytes count too: times {facts[f'backward width {WIDTH}: left']}", fontsize=10,
                            fontweight="bold")
            figure.supxlabel("Grey: the FLOPs saved, times what the claim allows (0.8 to 1.3)", fontsize=8)
            return figure

    def draw_tile(self, axes, look, places=tuple(PLACES)):
        """A tile's roofline: time of the products and of the matrix, per pair, by the width of a head."""
        widths, ends = self.widths(), []
        line = [0, widths[-1] * 1.1]
        peak = self.peak(places[-1])
        style = {**look(0), "marker": ""}
        axes.plot(line, [4 * d / peak for d in line], **style)
        ends.append((line[-1], 4 * line[-1] / peak, "products,\nat the peak", style["color"]))
        for i, place in enumerate(places, 1):
            s, style = self.streams(place), look(i)
            share = self.peak(place) / peak      # of all cores a pair counts for each of them
            predicted = 4 * share * sum(1 / s[kind] for kind in ("read", "write", "update"))
            axes.plot(line, [predicted] * 2, **{**style, "marker": ""})
            axes.plot(widths, [max(share * self.cost(place, d)[0], 1e-3) for d in widths], linestyle="",
                      marker=style["marker"], color=style["color"])
            crossing = self.row("crossing", place=place)["predicted"]
            axes.plot([crossing] * 2, [0, predicted], color=style["color"], linewidth=0.8, linestyle=":")
            ends.append((line[-1], predicted, f"matrix, {PLACES[place]}: {crossing:.0f}", style["color"]))
        axes.set_xticks(widths, [str(d) for d in widths])
        axes.set_xlim(line)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("width of a head (numbers)")
        axes.set_ylabel("core time for a pair (ns)")
        return ends

    # ---- tables ----
    def table(self, width=WIDTH):
        print(f"heads of {width}; speeds as multiples")
        print(f"{'':<9}{'tokens':>7}{'flash/naive':>13}" + "".join(f"{told:>21}" for told in STEPS.values())
              + f"{'FLOPs saved':>13}{'left':>7}")
        for way in PASSES:
            for context in self.contexts():
                r = self.speed(way, context, width)
                print(f"{way:<9}{context:>7}{r['flash_times_naive']['median']:>13.2f}"
                      + "".join(f"{r[step]['median']:>21.2f}" for step in STEPS)
                      + f"{r['flops_saved']:>13.2f}{r['left']:>7.2f}")

    def crossings(self):
        print(f"{'':<24}{'read, write, update of memory (GB/s)':>38}{'crossing predicted':>20}{'measured':>10}")
        for place, told in PLACES.items():
            s, r = self.streams(place), self.row("crossing", place=place)
            rates = ", ".join(number(s[kind]) for kind in ("read", "write", "update"))
            print(f"{told:<24}{rates:>38}{r['predicted']:>20.1f}{r['measured']:>10.1f}")

    def bytes_of_backward(self, width=WIDTH):
        """Where the time of band's backward goes, beside what was measured, and what that would leave of speed."""
        print(f"band backward, heads of {width}, ns for a pair; left: flash over naive, by the FLOPs saved")
        print(f"{'tokens':>7}{'products':>10}{'matrix':>8}{'keys':>7}{'sum':>7}{'measured':>10}{'left':>7}"
              f"{'predicted':>11}{'by the matrix alone':>21}")
        for context in (c for c in self.contexts() if c >= LONG):
            b = self.backward(context, width)
            print(f"{context:>7}{b['products']:>10.2f}{b['matrix']:>8.2f}{b['keys']:>7.2f}{b['sum']:>7.2f}"
                  f"{b['band']:>10.2f}{b['left']:>7.2f}{b['left predicted']:>11.2f}"
                  f"{b['left by the matrix alone']:>21.2f}")

    def levels(self):
        """What a pass over a matrix runs at, by where it lies; all cores."""
        rows = [r for r in self.sections["streams"] if r["place"] == "all-cores"]
        print("bytes a core goes over      GB/s of all cores: read     write    update   crossing (width of a head)")
        for r in rows:
            width = self.peak("all-cores") * sum(1 / r[kind] for kind in ("read", "write", "update"))
            print(f"{r['bytes']:>20,}{r['read']:>31.1f}{r['write']:>10.1f}{r['update']:>10.1f}{width:>11.1f}")


def pairs_of(context, heads=2, rows=ROWS):
    """Pairs of a query and a key that band and flash multiply: strips of 24 queries, to the end of each."""
    return heads * sum(min(rows, context - i) * (i + min(rows, context - i)) for i in range(0, context, rows)) \
        * max(1, 2048 // context)
