"""The report as a TensorBoard run of its own, beside the runs that it compares: leaderboard, ranking, Pareto fronts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segsweep.events import image, replace_events, text
from segsweep.report.figures import pareto, ranking
from segsweep.report.runs import Comparison


def write_board(comparisons: list[Comparison], leaderboard: str, out: Path) -> None:
    """Writes leaderboard (Text tab), ranking and Pareto fronts (Images tab) into one event file, in place of the last.

    Args:
        comparisons: of the report.
        leaderboard: Markdown.
        out: folder of the report; it exists. In TensorBoard it is a run called ``report``.
    """
    replace_events(out, "report", _values(comparisons, leaderboard), 0)


def _values(comparisons: list[Comparison], leaderboard: str) -> Iterator[Any]:
    yield text("leaderboard", leaderboard)
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
