"""Writes ``index.html``: templates, style and script of this folder around what the run folders say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segsweep.files import write_atomic
from segsweep.report.judgement import Judgement
from segsweep.report.page.board import COLUMNS
from segsweep.report.page.pictures import Budget
from segsweep.report.page.roster import roster
from segsweep.report.page.sections import page_sections
from segsweep.report.page.view import view
from segsweep.report.printable import printable
from segsweep.report.runs import Comparison
from segsweep.report.section import Section

FILE = "index.html"
TEMPLATES = Path(__file__).parent / "templates"
_PICTURE_BYTES = 3_500_000  # of all pictures of a page: it shall be small enough to send


def write_page(
    comparisons: Sequence[Comparison],
    judgements: Sequence[Judgement],
    out: Path,
    sections: Sequence[Section] = (),
    notes: Sequence[Sequence[str]] = (),
) -> Path:
    """Writes the page into an existing folder and returns its path.

    Args:
        comparisons: best configurations first.
        judgements: one for each comparison.
        out: folder of the report.
        sections: further questions with their answers.
        notes: for each comparison lines on how far its runs may be compared; none: no such lines.
    """
    marks = roster(comparisons)
    share = _PICTURE_BYTES // max(1, len(comparisons))  # no dataset takes the room of another
    names = _told_apart([comparison.name for comparison in comparisons])
    lines = notes or [()] * len(comparisons)
    views = [
        view(f"d{number}", names[number - 1], comparison, judgement, each, marks, Budget(share))
        for number, (comparison, judgement, each) in enumerate(
            zip(comparisons, judgements, lines, strict=True), start=1
        )
    ]
    text = (
        environment(TEMPLATES)
        .get_template("page.html.j2")
        .render(
            views=views,
            sections=page_sections(sections),
            columns=COLUMNS,
            style=(TEMPLATES / "page.css").read_text(),
            script=(TEMPLATES / "page.js").read_text(),
        )
    )
    path = out / FILE
    write_atomic(path, text.encode())
    return path


def _told_apart(names: Sequence[str]) -> list[str]:
    """Numbers for names that occur more than once: one dataset in two ways is two comparisons.

    >>> _told_apart(["digits", "wbc", "digits"])
    ['digits (1)', 'wbc', 'digits (2)']
    """
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def environment(*folders: Path) -> Any:
    """Templates of these folders, the first first; all text in them is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # here: the command line must answer at once

    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
