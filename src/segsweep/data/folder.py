"""Images and masks in files, in whatever layout somebody else chose: patterns say where they are, options how to read.

``conf/data/folder.yaml`` documents every option; a dataset is one YAML file that overrides some of them.
"""

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt

from segsweep.data.absent import refuse_missing_root, root_folder
from segsweep.data.download import download as fetch
from segsweep.data.images import refuse_not_finite, to_image, turn_upright
from segsweep.data.labels import Class, Labels
from segsweep.data.layout import Declaration, find_pairs
from segsweep.data.pairs import Pair
from segsweep.data.patterns import File
from segsweep.data.problems import DataError, Problem
from segsweep.data.rasters import Raster, count_pages, open_raster
from segsweep.data.source import Item, Pixels, Sample
from segsweep.hints import written

_STACKS = "Pair each stack with one of as many pages, leave it out with data.exclude, or choose one page by data.page=0"
_TRANSPOSED = (5, 6, 7, 8)  # Exif orientations that swap height and width


class Folder:
    """Reads image and mask files.

    Args:
        root: folder of the dataset.
        images: pattern of the images below ``root``; ``segsweep.data.patterns`` shows the syntax.
        masks: pattern of the masks, or class -> pattern for one mask a class (later classes lie on top). Placeholders
            shared with ``images`` pair them; further ones in ``masks`` make several masks of an image one.
        unlabelled: pattern of images without masks; they join train.
        valid: pattern of masks that are 0 where an image is not to be looked at.
        splits: for train, val and test a value of the placeholder ``{split}``, a list file below ``root`` (``*.txt``),
            or a share of the images that no other split names (of train's, if it names some); train may be null:
            what is left.
        group_by: placeholder whose images are not independent (tile, patient, video) and never straddle splits made by
            share or fold. None: every image is a group of its own.
        fold: which of ``num_folds`` folds is held out, from 0.
        num_folds: replaces the shares in ``splits``.
        split_seed: of the shares and folds; the run's seed does not change them.
        exclude: names of images to leave out: path below ``root``, with or without suffix.
        label_map: mask value -> class (name, number or ``ignore``).
        threshold: mask values above it are class 1, others class 0.
        palette: mask colour -> class (name, number or ``ignore``).
        in_channels: 1 (read as grey) or 3 (read as RGB).
        scale: image values that become black and white; None: 8-bit images as they are.
        alpha: what to do with transparent images.
        exif: what to do with rotation tags where the mask's size does not tell.
        page: of files with several pages; ``all`` makes each an image of its own.
        max_pixels: larger images are refused, unless they are trained on by crops and scored by tiles.
        follow_links: whether links may lead out of ``root``.
        class_names: one per class, for ``label_map`` and ``palette``.
        ignore_index: mask value to leave out.
        size: None if images are trained on at their own size.
        tile: None if images are scored in one piece.
        download: whether to fetch the data if it is not there.
        downloader: class of torchvision that fetches it.
        obtain: what to download and where to put it, said when the data is not there.

    Raises:
        DataError: files are missing, have no partner, or cannot be told apart; all such problems at once.
        ValueError: options contradict each other.
    """

    def __init__(
        self,
        root: str,
        images: str,
        masks: str | dict[str, str],
        unlabelled: str | None,
        valid: str | None,
        splits: dict[str, str | Annotated[float, Gt(0)] | None],
        group_by: str | None,
        fold: Annotated[int, Ge(0)] | None,
        num_folds: Annotated[int, Ge(2)] | None,
        split_seed: Annotated[int, Ge(0)],
        exclude: list[str],
        label_map: dict[int, Class] | None,
        threshold: float | None,
        palette: dict[str, Class] | None,
        in_channels: Annotated[int, Ge(1)],
        scale: tuple[float, float] | None,
        alpha: Literal["drop", "composite"] | None,
        exif: Literal["apply", "ignore"] | None,
        page: Annotated[int, Ge(0)] | Literal["all"] | None,
        max_pixels: Annotated[float, Gt(0)],
        follow_links: bool,
        class_names: list[str] | None,
        ignore_index: int,
        size: tuple[int, int] | None,
        tile: tuple[int, int] | None,
        download: bool,
        downloader: str | None,
        obtain: str | None,
    ) -> None:
        self.root = root_folder(root)
        self.labels = Labels(class_names, ignore_index, label_map, threshold, palette)
        self.in_channels, self.scale, self.alpha, self.exif, self.page = in_channels, scale, alpha, exif, page
        self.ignore_index = ignore_index
        self.max_pixels = int(max_pixels) if tile is None or size is not None else 1 << 62
        if scale is not None and not scale[0] < scale[1]:
            raise ValueError(f"data.scale={written(scale)} must rise from the value of black to the value of white")
        self.classes = list(masks) if isinstance(masks, dict) else [""]
        if not masks:
            raise ValueError("data.masks is empty; give a pattern, or a pattern for each class")
        if isinstance(masks, dict):
            if useless := [name for name, option in (("label_map", label_map), ("palette", palette)) if option]:
                raise ValueError(
                    f"data.masks names classes, so data.{useless[0]} has nothing to map; a pixel has a class where the "
                    f"file of that class is not 0, or above data.threshold"
                )
            self._class_numbers = [self.labels.number(name, "masks") for name in masks]
        if download:
            fetch(downloader, self.root, obtain)
        if downloader and obtain:
            obtain = f"{obtain}, or set data.download=true"
        refuse_missing_root(self.root, images, obtain)
        selectors = {str(name): selector for name, selector in splits.items()}
        said = Declaration(
            images, masks, unlabelled, valid, selectors, group_by, fold, num_folds, split_seed, exclude, follow_links,
            obtain,
        )  # fmt: skip
        found = find_pairs(self.root, said)
        self.num_ignored, self.unused = found.num_ignored, found.unused
        self._pairs = self._unfold(found.splits)
        self._items = {
            split: [Item(_name(pair, page), pair.group) for pair, page in pairs] for split, pairs in self._pairs.items()
        }

    def identity(self) -> object:
        """Names, sizes and modification times of all files and how they are read, wherever the folder lies."""
        pairs = [pair for pairs in self._pairs.values() for pair, _ in pairs]
        files = {file.name: (file.size, file.mtime_ns) for pair in pairs for file in pair.files()}
        roles = [
            (pair.image.name, [(k, mask.name) for k, mask in pair.masks], pair.valid and pair.valid.name)
            for pair in pairs
        ]
        reading = [self.in_channels, self.scale, self.alpha, self.exif, self.page, self.labels.identity(), self.classes]
        return ["folder", reading, sorted(self._items.items()), sorted(files.items()), sorted(roles)]

    def items(self) -> dict[str, list[Item]]:
        """The images of each split, sorted by name; unlabelled ones at the end of train."""
        return self._items

    def read(self, split: str, position: int) -> Sample:
        """Opens an image and its masks."""
        pair, page = self._pairs[split][position]
        raster = self._open(pair.image, page)
        image = to_image(raster, pair.image.name, self.in_channels, self.scale, self.alpha)
        facts: dict[str, Any] = {
            "image": pair.image.name,
            "format": raster.format,
            "mode": raster.mode,
            "bits": raster.bits,
            "depth": raster.depth,
            "exif": raster.orientation,
        }
        if _is_misnamed(raster):
            facts["note"] = f"{raster.format} by content, whatever the suffix says, and read as such"
        layers = [(k, file, self._open(file, page)) for k, file in pair.masks]
        first = layers[0][2] if layers else None
        facts["turned"] = self._orientation(raster, first, pair)
        image = turn_upright(image, facts["turned"])
        if first is None:
            return Sample(image, None, facts)
        for _, file, layer in layers:
            if layer.size != image.shape[:2]:
                raise Problem(
                    "E-SIZE",
                    file.name,
                    f"has {layer.size[1]}x{layer.size[0]} pixels, its image {pair.image.name} "
                    f"{image.shape[1]}x{image.shape[0]}",
                    "Masks are never resized to fit: pair each image with its own mask",
                )
        mask = self._merge(layers)
        if pair.valid:
            mask = self._mask_out(mask, self._open(pair.valid, page), pair.valid)
        facts |= {
            "mask": layers[0][1].name + (f" and {len(layers) - 1} more" if len(layers) > 1 else ""),
            "mask_mode": first.mode,
            "palette": None if self.labels.palette else _used_palette(first),
        }
        return Sample(image, mask, facts)

    def raw_mask(self, split: str, position: int) -> Raster | None:
        """The first mask file of an image as it is stored, for looking at conventions; None if it has none."""
        pair, page = self._pairs[split][position]
        return self._open(pair.masks[0][1], page) if pair.masks else None

    def _unfold(self, splits: dict[str, list[Pair]]) -> dict[str, list[tuple[Pair, int | None]]]:
        """Each pair with the page to read; ``page=all`` gives one entry a page."""
        unfolded: dict[str, list[tuple[Pair, int | None]]] = {}
        problems = []
        for split, pairs in splits.items():
            unfolded[split] = [(pair, self.page) for pair in pairs if self.page != "all"]
            for pair in pairs if self.page == "all" else ():
                try:
                    unfolded[split] += [(pair, page) for page in range(_num_pages(pair))]
                except Problem as problem:
                    problems.append(problem)
        if problems:
            raise DataError(problems)
        return unfolded

    def _open(self, file: File, page: int | None) -> Raster:
        return open_raster(file.path, file.name, page, self.max_pixels)

    def _orientation(self, image: Raster, mask: Raster | None, pair: Pair) -> int:
        """The Exif orientation to apply: 1, or the image's own if the mask's size or ``exif`` says so."""
        own = image.orientation
        if own == 1 or self.exif == "ignore":
            return 1
        if self.exif == "apply":
            return own
        height, width = image.size
        if mask is not None and own in _TRANSPOSED and height != width:
            return own if mask.size == (width, height) else 1
        raise Problem(
            "E-EXIF",
            pair.image.name,
            f"carries the rotation tag {own}, and no mask size tells whether its mask is rotated",
            "Set data.exif=apply or data.exif=ignore; segsweep-data with either draws images and masks on one sheet",
        )

    def _merge(self, layers: list[tuple[int, File, Raster]]) -> Pixels:
        """One mask of all: classes of a class -> pattern mapping, or several files that each hold some objects."""
        if self.classes == [""]:
            merged: Pixels | None = None
            for _, file, layer in layers:
                mask = self.labels.read(layer, file.name)
                merged = mask if merged is None else np.where(mask != 0, mask, merged)
            return merged if merged is not None else np.zeros((0, 0), np.uint8)
        merged = np.zeros(layers[0][2].size, np.uint8)
        for k, file, layer in sorted(layers, key=lambda layer: layer[0]):
            inside = _is_set(layer, file, self.labels.threshold)
            merged[inside] = self._class_numbers[k]
        return merged

    def _mask_out(self, mask: Pixels, valid: Raster, file: File) -> Pixels:
        inside = _is_set(valid, file, None)
        if inside.shape != mask.shape:
            what = f"has {inside.shape[1]}x{inside.shape[0]} pixels, its mask {mask.shape[1]}x{mask.shape[0]}"
            raise Problem("E-SIZE", file.name, what, "Pair each image with its own valid area")
        return np.where(inside, mask, np.uint8(self.ignore_index))


def _num_pages(pair: Pair) -> int:
    """Pages of an image and of all that belongs to it: their number has to be the same."""
    num = count_pages(pair.image.path, pair.image.name)
    for file in pair.files()[1:]:
        other = count_pages(file.path, file.name)
        if other != num:
            what = f"has {other} page{'' if other == 1 else 's'}, its image {pair.image.name} {num}"
            raise Problem("E-PAGE", file.name, what, _STACKS)
    return num


def _is_set(raster: Raster, file: File, threshold: float | None) -> Any:
    pixels = raster.pixels if raster.pixels.ndim == 2 else raster.pixels.max(axis=2)
    if threshold is not None:
        refuse_not_finite(pixels, file.name)
        return pixels > threshold
    if raster.is_lossy:
        raise Problem("E-LOSSY", file.name, f"is a {raster.format} file, which changes mask values", "Get the original")
    return pixels != 0


def _used_palette(raster: Raster) -> dict[str, str] | None:
    """Index -> colour of the palette entries that occur: writers shorten and reorder the others as they like."""
    if raster.colours is None:
        return None
    return {str(index): " ".join(map(str, raster.colours[index].tolist())) for index in np.unique(raster.pixels)}


def _is_misnamed(raster: Raster) -> bool:
    usual = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
             ".tiff": "TIFF", ".gif": "GIF", ".npy": "NPY"}  # fmt: skip
    return usual.get(raster.suffix, raster.format) != raster.format


def _name(pair: Pair, page: int | None) -> str:
    return pair.image.stem if page is None else f"{pair.image.stem}#{page:03d}"
