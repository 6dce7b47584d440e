"""The facts of the data that a run was trained on, from its record: checked as if somebody had made them up."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segsweep import pictures
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.types import DataSpec

Side = Annotated[int, Gt(0), Le(1 << 14)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
_MOST_VALUES = 512_000_000  # pixels times classes of what a model sees at once: 2 GB of logits
_COLOUR = re.compile(r"\s*(\d{1,3})[ ,]+(\d{1,3})[ ,]+(\d{1,3})\s*|#([0-9a-fA-F]{6})")


class _Facts(BaseModel):
    """What of the data's node matters once a model is trained; ranges as in ``DataModule``."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    class_names: Annotated[list[Name], Field(min_length=1, max_length=255)]
    num_classes: int
    in_channels: Literal[1, 3]
    ignore_index: Annotated[int, Ge(0), Le(255)]
    mean: Annotated[list[float], Field(max_length=3)]
    std: Annotated[list[Annotated[float, Gt(0)]], Field(max_length=3)]
    size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None
    fit: Literal["stretch", "pad"]
    tile: Annotated[list[Side], Field(min_length=2, max_length=2)] | None
    tile_overlap: Annotated[float, Ge(0), Lt(0.9)]
    palette: Annotated[dict[str, int | str], Field(max_length=10_000)] | None = None


def read_facts(node: Any, shown: str) -> tuple[DataSpec, str, NDArray[np.uint8]]:
    """Facts, ``fit`` and the (256, 3) uint8 colours of the classes.

    Args:
        node: ``config.data`` of a record.
        shown: the record's path, for messages.

    Raises:
        ConfigError: a fact is missing or impossible; a line each.
    """
    try:
        facts = _Facts.model_validate(node)
    except ValidationError as error:
        lines = (f"config.data.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:10])
        raise ConfigError("\n".join(f"{shown}: {printable(line)}" for line in lines)) from None
    names = facts.class_names
    if not len(set(names)) == len(names) == facts.num_classes or facts.ignore_index < len(names):
        raise ConfigError(f"{shown}: config.data: class_names, num_classes and ignore_index contradict each other")
    for key, sides in (("size", facts.size), ("tile", facts.tile)):
        if sides and sides[0] * sides[1] * max(len(names), 3) > _MOST_VALUES:
            raise ConfigError(
                f"{shown}: config.data.{key}={sides} with {len(names)} classes would take gigabytes for one image: no "
                "run of segsweep has that"
            )
    if not len(facts.mean) == len(facts.std) == facts.in_channels:
        raise ConfigError(f"{shown}: config.data: mean and std need {facts.in_channels} values each")
    spec = DataSpec(
        tuple(names),
        facts.in_channels,
        facts.ignore_index,
        tuple(facts.mean),
        tuple(facts.std),
        None if facts.size is None else (facts.size[0], facts.size[1]),
        None if facts.tile is None else (facts.tile[0], facts.tile[1]),
        facts.tile_overlap,
    )
    return spec, facts.fit, _colours(facts.palette or {}, names)


def _colours(palette: Mapping[str, int | str], names: list[str]) -> NDArray[np.uint8]:
    """Those of the dataset's masks where it has any, else those of the panels in TensorBoard."""
    colours = pictures.palette(len(names))
    for text, name in reversed(list(palette.items())):  # of several colours of a class, the first
        number = names.index(name) if name in names else name
        if (found := _COLOUR.fullmatch(text)) and isinstance(number, int) and 0 <= number < len(names):
            parts = (
                [int(found[4][i : i + 2], 16) for i in (0, 2, 4)] if found[4] else [int(found[i]) for i in (1, 2, 3)]
            )
            colours[number] = np.clip(parts, 0, 255)
    return colours
