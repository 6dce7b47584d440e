"""Who is on the page: one label, one colour and one number for each configuration, the same everywhere."""

from collections import defaultdict
from collections.abc import Sequence

from segsweep.report.charts.plot import CHART_LETTERS, Mark
from segsweep.report.runs import Comparison


def roster(comparisons: Sequence[Comparison]) -> dict[str, Mark]:
    """Name of a configuration -> how it looks. Those that rank high in any comparison get colours of their own."""
    ranks: dict[str, int] = {}
    for comparison in comparisons:
        for rank, row in enumerate(comparison.configurations):
            ranks[row.name] = min(rank, ranks.get(row.name, rank))
    names = sorted(ranks, key=lambda name: ranks[name])
    return {
        name: Mark(name, label, abbreviated(label, CHART_LETTERS), slot)
        for slot, (name, label) in enumerate(zip(names, short_names(names), strict=True))
    }


def short_names(names: Sequence[str]) -> list[str]:
    """Names without what goes without saying, as long as they still differ.

    >>> short_names(["model=unet optimizer.lr=0.1", "model=reseg optimizer.lr=0.1"])
    ['unet lr=0.1', 'reseg lr=0.1']
    """
    short = [" ".join(_short_part(part) for part in parts(name)) for name in names]
    twins: dict[str, int] = defaultdict(int)
    for label in short:
        twins[label] += 1
    return [name if twins[label] > 1 else label for name, label in zip(names, short, strict=True)]


def abbreviated(label: str, length: int) -> str:
    """Keys by their first letters, if the label is longer than it may be; values stay as they are.

    >>> abbreviated("supervised labelled_fraction=0.2", 17), abbreviated("unet lr=0.1", 17)
    ('supervised lf=0.2', 'unet lr=0.1')
    """
    if len(label) <= length:
        return label
    found = []
    for part in parts(label):
        key, is_pair, value = part.partition("=")
        initials = "".join(word[:1] for word in key.split("_")) if len(key) > 3 else key
        found.append(f"{initials}={value.replace(', ', ',')}" if is_pair else part)
    return " ".join(found)


def parts(name: str) -> list[str]:
    """``key=value`` pairs of a name; values may contain spaces.

    >>> parts("model=unet model.widths=[8, 16]")
    ['model=unet', 'model.widths=[8, 16]']
    """
    found: list[str] = []
    for word in name.split(" "):
        if found and "=" not in word:
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def _short_part(part: str) -> str:
    """The value alone of a group's choice, the last word of a longer key."""
    key, is_pair, value = part.partition("=")
    if not is_pair:
        return part
    return f"{key.rpartition('.')[2]}={value}" if "." in key else value
