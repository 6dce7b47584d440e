"""Questions with answers of their own (label efficiency, compression, searches) as parts of the page."""

from collections.abc import Sequence
from dataclasses import dataclass

from segsweep.report.charts.figure import Figure
from segsweep.report.charts.panel import draw_panel
from segsweep.report.charts.plot import CHART_LETTERS, Mark
from segsweep.report.page.roster import abbreviated, short_names
from segsweep.report.section import Section
from segsweep.report.table import Table


@dataclass(frozen=True)
class PagePart:
    """One answer: its curves, its tables with which columns hold words, its sentences and how they were made."""

    title: str
    figures: list[Figure]
    tables: list[Table]
    sentences: list[str]
    notes: list[str]


@dataclass(frozen=True)
class PageSection:
    """One question."""

    anchor: str
    title: str
    parts: list[PagePart]


def page_sections(sections: Sequence[Section]) -> list[PageSection]:
    """Sections with their panels drawn; a name has one colour in all panels of a section."""
    result = []
    for section in sections:
        names = list(dict.fromkeys(line.name for panel in section.panels for line in panel.lines))
        marks = {
            name: Mark(name, label, abbreviated(label, CHART_LETTERS), slot)
            for slot, (name, label) in enumerate(zip(names, short_names(names), strict=True))
        }
        parts = [
            PagePart(
                part.title,
                [*part.figures, *(draw_panel(panel, marks) for panel in part.panels)],
                part.tables,
                part.sentences,
                part.notes,
            )
            for part in section.parts
        ]
        result.append(PageSection(section.name.replace("_", "-"), section.title, parts))
    return result
