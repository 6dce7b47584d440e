"""Arms: ways to train that are compared at several labelled fractions, seed by seed.

An arm is all runs that differ in nothing but the seed and ``data.labelled_fraction``.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from segsweep.report.intervals import Interval, paired_interval
from segsweep.report.labels_saved import Saving, labels_saved
from segsweep.report.records import Record
from segsweep.report.runs import Comparison, group
from segsweep.run import flatten

METRIC = "test/miou"
_FRACTION = "data.labelled_fraction"


@dataclass(frozen=True)
class Arm:
    """One way to train, at several labelled fractions.

    Attributes:
        name: what sets it apart, e.g. ``regime=pretrain``.
        first: one of its records, for its choices.
        scores: labelled fraction -> seed -> test mIoU.
    """

    name: str
    first: Record
    scores: dict[float, dict[int, float]]

    def means(self) -> dict[float, float]:
        """Its curve: labelled fraction -> mean over seeds."""
        return {fraction: mean(by_seed.values()) for fraction, by_seed in self.scores.items()}

    def curve_of(self, seed: int) -> dict[float, float]:
        """Its curve at one seed."""
        return {fraction: by_seed[seed] for fraction, by_seed in self.scores.items() if seed in by_seed}


@dataclass(frozen=True)
class Against:
    """An arm against its reference, at the fractions and seeds that both have.

    Attributes:
        arm: that is judged.
        reference: that it is judged by.
        by_fraction: the paired difference at each labelled fraction.
        overall: that of the means over the fractions, over seeds that have them all; None without such a seed.
        saved: at each fraction of the reference, times fewer labels for the same score.
        saved_by_seed: the same for the curves of each seed.
    """

    arm: Arm
    reference: Arm
    by_fraction: dict[float, Interval]
    overall: Interval | None
    saved: dict[float, Saving]
    saved_by_seed: dict[float, list[Saving]]


def find_arms(comparison: Comparison) -> tuple[list[Arm], list[str]]:
    """The arms with scores, those of ``regime=supervised`` first.

    Returns:
        Arms at two labelled fractions or more, and the names of those at one only, which have no curve.
    """
    scored = [run for run in comparison.runs if run["status"] == "completed" and run["metrics"].get(METRIC) is not None]
    groups = group(scored, (_FRACTION,))
    curves = [runs for _, runs in groups if _has_curve(runs)]
    arms = []
    for name, runs in group((run for members in curves for run in members), (_FRACTION,)):  # named among themselves
        scores: dict[float, dict[int, float]] = defaultdict(dict)
        for run in runs:
            scores[run["data"]["labelled_fraction"]][run["seed"]] = run["metrics"][METRIC]
        arms.append(Arm(name, runs[0], dict(sorted(scores.items()))))
    single = [name for name, runs in groups if not _has_curve(runs)]
    return sorted(arms, key=lambda arm: (not _is_supervised(arm), arm.name)), single


def compare_arms(arms: Sequence[Arm], reference: str | None = None) -> list[Against]:
    """Every arm against its reference; references themselves are left out.

    The reference is the one that is named; else, of the supervised arms, the one whose config differs least, so that
    each model is compared with itself; else, if none or all are supervised, the first arm.
    """
    supervised = [arm for arm in arms if _is_supervised(arm)]
    named = [arm for arm in arms if arm.name == reference]
    references = named or (supervised if 0 < len(supervised) < len(arms) else list(arms[:1]))
    return [
        _against(arm, min(references, key=lambda other: _num_differing(arm, other)))
        for arm in arms
        if arm not in references
    ]


def _against(arm: Arm, reference: Arm) -> Against:
    pairs = {f: (arm.scores[f], reference.scores[f]) for f in arm.scores if f in reference.scores}
    by_fraction = {f: found for f, (a, b) in pairs.items() if (found := paired_interval(a, b)) is not None}
    # Averages over fractions are over the same fractions for every seed, or a seed that lacks one would stand out.
    full = set.intersection(*(set(pairs[f][0]) & set(pairs[f][1]) for f in by_fraction)) if by_fraction else set()
    overall = paired_interval(
        {seed: mean(pairs[f][0][seed] for f in by_fraction) for seed in full},
        {seed: mean(pairs[f][1][seed] for f in by_fraction) for seed in full},
    )
    seeds = sorted({seed for f in by_fraction for seed in pairs[f][0].keys() & pairs[f][1].keys()})
    saved, by_seed = {}, {}
    for f in reference.scores:
        mine = [labels_saved(arm.curve_of(seed), reference.curve_of(seed), f) for seed in seeds]
        by_seed[f] = [saving for saving in mine if saving is not None]
        saving = labels_saved(arm.means(), reference.means(), f)
        if saving is not None:
            saved[f] = saving
    return Against(arm, reference, by_fraction, overall, saved, by_seed)


def _has_curve(runs: list[Record]) -> bool:
    return len({run["data"]["labelled_fraction"] for run in runs}) > 1


def _is_supervised(arm: Arm) -> bool:
    return bool(arm.first["choices"].get("regime") == "supervised")


def _num_differing(arm: Arm, other: Arm) -> int:
    mine, theirs = flatten(arm.first["config"]), flatten(other.first["config"])
    return sum(mine.get(key) != theirs.get(key) for key in mine.keys() | theirs.keys())
