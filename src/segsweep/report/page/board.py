"""The leaderboard as the page shows it: cells that sort by value, not by text."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from segsweep.report.charts.plot import Mark, shape
from segsweep.report.charts.scale import Scale, spanning, within_reach
from segsweep.report.charts.svg import element, title
from segsweep.report.intervals import Interval
from segsweep.report.judgement import Standing
from segsweep.report.leaderboard import peak_memory_mb
from segsweep.report.page.wording import MINUS, bounds, signed
from segsweep.report.runs import RANK_BY, Comparison, Configuration
from segsweep.report.table import number

_BAR = (96.0, 18.0)  # user units


@dataclass(frozen=True)
class Column:
    """One column: the name that permalinks use, its heading, what the pointer explains, whether it holds words."""

    key: str
    heading: str
    about: str = ""
    is_word: bool = False


COLUMNS = (
    Column("rank", "#", "rank by mean test mIoU"),
    Column("name", "configuration", "what sets it apart from the others", is_word=True),
    Column(
        "miou",
        "test mIoU",
        "mean over seeds; bar: its 95 % interval; tick: the higher floor",
    ),
    Column("sd", "SD", "sample standard deviation over seeds"),
    Column("n", "n", "completed runs, one for each seed"),
    Column("val", "val mIoU", "of the best checkpoint, mean over seeds"),
    Column("gap", f"val {MINUS} test", "validation minus test mIoU: what choosing by validation promised too much"),
    Column("family", "family", "of the model", is_word=True),
    Column("params", "M params", "millions of parameters"),
    Column("flops", "GFLOPs", "10⁹ floating-point operations per image"),
    Column("train", "img/s train", "training images per second"),
    Column("infer", "img/s infer", "images per second in inference"),
    Column("memory", "peak MB", "peak memory: of the device where there is one, else of the host"),
    Column("minutes", "min /run", "wall time of a run"),
    Column("state", "state", "what became of its runs", is_word=True),
)


@dataclass(frozen=True)
class Cell:
    """Text with the value that it sorts by; none sorts last."""

    text: str
    value: float | str | None
    hover: str = ""
    bar: str = ""


@dataclass(frozen=True)
class Row:
    """One configuration: how it looks and its cells by column."""

    mark: Mark
    badge: str
    cells: list[Cell] = field(default_factory=list)


def board(comparison: Comparison, standings: Mapping[str, Standing], marks: Mapping[str, Mark]) -> list[Row]:
    """All configurations in the order of their ranks."""
    scale = _bar_scale(comparison, standings)
    floor = best_floor(comparison)
    rows = []
    for rank, row in enumerate(comparison.configurations, start=1):
        mark, state = marks[row.name], row.state
        cells = [
            Cell(str(rank) if row.completed else "-", rank),
            Cell(mark.label, row.name, row.name),
            _score(row, standings.get(row.name), mark, scale, floor),
            *_numbers(row),
            Cell("✓" if state == "completed" else state, state, state),
        ]
        rows.append(Row(mark, badge(mark), cells))
    return rows


def badge(mark: Mark) -> str:
    """The small sign that stands for a configuration in text."""
    sign = element("g", shape(mark.slot, 6.0, 6.0, 4.4), class_="point")
    return element("svg", sign, viewBox="0 0 12 12", class_=f"badge {mark.classes}", aria_hidden="true")


def best_floor(comparison: Comparison) -> float | None:
    """The higher of the scores that need no image."""
    return max((v for floor in comparison.floors.values() if (v := floor.get(RANK_BY)) is not None), default=None)


def interval_of(standing: Standing | None) -> Interval | None:
    """Over seeds and test images where that is known, else over seeds alone."""
    return (standing.both or standing.seeds) if standing else None


def _numbers(row: Configuration) -> list[Cell]:
    score, val = row.average(RANK_BY), row.average("val/miou")
    gap = val - score if val is not None and score is not None else None
    parameters, flops, seconds = row.average("parameters"), row.average("flops"), row.average("wall_s")
    return [
        _cell(row.deviation(RANK_BY), ".4f"),
        _cell(float(len(row.completed)), ".0f"),
        _cell(val, ".4f"),
        Cell("-" if gap is None else signed(gap, "+.4f"), gap),
        Cell(str(row.runs[0].get("family") or "-"), str(row.runs[0].get("family") or "")),
        _cell(parameters and parameters / 1e6, ".3f"),
        _cell(flops and flops / 1e9, ".3g" if flops and flops < 1e9 else ",.1f"),
        _cell(row.average("images_per_s.train"), ",.0f"),
        _cell(row.average("images_per_s.inference"), ",.0f"),
        _cell(peak_memory_mb(row), ",.0f"),
        _cell(seconds and seconds / 60, ".2f"),
    ]


def _cell(value: float | None, form: str) -> Cell:
    return Cell(number(value, form), value)


def _score(row: Configuration, standing: Standing | None, mark: Mark, scale: Scale, floor: float | None) -> Cell:
    score = row.average(RANK_BY)
    if score is None:
        return Cell("-", None)
    lines = [f"{row.name}: test mIoU {score:.4f}"]
    if standing:
        named = {
            "over seeds and test images": standing.both,
            "over seeds": standing.seeds,
            "over test images": standing.images,
        }
        lines += [f"{what}: {bounds(interval, '.4f')}" for what, interval in named.items() if interval]
    hover = "\n".join(lines)
    return Cell(f"{score:.4f}", score, hover, _bar(score, standing, mark, scale, floor))


def _bar(score: float, standing: Standing | None, mark: Mark, scale: Scale, floor: float | None) -> str:
    middle = _BAR[1] / 2
    parts = [element("line", x1=scale.start, x2=scale.end, y1=middle, y2=middle, class_="track")]
    if floor is not None and scale.low <= floor <= scale.high:
        x = scale(floor)
        parts.append(element("line", title(f"floor {floor:.4f}"), x1=x, x2=x, y1=2.0, y2=_BAR[1] - 2, class_="floor"))
    shown = interval_of(standing)
    if shown and shown.low is not None and shown.high is not None:
        x1, x2 = (scale(min(max(end, scale.low), scale.high)) for end in (shown.low, shown.high))
        parts.append(element("line", x1=x1, x2=x2, y1=middle, y2=middle, class_="reach"))
    parts.append(element("g", shape(mark.slot, scale(score), middle, 4.0), class_="point"))
    return element(
        "svg", *parts, viewBox=f"0 0 {_BAR[0]:g} {_BAR[1]:g}", class_=f"bar {mark.classes}", aria_hidden="true"
    )


def _bar_scale(comparison: Comparison, standings: Mapping[str, Standing]) -> Scale:
    """One for all rows. An interval that would squeeze all others to nothing is cut off."""
    scores = [score for row in comparison.configurations if (score := row.average(RANK_BY)) is not None]
    shown = [interval for standing in standings.values() if (interval := interval_of(standing))]
    ends = [end for interval in shown for end in (interval.low, interval.high) if end is not None]
    reached = within_reach(scores, ends) if scores else []
    return spanning(reached, 4.0, _BAR[0] - 4, limits=(0.0, 1.0))
