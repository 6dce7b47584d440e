"""How far the answers of a graph are from those of the model that it was made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segsweep.export.graphs import Runner
from segsweep.export.images import Picture
from segsweep.metrics import summarise
from segsweep.models.blocks import resize_to
from segsweep.tally import ImageCounts
from segsweep.tiling import segment_by_tiles
from segsweep.types import DataSpec, SegmenterOutput

REFERENCE = "torch"


@dataclass(frozen=True)
class Agreement:
    """Over all images compared.

    Attributes:
        largest: largest absolute difference of two logits.
        equal: share of pixels with the same class, in 0..1.
        miou: in 0..1, at the masks' native size; None if there are no masks.
    """

    largest: float
    equal: float
    miou: float | None


class _Tally:
    def __init__(self, spec: DataSpec) -> None:
        self.largest, self.equal, self.pixels = 0.0, 0, 0
        self.counts = ImageCounts(spec.num_classes, spec.ignore_index)
        self.num_masks = 0

    def add(self, logits: Tensor, reference: Tensor, mask: NDArray[np.uint8] | None, position: int) -> None:
        difference = (logits - reference).abs().max().item()
        self.largest = max(self.largest, difference if np.isfinite(difference) else float("inf"))
        self.equal += int((logits.argmax(1) == reference.argmax(1)).sum())
        self.pixels += reference[:, 0].numel()
        if mask is not None:
            truth = torch.from_numpy(np.ascontiguousarray(mask))[None].long()
            self.counts.update(resize_to(logits, truth), truth, torch.tensor([position]))
            self.num_masks += 1

    def result(self, class_names: tuple[str, ...]) -> Agreement:
        miou = summarise(self.counts.compute(), class_names)["miou"] if self.num_masks else None
        return Agreement(self.largest, self.equal / max(self.pixels, 1), miou)


def compare(
    runners: Mapping[str, Runner], pictures: Iterable[Picture], spec: DataSpec, tile: tuple[int, int] | None
) -> dict[str, Agreement]:
    """Runs all on the same images, one at a time.

    Args:
        runners: by name; ``torch`` is what the others are compared with.
        pictures: to run on.
        spec: facts of the data.
        tile: (h, w) of the tiles to segment by, or None for whole images.
    """
    tallies = {name: _Tally(spec) for name in runners}
    for position, picture in enumerate(pictures):
        logits = {name: _segment(run, picture, tile, spec.tile_overlap) for name, run in runners.items()}
        for name, tally in tallies.items():
            tally.add(logits[name], logits[REFERENCE], picture.mask, position)
    return {name: tally.result(spec.class_names) for name, tally in tallies.items()}


def _segment(run: Runner, picture: Picture, tile: tuple[int, int] | None, overlap: float) -> Tensor:
    if tile is None:
        return torch.from_numpy(run(picture.pixels[None]))

    def segment(part: Tensor) -> SegmenterOutput:
        return SegmenterOutput(torch.from_numpy(run(part.byte().numpy())))

    # float: mirroring takes no integers, and keeps these numbers as they are
    return segment_by_tiles(segment, torch.from_numpy(picture.pixels[None].astype(np.float32)), tile, overlap).logits
