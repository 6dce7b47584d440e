"""All that the page says about one comparison, ready for the template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segsweep.report.charts.figure import Figure
from segsweep.report.charts.plot import Mark
from segsweep.report.judgement import Judgement
from segsweep.report.page.board import Row, badge, board
from segsweep.report.page.classes import MOST_ROWS, HeatRow, class_names, class_rows, confusions
from segsweep.report.page.costs import costs
from segsweep.report.page.examples import Examples, examples
from segsweep.report.page.failures import MOST as MOST_FAILURES
from segsweep.report.page.failures import Failure, failures
from segsweep.report.page.learning import learning_curves
from segsweep.report.page.pairs import MOST as MOST_PAIRS
from segsweep.report.page.pairs import PairRow, main_sentences, pair_matrix
from segsweep.report.page.pictures import Budget
from segsweep.report.page.reproduce import Fact, commands, dirty_runs, facts
from segsweep.report.page.sweep_axes import sweep_axes
from segsweep.report.page.wording import field_sentence, lead_sentence, nothing_sentence, pair_sentence
from segsweep.report.runs import RANK_BY, Comparison

_FLOORS = {
    "most_frequent": "the most frequent class everywhere",
    "location_prior": "the most frequent class at each place",
}


@dataclass(frozen=True)
class View:
    """One comparison.

    Attributes:
        anchor: in addresses, unique on the page.
        badge: of who leads, empty if nobody does.
        headline: who leads.
        sentences: what may be said about it.
        limits: name of a part -> what it leaves out, in words.
    """

    anchor: str
    name: str
    title: str
    counts: str
    badge: str
    headline: str
    sentences: list[str]
    floors: list[Fact]
    notes: list[str]
    board: list[Row]
    curves: list[Figure]
    pairs: list[PairRow]
    pair_sentences: list[tuple[str, str]]
    blocks: str
    costs: list[Figure]
    classes: list[str]
    class_rows: list[HeatRow]
    confusions: list[Figure]
    examples: Examples | None
    axes: list[Figure]
    failures: list[Failure]
    failure_counts: str
    commands: list[str]
    facts: list[Fact]
    dirty: int
    limits: dict[str, str]


def view(
    anchor: str,
    name: str,
    comparison: Comparison,
    judgement: Judgement,
    notes: Sequence[str],
    marks: Mapping[str, Mark],
    budget: Budget,
) -> View:
    """Puts everything together; ``budget`` is what pictures may still take."""
    standings = {standing.configuration.name: standing for standing in judgement.standings}
    headline, sentences = _headline(comparison, judgement, marks)
    leader = judgement.standings[0].configuration.name if judgement.standings else None
    failed, counts = failures(comparison, marks)
    num, num_scored = len(comparison.configurations), len(judgement.standings)
    interval = "seeds and test images" if any(s.both for s in judgement.standings) else "seeds"
    limits = {
        "interval": interval,
        "pairs": _best_of(MOST_PAIRS, num_scored),
        "classes": _best_of(MOST_ROWS, num_scored),
        "failures": f"The first {MOST_FAILURES}." if len(failed) == MOST_FAILURES else "",
        "commands": _best_of(len(commands(comparison)), num) if num > 20 else "",
    }
    return View(
        anchor,
        name,
        comparison.title,
        _counts(comparison),
        badge(marks[leader]) if leader else "",
        headline,
        sentences,
        _floors(comparison),
        list(notes),
        board(comparison, standings, marks),
        learning_curves(comparison, marks),
        pair_matrix(judgement, marks),
        main_sentences(judgement, marks),
        judgement.blocks,
        costs(comparison, standings, marks),
        class_names(comparison),
        class_rows(comparison, marks),
        confusions(comparison, marks),
        examples(comparison, marks, budget),
        sweep_axes(comparison, marks),
        failed,
        counts,
        commands(comparison),
        facts(comparison),
        dirty_runs(comparison),
        {part: text for part, text in limits.items() if text},
    )


def _headline(comparison: Comparison, judgement: Judgement, marks: Mapping[str, Mark]) -> tuple[str, list[str]]:
    if not judgement.standings:
        return nothing_sentence(comparison), []
    leader = judgement.standings[0]
    name = leader.configuration.name
    lead = lead_sentence(leader, marks[name].label)
    nearest = next((pair for pair in judgement.pairs if pair.first == name), None)
    if nearest is None:
        return lead, ["It is the only configuration with a score: there is nothing to compare it with."]
    verdict = pair_sentence(nearest, marks[name].label, marks[nearest.second].label)
    field = field_sentence(judgement.pairs, name)
    return lead, [f"Against the next: {verdict}.", *([field] if field else [])]


def _counts(comparison: Comparison) -> str:
    num_runs, num = len(comparison.runs), len(comparison.configurations)
    return f"{num} configuration{'' if num == 1 else 's'}, {num_runs} run{'' if num_runs == 1 else 's'}"


def _floors(comparison: Comparison) -> list[Fact]:
    return [
        Fact(f"{name.replace('_', ' ')}: {about}", f"{value:.4f}")
        for name, about in _FLOORS.items()
        if (value := comparison.floors.get(name, {}).get(RANK_BY)) is not None
    ]


def _best_of(shown: int, num: int) -> str:
    return f"The best {shown} of {num} configurations." if shown < num else ""
