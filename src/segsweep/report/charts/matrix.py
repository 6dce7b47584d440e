"""A square heat map of shares."""

from collections.abc import Callable, Sequence

from segsweep.report.charts.plot import WIDTH
from segsweep.report.charts.svg import clipped, element, escaped, text, title

_LETTER = 5.4  # user units
_MOST_LETTERS = 11
_NUMBERS_UP_TO = 12  # classes: beyond, cells are too small to write in
_FAINTEST = 0.005  # of a row: less is not drawn


def share_matrix(
    shares: Sequence[Sequence[float]], names: Sequence[str], label: str, hover: Callable[[int, int], str]
) -> str:
    """Rows and columns of the same names; the darker, the larger the share.

    Args:
        shares: of each row, 0 to 1.
        names: of rows and columns.
        label: what it shows to those who cannot see it.
        hover: text of the cell in a row and a column.
    """
    short = [clipped(name, _MOST_LETTERS) for name in names]
    gutter = max(len(name) for name in short) * _LETTER + 24
    cell = (WIDTH - gutter - 8) / len(names)
    foot = max(len(name) for name in short) * _LETTER + 26
    parts = []
    for i, row in enumerate(shares):
        y = 4 + i * cell
        for j, share in enumerate(row):
            if share >= _FAINTEST or i == j:
                parts.append(_cell(share, gutter + j * cell, y, cell, hover(i, j), len(names) <= _NUMBERS_UP_TO))
        if cell >= 9 or i % 2 == 0:
            parts.append(text(short[i], gutter - 5, y + cell / 2 + 3.5, "tick", "end", names[i]))
    side = cell * len(names)
    for j, name in enumerate(short):
        if cell >= 9 or j % 2 == 0:
            x, y = gutter + (j + 0.5) * cell + 3.5, 4 + side + 6
            parts.append(
                element("text", escaped(name), title(names[j]), x=x, y=y, class_="tick", text_anchor="end",
                        transform=f"rotate(-90 {x:.1f} {y:.1f})")
            )  # fmt: skip
    height = 4 + side + foot
    parts.append(element("rect", x=gutter, y=4.0, width=side, height=side, class_="box"))
    parts.append(text("predicted", gutter + side / 2, height - 4, "title", "middle"))
    middle = 4 + side / 2
    turned = f"rotate(-90 10 {middle:.1f})"
    parts.append(element("text", "true", x=10.0, y=middle, class_="title", text_anchor="middle", transform=turned))
    return element(
        "svg", *parts, viewBox=f"0 0 {WIDTH:g} {height:.0f}", role="img", aria_label=label, class_="plot matrix"
    )


def _cell(share: float, x: float, y: float, size: float, hover: str, is_numbered: bool) -> str:
    strength = f"--v:{share * 100:.0f}%"
    rect = element("rect", title(hover), x=x, y=y, width=size, height=size, class_="heat", style=strength)
    if not is_numbered or share < 0.01:
        return rect
    digits = f"{share:.2f}".removeprefix("0") if share < 0.995 else "1"
    number = element(
        "text", digits, x=x + size / 2, y=y + size / 2 + 3, class_="on-heat hi" if share > 0.5 else "on-heat",
        text_anchor="middle",
    )  # fmt: skip
    return rect + number
