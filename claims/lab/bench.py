"""bench.py: what bench/bench recorded of one machine, as the facts that pages quote.

    make bench TORCH=1 ARGS="--out claims/results/bench.json"                   measures again; leave it alone meanwhile
    make SIMD=avx2 build/avx2/bench/bench && build/avx2/bench/bench products --out claims/results/bench-avx2.json
    make bench LLAMA=1 ARGS="llama --out claims/results/llama.json"             and "packed", for packed.json

These numbers are of the machine that they name. Shares of its own limits and ratios are what carries over.
"""

LARGE, SHORT = 1024, 256   # rows of a large product; tokens of a short context
MODES = ("ours", "eager", "compiled")


def percent(x):
    return f"{100 * x:.0f}%"


def span(values, text):
    """'0.84 to 1.11', or one number where both ends read alike."""
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def commit_complaints(found):
    commit = found["commit"]
    dirty = commit.endswith("-dirty") or commit in ("", "unknown")
    return [f"it was measured on a commit that others do not have ({commit})"] if dirty else []


class Bench:
    def __init__(self, found):
        self.all, self.sections = found, found["sections"]

    def complaints(self):
        return commit_complaints(self.all)

    def facts(self):
        """{name: text}: everything that a page may quote."""
        fma, read = (max(self.all[when][what] for when in ("limits", "limits_at_the_end"))
                     for what in ("fma_gflops", "read_gbytes_per_second"))
        machine = self.all["machine"]
        found = {"machine": machine["cpu"], "cores": str(machine["cores"]), "simd": machine["simd"],
                 "fma": f"{fma:.0f} GFLOP/s", "read": f"{read:.0f} GB/s",
                 "fma at the end": f"{self.all['limits_at_the_end']['fma_gflops']:.0f} GFLOP/s"}
        for name, of_section in (("steps", self.steps), ("torch", self.torch), ("decode", self.decode),
                                 ("memory", self.memory), ("products", self.products), ("attention", self.attention),
                                 ("serve", self.serve), ("http", self.serve), ("llama", self.llama),
                                 ("packed", self.packed), ("quant", self.quant)):
            if name in self.sections:
                found |= of_section(self.sections[name])
        return found

    def steps(self, rows):
        return {f"{r['setting']}: of baby": f"{r['share_of_baby']:.2f}" for r in rows if "share_of_baby" in r}

    def torch(self, rows):
        """Each setting's three trainers, which took turns, and what would have reached the goal."""
        found, steps = {}, {r["setting"]: r for r in self.sections["steps"]}
        for r in rows:
            step = steps[r["setting"]]
            tokens = step["tokens_per_second"] * step["step"]["seconds"]["median"]
            for mode in MODES:
                speed = tokens / r[mode]["seconds"]["median"]
                found[f"{r['setting']}: {mode}"] = f"{speed:,.0f} tok/s, {percent(r[mode]['share']['median'])}"
            better = max(r[mode]["share"]["median"] for mode in MODES[1:])
            found |= {f"{r['setting']}: times": f"{r['times_better_mode']:.2f}",
                      f"{r['setting']}: goal": percent(r["goal"] * better)}
        return found

    def llama(self, rows):
        """Batched decoding by us and by llama.cpp, in turns: tokens per second and shares of the limit."""
        found = {"llama: version": rows[0]["version"], "llama: goal": f"{rows[0]['goal']:.1f}",
                 "llama: disturbed": f"{rows[0]['disturbed_rounds']} of {self.all['rounds']}",
                 "llama: before": str(rows[0]["past"])}
        for r in rows:
            for side, speed in (("ours", r["tokens_per_second"]), ("llama", r["llama_tokens_per_second"])):
                found[f"{r['rows']} rows: {side}"] = f"{speed:,.0f} tok/s, {percent(r[side]['share']['median'])}"
            found[f"{r['rows']} rows: times"] = f"{r['times_llama']['median']:.2f}"
        return found

    def packed(self, rows):
        """Models in integers, beside our floats and llama.cpp: tokens per second, shares of the read bandwidth."""
        found = {"packed: version": rows[0]["version"]}
        for r in rows:
            name = f"{r['model']} {r['format']} " + ("reads" if r["reads"] else f"{r['rows']} rows")
            for side, before in (("ours", ""), ("floats", "float_"), ("llama", "llama_")):
                share = "" if r["reads"] else ", " + percent(r[side]["share"]["median"])
                found[f"{name}: {side}"] = f"{r[before + 'tokens_per_second']:,.0f} tok/s{share}"
            found |= {f"{name}: bytes": f"{r['bytes'] / 1e6:.1f} MB", f"{name}: goal": f"{r['goal']:.1f}",
                      f"{name}: times": f"{r['times_llama']['median']:.2f}",
                      f"{name}: times floats": f"{r['times_float']['median']:.2f}"}
        return found

    def quant(self, rows):
        """Products of quantised weights alone: shares of the larger of reading and multiplying, times our floats."""
        found = {"quant: path": rows[0]["path"]}
        for r in rows:
            name = f"{r['model']} {r['format']} {r['rows']} rows"
            found |= {f"{name}: share": percent(r["products"]["share"]["median"]),
                      f"{name}: times floats": f"{r['times_float']:.2f}",
                      f"{name}: rate": f"{2e-9 * r['tokens_per_second'] * r['weights']:,.0f} GOP/s"}
        return found

    def decode(self, rows):
        largest = max(rows, key=lambda r: r["parameters"])
        return {"decode: share": percent(largest["decode"]["share"]["median"]),
                "decode: parameters": f"{largest['parameters'] / 1e6:.0f}M",
                "prefill: share": percent(largest["prefill"]["share"]["median"])}

    def memory(self, rows):
        worst = max(abs(r["peak_resident_bytes"] / r["predicted_bytes"] - 1) for r in rows)
        return {"memory: worst": f"{100 * worst:.1f}%"}

    def serve(self, rows):
        """Shares, but for steps per second, steps until a first token, and what HTTP adds to a time of 1."""
        shown = {"event clock": lambda x: f"{x / 1e6:.1f} million", "prefix": lambda x: f"{x:.2f}",
                 **dict.fromkeys(("http", "http, clients here"), lambda x: f"{100 * (x - 1):.1f}%")}
        return {f"serve: {r['what']}": shown.get(r["what"], lambda x: f"{100 * x:.1f}%")(r["measured"]["median"])
                for r in rows}

    def products(self, rows):
        """Of the large products: shares of the peak."""
        share = {True: [], False: []}
        for r in rows:
            if r["M"] >= LARGE:
                share[r["product"] == "weight gradient"].append(r["ours"]["share"]["median"])
        return {"weight gradients": span(share[True], percent), "other products": span(share[False], percent)}

    def attention(self, rows):
        """How many times as fast flash is, in either pass."""
        def times(what, rows):
            values = [r[way][what]["median"] for r in rows for way in ("forward", "backward")]
            return span([v for v in values if v is not None], lambda x: f"{x:.2f}")
        outside, last = [r for r in rows if r["matrix_leaves_cache"]], rows[-1]
        return {"flash: short": times("times_naive", [r for r in rows if r["context"] <= SHORT]),
                "flash: outside": times("times_naive", outside), "flash: over band": times("flash_times_band", rows),
                "flash: outside from": f"{min(r['context'] for r in outside)}" if outside else "-",
                "flash: kept": f"{last['kept_bytes_flash'] / (1 << 20):.0f} MiB",
                "naive: kept": f"{last['kept_bytes_naive'] / (1 << 20):.0f} MiB", "longest": str(last["context"])}
