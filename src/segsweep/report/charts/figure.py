"""A chart with what must stand around it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One picture of the page.

    Attributes:
        title: above it.
        svg: itself.
        caption: what is shown, over how many, and what was left out.
        is_wide: it needs more room than half of a page and scrolls in its own box where there is less.
    """

    title: str
    svg: str
    caption: str
    is_wide: bool = False
