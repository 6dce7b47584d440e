"""The section on several datasets: the differences on each first, then ranks if there are datasets enough."""

from collections.abc import Sequence

from segsweep.report.charts.rank_diagram import rank_diagram
from segsweep.report.datasets import MIN_DATASETS, Across, Datasets, over_datasets
from segsweep.report.intervals import NO_CELLS, Interval
from segsweep.report.judgement import Judgement
from segsweep.report.runs import Comparison
from segsweep.report.section import Part, Section
from segsweep.report.table import Table, number

_CSV_HEADER = ("first", "second", "data", "difference", "low", "high", "n")
_MOST_NAMED = 12  # configurations in tables; the CSV file has all


def several(comparisons: Sequence[Comparison], judgements: Sequence[Judgement]) -> Section | None:
    """The section, or None if fewer than two configurations are on two datasets."""
    found = over_datasets(comparisons, judgements)
    if found is None:
        return None
    part = Part(
        f"{len(found.scores)} configurations on {', '.join(found.names)}",
        [_scores(found), _differences(found)],
        _sentences(found),
        [*_how_made(found), *(f"left out: {text}" for text in found.left_out)],
        [],
        [_record(row, name, interval) for row in found.across for name, interval in row.differences.items()],
        [rank_diagram(found.ranks, len(found.names))] if found.ranks else [],
    )
    return Section("datasets", "Over several datasets", _CSV_HEADER, [part], columns=1)


def _scores(found: Datasets) -> Table:
    header = ("configuration", *found.names, "mean", *(["mean rank"] if found.ranks else []))
    rows = [
        (
            name,
            *(f"{by_dataset[data]:.4f}" for data in found.names),
            f"{sum(by_dataset.values()) / len(by_dataset):.4f}",
            *([f"{found.ranks.mean[name]:.2f}"] if found.ranks else []),
        )
        for name, by_dataset in list(found.scores.items())[:_MOST_NAMED]
    ]
    return Table("test mIoU, mean over seeds", header, rows, ("configuration",))


def _differences(found: Datasets) -> Table:
    named = set(list(found.scores)[:_MOST_NAMED])
    rows = [
        (row.first, row.second, *(_cell(row.differences[data]) for data in found.names), number(row.wilcoxon, ".3g"))
        for row in found.across
        if row.first in named and row.second in named
    ]
    title = "first minus second on shared seeds and images, with the 95 % interval of the pair alone"
    return Table(title, ("first", "second", *found.names, "p Wilcoxon"), rows, ("first", "second"))


def _sentences(found: Datasets) -> list[str]:
    """Who is ahead everywhere; a mean over datasets hides who is not."""
    lines = []
    for row in found.across[: _MOST_NAMED - 1]:
        known = [interval for interval in row.differences.values() if interval and interval.low is not None]
        better = sum((interval.low or 0) > 0 for interval in known)
        worse = sum((interval.high or 0) < 0 for interval in known)
        lines.append(
            f"{row.first} scores higher than {row.second} on {better} of {len(row.differences)} datasets, "
            f"lower on {worse}, undecided on {len(row.differences) - better - worse} "
            "(by the interval of the pair alone)"
        )
    if found.ranks is None:
        lines.append(f"no ranks: with fewer than {MIN_DATASETS} datasets no rank test can show anything")
    return lines


def _how_made(found: Datasets) -> list[str]:
    lines = ["p Wilcoxon: signed ranks over (dataset, block) pairs, Holm's correction over all rows; decides nothing"]
    if found.ranks:
        lines.append(f"critical difference of mean ranks (Nemenyi, 95 %): {found.ranks.critical_difference:.3f}")
        if found.ranks.friedman is not None:
            lines.append(f"Friedman's test that all are alike: p = {found.ranks.friedman:.3g}")
    return lines


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    ends = "" if interval.low is None or interval.high is None else f" [{interval.low:+.3f}, {interval.high:+.3f}]"
    return f"{interval.mean:+.3f}{ends}"


def _record(row: Across, data: str, interval: Interval | None) -> tuple[str, ...]:
    return (row.first, row.second, data, *(interval.cells() if interval else NO_CELLS))
