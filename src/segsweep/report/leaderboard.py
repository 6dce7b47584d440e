"""The ranking of a comparison as rows of text: on the screen, as Markdown, CSV, LaTeX and JSON."""

import json
from typing import Any

from rich.table import Table as ScreenTable

from segsweep.report.comparability import differences
from segsweep.report.intervals import Interval
from segsweep.report.judgement import Judgement, Pair, Verdict
from segsweep.report.printable import printable
from segsweep.report.reproduce import command
from segsweep.report.runs import RANK_BY, Comparison, Configuration
from segsweep.report.section import Section
from segsweep.report.table import Table, clean, csv_text, number

Judged = tuple[Comparison, Judgement]

_WORDS = ("configuration", "family", "against the first", "state")
# Groups of columns: screens and papers are narrower than a spreadsheet.
_NAMED = ("rank", "configuration", "family")
_SCORED = ("test mIoU", "SD", "n", "low", "high", "against the first")
_COLUMNS = (*_NAMED, *_SCORED, "val mIoU", "val - test", "M params", "GFLOPs", "img/s train", "img/s infer", "peak MB",
            "min/run", "state")  # fmt: skip
_ON_SCREEN = (*_NAMED, *_SCORED, "val - test", "M params", "img/s train", "min/run", "state")
_NUM_NAMED = 12  # configurations whose pairs are written out
_IN_PAPER = ("configuration", *_SCORED, "M params", "GFLOPs", "img/s infer")


def screen(comparison: Comparison, judgement: Judgement) -> ScreenTable:
    """For rich's console: the columns that fit on it."""
    return _table(comparison, judgement, _ON_SCREEN).screen()


def notes(comparison: Comparison, judgement: Judgement) -> list[str]:
    """What a reader must know before comparing numbers, a line each: floors, intervals, how alike the runs are."""
    floors = comparison.floors
    lines = [
        f"floor: {name.replace('_', ' ')}  test mIoU {number(floors[name].get(RANK_BY), '.4f')}"
        for name in ("most_frequent", "location_prior")
        if name in floors
    ]
    if any(standing.both for standing in judgement.standings):
        lines.append(f"low, high: 95 % interval over seeds and test images ({judgement.blocks})")
        lines += [
            f"low, high of {standing.configuration.name}: over seeds alone"
            for standing in judgement.standings
            if standing.both is None and standing.seeds.low is not None
        ]
    elif any(standing.seeds.low is not None for standing in judgement.standings):
        lines.append("low, high: 95 % interval over seeds, on these very test images")
    first = [pair for pair in judgement.pairs if pair.first == judgement.standings[0].configuration.name]
    return [*lines, *(pair_text(pair) for pair in first[: _NUM_NAMED - 1]), *how_alike(comparison, judgement)]


def how_alike(comparison: Comparison, judgement: Judgement) -> list[str]:
    """How far the runs may be compared: what they were computed with, and where they were not treated alike."""
    lines = [f"{what}: {', '.join(values)}" for what, values in _hardware(comparison).items() if len(values) == 1]
    lines += [
        f"{'not alike' if difference.is_unfair else 'also differs'}: {difference.what}: {difference.text}"
        for difference in differences(comparison)
    ]
    lines += [f"reconstruction term: {text}" for text in _reconstruction(comparison)]
    return [*lines, *judgement.notes]


def _hardware(comparison: Comparison) -> dict[str, list[str]]:
    """What all runs were computed with; where they differ, ``differences`` says which."""
    return {
        what: sorted({str(run[what]) for run in comparison.runs if run.get(what) is not None})
        for what in ("precision", "device", "threads")
    }


def pair_text(pair: Pair) -> str:
    """What a pair allows one to say, as a sentence.

    The interval is the one that decides: it holds over all pairs at once.
    """
    interval = pair.simultaneous
    if interval is None:
        return f"{pair.first} and {pair.second}: too few seeds (they share none)"
    chance = "" if pair.probability is None else f", P(better) {pair.probability:.2f}"
    seeds = "1 shared seed" if pair.num_seeds == 1 else f"{pair.num_seeds} shared seeds"
    found = f"difference {interval.mean:+.4f}{_ends(interval)} on {seeds}{chance}"
    if pair.verdict in (Verdict.BETTER, Verdict.WORSE):
        return f"{pair.first} is {pair.verdict} than {pair.second}: {found}"
    if pair.verdict == Verdict.TOO_FEW_SEEDS:
        more = "more are" if pair.more_seeds is None else f"about {pair.more_seeds} more would be"
        return f"{pair.first} and {pair.second}: too few seeds, {more} needed; {found}"
    return f"no evidence that {pair.first} and {pair.second} differ: {found}"


def markdown_page(judged: list[Judged], sections: list[Section]) -> str:
    """``report.md``."""
    lines = ["# Report", ""]
    lines += [f"- [{section.title}]({section.name}.md)" for section in sections] + [""] * bool(sections)
    for comparison, judgement in judged:
        lines += [f"## {clean(comparison.title)}", "", _table(comparison, judgement, _COLUMNS).markdown(), ""]
        lines += [f"- {clean(line)}" for line in notes(comparison, judgement)]
        lines += ["", *_pairs(judgement)]
        lines += ["To repeat the first run of each configuration:", "", "```"]
        lines += [printable(command(row.runs[0])) for row in comparison.configurations] + ["```", ""]
    return "\n".join(lines)


def csv_page(judged: list[Judged]) -> str:
    """``leaderboard.csv``: a line for each configuration, the data's fingerprint first."""
    rows = [
        ((comparison.data or {}).get("fingerprint", "")[:12], *row)
        for comparison, judgement in judged
        for row in _rows(comparison, judgement)
    ]
    return csv_text(("data", *_COLUMNS), rows)


def tex_page(judged: list[Judged]) -> str:
    """``leaderboard.tex``: a ``tabular`` with rules of the booktabs package for each comparison."""
    return "\n".join(_table(comparison, judgement, _IN_PAPER).tex() for comparison, judgement in judged)


def json_page(judged: list[Judged]) -> str:
    """``leaderboard.json``: everything unrounded, one entry for each run."""
    result = [
        {
            "data": comparison.data,
            "floors": comparison.floors,
            "ranked_by": RANK_BY,
            "blocks": judgement.blocks,
            "notes": judgement.notes,
            "differences": [vars(difference) for difference in differences(comparison)],
            "configurations": [_row_json(rank, *row) for rank, row in enumerate(_standings(comparison, judgement), 1)],
            "pairs": [_pair_json(pair) for pair in judgement.pairs],
        }
        for comparison, judgement in judged
    ]
    return json.dumps(result, indent=1) + "\n"


def _table(comparison: Comparison, judgement: Judgement, columns: tuple[str, ...]) -> Table:
    places = [_COLUMNS.index(column) for column in columns]
    rows = [tuple(row[place] for place in places) for row in _rows(comparison, judgement)]
    return Table(comparison.title, columns, rows, tuple(word for word in _WORDS if word in columns))


def _rows(comparison: Comparison, judgement: Judgement) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for rank, (row, interval, pair) in enumerate(_standings(comparison, judgement), start=1):
        score, validated = row.average(RANK_BY), row.average("val/miou")
        gap = None if score is None or validated is None else validated - score
        rows.append(
            (
                str(rank) if score is not None else "-",
                row.name,
                str(row.runs[0].get("family") or "-"),
                number(score, ".4f"),
                number(row.deviation(RANK_BY), ".4f"),
                str(len(row.completed)),
                number(interval and interval.low, ".4f"),
                number(interval and interval.high, ".4f"),
                _against_the_first(pair),
                number(validated, ".4f"),
                number(gap, "+.4f"),
                number(_scaled(row, "parameters", 1e6), ".3f"),
                number(_scaled(row, "flops", 1e9), ".3g"),
                number(row.average("images_per_s.train"), ",.0f"),
                number(row.average("images_per_s.inference"), ",.0f"),
                number(peak_memory_mb(row), ",.0f"),
                number(_scaled(row, "wall_s", 60), ".2f"),
                row.state,
            )
        )
    return rows


def peak_memory_mb(row: Configuration) -> float | None:
    """Mean peak memory over runs in MB of 10**6 bytes: the device's if the run had one, else the process's."""
    on_device = row.average("peak_memory_mb.device")
    return row.average("peak_memory_mb.host") if on_device is None else on_device


def _scaled(row: Configuration, key: str, unit: float) -> float | None:
    value = row.average(key)
    return None if value is None else value / unit


def _standings(
    comparison: Comparison, judgement: Judgement
) -> list[tuple[Configuration, Interval | None, Pair | None]]:
    """For each configuration its interval, over seeds and images if possible, and its pair with the first."""
    intervals = {s.configuration.name: s.both or s.seeds for s in judgement.standings}
    first = judgement.standings[0].configuration.name if judgement.standings else None
    pairs = {pair.second: pair for pair in judgement.pairs if pair.first == first}
    return [(row, intervals.get(row.name), pairs.get(row.name)) for row in comparison.configurations]


def _against_the_first(pair: Pair | None) -> str:
    """The verdict on the lower-ranking one of a pair."""
    if pair is None:
        return "-"
    if pair.verdict == Verdict.TOO_FEW_SEEDS and pair.more_seeds:
        return f"{pair.verdict} (+{pair.more_seeds})"
    turned = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
    return turned.get(pair.verdict, pair.verdict)


def _pairs(judgement: Judgement) -> list[str]:
    """Markdown: every two of the best configurations."""
    best = [standing.configuration.name for standing in judgement.standings[:_NUM_NAMED]]
    if len(best) < 2:
        return []
    num = len(judgement.standings)
    whose = "Every pair" if num == len(best) else f"Every pair of the best {len(best)} of {num} (all: leaderboard.json)"
    header = (
        "first",
        "second",
        "verdict on the first",
        "difference",
        "low",
        "high",
        "P(better)",
        "seeds",
        "p Wilcoxon",
    )
    rows: list[tuple[str, ...]] = [
        (
            pair.first,
            pair.second,
            str(pair.verdict) + (f" (+{pair.more_seeds})" if pair.more_seeds else ""),
            number(pair.simultaneous and pair.simultaneous.mean, "+.4f"),
            number(pair.simultaneous and pair.simultaneous.low, "+.4f"),
            number(pair.simultaneous and pair.simultaneous.high, "+.4f"),
            number(pair.probability, ".2f"),
            str(pair.num_seeds),
            number(pair.wilcoxon, ".3g"),
        )
        for pair in judgement.pairs
        if pair.first in best and pair.second in best
    ]
    return [f"{whose}, on shared seeds and images:", "", Table("", header, rows, header[:3]).markdown(), ""]


def _row_json(rank: int, row: Configuration, interval: Interval | None, pair: Pair | None) -> dict[str, Any]:
    return {
        "rank": rank if row.average(RANK_BY) is not None else None,
        "name": row.name,
        "family": row.runs[0].get("family"),
        "mean": row.average(RANK_BY),
        "sd": row.deviation(RANK_BY),
        "n": len(row.completed),
        **_ends_json("interval", interval),
        "against_the_first": _against_the_first(pair),
        "val_miou": row.average("val/miou"),
        "parameters": row.average("parameters"),
        "flops": row.average("flops"),
        "train_images_per_s": row.average("images_per_s.train"),
        "inference_images_per_s": row.average("images_per_s.inference"),
        "peak_memory_mb": peak_memory_mb(row),
        "wall_s": row.average("wall_s"),
        "runs": [
            {
                **{key: run.get(key) for key in ("folder", "seed", "status", "error", "metrics")},
                "command": command(run),
            }
            for run in row.runs
        ],
    }


def _pair_json(pair: Pair) -> dict[str, Any]:
    plain = {key: value for key, value in vars(pair).items() if key != "by_block"}
    ends = {**_ends_json("difference", pair.difference), **_ends_json("simultaneous", pair.simultaneous)}
    return {**plain, **ends}


def _ends(interval: Interval) -> str:
    return "" if interval.low is None else f" [{interval.low:+.4f}, {interval.high:+.4f}]"


def _ends_json(name: str, interval: Interval | None) -> dict[str, Any]:
    return {name: interval and {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}}


def _reconstruction(comparison: Comparison) -> list[str]:
    """Configurations that minimise a reconstruction term beside the segmentation loss."""
    return [
        f"{row.name} (factor {_reconstruction_factor(row.completed[0]['config'])})"
        for row in comparison.configurations
        if row.completed and "val/loss/reconstruction" in row.completed[0]["metrics"]
    ]


def _reconstruction_factor(config: dict[str, Any]) -> float | None:
    """Of the term: a regime that trains both at once has one of its own, else it is the loss's."""
    stages = (config.get("regime") or {}).get("stages") or {}
    objectives = [stage.get("objective") or {} for stage in stages.values()]
    factors: list[float] = [objective["factor"] for objective in objectives if "factor" in objective]
    of_loss: float | None = config["loss"]["terms"].get("reconstruction")
    return factors[0] if factors else of_loss
