"""The report as a TensorBoard run of its own, beside the runs that it compares: leaderboard, ranking, Pareto fronts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segsweep.events import image, replace_events, text
from segsweep.report.figures import pareto, ranking
from segsweep.report.runs import Comparison
from segsweep.report.table import Table, clean, number

_SCORE = "test/miou"
_HEADER = ("rank", "configuration", "family", "test mIoU", "SD", "n", "val mIoU", "M params", "img/s train", "min/run",
           "runs without a result")  # fmt: skip


def write_board(comparisons: list[Comparison], out: Path) -> None:
    """Writes leaderboard (Text tab), ranking and Pareto fronts (Images tab) into one event file, in place of the last.

    Args:
        comparisons: of the report.
        out: folder of the report; it exists. In TensorBoard it is a run called ``report``.
    """
    replace_events(out, "report", _values(comparisons), 0)


def _values(comparisons: list[Comparison]) -> Iterator[Any]:
    yield text("leaderboard", "\n\n".join(_markdown(comparison) for comparison in comparisons))
    ranked = [comparison for comparison in comparisons if comparison.configurations[0].completed]
    names: dict[str, int] = {}
    for comparison in ranked:
        name = re.sub(r"[^\w.-]", "_", comparison.name)
        names[name] = names.get(name, 0) + 1
        prefix = name if names[name] == 1 else f"{name}_{names[name]}"
        drawn = ranking(comparison)
        if drawn is not None:
            yield image(f"{prefix}/ranking", drawn.png, drawn.height, drawn.width)
        for cost, picture in pareto(comparison).items():
            yield image(f"{prefix}/against {cost}", picture.png, picture.height, picture.width)


def _markdown(comparison: Comparison) -> str:
    rows: list[tuple[str, ...]] = []
    for rank, row in enumerate(comparison.configurations, start=1):
        score, parameters, minutes = (row.average(key) for key in (_SCORE, "parameters", "wall_s"))
        rows.append(
            (
                str(rank) if score is not None else "-",
                row.name,
                str(row.runs[0].get("family") or "-"),
                number(score, ".4f"),
                number(row.deviation(_SCORE), ".4f"),
                str(len(row.completed)),
                number(row.average("val/miou"), ".4f"),
                number(parameters and parameters / 1e6, ".3f"),
                number(row.average("images_per_s.train"), ",.0f"),
                number(minutes and minutes / 60, ".2f"),
                str(sum(run["status"] != "completed" for run in row.runs)),
            )
        )
    return f"## {clean(comparison.title)}\n\n{Table('', _HEADER, rows, ('configuration', 'family')).markdown()}"
