"""Every two configurations: what the row has over the column, and whether that is more than chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from segsweep.report.charts.plot import Mark
from segsweep.report.judgement import Judgement, Pair, Verdict
from segsweep.report.page.board import badge
from segsweep.report.page.wording import bounds, deciding, pair_sentence, signed, turned

MOST = 20
_SENTENCES = 6
_CLASSES = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.NO_EVIDENCE: "none",
    Verdict.TOO_FEW_SEEDS: "few",
}
_TURNED = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}


@dataclass(frozen=True)
class PairCell:
    """Row minus column: the difference, P(row > column), the CSS class of the verdict, its strength in percent."""

    text: str
    chance: str
    kind: str
    strength: int
    hover: str


@dataclass(frozen=True)
class PairRow:
    """One configuration against all others; None against itself."""

    mark: Mark
    badge: str
    cells: list[PairCell | None]


def pair_matrix(judgement: Judgement, marks: Mapping[str, Mark]) -> list[PairRow]:
    """The best configurations against each other; no rows below two of them."""
    names = [standing.configuration.name for standing in judgement.standings[:MOST]]
    if len(names) < 2:
        return []
    by_names = {(pair.first, pair.second): pair for pair in judgement.pairs}
    sizes = [abs(i.mean) for pair in judgement.pairs if (i := deciding(pair)) and _both(pair, names)]
    largest = max(sizes, default=0.0) or 1.0
    rows = []
    for name in names:
        cells: list[PairCell | None] = []
        for other in names:
            pair, is_turned = by_names.get((name, other)), False
            if pair is None:
                pair, is_turned = by_names.get((other, name)), True
            cells.append(None if pair is None else _cell(pair, is_turned, largest, marks))
        rows.append(PairRow(marks[name], badge(marks[name]), cells))
    return rows


def main_sentences(judgement: Judgement, marks: Mapping[str, Mark]) -> list[tuple[str, str]]:
    """The leader against each other one, and each against the next: CSS class of the verdict, sentence."""
    names = [standing.configuration.name for standing in judgement.standings[:MOST]]
    neighbours = set(pairwise(names))
    chosen = [p for p in judgement.pairs if names and (p.first == names[0] or (p.first, p.second) in neighbours)]
    return [
        (_CLASSES[p.verdict], pair_sentence(p, marks[p.first].label, marks[p.second].label))
        for p in chosen[:_SENTENCES]
    ]


def _both(pair: Pair, names: list[str]) -> bool:
    return pair.first in names and pair.second in names


def _cell(pair: Pair, is_turned: bool, largest: float, marks: Mapping[str, Mark]) -> PairCell:
    interval, chance = deciding(pair), pair.probability
    verdict = _TURNED.get(pair.verdict, pair.verdict) if is_turned else pair.verdict
    first, second = marks[pair.first].label, marks[pair.second].label
    lines = [pair_sentence(pair, first, second)]
    if interval is None:
        return PairCell("-", "", _CLASSES[verdict], 0, lines[0])
    shown = turned(interval) if is_turned else interval
    if chance is not None:
        lines.append(f"P({first} > {second}) = {chance:.2f}")
        chance = 1 - chance if is_turned else chance
    if pair.simultaneous and pair.difference:
        lines.append(f"interval over all pairs at once {bounds(pair.simultaneous, '+.4f')}")
        lines.append(f"of this pair alone {bounds(pair.difference, '+.4f')}")
    lines.append("Wilcoxon: too few blocks" if pair.wilcoxon is None else f"Wilcoxon p (Holm) {pair.wilcoxon:.3g}")
    return PairCell(
        signed(shown.mean, "+.3f"),
        "" if chance is None else f"P {chance:.2f}",
        _CLASSES[verdict],
        round(30 + 70 * min(abs(shown.mean) / largest, 1.0)),
        "\n".join(lines),
    )
