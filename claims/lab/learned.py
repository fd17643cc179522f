"""learned.py: a picture of claims with outcome = "steps": the share of an arm's seeds that solved their task, after
so many steps of training, one panel below the other for each learning rate. No seed leaves before the end of its
steps, so the share is one minus the curve of Kaplan and Meier.
"""
import matplotlib.pyplot as plt

from .figure import STYLE, label_ends, look, words
from .records import solved_at


def times(claim, results, arm, tuned):
    """Of every recorded seed the step after which it was found to have solved the task; None where it never did."""
    rows = [results.row(arm, tuned, seed) for seed in claim.seeds]
    return [solved_at(row, claim.metric, claim.threshold)[0] for row in rows if row]


def draw(receipt, title):
    """One line per arm; they rise where a seed has solved, and end at the share that did. Of those that end alike, the
    name of the first to get there stands on top."""
    claim, results = receipt.claim, receipt.results
    budget = int(dict(claim.arms[0].flags)["steps"])
    choices = sorted(results.choices, key=lambda tuned: float(dict(tuned)["lr"]))
    with plt.rc_context(STYLE):
        figure, every = plt.subplots(len(choices), 1, figsize=(7.6, 2.3 * len(choices) + 0.4), layout="constrained",
                                     sharex=True, squeeze=False)
        every = list(every.flat)
        for axes, tuned in zip(every, choices):
            ends = []
            for i, arm in enumerate(claim.arms):
                found = times(claim, results, arm, tuned)
                solved = sorted(t for t in found if t is not None)
                steps, shares = [0, *solved, budget], [k / len(found) for k in range(len(solved) + 1)]
                style = look(i)
                axes.step(steps, [*shares, shares[-1]], where="post", color=style["color"], linewidth=1.8,
                          linestyle=style["linestyle"])
                late = sum(budget if t is None else t for t in found)
                ends.append((late, (budget, shares[-1], f"{words(claim, arm.label)}: {len(solved)}", style["color"])))
            ends = [end for _, end in sorted(ends, key=lambda e: -e[0])]
            axes.set_xlim(0, budget)
            axes.set_ylim(-0.02, 1.03)
            axes.set_title(f"learning rate {dict(tuned)['lr']}", fontsize=10, loc="left")
            axes.set_ylabel(f"share of {len(claim.seeds)} seeds")
            label_ends(axes, ends, beyond=4)
        every[-1].set_xlabel("steps of training until learned")
        figure.suptitle(title, fontsize=11, fontweight="bold")
        return figure
