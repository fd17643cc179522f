"""claims.py: tests of the lab in claims/: statistics against scipy and by simulation, verdicts on synthetic records,
and sweeps of tiny real runs, interrupted and continued. Run by `make claims`, in the venv of claims/requirements.txt.
"""
import contextlib
import csv
import fcntl
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy
from scipy import stats as scipy_stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "claims"))
os.environ["PYTHONPATH"] = str(ROOT / "claims")  # for the kernels of notebooks
from lab import associations, baseline, check, dial, figure, flash, front, knee, knobs, learned, match  # noqa: E402
from lab import answerer, asker, mxfp4, notebook, report, server, stats, steps, table, tails, trainer  # noqa: E402
from lab import verdict, warm  # noqa: E402
from lab.claim import ad_hoc, claim_of, read_claim  # noqa: E402
from lab.command import UsageError, parse_command, text_of, values_of  # noqa: E402
from lab.records import COLUMNS, read_records, write_records  # noqa: E402
from lab.speed import KINDS as speed_kinds  # noqa: E402
from lab.stats import Prediction  # noqa: E402

TINY = ("./train --data recall --layers 1 --width 32 --heads 2 --context 32 --batch 8 --pairs 4 --keys 8 --warmup 2 "
        "--eval-tokens 256")


def toy(**changes):
    """A claim about arms that differ in --norm; nothing is trained for it."""
    row = {"thesis": "b is above a", "metric": "val_loss", "command": "./train --lr 0.001,0.01,0.1 --seed 1..5",
           "tune_seeds": "11..12", "arms": {"a": "--norm pre", "b": "--norm post"},
           "comparison": [{"a": "b", "b": "a", "predict": "> 0.1"}]}
    return claim_of({**row, **changes}, "toy")


def records_of(claim, value, runs=None):
    """Records where value(run) is the metric; 'diverged' and None are what they say."""
    records = {}
    for run in runs or claim.runs([*claim.tune_seeds, *claim.seeds]):
        x = value(run)
        if x is not None:
            row = {**dict.fromkeys(COLUMNS), "arm": run.arm.label, "flags": run.key, "seconds": 1.0, "commit": "abc",
                   "digest": "0" * 16, "status": "diverged" if x == "diverged" else "finished"}
            records[run.key] = {**row, claim.metric: None if x == "diverged" else x}
    return records


def noise(seed, scale=0.01):
    return float(numpy.random.default_rng(seed).normal(0, scale))


def own_noise(run):
    """Of this run alone: not shared by the arms of a seed."""
    return noise(zlib.crc32(run.key.encode()))


def quiet(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        result = function(*arguments)
    return result, out.getvalue()


class AssociationsTest(unittest.TestCase):
    """What a state holds, by arithmetic: the expectation against keys that are drawn, and against closed forms."""

    def test_the_expectation_is_what_drawn_keys_show(self):
        for rule, how in (("sum", {"decay": 0.9}), ("delta", {}), ("delta", {"strength": 0.4, "decay": 0.9}),
                          ("positive", {})):
            exact = associations.exact(rule, 12, 6, **how)
            drawn = associations.simulate(rule, 12, 6, draws=4000, **how)
            # 64,000 values for each key, of which those of one draw share their keys: about a hundredth, so 5 of them.
            numpy.testing.assert_allclose(drawn[0], exact[0], rtol=0.05, atol=0.01, err_msg=rule)
            numpy.testing.assert_allclose(drawn[1], exact[1], rtol=0.06, atol=0.01, err_msg=rule)

    def test_a_sum_holds_one_more_than_its_width(self):
        for dim in (4, 9, 16):
            self.assertAlmostEqual(associations.capacity("sum", dim), dim + 1, places=6)

    def test_the_delta_rule_is_exact_of_the_last_key(self):
        signal, noise = associations.exact("delta", 20, 8)
        self.assertAlmostEqual(float(signal[-1]), 1, places=12)
        self.assertAlmostEqual(float(noise[-1]), 0, places=12)

    def test_a_reader_misses_nothing_of_two_wide_keys_and_nearly_all_of_many_narrow_ones(self):
        self.assertLess(associations.bits_left("sum", 2, 64, draws=50), 0.001)
        self.assertGreater(associations.bits_left("sum", 128, 2, draws=50), 0.9)
        few, many = (associations.bits_left("delta", n, 4, draws=50) for n in (4, 8))
        self.assertLess(few, many)

    def test_twice_the_width_holds_twice_the_pairs_to_a_reader(self):
        narrow, wide = (associations.capacity_in_bits("sum", d) for d in (4, 8))
        self.assertAlmostEqual(wide / narrow, 2, delta=0.2)

    def test_from_a_bag_fewer_pairs_are_held_and_none_by_keys_that_say_less_than_it(self):
        for dim in (4, 8):
            self.assertLess(associations.capacity_above_a_bag("sum", dim), associations.capacity_in_bits("sum", dim))
        at = associations.capacity_above_a_bag("sum", 4)
        below, above = (associations.bits_left("sum", n, 4) * math.log(16) / baseline.recall(n, 16, True)[0]
                        for n in (math.floor(at / 2), math.ceil(2 * at)))
        self.assertLess(below, 0.5)
        self.assertGreater(above, 0.5)
        self.assertEqual(associations.capacity_above_a_bag("positive", 4), 0)

    def test_positive_keys_hold_a_number_that_no_width_moves(self):
        limit = associations.limit_of_positive()
        self.assertLess(associations.capacity("positive", 8), limit)
        self.assertAlmostEqual(associations.capacity("positive", 512), limit, delta=0.05)
        self.assertAlmostEqual(associations.limit_of_positive(1e6), 1 + math.pi ** 2, places=4)


    def test_picture_of_capacities(self):
        """A ring where a mean falls through the half, and none where it does not."""
        claim = toy(command="./train --pairs 4,8,16 --state-dim 4,8 --lr 0.01 --seed 1..3", tune_seeds="99", worst=0,
                    metric="bits_above_elimination", better="higher", outcome="capacity", along="pairs",
                    threshold="> 0.5", arms={"sum": "--attn linear", "delta": "--attn delta"},
                    comparison=[{"a": "delta state-dim=4", "b": "sum state-dim=4", "predict": "> 0"}])

        def value(run):
            flags = dict(run.arm.flags)
            half = {"4": 8, "8": 32}[flags["state-dim"]] if run.arm.name == "sum" else 64
            return 0.5 + 0.2 * math.log2(half / int(flags["pairs"])) + own_noise(run)
        results = verdict.Results(claim, records_of(claim, value))
        told = associations.draw_capacity(SimpleNamespace(claim=claim, results=results), "title")
        rings = [[line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 9] for axes in told.axes]
        associations.plt.close(told)
        self.assertEqual((len(rings[0]), rings[1]), (1, []))
        self.assertAlmostEqual(rings[0][0], 8, delta=0.6)


class Commands(unittest.TestCase):
    def test_lists_and_ranges(self):
        self.assertEqual(values_of("1..3,7"), ["1", "2", "3", "7"])
        self.assertEqual(values_of("gqa+mla"), ["gqa+mla"])
        flags = parse_command("./train --norm pre,post --kv_heads=2 --tie --lr 1e-3")
        self.assertEqual(flags, {"norm": ["pre", "post"], "kv-heads": ["2"], "tie": ["1"], "lr": ["1e-3"]})
        for bad in ("./train pre", "train2 --lr 1", "./train --seed 5..1", "./train --lr 1,,2", "./train --lr 1,1"):
            with self.assertRaises(UsageError, msg=bad):
                parse_command(bad)

    def test_arms(self):
        claim = toy(command="./train --layers 2,4 --lr 0.001 --seed 1..2", arms={"dense": "--experts 0",
                    "sparse": "--experts 4 --top-k 2", "deep": "--layers 8"}, tune_seeds="9",
                    comparison=[{"a": "sparse", "b": "dense", "predict": "< 0"}])
        self.assertEqual([arm.label for arm in claim.arms],
                         ["dense layers=2", "dense layers=4", "sparse layers=2", "sparse layers=4", "deep"])
        self.assertNotIn("top-k", dict(claim.arms[0].flags))
        self.assertEqual([c.name for c in claim.comparisons],
                         ["sparse layers=2 vs dense layers=2", "sparse layers=4 vs dense layers=4"])
        self.assertEqual(len({run.key for run in claim.runs(claim.seeds)}), 5 * 2)

    def test_tied_lists(self):
        """Lists that go together are not crossed, and the first alone names the arm and is measured along."""
        def claim(**changes):
            return toy(**{"command": "./train --pairs 4,8,16 --context 15,31,63 --state-dim 2,4 --lr 0.01 --seed 1..8",
                          "tune_seeds": "99", "metric": "accuracy", "better": "higher", "outcome": "capacity",
                          "along": "pairs", "threshold": "> 0.5", "worst": 0, "tied": ["pairs", "context"],
                          "comparison": [{"a": "b state-dim=4", "b": "a state-dim=4", "predict": "> 0"}], **changes})
        found = claim()
        self.assertEqual(len(found.arms), 2 * 3 * 2)
        self.assertEqual({(dict(arm.flags)["pairs"], dict(arm.flags)["context"]) for arm in found.arms},
                         {("4", "15"), ("8", "31"), ("16", "63")})
        self.assertEqual(found.arms[0].label, "a pairs=4 state-dim=2")
        self.assertEqual(list(found.groups())[0], "a state-dim=2")
        for bad in ({"tied": ["pairs", "state-dim"]}, {"tied": ["pairs", "seed"]}, {"tied": [1]},
                    {"arms": {"a": "--norm pre", "b": "--norm post --context 15"}}):
            self.assertRaises(UsageError, claim, **bad)

    def test_too_many_runs(self):
        """Counted, not made: this would be 10^24 arms."""
        many = " ".join(f"--{name} 1..1000" for name in ("a", "b", "c", "d", "e", "f", "g", "h"))
        for words in (f"./train {many}", "./train --a 1..100 --lr 1..100 --seed 1..2"):
            with self.assertRaisesRegex(UsageError, "make [0-9]+ runs, and a sweep has at most 10000"):
                ad_hoc(words.split())

    def test_flags_of_the_sweep(self):
        for words in ("--out a,b", "--threads 1,2", "--out a"):
            with self.assertRaisesRegex(UsageError, "is not for a sweep"):
                ad_hoc(["./train", *words.split()])

    def test_a_flag_with_spaces(self):
        """A shell has taken the quotes away; the command of the sweep has them again."""
        words = ["./generate", "--model=--data recall --steps 500", "--questions", "4", "--kv-bits", "8,2"]
        self.assertEqual(parse_command(ad_hoc(words, "answered", "higher").command), parse_command(words))

    def test_bad_claims(self):
        for changes in ({"tune_seeds": "5..6"}, {"metric": "beauty"}, {"surprise": 1},
                        {"comparison": [{"a": "b", "b": "c", "predict": "> 0"}]},
                        {"comparison": [{"a": "b", "b": "a", "predict": "bigger"}]},
                        {"arms": {"a": "--norm pre,post"}}, {"arms": {"a": "--norm pre", "b": "--norm post --lr 1"}},
                        {"arms": {"a": "--norm pre", "b": "--norm post --seed 7"}}, {"arms": {"a": 3}}, {"arms": "a"},
                        {"arms": {"a": "--norm pre", "b": "--norm=pre"}}, {"arms": {"a": '--out "x', "b": ""}},
                        {"tune": "lr"}, {"match": "beauty"}, {"match_to": "z"}, {"worst": "bad"}, {"thesis": 5},
                        {"figure": {"colour": 3}}, {"figure": 3}, {"tune_seeds": 5}, {"tune_seeds": "a..b"},
                        {"comparison": []}, {"comparison": [3]}, {"usable": "within 2"},
                        {"comparison": [{"a": "b", "b": "b", "predict": "> 0"}]},
                        {"comparison": [{"a": "b", "b": "a", "predict": "within -0.02"}]},
                        {"comparison": [{"a": "b", "b": "a", "predict": "> 1.2.3"}]},
                        {"command": "./train --lr 1e-3,0.001 --seed 1..3"}, {"command": 5},
                        {"command": "./train --seed 1..100000000000"}, {"command": "./train --lr '1"},
                        {"usable": "< 2", "command": "./train --lr 1e-6,1e-2,2e-2 --seed 1..3"}):
            with self.assertRaises(UsageError, msg=changes):
                toy(**changes)


class Statistics(unittest.TestCase):
    def test_interval_against_scipy(self):
        for n in (2, 3, 5, 12):
            x = numpy.random.default_rng(n).normal(1, 2, n)
            e = stats.estimate(x)
            low, high = scipy_stats.t.interval(0.95, n - 1, loc=x.mean(), scale=scipy_stats.sem(x))
            self.assertAlmostEqual(e.low, low, 12)
            self.assertAlmostEqual(e.high, high, 12)

    def test_p_values_against_scipy(self):
        x = numpy.random.default_rng(1).normal(0.3, 1, 9)
        for bound in (-0.5, 0.0, 0.4):
            for alternative, p in (("less", stats.p_below(x, bound)), ("greater", stats.p_above(x, bound))):
                self.assertAlmostEqual(p, scipy_stats.ttest_1samp(x, bound, alternative=alternative).pvalue, 12)

    def test_coverage(self):
        """4000 samples: the share of intervals that hold the truth is 0.95 to within 4 standard errors, 0.014."""
        rng = numpy.random.default_rng(7)
        hits = sum(e.low < 3 < e.high for e in (stats.estimate(rng.normal(3, 1, 5)) for _ in range(4000)))
        self.assertAlmostEqual(hits / 4000, 0.95, delta=0.014)

    def test_holm(self):
        # Worked by hand from Holm's definition: 4 x 0.01, 3 x 0.02, then max(0.06, 2 x 0.03), max(0.06, 0.04).
        numpy.testing.assert_allclose(stats.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
        self.assertEqual(stats.holm([]), [])
        self.assertEqual(stats.holm([0.9, 0.8]), [1.0, 1.0])

    def test_holm_keeps_the_level(self):
        """Four comparisons of nothing: a false discovery in at most 5% of 2000 claims, to within 4 standard errors."""
        rng, false = numpy.random.default_rng(3), 0
        for _ in range(2000):
            p = [min(stats.p_values(rng.normal(0, 1, 5), Prediction("above", 0.0))) for _ in range(4)]
            false += min(stats.holm(p)) < 0.05
        self.assertLess(false / 2000, 0.05 + 4 * (0.05 * 0.95 / 2000) ** 0.5)

    def test_power(self):
        """The smallest detectable difference is found in 80% of 3000 simulated claims, to within 4 standard errors."""
        rng, level = numpy.random.default_rng(5), 0.05 / 3
        d = stats.detectable(2.0, 6, comparisons=3)
        found = sum(scipy_stats.ttest_1samp(rng.normal(d, 2, 6), 0).pvalue < level for _ in range(3000))
        self.assertAlmostEqual(found / 3000, 0.8, delta=4 * (0.8 * 0.2 / 3000) ** 0.5)
        for n in (2, 3, 30):
            self.assertTrue(0 < stats.detectable(1.0, n, 8) < 1e3, n)

    def test_equal_differences(self):
        """No spread is not certainty: five equal differences prove what five equal signs prove."""
        self.assertEqual(min(stats.p_values([1.0] * 5, Prediction("above", 0.0))), 2 * 0.5 ** 5)
        self.assertLess(min(stats.p_values([1.0] * 8, Prediction("above", 0.0))), 0.01)

    def test_within(self):
        near, far = [0.01, -0.01, 0.02, 0.0, -0.02], [1.0, 1.1, 0.9, 1.05, 0.95]
        region = Prediction("within", 0.2)
        self.assertLess(stats.p_values(near, region)[0], 0.05)
        self.assertGreater(stats.p_values(near, region)[1], 0.5)
        self.assertLess(stats.p_values(far, region)[1], 0.05)


class SignFlips(unittest.TestCase):
    """The test of six pairs or more."""

    def test_against_scipy(self):
        for n in (6, 9):
            x = numpy.random.default_rng(n).normal(0.4, 1, n)
            for bound in (-0.3, 0.0, 0.5):
                found = scipy_stats.permutation_test((x - bound,), numpy.mean, permutation_type="samples",
                                                     alternative="greater", n_resamples=numpy.inf)
                self.assertAlmostEqual(stats.p_flip_above(x, bound), found.pvalue, 12)

    def test_interval_is_the_test(self):
        """A bound lies outside of the interval where the two-sided p-value is below 5%; the ends are of the data."""
        rng = numpy.random.default_rng(4)
        for n in (6, 7, 10, 20):
            x = list(rng.normal(0.5, 1, n))
            e = stats.decided(x)
            self.assertTrue(min(x) <= e.low <= e.mean <= e.high <= max(x))
            for bound in rng.uniform(e.low - 1, e.high + 1, 40):
                p = min(1, 2 * min(stats.one_sided(x, bound)))
                self.assertEqual(p < stats.LEVEL, not e.low <= bound <= e.high, (n, bound))

    def test_coverage(self):
        """2000 samples of a distribution with heavy tails: at least 95% of the intervals hold the truth, to within 4
        standard errors; and no more than 98% do."""
        rng = numpy.random.default_rng(8)
        samples = [rng.standard_t(2, 8) for _ in range(2000)]
        hits = sum(e.low <= 0 <= e.high for e in map(stats.decided, samples)) / 2000
        self.assertTrue(0.95 - 4 * (0.05 * 0.95 / 2000) ** 0.5 < hits < 0.98, hits)

    def test_monotone(self):
        """Six differences of .301 hold, and with one of them larger they hold no less (Student's t says less); nor does
        any other sample hold less or fail more when one of its values grows."""
        region, six = Prediction("above", 0.25), [0.301] * 6
        self.assertLess(stats.p_values(six, region)[0], stats.LEVEL)
        for larger in (0.302, 0.4, 0.602, 1.0, 50.0, 1e6):
            one = [*six[:5], larger]
            self.assertLess(stats.p_values(one, region)[0], stats.LEVEL, larger)
            self.assertGreater(stats.decided(one).low, region.bound)
        self.assertGreater(2 * stats.p_above([*six[:5], 0.602], 0.25), stats.LEVEL)
        rng = numpy.random.default_rng(2)
        for _ in range(300):
            x = list(rng.normal(0, 1, int(rng.integers(6, 18))))
            y = list(x)
            y[0] += float(rng.exponential(2))
            (holds, fails), (more, fewer) = (stats.p_values(z, Prediction("above", 0.1)) for z in (x, y))
            self.assertTrue(more <= holds and fewer >= fails)

    def test_monotone_verdict(self):
        """Of a whole claim: from six differences of .301 on, a larger one leaves it at HOLDS; from differences that
        fail, the verdict only rises."""
        claim = toy(command="./train --lr 0.01 --seed 1..6", tune_seeds="11", comparison=[
            {"a": "b", "b": "a", "predict": "> 0.25"}, {"a": "b", "b": "a", "predict": "> 0.2"}])
        rank = {"FAILS": 0, "INCONCLUSIVE": 1, "HOLDS": 2}

        def verdict_at(differences):
            value = {**{("b", s): d for s, d in zip(claim.seeds, differences)}}
            records = records_of(claim, lambda run: 1 + value.get((run.arm.name, run.seed), 0))
            return verdict.evaluate(claim, records).verdict
        for larger in (0.301, 0.35, 0.602, 10.0):
            self.assertEqual(verdict_at([0.301] * 5 + [larger]), "HOLDS", larger)
        differences, last = [-0.4, -0.3, -0.2, -0.3, -0.4, -0.3], 0
        for i in range(6):
            for value in (0.1, 0.301, 0.9):
                differences[i] = value
                now = rank[verdict_at(differences)]
                self.assertGreaterEqual(now, last, differences)
                last = now
        self.assertEqual(last, 2)


class Shares(unittest.TestCase):
    """Outcomes of two kinds."""

    def test_clopper_pearson_against_scipy(self):
        for count, n in ((0, 8), (3, 8), (8, 8), (25, 40), (37, 40)):
            found = scipy_stats.binomtest(count, n).proportion_ci(method="exact")
            self.assertAlmostEqual(stats.clopper_pearson(count, n)[0], found.low, 10)
            self.assertAlmostEqual(stats.clopper_pearson(count, n)[1], found.high, 10)

    def test_mcnemar_against_scipy(self):
        """13 seeds that only the one arm solves and one that only the other does, of 40."""
        pairs = [1.0] * 13 + [-1.0] + [0.0] * 26
        holds, fails = stats.p_shares(pairs, Prediction("above", 0.0), paired=True)
        self.assertAlmostEqual(holds, 2 * scipy_stats.binomtest(13, 14, alternative="greater").pvalue, 12)
        self.assertEqual(fails, 1.0)

    def test_one_share_against_scipy(self):
        for bound in (0.5, 0.9):
            holds, _ = stats.p_shares([1.0] * 37 + [0.0] * 3, Prediction("above", bound), paired=False)
            self.assertAlmostEqual(holds, min(1, 2 * scipy_stats.binomtest(37, 40, bound, "greater").pvalue), 12)

    def test_difference_of_shares(self):
        """The interval and the p-value at a bound agree; over all outcomes of 12 pairs it holds the truth in 95%."""
        pairs = [1.0] * 20 + [-1.0] * 2 + [0.0] * 18
        e = stats.share_difference(pairs)
        for bound, outside in ((e.low - 0.01, True), (e.low + 0.01, False)):
            p = 2 * stats.p_share_differs(pairs, bound)[0]
            self.assertEqual(p < stats.LEVEL, outside, (bound, p))
        up, down, held = 0.5, 0.1, 0.0
        for more in range(13):
            for fewer in range(13 - more):
                chance = scipy_stats.multinomial.pmf([more, fewer, 12 - more - fewer], 12, [up, down, 1 - up - down])
                e = stats.share_difference([1.0] * more + [-1.0] * fewer + [0.0] * (12 - more - fewer))
                held += chance * (e.low <= up - down <= e.high)
        self.assertGreater(held, 0.95)

    def test_power_of_mcnemar(self):
        """Against 4000 simulated designs of 40 seeds, to within 4 standard errors."""
        rng, found = numpy.random.default_rng(6), 0
        for _ in range(4000):
            more, fewer, _ = rng.multinomial(40, [0.3, 0.05, 0.65])
            found += 2 * stats.binomial_tail(more, more + fewer, 0.5) <= stats.LEVEL
        self.assertAlmostEqual(stats.share_power(0.3, 0.05, 40), found / 4000, delta=4 * (0.25 / 4000) ** 0.5)

    def test_seeds_needed(self):
        """The smallest number with 80%: one fewer has less."""
        for chance in (lambda n: stats.share_power(0.3, 0.05, n), lambda n: stats.power(0.5, 1.0, max(2, n), 0.05)):
            n = stats.seeds_needed(chance)
            self.assertTrue(chance(n) >= stats.CHANCE > chance(n - 1), n)
        self.assertIsNone(stats.seeds_needed(lambda n: 0.1))


class Crossings(unittest.TestCase):
    def test_crossing(self):
        self.assertAlmostEqual(stats.crossing([2, 3, 4], [1.0, 0.8, 0.2], 0.5), 3.5)
        self.assertEqual(stats.crossing([2, 3], [0.4, 0.2], 0.5), 2)
        self.assertEqual(stats.crossing([2, 3], [0.9, 0.6], 0.5), 3)

    def test_width(self):
        """Half of the first piece, the whole of the second, nothing of one that ends at infinity."""
        self.assertAlmostEqual(stats.width_below([0, 1, 2, 3], [3, 1, 1, float("inf")], 2), 1.5)
        self.assertEqual(stats.width_below([0, 1], [3, 3], 2), 0)

    def test_bootstrap(self):
        """Of a mean, the interval is that of the normal distribution, nearly."""
        x = numpy.random.default_rng(1).normal(0, 1, 60)
        value, samples = stats.bootstrap(lambda at: float(numpy.mean(x[at])), 60)
        e = stats.bootstrap_estimate(value, samples, 60)
        reach = 1.96 * x.std() / 60 ** 0.5
        self.assertAlmostEqual(e.low, value - reach, delta=0.15 * reach)
        self.assertAlmostEqual(e.high, value + reach, delta=0.15 * reach)
        self.assertLess(stats.p_bootstrap(samples, Prediction("above", value - 2 * reach), 60)[0], 0.05)


class Verdicts(unittest.TestCase):
    def outcome(self, claim, value, runs=None):
        return verdict.evaluate(claim, records_of(claim, value, runs))

    def test_three_verdicts(self):
        claim = toy()
        for step, expected in ((0.5, "HOLDS"), (0.0, "FAILS"), (0.1, "INCONCLUSIVE")):
            outcome = self.outcome(claim, lambda run: 1 + step * (run.arm.name == "b") +
                                   own_noise(run))
            self.assertEqual(outcome.verdict, expected, step)

    def test_equivalence(self):
        """An interval inside the margin makes a claim of sameness hold; one that is merely not significant does not."""
        claim = toy(command="./train --lr 0.01 --seed 1..8", tune_seeds="11",
                    comparison=[{"a": "b", "b": "a", "predict": "within 0.05"}])
        for scale, step, expected in ((0.01, 0, "EQUIVALENT"), (0.5, 0, "INCONCLUSIVE"), (0.01, 0.3, "FAILS")):
            outcome = self.outcome(claim, lambda run: 1 + step * (run.arm.name == "b") + scale * 100 * own_noise(run))
            self.assertEqual(outcome.findings[0].verdict, expected)
            self.assertEqual(outcome.verdict, {"EQUIVALENT": "HOLDS"}.get(expected, expected))

    def test_ratio(self):
        """a / b of each seed, where differences would tell nothing of rates that differ by a factor."""
        row = {"a": "b", "b": "a", "predict": "> 1.5", "ratio": True}
        claim = toy(command="./train --lr 0.01 --seed 1..8", tune_seeds="11", comparison=[row])
        for factor, expected in ((2, "HOLDS"), (1.2, "FAILS")):
            outcome = self.outcome(claim, lambda run: (factor if run.arm.name == "b" else 1) * (1 + run.seed))
            self.assertEqual(outcome.verdict, expected)
            self.assertAlmostEqual(outcome.findings[0].estimate.mean, factor)
        self.assertEqual(claim.comparisons[0].name, "b / a")
        for wrong in ({"predict": "within 0.1"}, {"b": ""}):
            with self.assertRaises(UsageError):
                toy(comparison=[{**row, **wrong}])

    def several(self, steps, seeds="1..6", **changes):
        """Arms b1, b2, ... that lie so much above a on every seed, each predicted to lie 0.1 above it."""
        arms = {"a": "--norm pre", **{f"b{i}": f"--norm post --warmup {i}" for i in range(1, len(steps) + 1)}}
        claim = toy(command=f"./train --lr 0.01 --seed {seeds}", tune_seeds="99", arms=arms, comparison=[
            {"a": f"b{i}", "b": "a", "predict": "> 0.1", **changes.get(f"b{i}", {})} for i in range(1, len(steps) + 1)])
        return self.outcome(claim, lambda run: 1 + (run.arm.name != "a" and steps[int(run.arm.name[1:]) - 1])
                            + 0.1 * own_noise(run))

    def test_holds_without_correction(self):
        """Six seeds show each of five things at 3%; that all five are so needs no more: an intersection-union test."""
        outcome = self.several([0.5] * 5)
        self.assertEqual([f.p for f in outcome.findings], [2 * 0.5 ** 6] * 5)
        self.assertEqual(outcome.verdict, "HOLDS")
        self.assertEqual(self.several([0.5] * 4 + [0.1]).verdict, "INCONCLUSIVE")

    def test_fails_with_correction(self):
        """One of two at 3% is no refutation after Holm; one of one is, and controls are not counted."""
        self.assertEqual(self.several([0.0]).verdict, "FAILS")
        self.assertEqual(self.several([0.5, 0.0]).verdict, "INCONCLUSIVE")
        self.assertEqual(self.several([0.5, 0.0], seeds="1..7").verdict, "FAILS")
        outcome = self.several([0.0, 0.5, 0.5], b2={"role": "control"}, b3={"role": "control"})
        self.assertEqual(outcome.verdict, "FAILS")

    def counted(self, solves, n=40, predict="> 0", **changes):
        """Two arms whose seeds solve as solves(arm, seed) says."""
        claim = toy(command=f"./train --lr 0.01 --seed 1..{n}", tune_seeds="99", metric="accuracy", better="higher",
                    outcome="solved", threshold="> 0.9", comparison=[{"a": "b", "b": "a", "predict": predict}],
                    **changes)
        return claim, records_of(claim, lambda run: solves(run.arm.name, run.seed))

    def test_solved(self):
        """37 of 40 against 25 of 40, 13 to 1; a diverged run has not solved it."""
        def solves(arm, seed):
            solved = seed <= 25 if arm == "a" else seed <= 38 and seed != 1
            return 1.0 if solved else "diverged" if seed == 40 else 0.4
        claim, records = self.counted(solves)
        outcome = verdict.evaluate(claim, records)
        finding, facts = outcome.findings[0], report.facts(claim, records)
        self.assertEqual((outcome.verdict, finding.note), ("HOLDS", "solved by one arm alone: 13:1"))
        self.assertAlmostEqual(finding.p, 2 * scipy_stats.binomtest(13, 14, alternative="greater").pvalue, 12)
        self.assertEqual((facts["a: solved"], facts["b: solved"]), ("25 of 40", "37 of 40"))
        low, high = (scipy_stats.binomtest(37, 40).proportion_ci(method="exact")[i] for i in (0, 1))
        self.assertEqual(facts["b: level"], f"{37 / 40:.4f} [{low:.4f}, {high:.4f}]")
        self.assertEqual(verdict.evaluate(*self.counted(lambda arm, seed: 1.0 if seed > (20, 21)[arm == "a"] else 0.4)
                                          ).verdict, "INCONCLUSIVE")
        self.assertEqual(verdict.evaluate(*self.counted(lambda arm, seed: 1.0, predict="within 0.2")).verdict, "HOLDS")
        self.assertEqual(verdict.evaluate(*self.counted(lambda arm, seed: 1.0, n=8, predict="within 0.2")).verdict,
                         "INCONCLUSIVE")

    def test_steps(self):
        """Solved at 200 against 400 steps of 500; what is never solved counts as all 500, and is said."""
        claim = toy(command="./train --steps 500 --lr 0.01 --seed 1..8", tune_seeds="99", metric="accuracy",
                    outcome="steps", better="higher", threshold="> 0.9",
                    comparison=[{"a": "b", "b": "a", "predict": "< -100"}])
        records = records_of(claim, lambda run: 1.0)
        for key, row in records.items():
            at = 200 if row["arm"] == "b" else 400
            gone = row["arm"] == "a" and key.endswith("--seed 8")
            right = {step: 1.0 if step >= at and not gone else 0.3 for step in range(0, 501, 100)}
            row["evals"] = " ".join(f"{step}:1.0:{share}" for step, share in right.items())
        finding = verdict.evaluate(claim, records).findings[0]
        self.assertEqual((finding.verdict, finding.differences), ("HOLDS", [-200] * 7 + [-300]))
        self.assertEqual(finding.note, "b: 0 of 8 unsolved, a: 1 of 8 unsolved")
        facts = report.facts(claim, records)
        self.assertEqual((facts["a: solved"], facts["b: solved"]), ("7 of 8", "8 of 8"))
        self.assertIn("the smallest difference of steps found", "".join(report.outcome_lines(claim, records)))
        for row in records.values():
            row["evals"] = ""
        with self.assertRaises(UsageError):
            verdict.evaluate(claim, records)

    def test_steps_by_rate(self):
        """Every seed at every rate: facts say how many solve at each, and after how many steps on average."""
        claim = toy(command="./train --steps 500 --lr 0.01,0.1 --seed 1..4", metric="accuracy", outcome="steps",
                    better="higher", threshold="> 0.9")
        del claim.tune_seeds[:]
        records = records_of(claim, lambda run: 1.0)
        for key, row in records.items():
            fast = "--lr 0.1 " in key
            solved = fast and not key.endswith("--seed 3") or row["arm"] == "b"
            right = 1.0 if solved else 0.3
            row["evals"] = f"0:1.0:0 {100 if fast else 300}:1.0:{right} 500:1.0:{right}"
        facts = report.facts(claim, records)
        names = [f"{arm} at {lr}" for arm in "ab" for lr in ("0.01", "0.1")]
        told = [facts[f"{name}: {what}"] for name in names for what in ("solved", "mean")]
        self.assertEqual(told, ["0 of 4", "500.0", "3 of 4", "200.0", "4 of 4", "300.0", "4 of 4", "100.0"])
        self.assertEqual((facts["a: solved"], facts["b: solved"], facts["b: mean"]), ("3 of 4", "4 of 4", "100.0"))
        self.assertEqual((facts["a: share"], facts["b: share"]), ("19 to 99%", "40 to 100%"))
        results = verdict.Results(claim, records)
        self.assertEqual(learned.times(claim, results, claim.arm("a"), (("lr", "0.1"),)), [100, 100, None, 100])

    def test_capacity(self):
        """Half is recalled at 16 pairs by a and at 32 by b: one doubling."""
        arms = {"a": "--norm pre", "b": "--norm post"}
        claim = toy(command="./train --pairs 4,8,16,32,64 --lr 0.01 --seed 1..10", tune_seeds="99", metric="accuracy",
                    better="higher", outcome="capacity", along="pairs", threshold="> 0.5", worst=0, arms=arms,
                    comparison=[{"a": "b", "b": "a", "predict": "> 0.5"}])

        def value(run):
            pairs, half = float(dict(run.arm.flags)["pairs"]), 16 if run.arm.name == "a" else 32
            return float(numpy.clip(0.5 + 0.25 * numpy.log2(half / pairs) + 3 * own_noise(run), 0, 1))
        records = records_of(claim, value)
        outcome, facts = verdict.evaluate(claim, records), report.facts(claim, records)
        e = outcome.findings[0].estimate
        self.assertEqual(outcome.verdict, "HOLDS")
        self.assertTrue(e.low < 1 < e.high and e.high - e.low < 0.5, e)
        self.assertAlmostEqual(float(facts["a: capacity"]), 16, delta=2)
        self.assertIn(facts["b: between"], ("16 to 32", "32 to 64"))
        with tempfile.TemporaryDirectory() as folder:
            figure.draw(claim, records, Path(folder) / "a.png")

    def test_interpolated_window(self):
        """The curve of b lies at 2 half-way between two rates; that of a, whose last rate diverges, ends before it."""
        claim = toy(usable="< 2", outcome="window", command="./train --lr 0.001,0.01,0.1 --seed 1..8", tune_seeds="99",
                    comparison=[{"a": "b", "b": "a", "predict": "> 0.3"}])

        def value(run):
            rate = dict(run.tuned)["lr"]
            return {"0.001": 1.0, "0.01": 1.0, "0.1": "diverged" if run.arm.name == "a" else 3.0}[rate]
        records = records_of(claim, value, claim.runs(claim.seeds))
        outcome, facts = verdict.evaluate(claim, records), report.facts(claim, records)
        self.assertAlmostEqual(outcome.findings[0].estimate.mean, 0.5, 12)
        self.assertEqual(outcome.verdict, "HOLDS")
        self.assertEqual([facts[name] for name in ("b: from", "b: to", "a: from", "a: to")],
                         ["1.0e-3", "3.2e-2", "1.0e-3", "1.0e-2"])

    def test_other_thresholds(self):
        """A verdict that changes with the bound that was picked is told so."""
        claim = toy(usable="< 2", command="./train --lr 0.001,0.01,0.1 --seed 1..8",
                    comparison=[{"a": "b", "b": "a", "predict": "> 0.5"}])
        good = {"a": {"0.001": 1.0, "0.01": 1.0, "0.1": 5.0}, "b": dict.fromkeys(("0.001", "0.01", "0.1"), 1.7)}
        outcome = self.outcome(claim, lambda run: good[run.arm.name][dict(run.tuned)["lr"]], claim.runs(claim.seeds))
        told = next(note for note in outcome.notes if "other bounds" in note)
        self.assertIn("hangs on the bound that was picked: FAILS at 1.2, 1.4, 1.6; HOLDS at 1.8, 2,", told)

    def exact(self, value, **changes):
        claim = toy(kind="exact", command="./train --lr 0.01 --seed 1..3", tune_seeds="99", metric="parameters", **{
            "comparison": [{"a": "b", "b": "a", "predict": "= 64"}], **changes})
        return verdict.evaluate(claim, records_of(claim, value, claim.runs([99, *claim.seeds])))

    def test_exact(self):
        """One value that is not so refutes; there is no p-value to be had."""
        self.assertEqual(self.exact(lambda run: 100.0 + 64 * (run.arm.name == "b")).verdict, "HOLDS")
        odd = self.exact(lambda run: 100.0 + 64 * (run.arm.name == "b") + (run.key.endswith("post --lr 0.01 --seed 2")))
        self.assertEqual(odd.verdict, "FAILS")
        leak = [{"a": "b", "predict": "0.5 to 0.7"}]
        self.assertEqual(self.exact(lambda run: 0.6, comparison=leak).verdict, "HOLDS")
        for bad in ({"kind": "exact", "metric": "tokens_per_second"}, {"kind": "odd"}, {"kind": "exact"},
                    {"comparison": [{"a": "b", "b": "a", "predict": "= 3"}]}, {"outcome": "solved"},
                    {"threshold": "> 3"}, {"outcome": "capacity", "threshold": "> 3"}, {"outcome": "window"},
                    {"pilot_seeds": "5..9"}, {"pilot_seeds": "11..14"}, {"record": "bench.json"}):
            with self.assertRaises(UsageError, msg=bad):
                toy(**bad)

    def test_timing(self):
        """A ratio of one machine: all repetitions inside, all outside, or neither."""
        claim = toy(kind="timing", command="./train --lr 0.01 --seed 1..3", tune_seeds="99", metric="tokens_per_second",
                    comparison=[{"a": "b", "b": "a", "predict": "1.5 to 2.5"}])
        for factor, expected in ((2.0, "HOLDS"), (3.0, "FAILS"), (2.45, "INCONCLUSIVE")):
            outcome = self.outcome(claim, lambda run: factor + 0.1 * (run.seed - 2) if run.arm.name == "b" else 1.0)
            self.assertEqual(outcome.verdict, expected, factor)
        self.assertEqual(toy(kind="timing", command="./train --lr 0.01 --seed 1..3", metric="seconds",
                             comparison=[{"a": "b", "b": "a", "predict": "< 2"}]).metric, "seconds")

    def test_timing_of_bench(self):
        """What bench/bench left: a number of every chosen row, in the region."""
        row = {"thesis": "x", "kind": "timing", "record": "b.json", "metric": "ratio",
               "command": "bench/bench attention",
               "comparison": [{"a": "attention: left.median", "predict": "0.8 to 1.3"},
                              {"a": "attention context=64: fast", "b": "attention context=64: slow",
                               "predict": "> 1.9"}]}
        rows = [{"context": n, "left": {"median": x}, "fast": 20.0, "slow": 10.0} for n, x in ((64, 0.9), (128, 1.2))]
        claim = claim_of(row, "toy")
        self.assertEqual(verdict.evaluate(claim, {}).verdict, "OPEN")
        claim.measured = {"machine": {"cpu": "Z80"}, "sections": {"attention": rows}}
        outcome = verdict.evaluate(claim, {})
        self.assertEqual((outcome.verdict, [f.verdict for f in outcome.findings]), ("HOLDS", ["HOLDS", "HOLDS"]))
        self.assertEqual(report.facts(claim, {})["attention: left.median"], "HOLDS")
        with tempfile.TemporaryDirectory() as folder:
            for draw in (figure.draw, figure.draw_small):
                draw(claim, {}, Path(folder) / "a.png")
        rows[1]["left"]["median"] = 1.4
        self.assertEqual(verdict.evaluate(claim, {}).verdict, "INCONCLUSIVE")
        del rows[1]["left"]
        with self.assertRaises(UsageError):
            verdict.evaluate(claim, {})

    def test_paired(self):
        """What a seed does to both arms alike takes no part: it is ten times the effect here."""
        claim = toy(comparison=[{"a": "b", "b": "a", "predict": "> 0"}])
        outcome = self.outcome(claim, lambda run: noise(run.seed, 5) + 0.5 * (run.arm.name == "b") + own_noise(run))
        self.assertEqual(outcome.verdict, "HOLDS")

    def test_rate_is_chosen_on_other_seeds(self):
        """On seed 3 another rate is far better by luck: it is not the one that is reported."""
        claim = toy()

        def value(run):
            lucky = run.seed == 3 and dict(run.tuned)["lr"] == "0.1"
            return -9.0 if lucky else {"0.001": 2.0, "0.01": 1.0, "0.1": 3.0}[dict(run.tuned)["lr"]]
        results = verdict.Results(claim, records_of(claim, value))
        self.assertEqual([results.measure("a", s, "val_loss") for s in claim.seeds], [1.0] * 5)
        crossed = replace(claim, tune_seeds=[], seeds=[1, 2, 3, 4, 5, 6])
        results = verdict.Results(crossed, records_of(crossed, value))
        self.assertEqual(dict(results.chosen(claim.arms[0], 3))["lr"], "0.01")

    def test_facts_of_nothing(self):
        """A claim without records has facts, and they say so."""
        found = report.facts(toy(), {})
        self.assertEqual((found["verdict"], found["b vs a: mean"], found["b vs a: low"]), ("OPEN", "-", "-"))

    def test_missing_is_open(self):
        claim = toy()
        outcome = self.outcome(claim, lambda run: None if run.seed == 5 and run.arm.name == "a" else 1.0)
        self.assertEqual((outcome.verdict, outcome.missing), ("OPEN", 1))
        self.assertEqual(verdict.evaluate(claim, {}).verdict, "OPEN")

    def test_divergence(self):
        """A rate that diverged is not chosen; where all do, the run counts as the claim said, or decides nothing."""
        claim = toy()

        def value(run):
            gone = run.arm.name == "b" or dict(run.tuned)["lr"] == "0.1"
            return "diverged" if gone else 1.0 + noise(run.seed)
        self.assertEqual(self.outcome(claim, value).verdict, "INCONCLUSIVE")
        self.assertIn("pairs have a run without this number", self.outcome(claim, value).findings[0].note)
        self.assertEqual(self.outcome(replace(claim, worst=5.0), value).verdict, "HOLDS")
        results = verdict.Results(replace(claim, worst=5.0), records_of(claim, lambda run: 7.0))
        self.assertEqual(results.measure("b", 1, "val_loss"), 5.0)

    def test_control(self):
        control = {"a": "a", "predict": "< 0.5", "role": "control"}
        claim = toy(comparison=[{"a": "b", "b": "a", "predict": "> 0.1"}, control])

        def value(run):
            return 1 + 0.5 * (run.arm.name == "b") + own_noise(run)
        outcome = self.outcome(claim, value)
        self.assertEqual([f.verdict for f in outcome.findings], ["HOLDS", "FAILS"])
        self.assertEqual(outcome.verdict, "INCONCLUSIVE")

    def test_window(self):
        """Three rates a factor of ten apart, of which b can use one less: its window is one factor of ten smaller."""
        claim = toy(usable="< 2", command="./train --lr 0.001,0.01,0.1 --seed 1..8",
                    comparison=[{"a": "b", "b": "a", "predict": "< 0"}])

        def value(run):
            return "diverged" if run.arm.name == "b" and dict(run.tuned)["lr"] == "0.1" else 1.5
        outcome = self.outcome(claim, value, claim.runs(claim.seeds))
        self.assertAlmostEqual(outcome.findings[0].estimate.mean, -1.0, 12)
        self.assertEqual(outcome.verdict, "HOLDS")

    def test_windows_prove_no_more_than_signs(self):
        """One seed that differs by a cell gives t a spread, and would make it more certain than if all agreed."""
        claim = toy(usable="< 2", command="./train --lr 0.001,0.01,0.1 --seed 1..4",
                    comparison=[{"a": "b", "b": "a", "predict": "< 0"}])

        def value(run):
            worse = run.arm.name == "b" and dict(run.tuned)["lr"] == "0.1"
            return 3.0 if worse or (run.arm.name == "b" and run.seed == 1 and dict(run.tuned)["lr"] == "0.01") else 1.5
        outcome = self.outcome(claim, value, claim.runs(claim.seeds))
        self.assertAlmostEqual(outcome.findings[0].p, 2 * 0.5 ** 4, 12)
        self.assertTrue(any("end of the list" in note for note in outcome.notes), outcome.notes)

    def test_number_that_no_run_has(self):
        claim = toy(metric="accuracy", worst=0, better="higher")
        records = records_of(claim, lambda run: 1.0)
        for row in records.values():
            row["accuracy"] = None
        with self.assertRaises(UsageError):
            verdict.evaluate(claim, records)

    def test_ties(self):
        outcome = self.outcome(toy(), lambda run: 1.0)
        self.assertTrue(any("tie" in note for note in outcome.notes), outcome.notes)
        outcome = self.outcome(toy(), lambda run: float(dict(run.tuned)["lr"]) + noise(run.seed))
        self.assertFalse(any("tie" in note for note in outcome.notes), outcome.notes)

    def test_edge_of_the_list(self):
        outcome = self.outcome(toy(), lambda run: float(dict(run.tuned)["lr"]) + noise(run.seed))
        self.assertIn("best learning rate at the edge of the list: all arms (lowest of 3)", outcome.notes)

    def test_edges_of_short_lists(self):
        """Each arm's own line: of two rates the best is always an edge, one alone was compared with none, and one in
        the middle has none on both sides."""
        claim, best = toy(), {"a": "0.01", "b": "0.1"}
        records = records_of(claim, lambda run: (dict(run.tuned)["lr"] != best[run.arm.name]) + noise(run.seed))
        lines = report.outcome_lines(claim, records)
        self.assertIn("best rate is the list's edge: highest of 3", next(x for x in lines if x.startswith("b  ")))
        self.assertNotIn("edge", next(x for x in lines if x.startswith("a  ")))
        self.assertEqual(report.facts(claim, records)["edges"], "b (highest of 3)")
        for rates, told in (("0.001,0.01", "a (highest of 2), b (lowest of 2)"), ("0.1", "all arms (it is the only")):
            claim = toy(command=f"./train --lr {rates} --seed 1..5")
            notes = verdict.evaluate(claim, records_of(claim, lambda run: (dict(run.tuned)["lr"] != best[run.arm.name])
                                                       + noise(run.seed))).notes
            self.assertTrue(any(f"edge of the list: {told}" in note for note in notes), notes)

    def test_failed_runs_are_missing(self):
        claim = toy()
        records = records_of(claim, lambda run: 1.0)
        next(iter(records.values()))["status"] = "failed"
        outcome = verdict.evaluate(claim, records)
        self.assertEqual(outcome.verdict, "OPEN")
        self.assertIn("1 runs failed; claims/sweep --retry trains them again", outcome.notes)

    def test_failed_run_is_recorded_and_retried(self):
        """A damaged directory makes ./train fail: the row says why, until --retry."""
        claim = ad_hoc(f"{TINY} --steps 8 --seed 1..2".split())
        with tempfile.TemporaryDirectory() as folder:
            blocked = trainer.directory(folder, claim.runs([2])[0])
            blocked.mkdir()
            (blocked / "run.json").write_text("{")
            words = [*claim.command.split(), "--into", folder]
            first = sweep(*words)
            rows = read_records(Path(folder) / "results.csv").values()
            self.assertEqual([row["status"] for row in rows], ["finished", "failed"], first.stderr)
            self.assertIn("damaged", list(rows)[1]["error"])
            self.assertEqual(sweep(*words, "--retry").returncode, 0)
            rows = read_records(Path(folder) / "results.csv").values()
            self.assertEqual([row["status"] for row in rows], ["finished", "finished"])


class Baselines(unittest.TestCase):
    def test_elimination_against_the_banner(self):
        """Computed twice, in C from a recurrence and in Python by powers of a polynomial."""
        for text in ("--data recall --context 64", "--data recall --pairs 8 --keys 24 --context 32",
                     "--data recall --pairs 40 --keys 50 --context 200", "--data khop --pairs 8 --context 64",
                     "--data recall --pairs 8 --keys 24 --context 32 --repeat-questions 1",
                     "--data khop --pairs 20 --context 90 --repeat-questions 1", "--data khop --pairs 20 --context 70"):
            words = text.replace("--", "").split()
            flags = dict(zip(words[::2], words[1::2]))
            told = trainer.dry_run(flags)["data"]["floor_about"]
            found = baseline.of_flags(flags)
            loss, accuracy = found["val_loss"], found["accuracy"]
            self.assertIn(f"elimination {loss:.3f} and {100 * accuracy:.1f}% right", told)
        self.assertEqual(baseline.of_flags({"data": "stories"}), {})

    def test_metrics_above_it(self):
        """A run that ends where elimination does has 0 of any number of pairs, one without an error 1; it is computed
        from a row's other numbers and never written, so that a sealed table stays as it is."""
        claim = toy(command="./train --data recall --repeat-questions 1 --pairs 2,4,16 --keys 16 --lr 0.01 --seed 1..2",
                    metric="bits_above_elimination", better="higher", worst=0, tune_seeds="99")
        records = records_of(claim, lambda run: None)
        for run in claim.runs(claim.seeds):
            bag = baseline.of_flags(dict(run.arm.flags))
            half = run.arm.name == "b"
            records[run.key] = {**dict.fromkeys(COLUMNS), "arm": run.arm.label, "flags": run.key, "status": "finished",
                                "val_loss": bag["val_loss"] / (2 if half else 1), "digest": "0" * 16,
                                "accuracy": 1.0 if half else bag["accuracy"]}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.csv"
            write_records(path, records)
            text, back = path.read_text(), read_records(path)
            write_records(path, back)
            self.assertEqual(path.read_text(), text)
        self.assertNotIn("above", text.splitlines()[0])
        for row in back.values():
            b = row["arm"].startswith("b")
            self.assertAlmostEqual(row["bits_above_elimination"], 0.5 if b else 0)
            self.assertAlmostEqual(row["accuracy_above_elimination"], 1 if b else 0)
        results = verdict.Results(claim, back)
        self.assertAlmostEqual(results.level("b pairs=16").mean, 0.5)
        self.assertEqual(baseline.of_claim(claim), dict.fromkeys(baseline.ABOVE, 0.0))
        self.assertEqual(baseline.above({"val_loss": 0.0, "accuracy": 1.0}, {"data": "recall", "pairs": "1"}), {})
        self.assertEqual(baseline.above({"val_loss": 1.0}, {"data": "stories"}), {})

    def test_what_elimination_settles_alone(self):
        """A threshold that a bag of values passes, and a comparison of few pairs with many, are told; counted from the
        bag neither is."""
        def claim(**changes):
            return toy(**{"command": "./train --data recall --repeat-questions 1 --pairs 2,16 --keys 16 --lr 0.01 "
                          "--seed 1..6", "arms": {"a": "--norm pre", "b": "--norm post"}, "worst": 2.8,
                          "comparison": [{"a": "b", "b": "a", "predict": "> 0.1"}], **changes})
        capacity = {"outcome": "capacity", "along": "pairs"}
        told = verdict.free(claim(**capacity, threshold="< 1.386"))
        self.assertEqual(len(told), 1)
        self.assertIn("passes val_loss < 1.386 in: a pairs=2, b pairs=2; bits_above_elimination", told[0])
        self.assertEqual(verdict.free(claim(**capacity, threshold="< 0.3")), [])
        above = {"metric": "bits_above_elimination", "better": "higher", "worst": 0}
        self.assertEqual(verdict.free(claim(**capacity, **above, threshold="> 0.5")), [])
        mixed = {"comparison": [{"a": "a pairs=16", "b": "a pairs=2", "predict": "> 0.1"},
                                {"a": "a pairs=2", "predict": "< 1", "role": "control"}]}
        told = verdict.free(claim(**mixed))
        self.assertEqual(len(told), 2)
        self.assertIn("of a pairs=16 vs a pairs=2 a model that binds nothing has a difference too, +1.57", told[0])
        self.assertIn("passes a pairs=2, predicted < 1", told[1])
        self.assertEqual(verdict.free(claim(**mixed, **above)), [])
        self.assertEqual(verdict.free(toy()), [])

    def test_facts(self):
        """Recall above what elimination reaches: 0 at 40%, 1 at 100%."""
        claim = toy(command="./train --data recall --pairs 8 --keys 24 --context 32 --lr 0.01 --seed 1..8", worst=0,
                    metric="accuracy", better="higher", tune_seeds="99")
        reached = baseline.of_claim(claim)["accuracy"]
        self.assertAlmostEqual(reached, 0.400, 3)
        told = report.facts(claim, records_of(claim, lambda run: 1.0 if run.arm.name == "b" else reached))
        self.assertEqual((told["a: above elimination"], told["b: above elimination"]), ("0.0000", "1.000"))


class Power(unittest.TestCase):
    def told(self, claim, value):
        pilot = claim.pilot_seeds or claim.tune_seeds
        records = records_of(claim, value, claim.runs(pilot))
        return quiet(report.print_power, claim, records, pilot, lambda n: n / 2)

    def claim(self, pilot="101..110", seeds="1..8", expect=None, predict="> 0", **changes):
        comparison = {"a": "b", "b": "a", "predict": predict, **({"expect": expect} if expect is not None else {})}
        return toy(**{"command": f"./train --lr 0.01 --seed {seeds}", "comparison": [comparison], "pilot_seeds": pilot,
                      "tune_seeds": "99", **changes})

    def test_enough(self):
        """Ten times the spread: eight seeds do."""
        good, text = self.told(self.claim(), lambda run: 1 + 0.15 * (run.arm.name == "b") + own_noise(run))
        self.assertTrue(good, text)
        self.assertIn("8 seeds find that with 100% power", text)
        self.assertIn("of val_loss beyond its bound in the pilot (pilot of 10 seeds)", text)

    def test_too_few(self):
        """A third of the spread: the number that would do, with its minutes; there it has 80% by simulation."""
        def value(run):
            return 1 + 3 * own_noise(run)
        good, text = self.told(self.claim(expect=0.02), value)
        self.assertFalse(good)
        needed, minutes = re.search(r"power    (\d+) seeds, ([\d.]+) minutes, would do, for 80%", text).groups()
        self.assertEqual(float(minutes), int(needed) / 2)
        results = report.of_pilot(self.claim(), records_of(self.claim(), value, self.claim().runs(range(101, 111))),
                                  range(101, 111))
        spread = numpy.std(results.sample(self.claim().comparisons[0]), ddof=1)
        rng, found = numpy.random.default_rng(3), 0
        for _ in range(600):
            found += stats.decided(rng.normal(0.02, spread, int(needed))).low > 0
        self.assertAlmostEqual(found / 600, 0.8, delta=0.08)

    def test_never(self):
        """A bound on the effect, or sameness of what differs: no number of seeds."""
        for changes in ({"expect": 0.2, "predict": "> 0.2"}, {"expect": 0.1, "predict": "within 0.05"}):
            good, text = self.told(self.claim(**changes), lambda run: 1 + own_noise(run))
            self.assertFalse(good)
            self.assertIn("no number of seeds will do", text)

    def test_pilot_outside_the_margin(self):
        """Sameness is not taken for granted: a pilot whose mean lies outside the margin says so, and stops the sweep,
        even if the file expects no difference; one that lies off the middle has less power than one in it."""
        def value(by):
            return lambda run: 1 + by * (run.arm.name == "b") + 0.2 * own_noise(run)
        for expect in (None, 0.0):
            good, text = self.told(self.claim(expect=expect, predict="within 0.02"), value(0.05))
            self.assertFalse(good, text)
            self.assertIn("WARNING: b vs a is predicted within 0.02, and the pilot lies outside the margin: +0.0", text)
            good, text = self.told(self.claim(expect=expect, predict="within 0.02"), value(0))
            self.assertTrue(good, text)
            self.assertNotIn("WARNING", text)
        pilot, changes = range(101, 111), {"expect": None, "predict": "within 0.02"}
        runs = self.claim().runs(pilot)
        middle, off = (report.designs(c, records_of(c, value(by), runs), pilot)[0]
                       for c in [self.claim(**changes)] for by in (0.0, 0.012))
        self.assertGreater(middle[1](3), off[1](3) + 0.1)
        self.assertAlmostEqual(off[2], 0.008, delta=0.003)

    def test_pilot_on_the_other_side(self):
        """Of any prediction, of a control too, and with a pilot of two, which stops nothing."""
        def value(run):
            return 1 - 0.1 * (run.arm.name == "b") + own_noise(run)
        text = self.told(self.claim(), value)[1]
        self.assertIn("WARNING: b vs a is predicted > 0, and the pilot lies not there", text)
        control = {"a": "a", "predict": "< 0.5", "role": "control"}
        claim = self.claim(comparison=[{"a": "b", "b": "a", "predict": "< 0"}, control])
        good, text = self.told(claim, value)
        self.assertFalse(good)
        self.assertIn("WARNING: a is predicted < 0.5", text)
        good, text = self.told(self.claim(pilot="101..102"), value)
        self.assertTrue(good)
        self.assertIn("WARNING", text)

    def test_what_would_settle_it(self):
        """Of a difference that is left open: as many fresh seeds settle it in four cases of five, whichever the way,
        and it is said how long they take. Of what is settled nothing is said, and on the bound no number will do."""
        def found(predict, mean, spread=1.0, n=12):
            claim = self.claim(predict=predict, seeds=f"1..{n}")
            values = numpy.random.default_rng(5).normal(size=n)
            values = mean + spread * (values - values.mean()) / values.std(ddof=1)
            records = records_of(claim, lambda run: values[run.seed - 1] * (run.arm.name == "b"),
                                 claim.runs(claim.seeds))
            for row in records.values():
                row |= {"seconds": 30.0, "threads": 1}
            outcome = verdict.evaluate(claim, records)
            return report.to_settle(claim, records, outcome.findings[0]), report.outcome_lines(claim, records)
        rng = numpy.random.default_rng(4)
        for predict, mean, bound in (("> 0", 0.4, 0.0), ("> 1", 0.6, 1.0), ("< 0.2", 0.6, 0.2),
                                     ("within 0.3", 0.7, 0.3)):
            (seeds, minutes), lines = found(predict, mean)
            self.assertEqual(minutes, seeds * 2 * 30 / 60 / 2, predict)
            self.assertIn(f"{seeds} fresh seeds ({minutes:.0f} minutes) would settle it", "\n".join(lines))
            drawn = [stats.estimate(rng.normal(mean, 1, seeds)) for _ in range(300)]
            self.assertAlmostEqual(sum(not e.low < bound < e.high for e in drawn) / 300, 0.8, delta=0.1)
        self.assertGreater(found("within 0.5", 0.1)[0][0], 20)
        self.assertIsNone(found("> 0", 5)[0])
        self.assertIn("no number of seeds would settle it", "\n".join(found("> 0.4", 0.4)[1]))

    def test_capacities(self):
        """A pilot knows the spread of a capacity too: with b a doubling ahead of a six seeds find a third."""
        def claim(predict):
            return self.claim(command="./train --pairs 4,8,16,32 --lr 0.01 --seed 1..6", metric="accuracy", worst=0,
                              better="higher", outcome="capacity", along="pairs", threshold="> 0.5", predict=predict,
                              arms={"a": "--norm pre", "b": "--norm post"})

        def value(run):
            half = 16 if run.arm.name == "b" else 8
            return 0.5 + 0.25 * math.log2(half / int(dict(run.arm.flags)["pairs"])) + own_noise(run)
        good, text = self.told(claim("> 0.33"), value)
        self.assertTrue(good, text)
        self.assertIn("6 seeds find that with 100% power", text)
        self.assertFalse(self.told(claim("> 0.999"), value)[0])

    def test_pilot_of_two(self):
        good, text = self.told(self.claim(pilot="101..102"), lambda run: 1 + own_noise(run))
        self.assertTrue(good)
        self.assertIn("unknown: a pilot of 2 seeds gives none", text)
        self.assertNotIn("%", text)

    def test_shares(self):
        """9 of 10 against 5 of 10: about forty seeds, not eight."""
        claim = self.claim(metric="accuracy", better="higher", outcome="solved", threshold="> 0.9")
        good, text = self.told(claim, lambda run: float(run.seed <= 105 or run.arm.name == "b" and run.seed != 110))
        self.assertFalse(good)
        needed = int(re.search(r"power    (\d+) seeds", text)[1])
        self.assertTrue(12 < needed < 60, text)
        self.assertTrue(stats.share_power(4.5 / 11, 0.5 / 11, needed) >= 0.8 > stats.share_power(4.5 / 11, 0.5 / 11,
                                                                                                 needed - 1))

    def test_signs_of_few(self):
        claim = self.claim(seeds="1..5", metric="accuracy", better="higher", outcome="solved", threshold="> 0.9")
        self.assertIn("5 seeds are few", self.told(claim, lambda run: float(run.arm.name == "b"))[1])


class Records(unittest.TestCase):
    def test_round_trip(self):
        claim = toy()
        records = records_of(claim, lambda run: 0.1 + 1 / 3)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "toy.csv"
            write_records(path, records)
            back, text = read_records(path), path.read_bytes()
            write_records(path, back)
            self.assertEqual(path.read_bytes(), text)
        key = claim.runs([1])[0].key
        self.assertEqual(back[key]["val_loss"], 0.1 + 1 / 3)
        self.assertEqual(verdict.evaluate(claim, back), verdict.evaluate(claim, records))

    def test_what_a_log_says(self):
        """What leaving a layer out costs, by halves; the middle layer of an odd number is in neither."""
        def lines(path, without):
            log = [{"val_loss": 9, "val_loss_without": [9] * 5}, {"grad_norm": 2, "val_loss": 1,
                                                                  "val_loss_without": without}]
            path.write_text("\n".join(map(json.dumps, log)))
            return trainer.log_numbers(path)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log.jsonl"
            self.assertEqual(lines(path, [2, 4, 9, 1.5, 1.5]), {"max_grad_norm": 2, "drop_shallow": 2,
                                                                "drop_deep": 0.5, "drop_first": 1, "drop_last": 0.5,
                                                                "drop_median": 1})
            self.assertEqual(lines(path, [2, None, 9, 1, 1]), {"max_grad_norm": 2})
            path.write_text(json.dumps({"val_loss": 1.5, "val_loss_alone": 1.75}))
            self.assertEqual(trainer.log_numbers(path), {"alone_loss": 0.25})

    def test_recalled_bits(self):
        """Of facts: who knows nothing knows no bit, who knows all knows what the banner says; of other data none."""
        told = trainer.dry_run({"data": "facts", "facts": "1000"})["data"]["floor_about"]
        with tempfile.TemporaryDirectory() as folder:
            def bits(name, loss):
                run = {"data": {"name": name}, "flags": {"facts": 1000}, "final": {"val_loss": loss}}
                (Path(folder) / "run.json").write_text(json.dumps(run))
                return trainer.told_of(folder, "finished").get("recalled_bits")
            self.assertAlmostEqual(bits("facts", math.log(10)), 0)
            self.assertIn(f"{bits('facts', 0):.0f} bits", told)
            self.assertAlmostEqual(bits("facts", math.log(10) / 2), bits("facts", 0) / 2)
            self.assertIsNone(bits("stories", 1.0))

    def test_older_table(self):
        """A table without a newer metric is read, and its runs have none; one without another column is damaged."""
        claim = toy()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "toy.csv"
            write_records(path, records_of(claim, lambda run: 1.0))
            rows = list(csv.reader(path.read_text().splitlines()))
            for name, ok in (("drop_deep", True), ("digest", False)):
                at = rows[0].index(name)
                with path.open("w") as file:
                    csv.writer(file).writerows(row[:at] + row[at + 1:] for row in rows)
                if ok:
                    self.assertIsNone(next(iter(read_records(path).values()))["drop_deep"])
                else:
                    self.assertRaises(UsageError, read_records, path)

    def test_two_metrics_of_one_pair(self):
        """Each is a comparison of its own, with its own name, at the learning rate that the claim's metric chooses."""
        claim = toy(comparison=[{"a": "b", "b": "a", "predict": "> 0"},
                                {"a": "b", "b": "a", "predict": "> 1", "metric": "drop_deep"}])
        records = records_of(claim, lambda run: 1.0 + noise(run.seed + 50 * (run.arm.name == "b"))
                             + (run.arm.name == "b") + (dict(run.tuned)["lr"] != "0.01"))
        for row in records.values():
            at_best, b = "--lr 0.01 " in row["flags"], row["arm"] == "b"
            row["drop_deep"] = (3.0 if b else 1.0) + 0.1 * row["val_loss"] if at_best else 100.0
        told = report.facts(claim, records)
        self.assertEqual((told["b vs a"], told["b vs a, drop_deep"]), ("HOLDS", "HOLDS"))
        self.assertTrue(told["b vs a, drop_deep: effect"].startswith("+2."), told)

    def test_figure(self):
        """Every kind of figure is drawn, with a diverged run and a missing one."""
        def value(run):
            if run.seed == 4:
                return None
            return "diverged" if run.arm.name == "b" and run.seed == 2 else 1.0 + noise(run.seed)
        with tempfile.TemporaryDirectory() as folder:
            for changes in ({}, {"usable": "< 2"}, {"figure": {"x": "parameters"}}):
                claim = toy(**changes)
                figure.draw(claim, records_of(claim, value), Path(folder) / "a.png")
                self.assertGreater((Path(folder) / "a.png").stat().st_size, 5000)
                figure.draw_small(claim, records_of(claim, value), Path(folder) / "a.small.png")
                self.assertGreater((Path(folder) / "a.small.png").stat().st_size, 1000)

    def test_title(self):
        """A finding is the title, with its numbers from the records; without one it is the verdict."""
        def title(**keys):
            claim = toy(figure=keys)
            records = records_of(claim, lambda run: 1.0 + 0.5 * (run.arm.name == "b") + own_noise(run))
            outcome = verdict.evaluate(claim, records)
            return figure.headline_of(claim, records, outcome, figure.shown_findings(outcome))
        self.assertRegex(title(finding="b ends {b vs a: mean} nats\nabove a"), r"^b ends [+]0\.\d{4} nats above a$")
        self.assertIn("HOLDS", title(unit="nats"))
        for bad in ("b ends {beauty} above a", "b ends 0.5 above a, {b vs a: mean}", "b {b vs a: mean"):
            with self.assertRaises(UsageError):
                title(finding=bad)

    def test_line_out_of_the_picture(self):
        """It is drawn to the upper edge and no further, with its name behind the marks there."""
        inf, points = math.inf, [(1, 9.0), (2, 9.0), (4, 1.0), (8, 2.0), (32, math.inf), (64, math.inf)]
        told = figure.through_the_top(points, 4)
        self.assertTrue(math.isnan(told[0][1]) and math.isnan(told[5][1]))
        self.assertEqual(told[1:5], [(2, 4), (4, 1.0), (8, 2.0), (32, 4)])
        self.assertEqual(figure.label_at(points, 4), (64, 4))
        self.assertEqual(figure.label_at([(1, inf), (2, 1.0)], 4), (2, 1.0))

    def test_a_figure_has_the_finding_as_its_title(self):
        """And a unit below the small picture, where long names are wrapped and not cut."""
        words, small = {"a": "a layer as narrow as any", "b": "another, four times as wide"}, []
        for told in ({}, {"finding": "b is above a", "unit": "nats"}, {"finding": "b is above a", "words": words}):
            claim = toy(figure=told)
            records = records_of(claim, lambda run: {"a": 1, "b": 2}[run.arm.name] + noise(run.seed))
            outcome = figure.evaluate(claim, records)
            title = figure.headline_of(claim, records, outcome, outcome.findings).split("\n")
            self.assertEqual(title[0], told.get("finding", f"{claim.title}: {outcome.verdict}"))
            self.assertEqual(title[1].startswith(outcome.verdict), "finding" in told)
            with tempfile.TemporaryDirectory() as folder:
                figure.draw_small(claim, records, Path(folder) / "a.png")
                small.append(figure.plt.imread(Path(folder) / "a.png").shape[0])
        self.assertLess(small[0], small[1])
        self.assertLess(small[0], small[2])

    def test_exact_values_are_drawn_where_they_are(self):
        """Arms that agree lie on each other: not side by side, as those with intervals."""
        claim = claim_of({"thesis": "x", "metric": "val_loss",
                          "command": "./train --lr 0.001 --context 8,16 --seed 1..2",
                          "kind": "exact", "arms": {"a": "--norm pre", "b": "--norm post"},
                          "comparison": [{"a": "b context=8", "b": "a context=8", "predict": "= 0"}],
                          "figure": {"x": "context", "log_y": True}}, "toy")
        records = records_of(claim, lambda run: 1e6 * float(run.flags["context"]))
        picture, axes = figure.plt.subplots()
        figure.draw_lines(axes, claim, figure.Results(claim, records))
        ends = [line.get_transform().transform(line.get_xydata()) for line in axes.get_lines()]
        figure.plt.close(picture)
        self.assertEqual(len(ends), 2)
        numpy.testing.assert_allclose(ends[0], ends[1])

    def test_words_of_a_figure(self):
        """A comparison may have words of its own, and names that end in a digit are not cut to one."""
        claim = toy(arms={"1.3": "--norm pre", "1.6": "--norm post"}, figure={"words": {"1.6 vs 1.3": "load"}},
                    comparison=[{"a": "1.6", "b": "1.3", "predict": "> 0"}, {"a": "1.3", "b": "1.6", "predict": "< 0"}])
        self.assertEqual([figure.question(claim, c) for c in claim.comparisons], ["load", "1.3 \u2212 1.6"])
        self.assertEqual([figure.family(arm, "lr") for arm in claim.arms], ["1.3", "1.6"])
        self.assertEqual(figure.family(toy(arms={"mla 32": "", "b": "--norm post"}, comparison=[
            {"a": "b", "b": "mla 32", "predict": "> 0"}]).arms[0], "lr"), "mla")

    def test_rows_of_a_receipt(self):
        """A page averages over the seeds that are reported, and over no pilot."""
        claim = toy()
        receipt = notebook.Receipt.__new__(notebook.Receipt)
        receipt.claim, receipt.records = claim, records_of(claim, lambda run: float(run.seed))
        self.assertEqual({row["val_loss"] for row in receipt.rows("a")}, {1.0, 2.0, 3.0, 4.0, 5.0})


class Pages(unittest.TestCase):
    """A repository of its own: a README with the table, one claim about `toy`, its records, a notebook."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        for room in ("claims/results", "notebooks", "lib", "config"):
            (self.root / room).mkdir(parents=True)
        for path in (ROOT / "claims/posts.toml", *(ROOT / "config").glob("*.def")):
            (self.root / path.relative_to(ROOT)).write_text(path.read_text())
        (self.root / "claims/toy.toml").write_text('''
            post = 4
            thesis = "b is above a"
            headline = "b ends {b vs a: mean} above a."
            metric = "val_loss"
            command = "./train --lr 0.001,0.01 --seed 1..5"
            tune_seeds = "11..12"
            arms = { a = "--norm pre", b = "--norm post" }
            comparison = [{ a = "b", b = "a", predict = "> 0.1" }]''')
        self.claim = read_claim(self.root / "claims/toy.toml")
        self.record(lambda run: 1.0 + 0.5 * (run.arm.name == "b") + own_noise(run))
        self.quote = "b is higher by <!-- claim toy: b vs a: mean -->?<!-- / -->."
        (self.root / "docs").mkdir()
        for page in ("README.md", "claims/RESULTS.md"):
            (self.root / page).write_text(f"{table.BEGIN}{table.END}\n{self.quote}\n")
        (self.root / "docs/a.md").write_text(self.quote + "\n")
        self.notebook([self.quote])
        self.refresh()

    def tearDown(self):
        self.folder.cleanup()

    def record(self, value):
        records = records_of(self.claim, value)
        wanted = {run.key for run in verdict.wanted(self.claim, records)[0]}
        rows = {k: {**r, "promise": self.claim.promise} for k, r in records.items() if k in wanted}
        write_records(self.root / "claims/results/toy.csv", rows)
        for name in ("toy.png", "toy.small.png"):
            (self.root / "claims/results" / name).touch()

    def notebook(self, texts):
        cells = [{"cell_type": "markdown", "metadata": {}, "source": [text]} for text in texts]
        book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (self.root / "notebooks/a.ipynb").write_text(json.dumps(book, indent=1) + "\n")

    def refresh(self):
        lab = table.Lab(self.root)
        for path in lab.pages():
            path.write_text(table.refreshed(path, lab))

    def check(self, figures=False):
        """figures: also draws them, which takes a second."""
        kept = check.check_figures
        check.check_figures = kept if figures else lambda *_: []
        try:
            with contextlib.redirect_stderr(io.StringIO()) as error:
                status, _ = quiet(check.main, [], table.Lab(self.root))
        finally:
            check.check_figures = kept
        return status, error.getvalue()

    def test_agreement(self):
        text = (self.root / "README.md").read_text()
        self.assertIn("**HOLDS**", text)
        self.assertRegex(text, r"b is higher by .*-->\+0\.\d{4}<")
        self.assertEqual(self.check(), (0, ""))

    def test_changed_number(self):
        for path in ("README.md", "claims/RESULTS.md", "docs/a.md", "notebooks/a.ipynb"):
            text = (self.root / path).read_text()
            (self.root / path).write_text(text.replace("-->+0.", "-->+1."))
            status, error = self.check()
            self.assertEqual((status, error.count("\n")), (1, 1), error)
            self.assertIn(path, error)
            (self.root / path).write_text(text)

    def test_one_row_per_post(self):
        """README has the headline, filled in; RESULTS.md every comparison, the control too."""
        readme, results = ((self.root / page).read_text() for page in ("README.md", "claims/RESULTS.md"))
        rows = [line for line in readme.splitlines() if re.match(r"\| \d", line)]
        self.assertEqual([int(row.split("|")[1]) for row in rows], list(range(1, 24)))
        self.assertRegex(rows[3], r"\| b ends \+0\.\d{4} above a\. \| \*\*HOLDS\*\*<br>\[1 claim\].*/toy\.small\.png")
        self.assertTrue(all("| open |" in row for row in rows[:3] + rows[4:]))
        self.assertIn("## Post 4\n", results)
        self.assertRegex(results, r"b vs a: \+0\.\d{4} \[\+0\.\d{4}, \+0\.\d{4}\], predicted > 0\.1: HOLDS")
        for page in ("README.md", "claims/RESULTS.md"):
            text = (self.root / page).read_text()
            (self.root / page).write_text(re.sub("HOLDS", "FAILS", text, count=1))
            self.assertIn(f"{page}: it differs from the records", self.check()[1])
            (self.root / page).write_text(text)

    def headline(self, text):
        """What check says of a headline."""
        path = self.root / "claims/toy.toml"
        path.write_text(re.sub("headline = .*", f'headline = "{text}"' if text else "", path.read_text()))
        return self.check()[1]

    def test_bad_headlines(self):
        """Each is one line, and the page that would show it is not written."""
        for text, part in (("b ends {b over a: mean} above a.", "names 'b over a: mean', which is no fact"),
                           ("b is above a.", "no number from the records"), ("It {verdict}.", "no number"),
                           ("b ends 0.5 above a, {b vs a: mean}.", "the number 0.5, which no record backs"),
                           ("b ends {b vs a: mean above a.", "a brace without its other half"),
                           ("b ends {b vs a: mean} above a" + " and so on" * 7, "26 words"),
                           ("", "exactly one of its claims has a headline; found: none")):
            with self.subTest(text):
                path = self.root / "claims/toy.toml"
                before = path.read_text()
                error = self.headline(text)
                self.assertEqual(error.count("\n"), 1, error)
                self.assertIn(part, error)
                with self.assertRaises(UsageError):
                    table.refreshed(self.root / "README.md", table.Lab(self.root))
                path.write_text(before)
        self.assertEqual(self.check(), (0, ""))

    def test_two_headlines(self):
        for path in (self.root / "claims/results").glob("toy.*"):
            path.with_name(path.name.replace("toy", "too")).write_bytes(path.read_bytes())
        (self.root / "claims/too.toml").write_text((self.root / "claims/toy.toml").read_text())
        self.assertIn("found: too and toy", self.check()[1])

    def test_missing_thumbnail(self):
        (self.root / "claims/results/toy.small.png").unlink()
        self.assertIn("claims/results/toy.small.png, which is not there", self.check()[1])
        self.assertEqual(list(front.thumbnails(table.Lab(self.root))), [self.root / "claims/results/toy.small.png"])

    def test_headline_of_an_open_claim(self):
        """A post is open until a claim is settled, whatever its headline says."""
        (self.root / "claims/results/toy.csv").unlink()
        text = table.refreshed(self.root / "README.md", table.Lab(self.root))
        self.assertRegex(text, r"\| 4 \|.*\| open<br>\[1 claim\]")
        self.assertNotIn("b ends", text)
        self.assertNotIn("headline", self.headline(""))

    def test_headline_that_waits(self):
        """A post with a settled claim is open while the claim of its headline is."""
        toy = self.root / "claims/toy.toml"
        toy.with_name("too.toml").write_text(toy.read_text().replace("1..5", "1..6"))
        toy.write_text(re.sub("headline = .*", "", toy.read_text()))
        self.assertRegex(table.refreshed(self.root / "README.md", table.Lab(self.root)),
                         r"\| 4 \|.*\| open<br>\[all 2 claims\]")

    def test_long_thesis(self):
        path = self.root / "claims/posts.toml"
        path.write_text(path.read_text().replace("not composition.", "not" + " composition" * 21))
        self.assertIn("the thesis of post 2 has 26 words", self.check()[1])

    def test_counts_may_lag(self):
        """A count of lines that is a little behind is not an error; one that is far behind is."""
        (self.root / "bench").mkdir()
        (self.root / "bench/a.c").write_text("\n" * 2000)
        page = self.root / "docs/a.md"
        for told, ok in (("2,000", True), ("1,900", True), ("2,500", False), ("many", False)):
            page.write_text(f"<!-- claim code: bench -->{told}<!-- / --> lines\n")
            self.assertEqual("docs/a.md" not in self.check()[1], ok, told)
        self.refresh()
        self.assertIn("-->2,000<", page.read_text())

    def test_links(self):
        """To files, headings and lines."""
        page = self.root / "docs/a.md"
        (self.root / "lib/a.c").write_text("int f(void) {\n    return 0;\n}\n")
        good = ["a.md", "#a-head-of-2", "../lib/a.c#L3", "https://a.b/c", "b.md#its-own"]
        (self.root / "docs/b.md").write_text("# It's own\n".replace("'", "") + "```\n# no head\n```\n")
        text = "# A `head` of 2?\n" + self.quote + "".join(f" [x]({link})" for link in good)
        page.write_text(text + "\n")
        self.refresh()
        self.assertEqual(self.check(), (0, ""))
        for link in ("c.md", "../lib/a.c#L4", "b.md#no-head", "#nowhere", "../lib/a.c#f"):
            page.write_text(page.read_text().split(" [y]")[0] + f" [y]({link})\n")
            self.assertIn(link, self.check()[1])

    def test_changed_records(self):
        """The table says HOLDS; the records no longer do."""
        self.record(lambda run: 1.0 + own_noise(run))
        status, error = self.check()
        self.assertEqual(status, 1)
        for page in ("README.md", "claims/RESULTS.md", "docs/a.md"):
            self.assertIn(page, error)

    def test_loose_number(self):
        self.notebook([self.quote, "It is 0.25 higher, in 40% of cases, `--lr 0.5` and [3.4](http://a.b/1.2) aside."])
        self.refresh()
        status, error = self.check()
        self.assertEqual(status, 1)
        self.assertIn("0.25", error)
        self.assertEqual(check.unbacked("2 arms, `0.5`, 2017, arXiv:[2312.04927](https://a.b)"), [])
        self.assertEqual(check.unbacked("1.5 and 40% and 3x"), ["1.5", "40%", "3x"])

    def test_notebook_is_executed(self):
        """What a cell prints is compared with what is stored, but for cells that are tagged live."""
        import nbformat
        def book(stored, tags=()):
            code = nbformat.v4.new_code_cell(f"from lab.notebook import Receipt\n"
                                             f"Receipt('toy', {str(self.root / 'claims')!r}).findings()")
            code.outputs = [nbformat.v4.new_output("stream", name="stdout", text=stored)]
            code.metadata["tags"] = list(tags)
            nbformat.write(nbformat.v4.new_notebook(cells=[code]), self.root / "notebooks/a.ipynb")
            return check.execute(self.root / "notebooks/a.ipynb")
        lab = table.Lab(self.root)
        facts, notes = lab.facts("toy"), verdict.evaluate(lab.claims[0], lab.records["toy"]).notes
        printed = f"HOLDS        b vs a: {facts['b vs a: effect']}, predicted > 0.1\nHOLDS, from {facts['runs']} runs\n"
        printed += "".join(f"note: {note}\n" for note in notes)
        self.assertEqual(book(printed), [])
        self.assertIn("something else", book(printed.replace("HOLDS", "FAILS"))[0])
        self.assertEqual(book("whatever", ["live"]), [])

    def test_links_follow_the_code(self):
        (self.root / "a.c").write_text("// f\nint g(void);\nint f(int x) {\n    return f(x - 1);\n}\n")
        self.notebook(["[`f`](../a.c#L1)"])
        self.assertIn("a.ipynb", self.check()[1])
        self.refresh()
        self.assertIn("a.c#L3)", (self.root / "notebooks/a.ipynb").read_text())
        self.assertEqual(self.check(), (0, ""))
        self.notebook(["[`g`](../a.c#L2)"])
        self.assertIn("defines no such thing", self.check()[1])

    def test_measured_speeds(self):
        """What bench recorded of a machine: 10 GB/s over 100 MB a token predicts 100 tokens a second."""
        rows = [{"attention": kind, "context": 256, "cache_bytes_per_token": 2048, "bytes_per_token": 1e8,
                 "tokens_per_second": speed} for kind, speed in zip(speed_kinds, (40.0, 80.0, 50.0, 60.0))]
        path = self.root / "claims/results/decode.json"
        bench = {"commit": "abc", "machine": {"cpu": "Z80"}, "limits": {"read_gbytes_per_second": 10.0},
                 "sections": {"context": rows}}
        path.write_text(json.dumps(bench))
        self.notebook(["<!-- claim decode: gqa 256: share -->?<!-- / --> "
                       "<!-- claim decode: gqa 256: over mha --><!-- / -->"])
        self.refresh()
        text = (self.root / "notebooks/a.ipynb").read_text()
        self.assertIn("-->80%<", text)
        self.assertIn("-->2.00x<", text)
        self.assertEqual(self.check(), (0, ""))
        path.write_text(json.dumps({**bench, "commit": "abc-dirty"}))
        self.assertIn("decode: it was measured on a commit", self.check()[1])

    def test_flash(self):
        """A page may quote what is not measured yet; then it says so, and what was measured stands there afterwards."""
        (self.root / "claims/fast.toml").write_text(
            'thesis = "x"\nkind = "timing"\nrecord = "flash.json"\nmetric = "ratio"\ncommand = "bench/bench flash"\n'
            '[[comparison]]\na = "left pass=forward width=64: low"\npredict = "0.8 to 1.3"\n')
        self.notebook(["<!-- claim fast: verdict -->?<!-- / --> <!-- claim fast: left -->?<!-- / --> "
                       "<!-- claim flash: forward 64: times -->?<!-- / -->"])
        self.refresh()
        text = (self.root / "notebooks/a.ipynb").read_text()
        self.assertIn("-->OPEN<", text)
        self.assertEqual(text.count("-->not measured<"), 2)
        self.assertEqual(self.check(), (0, ""))
        rows = [{"pass": way, "width": 64, "context": 64, "flops_saved": 1.5, "left": 0.9,
                 **{step: {"median": 1.35} for step in (*flash.STEPS, "flash_times_naive", "flash_times_band")}}
                for way in flash.PASSES]
        left = [{"pass": way, "width": 64, "low": 0.85, "high": 1.2} for way in flash.PASSES]
        record = {"commit": "abc", "effort": "full", "machine": {"cpu": "Z80", "cores": 1},
                  "limits": {"fma_gflops": 200.0, "read_gbytes_per_second": 30.0},
                  "sections": {"flash": rows, "left": left}}
        (self.root / "claims/results/flash.json").write_text(json.dumps(record))
        self.refresh()
        text = (self.root / "notebooks/a.ipynb").read_text()
        for told in ("HOLDS", "0.85 to 1.20", "1.35"):
            self.assertIn(f"-->{told}<", text)
        for name in ("fast.png", "fast.small.png"):
            (self.root / "claims/results" / name).touch()
        self.assertEqual(self.check(), (0, ""))
        (self.root / "claims/results/flash.json").write_text(json.dumps({**record, "effort": "tiny"}))
        self.assertIn("measured with --tiny", self.check()[1])

    def test_costs_by_other_formulas(self):
        """Weights of 4 ms, 0.5 ms a token, 1 us a cached one, which at the weights' bandwidth would be half of that. Up
        to eight rows the sum and the larger are one; steps that are sums tell them apart beyond."""
        def cell(rows, past):
            ms = max(4, rows * 0.5) + 1e-3 * rows * (past + 1)
            return {"rows": rows, "past": past, "step": {"seconds": {"median": 1e-3 * ms}}, "sum_ms": ms}
        constants = {"weights_ms": 4.0, "token_ms": 0.5, "key_us": 1.0, "weight_bytes": 8e3, "key_bytes": 1.0,
                     "gflops": 200.0}
        chunk = {"chunk": 32, "step": {"seconds": {"median": 1e-3 * (18 - 31 * 32.768 / 200 + 0.516)}}}
        limits = {"fma_gflops": 200.0, "read_gbytes_per_second": 2.0}
        record = {"commit": "abc", "machine": {"cpu": "Z80", "cores": 1, "load_before": 0.25}, "limits": limits,
                  "limits_at_the_end": {**limits, "read_gbytes_per_second": 3.0},
                  "sections": {"constants": [constants], "grid": [cell(8, 499), cell(24, 499)], "chunks": [chunk]}}
        told = steps.Steps(record).facts()
        expected = {"sum: worst": "0%", "larger, few rows: worst": "0%", "larger: worst": "33%",
                    "sum, one bandwidth: worst": "25%", "chunk, drawn logits: most": "+0%", "load": "0.2",
                    "read before": "2 GB/s", "read after": "3 GB/s"}
        self.assertEqual({name: told[name] for name in expected}, expected)
        self.assertEqual(told["chunk, all logits: least"], f"{100 * (18.516 / (18.516 - 31 * 0.16384) - 1):+.0f}%")

    def test_bytes_of_a_backward(self):
        """Products at flash's rate, five passes over matrices, and per 24 queries the keys, by rates of where they lie.
        A claim may have the name of its record, and then has the facts of both."""
        def ran(seconds, gflops):
            return {"seconds": {"median": seconds}, "gflops": gflops}
        pairs = flash.pairs_of(1024)
        row = {"pass": "backward", "width": 64, "context": 1024, "flops_saved": 1.5, "left": 1.2,
               "band": ran(4e-9 * pairs, 100), "flash": ran(3e-9 * pairs, 200),
               **{step: {"median": 1.0} for step in (*flash.STEPS, "flash_times_naive", "flash_times_band")}}
        near, far = ({"place": "all-cores", "bytes": size, **dict.fromkeys(("read", "write", "update"), rate)}
                     for size, rate in ((1 << 20, 64.0), (4 << 20, 20.0)))
        record = {"commit": "abc", "effort": "full", "machine": {"cpu": "Z80", "cores": 1},
                  "limits": {"fma_gflops": 200.0, "read_gbytes_per_second": 30.0},
                  "sections": {"flash": [row, {**row, "pass": "forward"}], "streams": [near, far], "left": [
                      {"pass": way, "width": 64, "low": 1.0, "high": 1.2} for way in flash.PASSES]}}
        told = flash.Flash(record).backward(1024)
        for name, value in (("products", 2), ("matrix", 4 * 5 / 20), ("keys", 2 * 4 * 64 / 24 * 2 / 64)):
            self.assertAlmostEqual(told[name], value)
        self.assertAlmostEqual(told["left predicted"], 1.2 * told["sum"] / 4)
        self.assertAlmostEqual(told["left by the matrix alone"], 1.2 * 3 / 4)
        (self.root / "claims/results/fast.json").write_text(json.dumps(record))
        (self.root / "claims/fast.toml").write_text(
            'thesis = "x"\nkind = "timing"\nrecord = "fast.json"\nmetric = "ratio"\ncommand = "bench/bench flash"\n'
            '[[comparison]]\na = "left pass=forward width=64: low"\npredict = "0.8 to 1.3"\n')
        self.notebook(["<!-- claim fast: verdict -->?<!-- / --> "
                       "<!-- claim fast: backward longest: matrix -->?<!-- / -->"])
        self.refresh()
        for text in ("HOLDS", "1.00 ns"):
            self.assertIn(f"-->{text}<", (self.root / "notebooks/a.ipynb").read_text())

    def test_bench(self):
        """Speeds on the front page: 100 tokens a step; the better PyTorch at 40% of the peak, so a goal of 2 is 80%."""
        def ran(seconds, share):
            return {"seconds": {"median": seconds}, "share": {"median": share}}

        def times(x):
            return {"times_naive": {"median": x}, "flash_times_band": {"median": x / 2}}
        product = {"M": 1024, "product": "weight gradient"}
        sections = {
            "steps": [{"setting": "small", "tokens_per_second": 200.0, "step": ran(0.5, 0.7)},
                      {"setting": "moe", "share_of_baby": 0.914}],
            "torch": [{"setting": "small", "goal": 2.0, "times_better_mode": 1.75, "ours": ran(0.25, 0.7),
                       "eager": ran(0.5, 0.35), "compiled": ran(0.4, 0.4)}],
            "products": [{**product, "ours": ran(1, 0.75)}, {**product, "ours": ran(1, 0.86)},
                         {"M": 1024, "product": "forward", "ours": ran(1, 0.9)},
                         {**product, "M": 16, "ours": ran(1, 0.1)}],
            "attention": [{"context": 64, "matrix_leaves_cache": False, "forward": times(1.1), "backward": times(1.4),
                           "kept_bytes_flash": 1 << 20, "kept_bytes_naive": 1 << 20},
                          {"context": 8192, "matrix_leaves_cache": True, "forward": times(1.8),
                           "backward": times(2.0), "kept_bytes_flash": 4 << 20, "kept_bytes_naive": 516 << 20}],
            "serve": [{"what": what, "measured": {"median": x}} for what, x in
                      (("event clock", 1.26e6), ("http", 1.013), ("prefix", 1.1), ("saturation", 0.957))],
            "context": []}
        bench = {"commit": "abc", "machine": {"cpu": "Z80", "cores": 1, "simd": "plain"}, "sections": sections,
                 "limits": {"fma_gflops": 235.6, "read_gbytes_per_second": 30.0},
                 "limits_at_the_end": {"fma_gflops": 170.0, "read_gbytes_per_second": 34.8}}
        (self.root / "claims/results/bench.json").write_text(json.dumps(bench))
        expected = {"machine": "Z80", "cores": "1", "simd": "plain", "fma": "236 GFLOP/s",
                    "small: ours": "400 tok/s, 70%", "small: compiled": "250 tok/s, 40%",
                    "small: times": "1.75", "small: goal": "80%", "moe: of baby": "0.91",
                    "weight gradients": "75% to 86%", "other products": "90%",
                    "flash: short": "1.10 to 1.40", "flash: outside": "1.80 to 2.00",
                    "flash: over band": "0.55 to 1.00", "flash: outside from": "8192", "naive: kept": "516 MiB",
                    "serve: event clock": "1.3 million", "serve: http": "1.3%", "serve: prefix": "1.10",
                    "serve: saturation": "95.7%"}
        self.notebook([" ".join(f"<!-- claim bench: {name} -->?<!-- / -->" for name in expected)])
        self.refresh()
        text = (self.root / "notebooks/a.ipynb").read_text()
        for name, value in expected.items():
            self.assertIn(f"<!-- claim bench: {name} -->{value}<!-- / -->", text)
        self.assertEqual(self.check(), (0, ""))
        readme = self.root / "README.md"
        readme.write_text(readme.read_text() + "\nThe goal was 85%; small is 3.5 times as fast.\n")
        self.assertIn("the number 3.5 is not quoted", self.check()[1])
        (self.root / "claims/results/bench.json").write_text("{}")
        with self.assertRaises(UsageError):
            self.check()

    def test_row_that_nobody_asked_for(self):
        path = self.root / "claims/results/toy.csv"
        path.write_text(path.read_text().replace("--norm pre --lr 0.01 --seed 1,", "--norm pre --lr 0.02 --seed 1,")
                        .replace("--norm pre --lr 0.001 --seed 1,", "--norm pre --lr 0.02 --seed 1,"))
        status, error = self.check()
        self.assertEqual(status, 1)
        self.assertIn("does not ask for", error)

    def table_of(self, change):
        """The records with one row changed, the seals as they were; and what check says of them."""
        path = self.root / "claims/results/toy.csv"
        text, rows = path.read_text(), read_records(path)
        change(list(rows.values())[-1])
        write_records(path, rows)
        status, error = self.check()
        path.write_text(text)
        return status, error

    def test_tampering(self):
        """A digit of a digest or of a loss too small to move a verdict, of any column: the seal of the row breaks."""
        for name, value in (("digest", "1" * 16), ("seconds", 2.0), ("commit", "abd"), ("val_loss", 1.5000001)):
            status, error = self.table_of(lambda row: row.update({name: value}))
            self.assertEqual(status, 1, name)
            self.assertIn("1 rows were changed after they were recorded", error, name)
        self.assertIn("1 rows without a seal or a promise", self.table_of(lambda row: row.update(promise=""))[1])
        self.assertEqual(self.check(), (0, ""))

    def test_changed_prediction(self):
        """Its bound, its thesis or its arms after the runs: noticed. Its title, its headline or more seeds: not."""
        path = self.root / "claims/toy.toml"
        text = path.read_text()
        for old, new in (("> 0.1", "> 0.05"), ("b is above a", "b is far above a"), ('"val_loss"', '"best_val_loss"')):
            path.write_text(text.replace(old, new))
            with contextlib.suppress(UsageError):
                self.assertIn("its prediction was changed after 18 rows were recorded", self.check()[1], new)
        self.assertEqual(read_claim(path).promise == self.claim.promise, False)
        path.write_text(text.replace("post = 4", 'post = 4\ncontrols = "none"\ntitle = "T"').replace("1..5", "1..6"))
        self.assertEqual(read_claim(path).promise, self.claim.promise)

    def test_digest_of_nothing(self):
        """A page may show the digest of a record or of tests/digests.txt, and no other."""
        (self.root / "tests").mkdir()
        (self.root / "tests/digests.txt").write_text("baby 00000000deadbeef\n")
        page = self.root / "README.md"
        page.write_text(page.read_text() + "\n`00000000deadbeef` and `0000000000000000`\n")
        self.assertEqual(self.check(), (0, ""))
        page.write_text(page.read_text().replace("deadbeef", "deadbee0"))
        self.assertIn("README.md: the digest 00000000deadbee0 is in no record", self.check()[1])

    def test_pictures(self):
        """Drawn again: a missing one, that of another claim, and one with a point moved are all noticed."""
        lab = table.Lab(self.root)
        for path, draw in lab.pictures(lab.claims[0]):
            draw(lab.claims[0], lab.records["toy"], path)
        self.assertEqual(self.check(figures=True), (0, ""))
        whole = self.root / "claims/results/toy.png"
        kept = whole.read_bytes()
        image = figure.plt.imread(whole)
        image[200:203, 100:103, :3] = 0
        figure.plt.imsave(whole, image)
        self.assertIn("its figure toy.png is not what the records draw", self.check(figures=True)[1])
        whole.write_bytes((self.root / "claims/results/toy.small.png").read_bytes())
        self.assertIn("its figure toy.png is not what the records draw", self.check(figures=True)[1])
        whole.unlink()
        self.assertIn("its figure toy.png is missing", self.check(figures=True)[1])
        whole.write_bytes(kept)

    def test_commit_of_nobody(self):
        path = self.root / "claims/results/toy.csv"
        path.write_text(path.read_text().replace(",abc,", ",abc-dirty,"))
        self.assertIn("without a commit", self.check()[1])


class Repository(unittest.TestCase):
    """The pages of this repository."""

    def test_front_page_is_short(self):
        lines = (ROOT / "README.md").read_text().splitlines()
        self.assertLessEqual(len(lines), 170)
        self.assertEqual(sum(bool(re.match(r"\| \d", line)) for line in lines), 23)

    def test_every_link_leads_somewhere(self):
        pages = [path for room in ("", "claims/", "docs/", "notebooks/", "tests/", "bench/", "data/")
                 for path in ROOT.glob(f"{room}*.md")]
        self.assertGreater(len(pages), 8)
        for path in pages:
            self.assertEqual(check.broken_links(path, path.read_text()), [], path)

    def test_every_named_file_is_there(self):
        """`kernels/ops.c` in a text is a file; names in capitals stand for any, and some come from elsewhere."""
        files = set(subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.split())
        names, elsewhere = {path.split("/")[-1] for path in files}, {"sample.txt", "llm.c", "x.c", "x.h"}
        for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "claims/README.md", *ROOT.glob("docs/*.md")):
            named = re.findall(r"(?<=[`( ])((?:[\w.-]+/)*[\w-]+\.(?:[ch]|def|sh|py|txt|toml))(?=[`), :])",
                               path.read_text())
            named = {name.removeprefix("../") for name in named if not re.search(r"[A-Z]{2}|downloads/", name)}
            lost = named - files - names - elsewhere
            self.assertEqual(lost, set(), path)

    def test_one_line_builds_it_in_any_shell(self):
        """README's line for those without make names every file, in words that plain sh expands."""
        line = next(line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"cc .*train\.c", line))
        self.assertNotIn("{", line)
        words = subprocess.run(["sh", "-c", f"echo {line}"], capture_output=True, text=True, cwd=ROOT).stdout.split()
        programs = {"generate.c", "gpt.c", "serve.c", "quantize.c"}
        rooms = ("", "lib/", "kernels/", "config/", "data/", "formats/", "model/", "infer/", "run/", "plot/")
        files = {str(path.relative_to(ROOT)) for room in rooms for path in ROOT.glob(f"{room}*.c")} - programs
        self.assertEqual({word for word in words if word.endswith(".c")}, files)


class Knobs(unittest.TestCase):
    """Which lines implement a knob, and what a line earns."""

    def test_every_pattern_finds_code(self):
        for knob in knobs.LINES:
            lines = [text for _, _, text in knobs.found(knob)]
            self.assertTrue(lines, knob)
            self.assertFalse([text for text in lines if text.strip().startswith("//") or not text.strip()], knob)
        self.assertEqual(set(knobs.LINES), set(knobs.ARMS))
        self.assertEqual(sorted(k for _, hung in knobs.STEPS for k in hung), sorted(knobs.LINES))

    def test_functions_are_counted_whole_and_lines_once(self):
        with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.dict(
                knobs.LINES, {"toy": [("x.c", "warm()"), ("x.c", r"warm")], "gone": [("x.c", r"nowhere")]}):
            (Path(folder) / "x.c").write_text("int warm(int a);\n// warm\nint warm(int a) {\n    return a;\n}\n"
                                              "int cold(void) { return 0; }\n")
            self.assertEqual([n for _, n, _ in knobs.found("toy", Path(folder))], [1, 3, 4, 5])
            with self.assertRaisesRegex(UsageError, "no line with 'nowhere'"):
                knobs.found("gone", Path(folder))

    def test_the_schedule_is_that_of_the_trainer(self):
        with tempfile.TemporaryDirectory() as out:
            flags = {"steps": "25", "warmup": "4", "lr": "0.01", "log-every": "1", "layers": "1", "width": "32",
                     "heads": "2", "context": "32", "batch": "1", "eval-tokens": "256"}
            trainer.Training(flags, out, 1).result()
            lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
        seen = [line["lr"] for line in lines if "lr" in line]
        numpy.testing.assert_allclose(knobs.rates_of(flags, 0.01), seen, rtol=1e-9)

    def test_a_knob_is_judged_by_its_interval(self):
        arms = {knobs.ALL: "--clip 1", **{arm: f"--clip {i + 2}" for i, arm in enumerate(knobs.ARMS.values())}}
        size = dict(zip(knobs.ARMS.values(), (0.5, -0.5, 0.0, 0.05, *[0.0] * 5)))
        claim = toy(command="./train --lr 0.001 --seed 1..8", arms=arms, tune_seeds="9..10",
                    comparison=[{"a": arm, "b": knobs.ALL, "predict": "within 0.05"} for arm in size])
        records = records_of(claim, lambda run: 1 + size.get(run.arm.name, 0) + noise(run.seed, 0.1) + own_noise(run))
        results = verdict.Results(claim, records)
        receipt = unittest.mock.Mock(claim=claim, results=results)
        told = knobs.tally(receipt)
        self.assertEqual((told["pays"], told["costs"]), (["warm-up"], ["clipping"]))
        self.assertIn("weight decay", told["noise"])
        self.assertEqual(told["unsettled"], ["short memory"])
        self.assertLess(knobs.earned(receipt)[0].p, 0.1)


class Formats(unittest.TestCase):
    """The pictures of post 13."""

    def test_twins_in_numpy(self):
        """What the formats of tails.py make of numbers is what the kernels make of them, to the bit."""
        rng = numpy.random.default_rng(5)
        x = numpy.concatenate([rng.normal(size=4096), rng.standard_t(3, 4096)]).astype(numpy.float32)
        x[::5] = numpy.round(x[::5] * 8) / 8                                   # ties
        names = {"Q4_0": ("q4_0", "floor"), "int4, 15 levels": ("int4", "floor"), "NVFP4": ("nvfp4", "floor"),
                 "MXFP4, even": ("mxfp4", "even"), "MXFP4, floor": ("mxfp4", "floor")}
        self.assertEqual(set(names), set(tails.FORMATS))
        with tempfile.TemporaryDirectory() as folder:
            given, taken = Path(folder) / "in", Path(folder) / "out"
            x.tofile(given)
            for name, (form, rule) in names.items():
                subprocess.run([ROOT / "build/probe", "--quant", form, rule, "256", given, taken], check=True)
                meant = numpy.fromfile(taken, numpy.uint8)[-4 * x.size:].view(numpy.float32)
                numpy.testing.assert_array_equal(tails.FORMATS[name](x), meant, name)

    def test_crossing(self):
        """On either side of it the other one is better; normal numbers lose what Gauss's integral says for int4."""
        at = tails.crossing()
        self.assertAlmostEqual(at, 3.8, delta=0.1)
        for p in (2.0, 1.0):
            kurtosis, lost = tails.errors(p)
            self.assertEqual(lost["Q4_0"] < lost["NVFP4"], kurtosis < at)
        self.assertAlmostEqual(tails.errors(2.0)[0], 3, delta=0.01)
        self.assertAlmostEqual(tails.errors(1.0)[0], 6, delta=0.1)

    def test_which_mxfp4(self):
        """The recorded block follows from the weights by the rules that the table names, and no two libraries agree on
        all of the model."""
        exact, *answers = mxfp4.read()
        x = numpy.array(exact["values"])
        self.assertEqual([row["library"] for row in answers], list(mxfp4.RULES))
        digits, exponent = math.frexp(abs(x).max())

        def rounded(more, ties):
            scale = 2.0 ** (exponent - 3 + more)
            size = abs(x / scale)
            code = (size[:, None] > tails.MIDDLES).sum(1)
            if ties == "to even":
                code += (size[:, None] == tails.MIDDLES[1::2]).any(1)
            return numpy.sign(x) * tails.E2M1[code] * scale
        least = min((0, -1, 1), key=lambda more: ((rounded(more, "to even") - x) ** 2).sum())
        for row in answers:
            rule, ties = mxfp4.RULES[row["library"]]
            more = {"floor": 0, "even": digits >= 0.875, "never clips": digits > 0.75, "least error": least}[rule]
            self.assertEqual(int(row["exponent"]), exponent - 3 + more, row["library"])
            numpy.testing.assert_allclose(row["values"], rounded(more, ties), rtol=1e-7)
            self.assertGreater(row["loss"], exact["loss"])
        self.assertEqual(len({(row["differ"], row["error"], row["loss"]) for row in answers}), len(answers))
        figure.plt.close(mxfp4.draw())


    def test_heavier_tails(self):
        """What meets what keeps its product, no matrix stays, and the tails are heavier; in the table no model says
        another thing than before, and where tails are heaviest NVFP4 is the better one on every seed."""
        rng, layer = numpy.random.default_rng(1), "model.layers.0"
        shapes = {"input_layernorm": (32,), "post_attention_layernorm": (32,), "self_attn.q_proj": (32, 32),
                  "self_attn.k_proj": (32, 32), "self_attn.v_proj": (48, 32), "self_attn.o_proj": (32, 48),
                  "mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64)}
        old = {f"{layer}.{name}.weight": rng.normal(size=shape).astype(numpy.float32) for name, shape in shapes.items()}
        new = dial.turned(old, 0.5, 2)
        one, two = ({name: tensors[f"{layer}.{name}.weight"] for name in shapes} for tensors in (old, new))

        def products(t):
            attention, ffn = t["input_layernorm"], t["post_attention_layernorm"]
            yield from (t[f"self_attn.{name}_proj"] * attention for name in "qk")
            yield t["mlp.gate_proj"] * ffn
            yield from (t[f"{a}_proj"][:, :, None] * (t[f"{b}_proj"] * norm)[None] for a, b, norm in (
                ("self_attn.o", "self_attn.v", attention), ("mlp.down", "mlp.up", ffn)))
        for a, b in zip(products(one), products(two)):
            numpy.testing.assert_allclose(a, b, rtol=1e-5)
        self.assertTrue(all((one[name] != two[name]).any() for name in shapes))
        self.assertGreater(dial.kurtosis(new), dial.kurtosis(old) + 1)
        found = dial.recorded()
        exact = [[row["exact"] for row in rows] for rows in found.values()]
        numpy.testing.assert_allclose(exact, numpy.broadcast_to(exact[0], numpy.shape(exact)), atol=1e-4)
        self.assertTrue(all(gain < 0 for gain in dial.gained(list(found.values())[-1])))
        figure.plt.close(dial.draw())


class KneeTest(unittest.TestCase):
    """Losses that follow a power law exactly, and what they must say."""

    def receipt(self, alpha=0.4, floor=0.5):
        records, added = {}, {"8": 0, "4": 0.004, "3": 0.02, "2": 0.2, "2 trained": 0.02}
        for size, width, weights in zip(knee.SIZES, (64, 96, 128), (100_000, 180_000, 324_000)):
            for bits, cost in added.items():
                for seed in range(1, 8):
                    loss = floor + 30 * weights ** -alpha + cost + 0.001 * (seed - 4)
                    records[f"{bits} {size} {seed}"] = {
                        "arm": knee.arm_of(bits, size), "flags": f"--width {width} --seed {seed}", "status": "finished",
                        "parameters": weights, "val_loss": loss, "excess_loss": loss - floor, "rounding_cost": cost}
        return SimpleNamespace(records=records)

    def test_form(self):
        k = knee.Knee(self.receipt())
        self.assertAlmostEqual(k.floor, 0.5)
        self.assertAlmostEqual(k.alpha(), 0.4, places=9)
        gained = (k.loss["exact"]["171k"] - k.loss["exact"]["306k"]).mean()
        self.assertAlmostEqual(k.bound(), gained, places=9)                  # that is what the form says
        self.assertAlmostEqual(k.bytes("4", "171k"), (180_000 - 288) * 18 / 32 + 288 * 4)

    def test_told(self):
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            knee.forecast(self.receipt())
            knee.table(self.receipt())
        after, trained = [line for line in told.getvalue().splitlines() if ", stay" in line or ", go" in line]
        self.assertIn("0.1960", after)
        self.assertIn("stay", after)
        self.assertIn("go", trained)
        figure.plt.close(knee.draw(self.receipt()))

    def again(self, names, steps, alpha=0.4, beta=0.7, floor=0.5):
        """Losses of N^-alpha D^-beta, with nothing that rounding adds; a pilot's seed beside those reported."""
        records = {}
        for (name, weights), tokens in zip(names.items(), steps):
            for seed in range(1, 9):
                above = 3000 * weights ** -alpha * tokens ** -beta + 0.001 * (seed - 4) + (seed == 8)
                records[f"{name} {seed}"] = {
                    "arm": name, "flags": f"--seed {seed}", "status": "finished", "parameters": weights,
                    "tokens": tokens, "val_loss": floor + above, "excess_loss": above, "rounding_cost": 0}
        claim = SimpleNamespace(arms=[SimpleNamespace(label=name) for name in names], seeds=list(range(1, 8)))
        return SimpleNamespace(records=records, claim=claim)

    def test_budgets(self):
        weights = (100_000, 180_000, 324_000)
        short = knee.Arms(self.again(dict(zip(knee.TOKENS, weights)), (1000, 1000, 1000)))
        arms = knee.Arms(self.again(dict(zip(knee.FLOPS, weights)), (1800, 1000, 556)))
        self.assertEqual(arms.seeds, list(range(1, 8)))
        self.assertAlmostEqual(knee.tokens_exponent(short, arms), 0.7, places=9)
        says = knee.form(arms, knee.FLOPS, 0.4, 0.7, 0.01)
        self.assertAlmostEqual(says - 0.01, arms.less(knee.FLOPS[2], knee.FLOPS[1]).mean, places=9)
        self.assertGreater(says, 0.01)                    # more weights with fewer tokens: no bits would be few enough


class Matching(unittest.TestCase):
    def test_solver(self):
        self.assertEqual(match.solve_integer(lambda n: n * n, 1000), 32)
        self.assertEqual(match.solve_integer(lambda n: n * n if n % 4 == 0 else None, 900), 28)
        self.assertIsNone(match.solve_integer(lambda n: None, 900))

    def test_minutes_of_a_matched_arm(self):
        """What would settle a claim counts its runs too, whoever asks."""
        claim, records = read_claim(ROOT / "claims/mla.toml"), read_records(ROOT / "claims/results/mla.csv")
        recalled = match.recall_claim(claim, records)
        left = next(f for f in verdict.evaluate(recalled, records, notes=False).findings if f.verdict == "INCONCLUSIVE")
        self.assertEqual(report.settle_text(claim, records, left), report.settle_text(recalled, records, left))

    def test_params(self):
        """MLA's latent is solved so that both arms have as many parameters; the records know how exactly."""
        words = f"{TINY} --attn mha,mla --steps 4 --seed 1..2".split()
        claim = match.mark_unknown(ad_hoc(words, match="params"), "ffn-width")
        solved, notes = match.solve_claim(claim)
        sizes = [match.quantity("params", {**dict(arm.flags), "seed": "1"}) for arm in solved.arms]
        self.assertLess(abs(sizes[1] / sizes[0] - 1), 0.01)
        self.assertIn("params", notes["attn=mla"])

    def test_cache_and_steps(self):
        claim = toy(command=f"{TINY} --seed 1..2", match="cache", tune_seeds="9",
                    arms={"a": "--attn gqa --kv-heads 1 --head-dim 16", "b": "--attn mla --kv-rank ? --rope-dim 8"})
        solved, _ = match.solve_claim(claim)
        self.assertEqual(dict(solved.arms[1].flags)["kv-rank"], str(2 * 16 - 8))
        claim = toy(command=f"{TINY} --seed 1..2", match="flops", tune_seeds="9",
                    arms={"a": "--steps 100", "b": "--layers 2 --steps ?"})
        solved, _ = match.solve_claim(claim)
        self.assertTrue(50 < int(dict(solved.arms[1].flags)["steps"]) < 100)

    def test_match_to(self):
        arms = {"a": "--layers 1", "b": "--layers 2", "c": "--layers 1 --ffn-width ?"}
        claim = toy(command=f"{TINY} --seed 1..2", match="params", match_to="b", tune_seeds="9", arms=arms)
        solved, notes = match.solve_claim(claim)
        self.assertIn("of b", notes["c"])
        with self.assertRaises(UsageError):
            match.solve_claim(replace(claim, match_to="c"))

    def test_impossible(self):
        claim = toy(command=f"{TINY} --seed 1..2", match="cache", tune_seeds="9",
                    arms={"a": "--attn gqa --kv-heads 1", "b": "--attn gqa --kv-rank ?"})
        with self.assertRaises(UsageError):
            match.solve_claim(claim)


def sweep(*words, **options):
    return subprocess.run([ROOT / "claims/sweep", *words], capture_output=True, text=True, cwd=ROOT, **options)


class Sweeps(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.into = Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def sweep(self, command, *options):
        return sweep(*shlex.split(command), "--into", str(self.into), *options)

    def records(self):
        return read_records(self.into / "results.csv")

    def test_runs_once_whatever_jobs(self):
        deeper = TINY.replace("--layers 1", "--layers 2")
        command = f"{deeper} --steps 10 --norm pre,post --seed 1..2 --log-layers --drop-layers"
        first = self.sweep(command)
        self.assertEqual(first.returncode, 0, first.stderr)
        digests = {key: row["digest"] for key, row in self.records().items()}
        self.assertEqual(len(digests), 4)
        for row in self.records().values():
            self.assertTrue(all(row[name] > 0 for name in ("rms_first", "rms_last", "grad_first", "max_grad_norm")))
            self.assertEqual((row["drop_first"], row["drop_last"]), (row["drop_shallow"], row["drop_deep"]))
        again = self.sweep(command)
        self.assertIn("0 to do", again.stdout)
        self.assertNotIn("finished", again.stdout)
        self.assertEqual(self.sweep(command, "--fresh", "--jobs", "2").returncode, 0)
        self.assertEqual({key: row["digest"] for key, row in self.records().items()}, digests)

    def test_serves(self):
        """./serve is swept as ./train is: once whatever jobs, the same digests again, what it refuses in one line."""
        command = ("./serve --requests 300 --rate 4 --backlog 20 --admit chunk,full --blocks 64 --watermark 0 "
                   "--seed 1..2")
        first = self.sweep(command, "--metric", "preempted")
        self.assertEqual(first.returncode, 0, first.stderr)
        rows = self.records()
        self.assertEqual(len(rows), 4)
        for key, row in rows.items():
            self.assertEqual((row["finished"], row["useful"] + row["recomputed"]), (300, row["executed"]), key)
            self.assertEqual(row["preempted"] > 0, "--admit chunk" in key, key)
        self.assertIsNone(rows[key]["val_loss"])
        self.assertNotIn("val_loss", (self.into / "results.csv").read_text().split("\n")[0])
        self.assertEqual(check.differences(rows[key], server.again(rows[key])), [])
        self.assertNotEqual(check.differences({**rows[key], "steps": 1.0}, server.again(rows[key])), [])
        fresh = self.sweep(command, "--metric", "preempted", "--fresh", "--jobs", "2")
        self.assertIn("digests  4 of 4 are those recorded before", fresh.stdout)
        for words, said in ((["--metric", "val_loss"], "no val_loss"), (["--match", "params"], "for trainings")):
            refused = self.sweep(command, *words)
            self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
            self.assertIn(said, refused.stderr)
        refused = self.sweep("./serve --requests 300 --backlog 200,400 --seed 1..2")
        self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
        self.assertIn("--backlog 400: of --requests 300", refused.stderr)

    def test_asks(self):
        """./generate asks models that are trained once, whatever jobs; the same digests again, and what cannot be is
        refused in one line."""
        model = "--data recall --pairs 4 --keys 9 --context 24 --layers 1 --width 32 --heads 2 --eval-tokens 128"
        command = (f"./generate --model='{model} --steps 3' --questions 3 --rows 5 --kv-policy random,window "
                   "--kv-budget 5 --seed 1..2")
        first = self.sweep(command)
        self.assertEqual(first.returncode, 0, first.stderr)
        rows = self.records()
        self.assertEqual(len(rows), 4)
        for key, row in rows.items():
            self.assertEqual((row["answers"], row["kept_pairs"], row["kept_bytes"]), (15, 4, 1056), key)
            self.assertAlmostEqual(row["ceiling"], row["held"] + (1 - row["held"]) / 9)
        self.assertEqual(len({row["model"] for row in rows.values()}), 2)
        self.assertNotIn("val_loss", (self.into / "results.csv").read_text().split("\n")[0])
        row = rows[next(key for key in rows if "random" in key)]
        self.assertEqual(check.differences(row, asker.again(row)), [])
        self.assertNotEqual(check.differences({**row, "digest": "0" * 16}, asker.again(row)), [])
        fresh = self.sweep(command, "--fresh", "--jobs", "2")
        self.assertIn("digests  4 of 4 are those recorded before", fresh.stdout)
        for words, said in (("--questions 3", "how ./train makes"),
                            (f"--model='{model}' --questions 3 --run x", "--run:"),
                            (f"--model='{model} --nothing 3' --questions 3", "nothing"),
                            (f"--model='{model}' --questions 3 --tokens 3", "--tokens has no effect")):
            refused = self.sweep(f"./generate {words} --seed 1..2")
            self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
            self.assertIn(said, refused.stderr)

    def test_starts_from_another(self):
        """--from: the first training once for all runs that start from it, the same digests whatever jobs and again,
        and what cannot be is refused in one line."""
        flags = ("--data recall --keys 9 --context 24 --layers 1 --width 32 --heads 2 --eval-tokens 128 --lr 1e-3 "
                 "--batch 2")
        command = f"./train {flags} --steps 3 --pairs 4,6 --from='--pairs 2 --steps 5 --init-scale 4' --seed 1..2"
        first = self.sweep(command)
        self.assertEqual(first.returncode, 0, first.stderr)
        rows = self.records()
        self.assertEqual((len(rows), len({row["digest"] for row in rows.values()})), (4, 4))
        self.assertEqual(len({row["model"] for row in rows.values()}), 2)
        with tempfile.TemporaryDirectory() as out:   # by hand: the same two trainings, the same digests
            alone = [*flags.split(), "--seed=1", "--threads=1", "--sample-tokens=0"]
            for name, own in (("a", "--pairs=2 --steps=5 --init-scale=4"),
                              ("b", f"--pairs=4 --steps=3 --load={out}/a")):
                subprocess.run([ROOT / "train", *alone, *own.split(), f"--out={out}/{name}"], check=True,
                               capture_output=True)
            told = [json.loads((Path(out) / name / "run.json").read_text())["digest"] for name in "ab"]
        row = next(row for key, row in rows.items() if "--pairs 4" in key and "--seed 1" in key)
        self.assertEqual([row["model"], row["digest"]], told)
        self.assertEqual(check.differences(row, warm.again(row)), [])
        self.assertNotEqual(check.differences({**row, "digest": "0" * 16}, warm.again(row)), [])
        fresh = self.sweep(command, "--fresh", "--jobs", "2")
        self.assertIn("digests  4 of 4 are those recorded before", fresh.stdout)
        for words, said in (("--from=3", "expected a flag"), ("--from='--seed 3'", "has --seed"),
                            ("--from='--nothing 3'", "nothing"), ("--from='--pairs 2' --load x", "--load:"),
                            ("--from='--pairs 2' --init-scale 4", "--init-scale")):
            refused = self.sweep(f"./train {flags} --steps 3 --pairs 4 {words} --seed 1..2")
            self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
            self.assertIn(said, refused.stderr)

    def test_learns_from_another(self):
        """--teacher: trained once for all drafts, by hand the same digests, and a draft that goes on with another loss;
        what cannot be is refused in one line."""
        flags = "--layers 1 --width 16 --heads 2 --context 24 --batch 2 --eval-tokens 128 --lr 1e-3"
        teacher = "--layers 1 --width 32 --heads 2 --context 24 --batch 2 --eval-tokens 128 --lr 2e-3 --steps 5"
        command = f"./train {flags} --steps 3 --teacher='{teacher}' --draft-loss ce,kl,tv --seed 1..2"
        options = ("--metric", "acceptance", "--higher")
        first = self.sweep(command, *options)
        self.assertEqual(first.returncode, 0, first.stderr)
        rows = self.records()
        self.assertEqual((len(rows), len({row["digest"] for row in rows.values()})), (6, 6))
        self.assertEqual(len({row["model"] for row in rows.values()}), 2)
        self.assertTrue(all(0 < row["acceptance"] < 1 for row in rows.values()))
        with tempfile.TemporaryDirectory() as out:   # by hand
            for name, own in (("a", teacher), ("b", f"{flags} --steps=3 --teacher={out}/a --draft-loss=tv"),
                              ("c", f"{flags} --steps=3 --teacher={out}/a --draft-loss=kl --load={out}/b")):
                subprocess.run([ROOT / "train", *own.split(), "--seed=1", "--threads=1", "--sample-tokens=0",
                                f"--out={out}/{name}"], check=True, capture_output=True)
            told = [json.loads((Path(out) / name / "run.json").read_text()) for name in "abc"]
        row = next(row for key, row in rows.items() if "--draft-loss tv" in key and "--seed 1" in key)
        self.assertEqual([row["model"], row["digest"], row["acceptance"]],
                         [told[0]["digest"], told[1]["digest"], told[1]["final"]["acceptance"]])
        self.assertEqual(check.differences(row, warm.again(row)), [])
        self.assertNotEqual(check.differences({**row, "acceptance": 0.5}, warm.again(row)), [])
        both = f"./train {flags} --steps 3 --teacher='{teacher}' --draft-loss kl --from='--draft-loss tv' --seed 1..2"
        again = self.sweep(both, *options)
        self.assertEqual(again.returncode, 0, again.stderr)
        row = next(row for key, row in self.records().items() if "--from" in key and "--seed 1" in key)
        self.assertEqual((row["digest"], row["model"]), (told[2]["digest"], f"{told[1]['digest']} {told[0]['digest']}"))
        self.assertEqual(check.differences(row, warm.again(row)), [])
        for words, said in (("--teacher='--seed 3'", "has --seed"), ("--teacher='--nothing 3'", "nothing"),
                            ("--draft-loss tv", "--teacher")):
            refused = self.sweep(f"./train {flags} --steps 3 {words} --seed 1..2", *options)
            self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
            self.assertIn(said, refused.stderr)

    def test_serves_with_a_draft(self):
        """./serve --run --draft: both are trained once whatever --gamma is, the answers do not tell, and the
        same row comes again."""
        flags = "--layers 1 --heads 2 --context 24 --batch 2 --eval-tokens 128 --steps 5"
        price = json.loads((ROOT / "claims/costs/line.json").read_text())
        (self.into / "draft.json").write_text(json.dumps({**price, "base": 0.0005}))
        command = (f"./serve --run='{flags} --width 32' --draft='{flags} --width 16 --draft-loss kl' --gamma 1,3 "
                   "--requests 6 --arrivals closed --clients 1 --prompt-length 2 --answer-length 9 --spread 0 "
                   f"--blocks 32 --block 4 --clock model --draft-cost {self.into}/draft.json --seed 1..2")
        first = self.sweep(command, "--metric", "steps")
        self.assertEqual(first.returncode, 0, first.stderr)
        rows = self.records()
        self.assertEqual((len(rows), len({row["digest"] for row in rows.values()})), (4, 2))
        self.assertEqual(len({row["model"] for row in rows.values()}), 2)
        self.assertTrue(all(len(row["model"]) == 33 and 0 < row["rejected"] < row["drafted"] for row in rows.values()))
        row = next(row for key, row in rows.items() if "--gamma 3" in key)
        self.assertEqual(check.differences(row, answerer.again(row)), [])
        self.assertNotEqual(check.differences({**row, "steps": 1.0}, answerer.again(row)), [])
        for words, said in ((f"--run='{flags} --load x'", "has --load"), (f"--run='{flags} --nothing 3'", "nothing"),
                            (f"--run='{flags}' --draft='--nothing 3'", "nothing")):
            refused = self.sweep(f"./serve {words} --clock model --seed 1..2")
            self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
            self.assertIn(said, refused.stderr)

    def test_lost_table(self):
        """Runs that have ended are recorded again from what is left of them, with their digests."""
        command = f"{TINY} --steps 10 --seed 1..3"
        self.assertEqual(self.sweep(command).returncode, 0)
        before = self.records()
        (self.into / "results.csv").unlink()
        again = self.sweep(command)
        self.assertEqual((again.returncode, again.stdout.count("recovered")), (0, 3), again.stdout + again.stderr)
        self.assertEqual(self.records(), before)
        fresh = self.sweep(command, "--fresh")
        self.assertIn("digests  3 of 3 are those recorded before", fresh.stdout)
        table = self.into / "results.csv"
        table.write_text(table.read_text()[:-40])
        cut = self.sweep(command)
        self.assertEqual((cut.returncode, cut.stderr.count("\n")), (2, 1), cut.stderr)
        self.assertIn("damaged", cut.stderr)

    def test_one_at_a_time(self):
        held = os.open(self.into, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = self.sweep(f"{TINY} --steps 8 --seed 1..2")
        os.close(held)
        self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
        self.assertIn("another sweep", refused.stderr)

    def test_misspelt_options(self):
        for words in (["--solve", "steps"], ["--match", "params", "--solve", "seed"], ["--match", "params"]):
            refused = self.sweep(f"{TINY} --steps 8 --seed 1..2", *words)
            self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
        for tool in (check, table):
            with self.assertRaises(UsageError):
                tool.main(["--rerunn"])

    def test_interrupted(self):
        """Ctrl-C in the middle of a run: what is finished stays, the run goes on from its step, the digests are those
        of an undisturbed sweep."""
        command = f"{TINY} --steps 600 --seed 1..3 --save-every 50"
        words = [ROOT / "claims/sweep", *command.split(), "--into", str(self.into)]
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)
        deadline = time.monotonic() + 60
        while len(self.records()) < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
        self.assertEqual(process.returncode, 130)
        begun = self.records()
        self.assertTrue(1 <= len(begun) < 3, begun.keys())
        self.assertTrue(all(row["status"] == "finished" for row in begun.values()))
        self.assertEqual(self.sweep(command).returncode, 0)
        digests = {key: row["digest"] for key, row in self.records().items()}
        self.assertEqual(self.sweep(command, "--fresh").returncode, 0)
        self.assertEqual({key: row["digest"] for key, row in self.records().items()}, digests)
        self.assertEqual(len(digests), 3)

    def start(self, command, *options):
        words = [ROOT / "claims/sweep", *command.split(), "--into", str(self.into), *options]
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True)

    def until(self, condition):
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertTrue(condition())

    def test_interrupted_at_any_time(self):
        """Among imports, in the pilot, between runs: one line or none, never a traceback, and nothing goes on."""
        for seconds in (0.02, 0.1, 0.3, 0.6, 1.0, 1.6, 2.2):
            process = self.start(f"{TINY} --steps 100000 --seed 1..3")
            time.sleep(seconds)
            while process.poll() is None:                   # while Python begins it does not listen
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)
                time.sleep(0.2)
            out, error = process.communicate()
            self.assertIn(process.returncode, (130, -signal.SIGINT), f"after {seconds} s: {out}{error}")
            self.assertEqual(error, "", f"after {seconds} s")

    def test_killed(self):
        """The runs of a sweep that is killed end with it; where they cannot, the next sweep waits for them."""
        command = f"{TINY} --steps 3000 --seed 1..2 --save-every 50"
        process = self.start(command)
        self.until(lambda: any(trainer.is_held(d) for d in self.into.iterdir() if d.is_dir() and d.name != "pilot"))
        process.kill()
        process.communicate()
        if trainer.PRCTL:
            self.until(lambda: not any(trainer.is_held(d) for d in self.into.iterdir()))
        held = [os.open(d, os.O_RDONLY) for d in self.into.iterdir() if d.is_dir()]
        for directory in held:
            fcntl.flock(directory, fcntl.LOCK_EX)
        short = self.start(command)
        said = short.stdout.readline()
        while said and not said.startswith("waiting "):
            said = short.stdout.readline()
        self.assertIn("another process trains in", said)
        for directory in held:
            os.close(directory)
        out, error = short.communicate()
        self.assertEqual((short.returncode, error), (0, ""), out)
        self.assertEqual([row["status"] for row in self.records().values()], ["finished"] * 2)

    def test_divergence_and_failure_are_results(self):
        command = f"{TINY} --steps 40 --clip 0 --lr 1e-3,999 --init-scale 900 --norm-kind layer --seed 1..2"
        self.assertEqual(self.sweep(command).returncode, 0)
        self.assertEqual(len(self.records()), 4)
        self.assertIn("diverged", {row["status"] for row in self.records().values()})
        again = self.sweep(command)
        self.assertIn("0 to do", again.stdout)

    def test_impossible_is_refused_before_anything_runs(self):
        refused = self.sweep(f"{TINY} --steps 8 --heads 2,5")
        self.assertEqual(refused.returncode, 2)
        self.assertIn("heads=5", refused.stderr)
        self.assertEqual(refused.stderr.count("\n"), 1)
        self.assertEqual(self.records(), {})


    def test_metric_that_is_not_there(self):
        """Refused before anything is trained, with what there is."""
        for metric in ("drop_deep", "rms_last"):
            refused = self.sweep(f"{TINY} --steps 8 --seed 1..2", "--metric", metric)
            self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
            self.assertIn(f"no {metric}", refused.stderr)
            self.assertEqual(self.records(), {})
        text = sweep(*f"{TINY} --steps 8 --seed 1..2 --metric accuracy".replace("recall", "iid").replace(
            "--pairs 4 --keys 8 ", "").split(), "--into", str(self.into))
        self.assertIn("no accuracy", text.stderr)

    def test_without_a_claim_file(self):
        """A table, a picture and a summary under a name that says what was varied."""
        done = self.sweep(f"{TINY} --steps 8 --norm pre,post --seed 1..6")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater((self.into / "results.png").stat().st_size, 5000)
        summary = (self.into / "results.txt").read_text()
        self.assertIn("norm=post vs norm=pre: ", summary)
        self.assertRegex(summary, r"[\d.]+ beyond the bound: the smallest difference of val_loss found with 80% power")
        named = sweep(*f"{TINY} --steps 8 --norm pre,post --seed 1..6 --dry-run".split())
        self.assertEqual(named.returncode, 0, named.stderr)
        folders = list((ROOT / "runs/sweeps").glob("recall_norm=pre,post_*"))
        self.assertEqual(len(folders), 1)
        for folder in folders:
            trainer.forget(folder)

    def test_design_that_cannot_settle(self):
        """Its own pilot says so: nothing that is to be reported is trained, but with --yes."""
        path = self.into / "vain.toml"
        path.write_text(f'''
            thesis = "Nothing of this size is there."
            metric = "val_loss"
            command = "{TINY} --steps 8 --norm pre,post --seed 1..6"
            pilot_seeds = "101..103"
            comparison = [{{ a = "norm=post", b = "norm=pre", predict = "> 5", expect = 5.001 }}]''')
        refused = sweep(str(path), "--into", str(self.into))
        self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
        self.assertIn("cannot settle the claim", refused.stderr)
        self.assertIn("would do", refused.stdout + "would do" * ("no number of seeds" in refused.stdout))
        self.assertEqual(len(read_records(self.into / "vain.csv")), 6)
        self.assertEqual(sweep(str(path), "--into", str(self.into), "--yes").returncode, 0)
        self.assertEqual(len(read_records(self.into / "vain.csv")), 18)

    def test_bar_that_elimination_passes(self):
        """Refused before anything is trained, but with --yes."""
        path = self.into / "free.toml"
        path.write_text(f'''
            thesis = "Most of two answers are right."
            metric = "accuracy"
            better = "higher"
            outcome = "solved"
            threshold = "> 0.5"
            command = "{TINY} --steps 8 --pairs 2 --norm pre,post --seed 1..6"
            comparison = [{{ a = "norm=post", b = "norm=pre", predict = "within 0.5" }}]''')
        refused = sweep(str(path), "--into", str(self.into))
        self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
        self.assertIn("a model that binds nothing has a share in what this claim measures", refused.stderr)
        self.assertIn("passes accuracy > 0.5 in: norm=pre, norm=post; accuracy_above_elimination", refused.stdout)
        self.assertFalse((self.into / "free.csv").exists())
        self.assertEqual(sweep(str(path), "--into", str(self.into), "--yes", "--dry-run").returncode, 0)

    def test_claim(self):
        """A whole claim: arms with flags of their own, rates chosen on other seeds, a matched arm, a verdict, a figure;
        the records alone give the same verdict, and a run of them again the same digest, which a changed one is not."""
        path = self.into / "tiny.toml"
        path.write_text(f'''
            thesis = "Guessing is not beaten in so few steps."
            metric = "val_loss"
            command = "{TINY} --steps 10 --lr 1e-4,1e-3 --seed 1..3"
            tune_seeds = "11..12"
            match = "params"
            arms = {{ dense = "--experts 0", sparse = "--experts 2 --expert-width ?" }}
            comparison = [{{ a = "sparse", b = "dense", predict = "within 1" }}]''')
        swept = sweep(str(path), "--into", str(self.into), "--jobs", "2")
        self.assertEqual(swept.returncode, 0, swept.stderr)
        for line in ("matched  sparse: params", "power    unknown: a pilot of 2 seeds gives none", "verdict  HOLDS",
                     "predicted within 1: EQUIVALENT"):
            self.assertIn(line, swept.stdout)
        self.assertTrue((self.into / "tiny.png").exists())
        claim, records = read_claim(path), read_records(self.into / "tiny.csv")
        self.assertEqual(len(records), 2 * (2 * 2 + 3))
        self.assertEqual(verdict.evaluate(match.recall_claim(claim, records), records).verdict, "HOLDS")
        self.assertEqual(quiet(check.rerun, claim, records)[0], [])
        quickest = min(records.values(), key=lambda row: row["seconds"])
        for name, other in (("digest", "0123456789abcdef"), ("val_loss", 1.0), ("max_grad_norm", 9.0),
                            ("parameters", 7.0)):
            told = quiet(check.rerun, claim, {"x": {**quickest, name: other}})[0]
            self.assertEqual(len(told), 1, (name, told))
            self.assertIn(f"the {name} was {other}", told[0])
        self.assertEqual(quiet(check.rerun, claim, {"x": {**quickest, "tokens_per_second": 1.0}})[0], [])
        self.assertEqual([part.split(":")[0] for part in quickest["evals"].split()][-1], "10")
        self.assertEqual({row["promise"] for row in records.values()}, {claim.promise})

    def test_equal_time(self):
        matched = self.sweep(f"{TINY} --steps 200 --layers 1,2 --seed 1..2", "--match", "time", "--dry-run")
        self.assertEqual(matched.returncode, 0, matched.stderr)
        self.assertIn("matched  layers=2: time", matched.stdout)

    def test_over_budget(self):
        path = self.into / "long.toml"
        path.write_text(f'''
            thesis = "x"
            metric = "val_loss"
            budget_minutes = 1
            command = "{TINY} --steps 1000000 --seed 1..3"
            comparison = [{{ a = "all", predict = "> 1" }}]''')
        refused = sweep(str(path), "--into", str(self.into))
        self.assertEqual((refused.returncode, refused.stderr.count("\n")), (2, 1), refused.stderr)
        self.assertIn("budget", refused.stderr)


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=1 + ("-v" in sys.argv)).result
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed")
    sys.exit(bad > 0)
