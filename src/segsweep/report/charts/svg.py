"""SVG elements as text. Whatever comes from records is escaped here and nowhere else."""

from html import escape

from segsweep.report.printable import printable

_ELLIPSIS = "…"


def element(name: str, *children: str, **attributes: object) -> str:
    """One element.

    Args:
        name: of the tag.
        children: SVG, already escaped.
        attributes: ``class_`` is written as ``class``, ``stroke_width`` as ``stroke-width``; None leaves one out.

    >>> element("text", escaped("a < b"), x=1.0, class_="axis")
    '<text x="1" class="axis">a &lt; b</text>'
    """
    pairs = (
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    head = name + "".join(pairs)
    return f"<{head}>{''.join(children)}</{name}>" if children else f"<{head}/>"


def text(content: str, x: float, y: float, class_: str, anchor: str = "start", hover: str = "") -> str:
    """A line of text; ``hover`` is what the pointer shows."""
    return element("text", escaped(content), title(hover), x=x, y=y, class_=class_, text_anchor=anchor)


def title(content: str) -> str:
    """What the pointer shows; nothing for nothing."""
    return f"<title>{escaped(content)}</title>" if content else ""


def escaped(content: str) -> str:
    """Text from a record, harmless in elements and attributes."""
    return escape(printable(content), quote=True)


def clipped(content: str, length: int) -> str:
    """Shortened near the end: beginnings tell most, but the end may be all in which two differ.

    >>> clipped("gated_sweep recurrence=off", 16)
    'gated_sweep …off'
    """
    if len(content) <= length:
        return content
    tail = (length - 1) // 4
    return content[: length - 1 - tail] + _ELLIPSIS + content[len(content) - tail :]


def path(points: list[tuple[float, float]]) -> str:
    """The ``d`` of a line through points."""
    return "M" + "L".join(f"{_value(x)},{_value(y)}" for x, y in points)


def _value(value: object) -> str:
    """One decimal is a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escaped(str(value))
