"""One question of the report with its answer: a Markdown page, a CSV file and, if it has curves, a picture."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from segsweep.files import write_atomic
from segsweep.report.charts.figure import Figure
from segsweep.report.curve import Panel, draw
from segsweep.report.table import Table, clean, csv_text


@dataclass(frozen=True)
class Part:
    """The answer for runs that may be compared with each other, that is, on one dataset.

    Attributes:
        title: names the data.
        tables: in the order of reading.
        sentences: what the tables say, in words.
        notes: how the numbers were made.
        panels: of the picture, if there is one.
        records: lines of the CSV file.
        figures: that only the page shows.
    """

    title: str
    tables: list[Table]
    sentences: list[str]
    notes: list[str]
    panels: list[Panel]
    records: list[tuple[str, ...]]
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A question and its answers.

    Attributes:
        name: of its files, e.g. ``label_efficiency``.
        title: heading.
        header: of the CSV file.
        parts: one for each dataset.
        columns: panels side by side in the picture.
    """

    name: str
    title: str
    header: tuple[str, ...]
    parts: list[Part]
    columns: int

    @property
    def panels(self) -> list[Panel]:
        """Of the picture; none: there is no picture."""
        return [panel for part in self.parts for panel in part.panels]

    @property
    def files(self) -> str:
        """Names of its files, as one reads them."""
        return f"{self.name}.md, .csv, .svg" if self.panels else f"{self.name}.md, .csv"

    def write(self, out: Path) -> None:
        """Writes ``<name>.md``, ``<name>.csv`` and, with panels, ``<name>.svg`` into an existing folder."""
        rows = [row for part in self.parts for row in part.records]
        write_atomic(out / f"{self.name}.csv", csv_text(self.header, rows).encode())
        if self.panels:
            write_atomic(out / f"{self.name}.svg", draw(self.panels, self.columns))
        write_atomic(out / f"{self.name}.md", self._markdown().encode())

    def show(self, console: Console) -> None:
        """Prints tables and sentences."""
        for part in self.parts:
            console.rule(f"{self.title}: {part.title}", align="left", characters="-")
            for table in part.tables:
                console.print(table.screen())
            for line in [*part.sentences, *part.notes]:
                console.print(line, markup=False, highlight=False)

    def _markdown(self) -> str:
        lines = [f"# {self.title}", ""]
        if self.panels:
            lines += [f"![{self.title}]({self.name}.svg)", ""]
        for part in self.parts:
            lines += [f"## {clean(part.title)}", "", *(f"- {clean(line)}" for line in part.sentences), ""]
            for table in part.tables:
                lines += [f"**{clean(table.title)}**", "", table.markdown(), ""]
            lines += [*(f"- {clean(line)}" for line in part.notes), ""]
        return "\n".join(lines)
