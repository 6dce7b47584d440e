"""What the runs of a comparison allow one to say: each configuration's score, each pair's difference, in words."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from segsweep.report.intervals import Interval
from segsweep.report.runs import Configuration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Verdict(StrEnum):
    """On the first configuration of a pair."""

    BETTER = "better"
    WORSE = "worse"
    NO_EVIDENCE = "no evidence"
    TOO_FEW_SEEDS = "too few seeds"


@dataclass(frozen=True)
class Standing:
    """How sure the score of a configuration is; scores are test mIoU, 0 to 1.

    Attributes:
        configuration: with at least one completed run.
        seeds: over training seeds, on these very test images.
        images: over test images, for these very trained models; None without per-image confusion matrices.
        both: over seeds and blocks of test images; None without matrices or with one seed.
    """

    configuration: Configuration
    seeds: Interval
    images: Interval | None
    both: Interval | None


@dataclass(frozen=True)
class Pair:
    """Two configurations on their shared seeds and test images; the difference is first minus second.

    Attributes:
        first: name of the configuration that ranks higher.
        second: name of the other.
        num_seeds: that both have.
        difference: 95 % interval of this pair alone; None if they share no seed.
        simultaneous: the wider one that holds over all pairs of the comparison at once; decides.
        probability: P(first > second) of one run each with a new seed on another sample of test images.
        verdict: better or worse if ``simultaneous`` excludes 0 and the probability is above 0.75 (below 0.25).
        more_seeds: about how many more shared seeds would settle it, if the difference and its spread stay; None: it
            is settled, or no number of seeds would.
        wilcoxon: p of the signed ranks over blocks after Holm's correction over all pairs; printed, never decides.
            None if fewer than 6 blocks differ: no p below 0.05 is possible.
        by_block: (B,) mean difference over the shared seeds in mIoU of each block alone, NaN where nothing in it is
            labelled; None without per-image confusion matrices.
    """

    first: str
    second: str
    num_seeds: int
    difference: Interval | None
    simultaneous: Interval | None
    probability: float | None
    verdict: Verdict
    more_seeds: int | None
    wilcoxon: float | None
    by_block: "NDArray[np.float64] | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Judgement:
    """Of one comparison.

    Attributes:
        standings: of the configurations with completed runs, best first.
        pairs: of every two of them, in the order of their ranks.
        blocks: what the test images were grouped into, in words, e.g. ``30 blocks of 13 to 14 neighbouring images``.
        notes: what was left out and why, e.g. a run whose matrices are damaged.
    """

    standings: list[Standing]
    pairs: list[Pair]
    blocks: str
    notes: tuple[str, ...] = ()
