"""The table of an export: size, time, memory, quality before and after; for the screen, as Markdown and as JSON."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from segsweep.export.agreement import Agreement
from segsweep.export.timing import Cost

HEADER = ("variant", "file", "MB", "ms, batch 1", "speed", "peak MB", "mIoU", "equal pixels", "largest difference")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the variant; ``torch`` is the model itself.
        file: its name, or None for the model itself.
        size_bytes: of the file, or None.
        sizes: ``any`` or ``HxW``.
        why_fixed: why the size is fixed, or empty.
        agreement: with the model.
        cost: on the CPU, or None.
        speed: how many times as fast as ONNX in float32 (as torch, without ONNX), or None.
        gpu: cost on the GPU, or None.
    """

    name: str
    file: str | None
    size_bytes: int | None
    sizes: str
    why_fixed: str
    agreement: Agreement
    cost: Cost | None
    speed: float | None
    gpu: Cost | None


def screen(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    table = Table(*_header(rows))
    for row in rows:
        table.add_row(*map(escape, _cells(row, _has_gpu(rows))))
    return table


def markdown(rows: Sequence[Row], facts: Sequence[str], title: str) -> str:
    """A page of its own: facts, then the table; names are quoted as code, so that none of them is markup."""
    header = _header(rows)
    lines = [f"| {' | '.join(header)} |", "|---|---|" + "--:|" * (len(header) - 2)]
    lines += [f"| {' | '.join(_cells(row, _has_gpu(rows)))} |" for row in rows]
    shown = "\n".join(f"- {_code(fact)}" for fact in facts)
    return f"# Export of {_code(title)}\n\n{shown}\n\n" + "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Everything, with the time of every round."""
    variants = [dataclasses.asdict(row) for row in rows]
    return json.dumps({**facts, "variants": variants}, indent=1) + "\n"


def _header(rows: Sequence[Row]) -> tuple[str, ...]:
    return (*HEADER, "GPU ms") if _has_gpu(rows) else HEADER


def _has_gpu(rows: Sequence[Row]) -> bool:
    return any(row.gpu for row in rows)


def _cells(row: Row, with_gpu: bool) -> list[str]:
    found, cost = row.agreement, row.cost
    cells = [
        row.name,
        row.file or "",
        f"{row.size_bytes / 1e6:.2f}" if row.size_bytes is not None else "",
        _milliseconds(cost),
        f"{row.speed:.2f}" if row.speed is not None else "",
        f"{cost.peak_mb:,.0f}" if cost else "",
        f"{found.miou:.4f}" if found.miou is not None else "",
        f"{found.equal:.3%}",
        f"{found.largest:.1e}",
    ]
    return [*cells, _milliseconds(row.gpu)] if with_gpu else cells


def _milliseconds(cost: Cost | None) -> str:
    if cost is None:
        return ""
    if len(cost.seconds) < 2:
        return f"{cost.median * 1e3:.2f}"
    low, _, high = statistics.quantiles(cost.seconds, method="inclusive")
    return f"{cost.median * 1e3:.2f} ({low * 1e3:.2f} to {high * 1e3:.2f})"


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ')}`"
