"""What a dataset has to offer: the protocol behind ``data._target_``."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Item(NamedTuple):
    """One image of a split: its name, and the group (video, patient, tile) whose images are not independent."""

    name: str
    group: str


class Sample(NamedTuple):
    """What a source reads.

    Attributes:
        image: (h, w, C) uint8.
        mask: (h, w) uint8, classes and ``ignore_index``; None for an image without a label.
        facts: JSON-able, for the survey and ``segsweep-data``: ``mode``, ``note`` and so on, as far as they apply.
    """

    image: Pixels
    mask: Pixels | None
    facts: dict[str, Any]


class Source(Protocol):
    """Where images and masks come from. Constructors look at folders and names; only ``read`` opens an image."""

    def identity(self) -> Any:
        """JSON-able facts that change whenever the decoded content could."""

    def items(self) -> dict[str, list[Item]]:
        """The images of each split, in a fixed order."""

    def read(self, split: str, position: int) -> Sample:
        """The image at ``position`` of ``items()[split]``; raises ``Problem`` if it cannot be used."""
