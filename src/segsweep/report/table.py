"""A table as Markdown, as CSV and on the screen. Text from records can do no harm in any of them."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table as ScreenTable

from segsweep.report.printable import printable

_NAME_WIDTH = 60  # characters: beyond, a name would leave no room for numbers


@dataclass(frozen=True)
class Table:
    """Cells of text under a header.

    Attributes:
        title: one line; empty for none.
        header: one name a column.
        rows: as many cells in each as the header has.
        words: columns that hold words; all others hold numbers and stand to the right.
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: tuple[str, ...]

    def markdown(self) -> str:
        """A Markdown table without its title."""
        lines = [f"| {' | '.join(clean(name) for name in self.header)} |", f"|{'---|' * len(self.header)}"]
        lines += [f"| {' | '.join(clean(cell) for cell in row)} |" for row in self.rows]
        return "\n".join(lines)

    def tex(self) -> str:
        """A ``tabular`` with the rules of the booktabs package, the title as a comment."""
        sides = "".join("l" if name in self.words else "r" for name in self.header)
        lines = [f"% {printable(self.title)}", rf"\begin{{tabular}}{{{sides}}}", r"\toprule"]
        lines += [" & ".join(map(_tex, self.header)) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_tex, row)) + r" \\" for row in self.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def screen(self) -> ScreenTable:
        """For rich's console. Names, the first of the words, are what one looks for: they break only if very long."""
        table = ScreenTable(title=escape(printable(self.title)), title_justify="left")
        is_short = all(len(cell) <= _NAME_WIDTH for row in self.rows for cell in row)
        for name in self.header:
            header = escape(name).replace(" ", "\n", 1) if name[:1].isalpha() else escape(name)
            justify = "left" if name in self.words else "right"
            table.add_column(header, justify=justify, no_wrap=is_short and name == self.words[0])  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(escape(printable(cell)) for cell in row))  # [16,32] is a value, not markup
        return table


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV whose cells no spreadsheet takes for formulas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_inert(printable(cell)) for cell in row] for row in rows)
    return text.getvalue()


def number(value: float | None, form: str) -> str:
    """A formatted number, or ``-`` for none."""
    return "-" if value is None else format(value, form)


def clean(text: str) -> str:
    """Text from a record in Markdown: no cell borders, no tags, no control characters."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def _tex(text: str) -> str:
    """Text from a record in LaTeX: every character that would command something stands for itself."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in printable(text))


def _inert(cell: str) -> str:
    try:
        float(cell)  # -0.01 is no formula
    except ValueError:
        return f"'{cell}" if cell[:1] in ("=", "@", "+") or (cell[:1] == "-" and len(cell) > 1) else cell
    return cell
