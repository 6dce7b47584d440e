"""One model, or several that answer as one, on images of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segsweep.data.pixels import fitted_size, resize_image, to_input
from segsweep.inference.answer import Answer, resized_blocks
from segsweep.inference.hardware import forward_context
from segsweep.inference.views import mean_scores
from segsweep.opened import OpenedRun
from segsweep.run import ConfigError
from segsweep.tiling import Block, segment_by_tiles, stream_by_tiles
from segsweep.types import DataSpec, SegmenterOutput

_WHOLE_PIXELS = 2_500_000  # of an image that is segmented in one piece if nothing is said
_WHOLE_VALUES = 128_000_000  # of it, times classes
_TILE = 512  # pixels a side, beyond that
_BATCH_PIXELS = 1 << 20  # of images that are segmented together
_MOST_IMAGES = 16


class Ensemble:
    """Models that answer as one: the mean of their probabilities, or the logits of a lone one.

    Args:
        models: image -> ``SegmenterOutput``; at least one.
        spec: facts of the data that they were trained on; its ``tile`` is what ``tile=None`` means.
        fit: how images are brought to ``spec.size``: ``stretch`` or ``pad``.
        flips: of ``views.FLIPS``.
        scales: factors of height and width at which images are looked at.
        tile: (h, w) in pixels of overlapping tiles; ``"never"``: whole images, whatever memory that takes; None: the
            spec's, and 512x512 for images that are too large for one piece.
        overlap: share of a tile that the next one covers again; None: the spec's.
        device: to compute on.
        precision: Lightning's name, as ``precision_on`` gives it.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        spec: DataSpec,
        fit: str = "stretch",
        *,
        flips: Sequence[str] = ("",),
        scales: Sequence[float] = (1.0,),
        tile: tuple[int, int] | str | None = None,
        overlap: float | None = None,
        device: torch.device | str = "cpu",
        precision: str = "32-true",
    ) -> None:
        self.device, self.precision, self.spec, self.fit = torch.device(device), precision, spec, fit
        self.models = [
            model.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for model in models
        ]
        self.flips, self.scales = tuple(flips), tuple(scales)
        self.is_whole = tile == "never"
        self.tile = spec.tile if tile is None else None if isinstance(tile, str) else (tile[0], tile[1])
        self.overlap = spec.tile_overlap if overlap is None else overlap

    @classmethod
    def of_runs(cls, runs: Sequence[OpenedRun], **options: Any) -> Ensemble:
        """Of one or several runs that see images in the same way; ``options`` as in the class.

        Raises:
            ConfigError: the runs have other classes, or read images otherwise, a line for each; or one is given twice.
        """
        first = runs[0]
        lines = []
        for other in runs[1:]:
            if other.spec.class_names != first.spec.class_names:
                lines.append(f"{other.name} and {first.name} have different classes, or in another order")
            facts = _reading(first, options.get("tile") is None)
            differing = [name for name, value in facts.items() if value != _reading(other, True).get(name)]
            if differing:
                keys = ", ".join(f"data.{name}" for name in differing)
                lines.append(f"{other.name} and {first.name} see images differently ({keys})")
        if lines:
            raise ConfigError("\n".join(f"{line}: they cannot answer as one. Leave one out" for line in lines))
        refuse_twice(runs)
        return cls([run.model for run in runs], first.spec, first.fit, **options)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.spec.num_classes

    def scores(self, image: Tensor) -> Tensor:
        """Scores (N, K, H, W) float32 of standardised images (N, C, H, W), at their size: whole or by tiles."""
        tile = self.tile_for((image.shape[-2], image.shape[-1]))
        image = image.to(self.device)
        if tile is None:
            return self._whole(image)
        with torch.inference_mode():
            return segment_by_tiles(lambda part: SegmenterOutput(self._whole(part)), image, tile, self.overlap).logits

    def _whole(self, image: Tensor) -> Tensor:
        with torch.inference_mode(), forward_context(self.device, self.precision):
            return mean_scores(self.models, image, self.flips, self.scales)

    def decoded(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image (H, W, C) uint8 at the size that the models see."""
        return resize_image(pixels, self.seen_size(pixels.shape[:2]))

    def seen_size(self, own: Sequence[int]) -> tuple[int, int]:
        """(h, w) that the models see of an image of its own size."""
        return fitted_size((own[0], own[1]), self.spec, self.fit)

    def tile_for(self, seen: tuple[int, int]) -> tuple[int, int] | None:
        """(h, w) of the tiles of an image that the models see in this size, or None for one piece."""
        if self.tile or self.is_whole:
            return self.tile
        pixels = seen[0] * seen[1]
        fits = pixels <= _WHOLE_PIXELS and pixels * self.num_classes <= _WHOLE_VALUES
        return None if fits else (_TILE, _TILE)

    def batch_size(self, seen: tuple[int, int]) -> int:
        """How many images of a size are best segmented together; 1 for tiles, which are batched among themselves."""
        if self.tile_for(seen):
            return 1
        return int(min(max(1, _BATCH_PIXELS // (seen[0] * seen[1])), _MOST_IMAGES))

    def answer(self, pixels: NDArray[np.uint8]) -> Answer:
        """Segments one image (H, W, C) uint8, of any size."""
        return self.answers([self.decoded(pixels)], [pixels.shape[:2]])[0]

    def answers(self, decoded: Sequence[NDArray[np.uint8]], sizes: Sequence[Sequence[int]]) -> list[Answer]:
        """Segments images that the models see in one size.

        Args:
            decoded: (h, w, C) uint8 each, of one size; one image alone if that needs tiles.
            sizes: (H, W) of each image itself, which its answer has.
        """
        seen = (decoded[0].shape[0], decoded[0].shape[1])
        own = [(size[0], size[1]) for size in sizes]
        tile = self.tile_for(seen)
        if tile is None:
            image = torch.from_numpy(np.stack(decoded)).to(self.device)
            parts = list(self._whole(to_input(image, self.spec)))
            return [self._of(part, size) for part, size in zip(parts, own, strict=True)]
        stream = [partial(self._stream, pixels, tile) for pixels in decoded]
        if seen == own[0]:
            return [Answer(size, self.num_classes, blocks) for blocks, size in zip(stream, own, strict=True)]
        # Images decoded to another size: what all tiles say of it is small enough to keep.
        return [self._of(_put_together(blocks(), seen), size) for blocks, size in zip(stream, own, strict=True)]

    def _of(self, scores: Tensor, size: tuple[int, int]) -> Answer:
        return Answer(size, self.num_classes, partial(_without_gradients, partial(resized_blocks, scores, size)))

    def _stream(self, pixels: NDArray[np.uint8], tile: tuple[int, int]) -> Iterator[Block]:
        def score(tiles: Tensor) -> Tensor:
            return self._whole(to_input(tiles.to(self.device), self.spec))

        return _without_gradients(partial(stream_by_tiles, score, pixels, self.num_classes, tile, self.overlap))


def refuse_twice(runs: Sequence[OpenedRun]) -> None:
    """Refuses runs of equal weights: their mean says nothing that one of them does not say alone.

    Raises:
        ConfigError: which folder to leave out.
    """
    first: dict[str, OpenedRun] = {}
    for run in runs:
        same = first.setdefault(run.weights_sha256, run)
        if same is not run:
            raise ConfigError(
                f"{run.folder} has the very weights of {same.folder}: the mean of both is what one of them says. Leave "
                f"{run.folder} out"
            )


def _without_gradients(blocks: Any) -> Iterator[Block]:
    """Inference mode within each step: a generator would leave it switched on in whoever reads from it."""
    stream = blocks()
    while True:
        with torch.inference_mode():
            block = next(stream, None)
        if block is None:
            return
        yield block


def _put_together(blocks: Iterator[Block], size: tuple[int, int]) -> Tensor:
    scores = torch.zeros(0)
    for block in blocks:
        if not scores.numel():
            scores = torch.zeros(len(block.scores), *size, device=block.scores.device)
        scores[(slice(None), *block.place)] = block.scores
    return scores


def _reading(run: OpenedRun, by_tiles: bool) -> dict[str, Any]:
    """What decides how a run sees an image."""
    names = ["size", "mean", "std", "in_channels", *(["tile", "tile_overlap"] if by_tiles else [])]
    node = {key: run.data_node.get(key) for key in ("scale", "alpha", "exif")}
    return {**{name: getattr(run.spec, name) for name in names}, "fit": run.fit, **node}
