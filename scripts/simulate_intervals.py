"""How often the intervals of a report hold what they promise: on simulated experiments whose truth is known.

    python scripts/simulate_intervals.py            the tables in docs/statistics.md, in minutes
    python scripts/simulate_intervals.py --num 200  the same, rougher

An experiment is configurations x seeds x blocks of images, each image with a confusion matrix of five classes, reduced
to its margins. A pixel is hit with a probability whose logit is the sum of a level of its class, the configuration's
skill, effects of the seed, of the block, of seed and block together and of the image, which is skewed: few images are
very hard. Seeds and blocks do part of it to all configurations alike. Misses go to other classes at fixed shares.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from segsweep.report.crossed import Spread, crossed, over_blocks
from segsweep.report.intervals import CONFIDENCE, half_width
from segsweep.report.pairs import LIKELY
from segsweep.report.pooled import influence, miou
from segsweep.report.resampling import draw

Array = NDArray[np.float64]
SIZES = ((5, 30), (10, 30), (5, 100), (10, 100), (3, 12))  # seeds, blocks
IMAGES = 3  # of a block
_SEEDS = 20  # others, on which an interval over seeds is tried
_SHARES = np.array([0.45, 0.3, 0.15, 0.07, 0.03])  # of the pixels, by class
_SHOWN = np.array([1.0, 0.9, 0.7, 0.5, 0.35])  # how many of the images show a class
_LEVELS = np.array([3.0, 2.2, 1.6, 1.0, 0.6])  # logit of a hit
_LOADS = np.array([0.6, 0.8, 1.0, 1.2, 1.4])  # how much an effect moves a class
_TO = np.array([[0, .5, .3, .15, .05], [.5, 0, .3, .15, .05], [.4, .4, 0, .1, .1], [.3, .4, .2, 0, .1],
                [.3, .3, .2, .2, 0]])  # fmt: skip  # where the misses of a class go
_SHARED = 0.6  # of the variance of seeds and blocks: what they do to all configurations alike


@dataclass(frozen=True)
class World:
    """Standard deviations of logits, and how the second configuration fails.

    Attributes:
        name: for the tables.
        seed: of a configuration's seeds.
        block: of a configuration's blocks.
        both: of seed and block together.
        image: of an image's difficulty, exponential: skewed.
        fails: as ``image``, but of the second configuration alone, on one image in ten: it skews the difference.
    """

    name: str
    seed: float = 0.15
    block: float = 0.4
    both: float = 0.1
    image: float = 0.6
    fails: float = 0.0


WORLDS = (
    World("seeds and blocks"),
    World("seeds above all", seed=0.3, block=0.05, both=0.05, image=0.2),
    World("blocks above all", seed=0.005, block=0.6, both=0.02),
    World("neither, their interaction", seed=0.005, block=0.01, both=0.5, image=0.1),
    World("very hard images", image=1.2),
    World("one fails on some images", seed=0.05, block=0.1, fails=3.0),
)


@dataclass(frozen=True)
class Experiments:
    """Simulated experiments.

    Attributes:
        counts: (E, C, S, B, 3, K).
        effects: (E, C, S) what each seed adds to the logits of its configuration.
    """

    counts: Array
    effects: Array

    def values(self) -> Array:
        """(E, C, S, B) as the report has them: pooled score + B x influence."""
        return miou(self.counts.sum(axis=-3))[..., None] + self.counts.shape[-3] * influence(self.counts)


def simulate(world: World, num: int, skills: Array, seeds: int, blocks: int, rng: np.random.Generator) -> Experiments:
    """``num`` experiments of configurations with these skills (C,)."""
    c, images = len(skills), (num, 1, 1, blocks, IMAGES)
    effects = world.seed * _partly_shared(rng, (num, c, seeds), axis=1)
    block = world.block * _partly_shared(rng, (num, c, blocks), axis=1)
    both = world.both * rng.standard_normal((num, c, seeds, blocks))
    truth = _truth(rng, images)
    hard = world.image * (rng.standard_exponential(images) - 1)
    alone = 0.3 * rng.standard_normal((num, c, 1, blocks, IMAGES))  # what an image is to one configuration
    logit = (skills[:, None, None] + effects[..., None] + block[:, :, None] + both)[..., None] + alone - hard
    logit[:, 1:2] -= _failures(world, rng, (num, 1, 1, blocks, IMAGES))
    return Experiments(_counts(truth, logit).sum(axis=-3), effects)


def _partly_shared(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
    shared = rng.standard_normal(tuple(1 if i == axis else n for i, n in enumerate(shape)))
    return np.sqrt(_SHARED) * shared + np.sqrt(1 - _SHARED) * rng.standard_normal(shape)


def _failures(world: World, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return world.fails * rng.standard_exponential(shape) * (rng.random(shape) < 0.1)


def _truth(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    k = len(_SHARES)
    size = _SHARES * np.exp(0.5 * rng.standard_normal((*shape, k))) * (rng.random((*shape, k)) < _SHOWN)
    return np.asarray(np.ceil(20000 * size / size.sum(axis=-1, keepdims=True)))


def _counts(truth: Array, logit: Array) -> Array:
    """Truth (..., K), logits (...) -> (..., 3, K)."""
    hit = truth / (1 + np.exp(-(_LEVELS + logit[..., None] * _LOADS)))
    predicted = hit + ((truth - hit).reshape(-1, len(_TO)) @ _TO).reshape(hit.shape)  # one product, not thousands
    return np.stack([np.broadcast_to(truth, hit.shape), predicted, hit], axis=-2)


@dataclass(frozen=True)
class Truth:
    """What a configuration scores on all images there are, by what its seed adds."""

    effects: Array
    scores: Array
    mean: float

    def of(self, effects: Array) -> Array:
        """Scores of models whose seeds add this."""
        return np.interp(effects, self.effects, self.scores)


@cache
def truth(world: World, skill: float, is_first: bool, num: int = 1_000_000) -> Truth:
    """From many images, each with a block of its own; the mean over seeds by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    grid = np.linspace(-5, 5, 11) * world.seed
    pooled = 0.0
    rng = np.random.default_rng(1)
    for _ in range(0, num, 20_000):
        shape = (20_000,)
        rest = np.sqrt(world.block**2 + world.both**2 + 0.3**2) * rng.standard_normal(shape)
        logit = skill + rest - world.image * (rng.standard_exponential(shape) - 1)
        if not is_first:
            logit -= _failures(world, rng, shape)
        pooled = pooled + _counts(_truth(rng, shape), grid[:, None] + logit).sum(axis=1)
    scores = miou(np.asarray(pooled))
    of_nodes = np.interp(nodes * world.seed, grid, scores)
    return Truth(grid, scores, float(weights @ of_nodes / weights.sum()))


def batches(world: World, num: int, skills: Array, seeds: int, blocks: int, state: int) -> Iterator[Experiments]:
    """``num`` experiments, 50 at a time."""
    rng = np.random.default_rng(state)
    for _ in range(0, num, 50):
        yield simulate(world, 50, skills, seeds, blocks, rng)


def holds(mean: Array, spread: Spread, target: Array | float, num: int = 1) -> NDArray[np.bool_]:
    """Whether the interval around each mean has the target in it."""
    below, above = spread.reach(CONFIDENCE, num)
    return (mean - below <= target) & (target <= mean + above)


SKILL = 0.15  # logits by which the first of two configurations is better


def coverage(world: World, num: int, seeds: int, blocks: int) -> dict[str, float]:
    """Share of experiments in which each interval holds the truth, for two configurations that differ in skill."""
    first, second = truth(world, SKILL, is_first=True), truth(world, 0.0, is_first=False)
    found: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in ("pair", "both", "images", "seeds")}
    for made in batches(world, num, np.array([SKILL, 0.0]), seeds, blocks, 0):
        values = made.values()
        pair, single = crossed(values[:, 0] - values[:, 1]), crossed(values[:, 0])
        found["pair"].append(holds(pair.mean, pair.spread(), first.mean - second.mean))
        found["both"].append(holds(single.mean, single.spread(), first.mean))
        of_block, of_models = values[:, 0].mean(axis=1), first.of(made.effects[:, 0]).mean(axis=1)
        found["images"].append(holds(single.mean, over_blocks(of_block), of_models))
    found["seeds"] = [_over_seeds(world, num, seeds, blocks)]
    return {name: float(np.mean(np.concatenate(parts))) for name, parts in found.items()}


def _over_seeds(world: World, num: int, seeds: int, blocks: int) -> NDArray[np.bool_]:
    """Whether Student's t over seeds holds the mean of other seeds on the same images, their own chance allowed for."""
    reach, found = half_width(seeds) * np.sqrt(1 + seeds / _SEEDS), []
    for made in batches(world, num, np.zeros(1), seeds + _SEEDS, blocks, 1):
        scores = miou(made.counts.sum(axis=-3))[:, 0]
        own, others = scores[:, :seeds], scores[:, seeds:].mean(axis=1)
        found.append(np.abs(own.mean(axis=1) - others) <= reach * own.std(axis=1, ddof=1))
    return np.concatenate(found)


def false_claims(world: World, num: int, seeds: int, blocks: int, equal: int = 4) -> float:
    """Share of experiments in which any of some equal configurations is called better or worse than another."""
    world = World(**{**vars(world), "fails": 0.0})  # or they would not be equal
    first, second = np.triu_indices(equal, 1)
    weights, wrong = draw(blocks, 200), []
    for made in batches(world, num, np.zeros(equal), seeds, blocks, 2):
        values = made.values()
        layout = crossed(values[:, first] - values[:, second])
        holding = holds(layout.mean, layout.spread(), 0.0, len(first))
        drawn = values @ weights.T
        likely = (drawn[:, first] > drawn[:, second]).mean(axis=(-2, -1))
        wrong.append((~holding & (np.abs(likely - 0.5) > LIKELY - 0.5)).any(axis=1))
    return float(np.mean(np.concatenate(wrong)))


def found(world: World, num: int, seeds: int, blocks: int) -> tuple[float, float]:
    """Share of experiments in which a true difference is found: paired, and by the same intervals unpaired."""
    paired, unpaired = [], []
    for made in batches(world, num, np.array([2 * SKILL, 0.0]), seeds, blocks, 3):
        values = made.values()
        layout = crossed(values[:, 0] - values[:, 1])
        paired.append(~holds(layout.mean, layout.spread(), 0.0) & (layout.mean > 0))
        unpaired.append(~holds(layout.mean, welch(crossed(values[:, 0]).spread(), crossed(values[:, 1]).spread()), 0.0)
                        & (layout.mean > 0))  # fmt: skip
    return float(np.mean(np.concatenate(paired))), float(np.mean(np.concatenate(unpaired)))


def welch(first: Spread, second: Spread) -> Spread:
    """Of the difference of two means as if nothing were shared."""
    one, two = np.square(first.error), np.square(second.error)
    error = np.sqrt(one + two)
    freedom = (one + two) ** 2 / (one**2 / first.freedom + two**2 / second.freedom)
    third = first.skewness * first.error**3 - second.skewness * second.error**3
    return Spread(error, freedom, third / error**3, first.parts + second.parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=2000, help="experiments for each number (default 2000)")
    num = parser.parse_args(arguments).num
    header = ["", *(f"{seeds} x {blocks}" for seeds, blocks in SIZES)]
    for name, words in (("pair", "Difference of a pair"), ("both", "One score, seeds and images"),
                        ("images", "One score, images"), ("seeds", "One score, seeds")):  # fmt: skip
        print(f"\n{words}: % of {num:,} experiments in which the 95 % interval holds the truth; seeds x blocks\n")
        _print_table(header, [[w.name, *(f"{_coverage(w, num, *size)[name]:.1%}" for size in SIZES)]
                                    for w in WORLDS])  # fmt: skip
    print(f"\nFour equal configurations: % of {2 * num:,} experiments in which any is called better or worse\n")
    _print_table(header, [[w.name, *(f"{false_claims(w, 2 * num, *size):.1%}" for size in SIZES)] for w in WORLDS[:-1]])
    print(f"\nA true difference found, % of {num:,} experiments: paired, and unpaired (Welch)\n")
    _print_table(header, [[w.name, *("{:.0%}, {:.0%}".format(*found(w, num, *size)) for size in SIZES)]
                                for w in WORLDS])  # fmt: skip


_coverage = cache(coverage)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
