"""Accuracy against each kind of cost, with the front of those that no other one beats in both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segsweep.report.charts.figure import Figure
from segsweep.report.charts.plot import Axis, Mark, Plot
from segsweep.report.charts.scale import compact, within_reach
from segsweep.report.judgement import Standing
from segsweep.report.leaderboard import peak_memory_mb
from segsweep.report.page.board import interval_of
from segsweep.report.pareto import front
from segsweep.report.runs import RANK_BY, Comparison, Configuration


@dataclass(frozen=True)
class Cost:
    """One horizontal axis: its title, its name with a unit, where it is in a record, the factor to that unit."""

    title: str
    name: str
    key: str
    factor: float = 1.0
    is_gain: bool = False


COSTS = (
    Cost("Against parameters", "parameters", "parameters"),
    Cost("Against FLOPs", "FLOPs per image", "flops"),
    Cost("Against training speed", "images/s in training (more is better)", "images_per_s.train", is_gain=True),
    Cost("Against inference speed", "images/s in inference (more is better)", "images_per_s.inference", is_gain=True),
    Cost("Against training time", "minutes per run", "wall_s", 1 / 60),
    Cost("Against memory", "peak memory in MB", "peak_memory_mb"),
)


def costs(comparison: Comparison, standings: Mapping[str, Standing], marks: Mapping[str, Mark]) -> list[Figure]:
    """One chart for each kind of cost that the records of two configurations have."""
    figures = []
    for cost in COSTS:
        points = []
        for row in comparison.configurations:
            score, value = row.average(RANK_BY), _value(row, cost)
            if score is not None and value is not None and value > 0:
                points.append((row.name, value * cost.factor, score))
        if len(points) > 1:
            figures.append(_figure(cost, points, standings, marks))
    return figures


def _figure(
    cost: Cost,
    points: Sequence[tuple[str, float, float]],
    standings: Mapping[str, Standing],
    marks: Mapping[str, Mark],
) -> Figure:
    is_crowded = len(points) > 24
    intervals = {name: _interval(standings.get(name)) for name, *_ in points}
    scores = [score for *_, score in points]
    if not is_crowded:
        scores = within_reach(scores, [end for interval in intervals.values() for end in interval or ()])
    plot = Plot(Axis(cost.name, [x for _, x, _ in points], is_log=True), Axis("test mIoU", scores, limits=(0, 1)))
    best = front(points, cost.is_gain)
    plot.step([(x, y) for _, x, y in best], is_rising=not cost.is_gain)
    for name, x, y in reversed(points):
        interval = intervals[name]
        ends = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        hover = f"{name}: test mIoU {y:.4f}{ends}, {compact(x)} {cost.name.partition(' (')[0]}"
        plot.point(marks[name], x, y, hover, None if is_crowded else interval)
    on_front = {name for name, *_ in best}
    named = [point for point in points if not is_crowded or point[0] in on_front]
    others = [(x, y) for name, x, y in points if is_crowded and name not in on_front]
    plot.name_points([(marks[name], x, y) for name, x, y in named], others)
    way = "to the right and up is better" if cost.is_gain else "to the left and up is better"
    whiskers = "" if is_crowded or not any(intervals.values()) else " Whiskers: 95 % interval, cut off at the edge."
    few = f" Names: the front only, of {len(points)} configurations." if is_crowded else ""
    return Figure(
        cost.title,
        plot.render(f"test mIoU against {cost.name} of {len(points)} configurations"),
        f"{len(points)} configurations, {way}. Line: the Pareto front, {len(best)} of them.{whiskers}{few}",
    )


def _value(row: Configuration, cost: Cost) -> float | None:
    if cost.key == "peak_memory_mb":
        return peak_memory_mb(row)
    return row.average(cost.key)


def _interval(standing: Standing | None) -> tuple[float, float] | None:
    interval = interval_of(standing)
    return None if interval is None or interval.low is None or interval.high is None else (interval.low, interval.high)
