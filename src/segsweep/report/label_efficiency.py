"""Label efficiency: what each arm scores with few labels, and how many labels it saves against a reference."""

from collections import defaultdict
from collections.abc import Sequence

from segsweep.report.arms import Against, Arm, compare_arms, find_arms
from segsweep.report.curve import Line, Panel
from segsweep.report.intervals import NO_CELLS, Interval, half_width, mean_interval, verdict
from segsweep.report.labels_saved import Saving
from segsweep.report.runs import Comparison
from segsweep.report.section import Part, Section
from segsweep.report.table import Table

_HEADER = ("data", "arm", "reference", "labelled_fraction", "mean", "low", "high", "n", "difference", "difference_low",
           "difference_high", "n_paired", "verdict", "labels_saved")  # fmt: skip


def label_efficiency(comparisons: Sequence[Comparison], reference: str | None = None) -> Section | None:
    """The section, or None if no dataset was trained at two labelled fractions.

    Args:
        comparisons: as the leaderboard has them.
        reference: name of the arm to compare with; by default the supervised arm most like each other one.

    Raises:
        ValueError: no arm has the name of the reference.
    """
    found = [(comparison, *find_arms(comparison)) for comparison in comparisons]
    names = list(dict.fromkeys(arm.name for _, arms, _ in found for arm in arms))
    if reference is not None and reference not in names:
        raise ValueError(f"--reference {reference!r}: there is no such arm. There are: {', '.join(names) or 'none'}")
    parts = [_part(comparison, arms, single, reference) for comparison, arms, single in found if arms]
    return Section("label_efficiency", "Label efficiency", _HEADER, parts, columns=3) if parts else None


def sentence(result: Against) -> str:
    """Whether an arm helps, by how much and with what confidence."""
    arm, reference, overall = result.arm.name, result.reference.name, result.overall
    if overall is None or overall.low is None:
        return f"{arm}: too few seeds to compare with {reference} ({overall.n if overall else 0} shared, at least 2)."
    what = verdict(overall)
    claim = f"{arm}: {what}" if what.startswith("no") else f"{arm} {what}"
    num = len(result.by_fraction)
    over = f"mean of {num} labelled fractions" if num > 1 else f"at {percent(next(iter(result.by_fraction)))} labelled"
    text = (
        f"{claim}: {overall.mean:+.4f} test mIoU against {reference}, 95 % interval {overall.low:+.4f} to "
        f"{overall.high:+.4f} ({over}, paired over {overall.n} seeds)."
    )
    if num == 1:
        return text
    by_verdict: dict[str, list[str]] = defaultdict(list)
    for fraction, difference in result.by_fraction.items():
        by_verdict[verdict(difference)].append(percent(fraction))
    details = "; ".join(f"{what} at {', '.join(fractions)}" for what, fractions in by_verdict.items())
    return f"{text} By fraction: {details}."


def percent(fraction: float) -> str:
    """A share as people write it: ``5 %``."""
    return f"{fraction * 100:.3g} %"


def _part(comparison: Comparison, arms: list[Arm], single: list[str], reference: str | None) -> Part:
    results = compare_arms(arms, reference)
    fractions = sorted({fraction for arm in arms for fraction in arm.scores})
    references = list(dict.fromkeys(result.reference.name for result in results))
    # References first: they are what the others are seen against, and grey in the picture.
    arms = sorted(arms, key=lambda arm: arm.name not in references)
    lines = [Line(arm.name, [(f, mean_interval(list(s.values()))) for f, s in arm.scores.items()]) for arm in arms]
    panel = Panel(comparison.name, "training images labelled", "test mIoU", percent, lines)
    return Part(
        comparison.title,
        _tables(arms, results, fractions),
        [sentence(result) for result in results],
        _notes(arms, results) + ([f"left out, one labelled fraction only: {', '.join(single)}"] if single else []),
        [panel],
        _records(comparison.name, arms, results),
    )


def _tables(arms: list[Arm], results: list[Against], fractions: list[float]) -> list[Table]:
    header = ("arm", *(percent(fraction) for fraction in fractions))
    most = max(len(by_seed) for arm in arms for by_seed in arm.scores.values())
    scores = [(arm.name, *(_score(arm.scores.get(f), most) for f in fractions)) for arm in arms]
    differences = [(r.arm.name, *(_difference(r.by_fraction.get(f)) for f in fractions)) for r in results]
    saved = [
        row
        for r in results
        for row in (
            (r.arm.name, *(str(r.saved.get(f, "-")) for f in fractions)),
            ("  lowest and highest seed", *(_range(r.saved_by_seed.get(f, [])) for f in fractions)),
        )
    ]
    against = " and ".join(dict.fromkeys(r.reference.name for r in results))
    tables = [Table("Mean test mIoU and its 95 % interval, by labelled fraction", header, scores, ("arm",))]
    if results:
        title = f"Difference from {against} in test mIoU, paired by seed, and its 95 % interval"
        tables.append(Table(title, header, differences, ("arm",)))
        title = f"Labels saved at equal mIoU: times fewer labels to reach {against} at each fraction"
        tables.append(Table(title, header, saved, ("arm",)))
    return tables


def _notes(arms: list[Arm], results: list[Against]) -> list[str]:
    seeds = sorted({seed for arm in arms for by_seed in arm.scores.values() for seed in by_seed})
    counts = sorted({len(by_seed) for arm in arms for by_seed in arm.scores.values()})
    spread = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    notes = [f"seeds: {spread} for each mean ({', '.join(map(str, seeds))}); intervals are Student's t over seeds"]
    if results and counts[-1] > 1:
        reach = half_width(counts[-1])
        num = sum(len(result.by_fraction) for result in results)
        notes.append(
            f"with {counts[-1]} seeds an interval reaches {reach:.1f} standard deviations of the paired differences to "
            f"either side: smaller effects cannot be shown"
        )
        notes.append(f"{num} differences were looked at: 1 in 20 intervals excludes 0 where there is no difference")
    notes.append(
        "labels saved: curves made monotone, linear in the logarithm of the fraction, nothing assumed beyond the "
        "fractions tried; at least: the smallest one tried is already enough; not reached: the largest is not"
    )
    return notes


def _records(title: str, arms: list[Arm], results: list[Against]) -> list[tuple[str, ...]]:
    by_name = {result.arm.name: result for result in results}
    rows: list[tuple[str, ...]] = []
    for arm in arms:
        result = by_name.get(arm.name)
        for fraction, by_seed in arm.scores.items():
            score = mean_interval(list(by_seed.values()))
            paired = result.by_fraction.get(fraction) if result else None
            rows.append(
                (
                    title, arm.name, result.reference.name if result else "-", f"{fraction:g}",
                    *score.cells(), *(paired.cells() if paired else NO_CELLS), verdict(paired) if result else "-",
                    str(result.saved.get(fraction, "-")) if result else "-",
                )
            )  # fmt: skip
    return rows


def _score(by_seed: dict[int, float] | None, most: int) -> str:
    if not by_seed:
        return "-"
    score = mean_interval(list(by_seed.values()))
    return score.text(".4f") + ("" if score.n == most else f" (n={score.n})")


def _difference(difference: Interval | None) -> str:
    return "-" if difference is None else difference.text("+.4f")


def _range(savings: list[Saving]) -> str:
    if len(savings) < 2:
        return "-"
    ordered = sorted(savings, key=lambda saving: (saving.factor or 0.0, saving.is_bound))
    ends = [str(saving).replace("at least ", "≥") for saving in (ordered[0], ordered[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
