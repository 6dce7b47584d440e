"""Finished runs as something that takes images: ``segsweep.load``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segsweep.data.source import Pixels
from segsweep.files import write_atomic
from segsweep.hardware import prepare
from segsweep.images.reading import Reading
from segsweep.inference import SCALES, Answer, Ensemble, check_options, chosen_flips, pick_device, precision_on
from segsweep.opened import open_finished
from segsweep.predict.georeference import Georeference, read_georeference
from segsweep.predict.pictures import index_file, overlay


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a run says of one image, at the image's own size.

    Attributes:
        classes: (H, W) uint8 class numbers.
        class_names: one per number.
        colours: (256, 3) uint8, of the classes.
        image: (H, W, C) uint8, as the run has read it.
    """

    classes: NDArray[np.uint8]
    class_names: tuple[str, ...]
    colours: NDArray[np.uint8]
    image: Pixels
    _answer: Answer = field(repr=False)
    _place: Georeference | None = field(default=None, repr=False)

    def probabilities(self) -> NDArray[np.float32]:
        """(K, H, W) of each class, in 0..1; of large images they are computed when asked for."""
        return self._answer.probabilities()

    def entropy(self) -> NDArray[np.float32]:
        """(H, W) in 0..1: 0 where one class is certain, 1 where all are equally likely."""
        return self._answer.entropy()

    def overlay(self) -> NDArray[np.uint8]:
        """(H, W, 3): the classes' colours laid over the image."""
        return np.asarray(overlay(self.image, self.classes, self.colours))

    def shares(self) -> dict[str, float]:
        """Share of the pixels that each class has."""
        return shares(self.classes, self.class_names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the class numbers: a PNG with a palette, or a GeoTIFF of an image with a georeference (``.tif``).

        Raises:
            ValueError: another suffix, or ``.tif`` without a georeference.
        """
        file = Path(path)
        is_tiff = file.suffix.lower() in (".tif", ".tiff")
        if not is_tiff and file.suffix.lower() != ".png":
            raise ValueError(f"{file}: class numbers are written as .png, where no pixel changes; choose that suffix")
        if is_tiff and self._place is None:
            raise ValueError(f"{file}: the image has no georeference; choose the suffix .png")
        write_atomic(file, index_file(self.classes, self.colours, self._place if is_tiff else None))


def shares(classes: NDArray[np.uint8], names: Sequence[str]) -> dict[str, float]:
    """Share of the pixels that each class has, by its name."""
    counts = np.zeros(len(names), np.int64)
    for rows in np.array_split(classes, -(-classes.size // 10_000_000)):  # bincount makes int64 of its input
        counts += np.bincount(rows.ravel(), minlength=len(names))
    return {str(name): round(int(num) / classes.size, 6) for name, num in zip(names, counts, strict=True)}


class Predictor:
    """One finished run, or several that answer as one.

    Args:
        run: its folder.
        trust: exact names of model classes outside of segsweep that may be built.
        others: folders of runs of the same data; probabilities are averaged.
        tta: test-time augmentation: ``flips``, ``scales`` (0.75, 1 and 1.25) or ``flips+scales``; None: the image as it
            is.
        flips: of ``h`` (left and right), ``v`` (up and down) and ``hv`` (both), besides none; None: those that the run
            was trained with.
        tile: (h, w) in pixels of overlapping tiles; ``"never"``: whole images whatever memory that takes; None: as the
            run was tested, and 512x512 for what is too large for one piece.
        overlap: share of a tile that the next one covers again; None: as the run was tested.
        device: ``auto``, ``cpu`` or ``cuda``. The precision is the run's where the device has it natively.
        scale: values of black and white for images of more than 8 bits; None: as the run reads its own.
        alpha: ``drop`` or ``composite`` for transparent images; None: as the run reads its own.
        exif: ``apply`` or ``ignore`` rotation tags; None: as the run reads its own.
        max_pixels: larger images are refused.

    Attributes:
        runs: opened; plain data and models.
        ensemble: what segments.
        reading: how images are opened.
        notes: what the user should know about the choice of options.

    Raises:
        ConfigError: a folder is no finished run, runs do not fit together, or an option has an impossible value.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        trust: Sequence[str] = (),
        *,
        others: Sequence[str | os.PathLike[str]] = (),
        tta: str | None = None,
        flips: Sequence[str] | None = None,
        tile: tuple[int, int] | str | None = None,
        overlap: float | None = None,
        device: str = "auto",
        scale: tuple[float, float] | None = None,
        alpha: str | None = None,
        exif: str | None = None,
        max_pixels: float | None = None,
    ) -> None:
        check_options(tta, flips, tile, overlap)
        self.notes: list[str] = []
        where = pick_device(device)
        self.runs = [open_finished(Path(folder), trust) for folder in (run, *others)]
        first = self.runs[0]
        _prepare(where.type, first.record)
        said = {"scale": scale, "alpha": alpha, "exif": exif, "max_pixels": max_pixels}
        self.reading = Reading.of_run(first.data_node, first.spec.in_channels, **said)
        self.ensemble = Ensemble.of_runs(
            self.runs,
            flips=self._flips(flips) if tta and "flips" in tta else ("",),
            scales=SCALES if tta and "scales" in tta else (1.0,),
            tile=tile,
            overlap=overlap,
            device=where,
            precision=precision_on(where, first.record.get("precision")),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """One per class number."""
        return self.runs[0].spec.class_names

    @property
    def colours(self) -> NDArray[np.uint8]:
        """(256, 3) of the classes."""
        return self.runs[0].colours

    def predict(
        self, image: str | os.PathLike[str] | NDArray[Any] | Image.Image, page: int | None = None
    ) -> Prediction:
        """Segments one image of any size.

        Args:
            image: the path of a file; an array (H, W), (H, W, 1) or (H, W, 3) of 8 bits, or of others with ``scale``;
                or a Pillow image.
            page: of a file with several.

        Raises:
            ValueError: the image cannot be used; the message says what to do. (``segsweep.data.problems.Problem``)
        """
        place = None
        if isinstance(image, str | os.PathLike):
            path = Path(image)
            pixels, turned = self.reading.file(path, str(path), page)
            place = read_georeference(path) if turned == 1 and page is None else None
        else:
            pixels = self.reading.array(image)
        answer = self.ensemble.answer(pixels)
        return Prediction(answer.classes(), self.class_names, self.colours, pixels, answer, place)

    def _flips(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Those to average over, the image as it is among them."""
        flips = chosen_flips(wanted, self.runs[0].record)
        if len(flips) == 1:
            self.notes.append(
                f"{self.runs[0].name} was trained without flips (augment.hflip, augment.vflip), so it is shown none. "
                "--flips h shows it each image left to right as well; segsweep-evaluate says whether that helps"
            )
        return flips


def _prepare(device: str, record: dict[str, Any]) -> None:
    """Settings of the process as in training."""
    config = record.get("config")
    trainer = config.get("trainer") if isinstance(config, dict) else None
    prepare("gpu" if device == "cuda" else "cpu", isinstance(trainer, dict) and trainer.get("tf32") is True)
