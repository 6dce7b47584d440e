"""Compression: accuracy and speed of segmenters that work on a code, against the size of that code.

A run joins if its record has ``code``: ``values``, the numbers that stand for one image, and ``reduction``, how many
times fewer they are than those of the image itself. Its speed in inference starts from images; ``from_code``, where the
model has measured it, from codes that are stored already.
"""

from collections.abc import Sequence

from segsweep.report.curve import Line, Panel
from segsweep.report.intervals import NO_CELLS, Interval, mean_interval, paired_interval
from segsweep.report.runs import Comparison, Configuration, group
from segsweep.report.section import Part, Section
from segsweep.report.table import Table, number

_METRIC, _SPEED, _CODE_SPEED = "test/miou", "images_per_s.inference", "images_per_s.from_code"
_PANELS = {_METRIC: "test mIoU", _SPEED: "images/s in inference", _CODE_SPEED: "images/s from stored codes"}
# Along one curve these may differ: they set the size of the code, and name the autoencoder trained at that size.
_SIZE_KEYS = ("model.latent_channels", "model.widths", "init_from")
_HEADER = ("configuration", "reduction", "values", "test mIoU", "against no code", "n", "img/s infer", "from code",
           "img/s train", "M params")  # fmt: skip
_CSV_HEADER = ("data", "configuration", "reduction", "values", "mean", "low", "high", "n", "difference",
               "difference_low", "difference_high", "n_paired", "inference_images_per_s", "from_code_images_per_s",
               "train_images_per_s", "parameters")  # fmt: skip


def compression(comparisons: Sequence[Comparison]) -> Section | None:
    """The section, or None if no dataset was segmented from codes of two sizes."""
    parts = [part for comparison in comparisons if (part := _part(comparison)) is not None]
    columns = max((len(part.panels) for part in parts), default=0)
    return Section("compression", "Compression", _CSV_HEADER, parts, columns) if parts else None


def _part(comparison: Comparison) -> Part | None:
    scored = [row for row in comparison.configurations if row.values(_METRIC)]
    coded = sorted((row for row in scored if row.completed[0].get("code")), key=_reduction)
    if len({_reduction(row) for row in coded}) < 2:
        return None
    uncoded = [row for row in scored if not row.completed[0].get("code")]
    best = uncoded[0] if uncoded else None  # configurations come ranked
    curves = _curves(coded)
    rows = [(name, row) for name, curve in curves.items() for row in curve]
    rows += [(best.name, best)] if best else []
    return Part(
        comparison.title,
        [Table("Accuracy and speed by size of the code", _HEADER, [_cells(*row, best) for row in rows], _HEADER[:1])],
        [_sentence(name, curve[0], curve[-1]) for name, curve in curves.items() if len(curve) > 1],
        _notes([row for _, row in rows], len(uncoded)),
        [panel for key, what in _PANELS.items() if (panel := _panel(comparison.name, what, key, curves, best)).lines],
        [_record(comparison.name, *row, best) for row in rows],
    )


def _curves(coded: list[Configuration]) -> dict[str, list[Configuration]]:
    """Name of a curve -> its configurations by rising reduction."""
    rows = {row.completed[0]["fingerprint_without_seed"]: row for row in coded}
    records = [row.completed[0] for row in coded]
    named = group(records, _SIZE_KEYS)
    if any(len({first["code"]["values"] for first in firsts}) < len(firsts) for _, firsts in named):
        # One size in two ways: few places of many channels, many places of few. Then each depth is a curve of its own.
        named = group(records, [key for key in _SIZE_KEYS if key != "model.widths"])
    return {name: [rows[first["fingerprint_without_seed"]] for first in firsts] for name, firsts in named}


def _sentence(name: str, large: Configuration, small: Configuration) -> str:
    """What the smallest code costs and gains against the largest one."""
    change, before, after = _paired(small, large), large.average(_SPEED), small.average(_SPEED)
    speed = f"; {before:,.0f} -> {after:,.0f} images/s in inference" if before and after else ""
    before, after = large.average(_CODE_SPEED), small.average(_CODE_SPEED)
    speed += f", {before:,.0f} -> {after:,.0f} from stored codes" if before and after else ""
    if change is None or change.low is None:
        cost = "too few shared seeds to say what it costs"
    else:
        cost = f"{change.mean:+.4f} test mIoU, 95 % interval {change.low:+.4f} to {change.high:+.4f}"
        cost += f" (paired over {change.n} seeds)"
    return f"{name}: from a reduction of {_reduction(large):.3g}x to {_reduction(small):.3g}x: {cost}{speed}."


def _notes(rows: list[Configuration], num_uncoded: int) -> list[str]:
    counts = sorted({len(row.values(_METRIC)) for row in rows})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    notes = [f"seeds: {seeds} for each mean; ± is half the 95 % interval, Student's t over seeds, paired if against"]
    notes.append("reduction: values of an image over values of its code")
    if num_uncoded > 1:
        notes.append(f"no code: the best of {num_uncoded} configurations that segment the image itself")
    return notes


def _panel(data: str, what: str, key: str, curves: dict[str, list[Configuration]], best: Configuration | None) -> Panel:
    lines = [
        Line(name, [(_reduction(row), mean_interval(row.values(key))) for row in rows if row.values(key)])
        for name, rows in curves.items()
    ]
    level = best.average(key) if best and key != _CODE_SPEED else None
    return Panel(
        f"{data}: {what}",
        "reduction of the image by its code",
        what,
        lambda reduction: f"{reduction:.3g}x",
        [line for line in lines if line.points],
        (0.0, 1.0 if key == _METRIC else float("inf")),
        None if best is None or level is None else (level, f"no code: {best.name}"),
    )


def _reduction(row: Configuration) -> float:
    return float(row.completed[0]["code"]["reduction"])


def _paired(row: Configuration, other: Configuration) -> Interval | None:
    mine, others = ({run["seed"]: run["metrics"][_METRIC] for run in each.completed} for each in (row, other))
    return paired_interval(mine, others)


def _cells(name: str, row: Configuration, best: Configuration | None) -> tuple[str, ...]:
    code, score, parameters = (
        row.completed[0].get("code"),
        mean_interval(row.values(_METRIC)),
        row.average("parameters"),
    )
    difference = _paired(row, best) if best and code else None
    return (
        name,
        f"{code['reduction']:.3g}x" if code else "no code",
        f"{code['values']:,}" if code else "-",
        score.text(".4f"),
        difference.text("+.4f") if difference else "-",
        str(score.n),
        number(row.average(_SPEED), ",.0f"),
        number(row.average(_CODE_SPEED), ",.0f"),
        number(row.average("images_per_s.train"), ",.0f"),
        number(parameters and parameters / 1e6, ".3f"),
    )


def _record(data: str, name: str, row: Configuration, best: Configuration | None) -> tuple[str, ...]:
    code, score = row.completed[0].get("code"), mean_interval(row.values(_METRIC))
    difference = _paired(row, best) if best and code else None
    return (
        data,
        name,
        f"{code['reduction']:g}" if code else "-",
        str(code["values"]) if code else "-",
        *score.cells(),
        *(difference.cells() if difference else NO_CELLS),
        number(row.average(_SPEED), ".3f"),
        number(row.average(_CODE_SPEED), ".3f"),
        number(row.average("images_per_s.train"), ".3f"),
        number(row.average("parameters"), ".0f"),
    )
