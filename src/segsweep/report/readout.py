"""Models that have seen no label: their clusters, beside a linear probe of the same features and the controls.

A run joins if its record has ``readout``: name -> ``test/miou``.
"""

from collections.abc import Sequence

from segsweep.report.intervals import NO_CELLS, Interval, mean_interval, paired_interval
from segsweep.report.runs import Comparison, Configuration
from segsweep.report.section import Part, Section
from segsweep.report.table import Table

_METRIC = "test/miou"
_CLUSTERS, _PROBE = "clusters", "probe"
_CONTROLS = {
    "colour_clusters": "colour clusters",
    "xy_clusters": "(x, y) clusters",
    "location_prior": "location prior",
}
_HEADER = ("configuration", "clusters", "probe", *_CONTROLS.values(), "against best control", "n")
_CSV_HEADER = ("data", "configuration", "readout", "clusters", "mean", "low", "high", "n")


def readout(comparisons: Sequence[Comparison]) -> Section | None:
    """The section, or None if no run was read off without labels."""
    parts = [part for comparison in comparisons if (part := _part(comparison)) is not None]
    return Section("readout", "Without labels", _CSV_HEADER, parts, columns=1) if parts else None


def _part(comparison: Comparison) -> Part | None:
    rows = [row for row in comparison.configurations if row.completed and row.completed[0].get("readout")]
    if not rows:
        return None
    return Part(
        comparison.title,
        [
            Table(
                "Test mIoU of what is read off models that have seen no label",
                _HEADER,
                list(map(_cells, rows)),
                _HEADER[:1],
            )
        ],
        [_sentence(row) for row in rows],
        [
            "clusters and (x, y), colour clusters: k-means, matched with classes once, on labelled training images",
            "probe: logistic regression on the same features, trained with labels; location prior: counted with labels",
            "± is half the 95 % interval, Student's t over seeds, paired if against",
        ],
        [],
        [record for row in rows for record in _records(comparison.name, row)],
    )


def _scores(row: Configuration, name: str) -> dict[int, float]:
    """Seed -> test mIoU."""
    return {run["seed"]: run["readout"][name][_METRIC] for run in row.completed if name in run.get("readout", {})}


def _mean(row: Configuration, name: str) -> Interval | None:
    scores = list(_scores(row, name).values())
    return mean_interval(scores) if scores else None


def _against_best(row: Configuration) -> tuple[str, Interval | None]:
    """The control with the highest mean, and how far the clusters lie above it."""
    found = {name: mean for name in _CONTROLS if (mean := _mean(row, name)) is not None}
    best = max(found, key=lambda name: found[name].mean)
    return best, paired_interval(_scores(row, _CLUSTERS), _scores(row, best))


def _num_clusters(row: Configuration) -> int | None:
    regime = row.completed[0]["config"].get("regime") or {}
    return (regime.get("readout") or {}).get("clusters")


def _sentence(row: Configuration) -> str:
    best, change = _against_best(row)
    num = _num_clusters(row)
    bound = f" {num} clusters, many to one: an upper bound." if num else ""
    if change is None or change.low is None or change.high is None:
        verdict = "too few seeds to compare clusters and controls"
    else:
        verdict = "beats" if change.low > 0 else "loses to" if change.high < 0 else "is not shown to differ from"
        verdict += f" its best control, {_CONTROLS[best]}: {change.mean:+.4f} test mIoU"
        verdict += f", 95 % interval {change.low:+.4f} to {change.high:+.4f}"
    return f"{row.name}: {verdict}.{bound}"


def _cells(row: Configuration) -> tuple[str, ...]:
    change = _against_best(row)[1]
    means = [_mean(row, name) for name in (_CLUSTERS, _PROBE, *_CONTROLS)]
    return (
        row.name,
        *(mean.text(".4f") if mean else "-" for mean in means),
        change.text("+.4f") if change else "-",
        str(len(_scores(row, _CLUSTERS))),
    )


def _records(data: str, row: Configuration) -> list[tuple[str, ...]]:
    num = str(_num_clusters(row) or "classes")
    found = {name: _mean(row, name) for name in (_CLUSTERS, _PROBE, *_CONTROLS)}
    return [(data, row.name, name, num, *(mean.cells() if mean else NO_CELLS)) for name, mean in found.items()]
