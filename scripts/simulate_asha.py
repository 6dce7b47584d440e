"""How many epochs successive halving takes, and how often it keeps the best run: on made-up curves, one job at a time.

    python scripts/simulate_asha.py        the table in docs/search.md, in seconds

A curve rises from 0 to a level in 0.2..0.9 with a time constant of 1..5 epochs, both uniform; every epoch has normal
noise of 0.01, 0.03 or 0.05. 16 curves of 8 epochs, 1,000 draws for each kind of noise. The best is kept if the end of
the best completed run is at most 0.02 below that of the best curve.
"""

import math
import random

from segsweep.halving import SuccessiveHalving

RUNS, EPOCHS, DRAWS, LOSS, BUDGET = 16, 8, 1000, 0.02, 0.40


def main() -> None:
    print("| `reduction_factor`, order | epochs of 128, mean | at most 51 (40 %) | best kept |\n|---|---|---|---|")
    for factor in (2, 3):
        for breadth_first, words in ((True, "breadth first"), (False, "as published")):
            halving = SuccessiveHalving(factor, breadth_first=breadth_first)
            rows = [summary(halving, noise) for noise in (0.01, 0.03, 0.05)]
            spent, within, kept = ([f"{value:{form}}" for value in column] for column, form in
                                   zip(zip(*rows, strict=True), (".0f", ".0%", ".0%"), strict=True))  # fmt: skip
            print(f"| {factor}, {words} | {', '.join(spent)} | {', '.join(within)} | {', '.join(kept)} |")


def summary(halving: SuccessiveHalving, noise: float) -> tuple[float, float, float]:
    """Mean epochs, share of draws within the budget, share that keep the best."""
    draw = random.Random(0)
    results = [search(halving, [curve(draw, noise) for _ in range(RUNS)]) for _ in range(DRAWS)]
    spent = [epochs for epochs, _ in results]
    return (
        sum(spent) / DRAWS,
        sum(epochs <= BUDGET * RUNS * EPOCHS for epochs in spent) / DRAWS,
        sum(loss <= LOSS for _, loss in results) / DRAWS,
    )


def curve(draw: random.Random, noise: float) -> list[float]:
    """Scores after each epoch."""
    level, constant = draw.uniform(0.2, 0.9), draw.uniform(1, 5)
    return [level * (1 - math.exp(-epoch / constant)) + draw.gauss(0, noise) for epoch in range(1, EPOCHS + 1)]


def search(halving: SuccessiveHalving, curves: list[list[float]]) -> tuple[int, float]:
    """Epochs spent, and how far the best completed run ends below the best curve."""
    scores: dict[int, dict[int, float]] = {}
    while True:
        paused = {run for run, own in scores.items() if max(own) < EPOCHS}
        is_new = len(scores) < RUNS
        run = None if is_new and halving.breadth_first else halving.promoted(scores, paused, EPOCHS)
        if run is None and is_new:
            run = len(scores)
        if run is None and len(paused) == len(scores):  # none is completed yet
            run = halving.last_promoted(scores, paused, EPOCHS)
        if run is None:
            break
        own = scores.setdefault(run, {})
        done = len(own)
        own |= {epoch: curves[run][epoch - 1] for epoch in range(done + 1, halving.until(done, EPOCHS) + 1)}
    completed = [curves[run][-1] for run, own in scores.items() if len(own) == EPOCHS]
    return sum(map(len, scores.values())), max(curve[-1] for curve in curves) - max(completed)


if __name__ == "__main__":
    main()
