"""Small datasets for tests, on disk or in memory, opened with the defaults of conf/data/folder.yaml."""

import hashlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from segsweep import CONF_DIR
from segsweep.augment import Augment
from segsweep.data.datamodule import DataModule
from segsweep.data.folder import Folder
from segsweep.data.problems import Problem
from segsweep.data.source import Item, Sample
from segsweep.data.splits import SPLITS
from segsweep.objectives import Segment
from segsweep.regime import Regime, Stage
from segsweep.types import DataSpec

SHARES = {"train": None, "val": 0.25, "test": 0.25}


def write(path: Path, content: Any = (4, 6), **options: Any) -> Path:
    """Makes a file and its folders: an array becomes a picture, a pair of numbers a black one, text a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".npy":
        np.save(path, content)
    elif isinstance(content, Image.Image):
        content.save(path, **options)
    else:
        pixels = np.zeros(content, np.uint8) if isinstance(content, tuple) else np.asarray(content)
        Image.fromarray(pixels).save(path, **options)
    return path


def write_pages(path: Path, pages: list[np.ndarray]) -> Path:
    """A TIFF file with several pages."""
    first, *others = [Image.fromarray(page) for page in pages]
    return write(path, first, save_all=True, append_images=others)


def open_folder(root: Path, **changes: Any) -> Folder:
    """The source that ``data=folder`` would make; three classes a, b and c unless told otherwise."""
    facts = {"root": str(root), "class_names": ["a", "b", "c"], "size": None}
    return Folder(**_arguments(Folder, node("data/folder") | facts | changes))


def open_data(source: Any, augment: str | dict[str, Any] = "none", seed: int = 0, **changes: Any) -> DataModule:
    """A DataModule; classes a, b and c, one stage of training on labelled images unless told otherwise."""
    images = changes.pop("train_on", "labelled")
    changed = augment if isinstance(augment, dict) else node(f"augment/{augment}")
    facts = {"class_names": ("a", "b", "c"), "size": None}
    facts |= {"mean": (0.5,) * 3, "std": (0.25,) * 3} if changes.get("in_channels", 3) == 3 else {}
    facts |= changes
    facts["num_classes"] = len(facts["class_names"])
    parts = {
        "source": source,
        "augment": Augment(**_arguments(Augment, node("augment/none") | changed)),
        "regime": Regime({"all of it": Stage(1.0, images, "trained", Segment())}),
        "seed": seed,
    }
    return DataModule(**_arguments(DataModule, node("data/folder") | facts | parts))


def spec(**changes: Any) -> DataSpec:
    """Facts of a dataset with the classes a, b and c."""
    facts = {"class_names": ("a", "b", "c"), "in_channels": 3, "ignore_index": 255, "size": None}
    return DataSpec(**(facts | {"mean": (0.5,) * 3, "std": (0.25,) * 3} | changes))


def scenes(num: int, size: tuple[int, int] = (16, 20), seed: int = 0, num_classes: int = 3) -> list[Sample]:
    """Images whose colour tells the class of each block of 4 x 4 pixels, so that a mask can be told from its image."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        blocks = rng.integers(0, num_classes, (-(-size[0] // 4), -(-size[1] // 4)), dtype=np.uint8)
        mask = blocks.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]]
        image = np.stack([mask * 80, 250 - mask * 80, rng.integers(0, 255, size)], axis=2).astype(np.uint8)
        found.append(Sample(image, mask, {}))
    return found


class Arrays:
    """A source in memory.

    Args:
        log: a file that gets one byte for every image that is read, whichever process reads it.
        bad: names of images that cannot be used.
        samples: for each split.
    """

    def __init__(self, *, log: Path | None = None, bad: tuple[str, ...] = (), **samples: list[Sample]) -> None:
        self.samples, self.log, self.bad = samples, log, bad

    def identity(self) -> object:
        digest = hashlib.sha256()
        for sample in (sample for part in self.samples.values() for sample in part):
            digest.update(repr((sample.image.shape, sample.image.tobytes(), sample.mask is None)).encode())
            digest.update(b"" if sample.mask is None else sample.mask.tobytes())
        return ["arrays", digest.hexdigest(), sorted(self.bad)]

    def items(self) -> dict[str, list[Item]]:
        return {
            split: [Item(f"{split}/{i:03d}", f"{split}/{i:03d}") for i in range(len(self.samples[split]))]
            for split in SPLITS
        }

    def read(self, split: str, position: int) -> Sample:
        if self.log is not None:
            with self.log.open("ab") as file:
                file.write(b".")
        name = f"{split}/{position:03d}"
        if name in self.bad:
            raise Problem("E-IMG", name, "is empty (0 bytes)", "Copy it again")
        return self.samples[split][position]


def three_splits(num: int = 6, **options: Any) -> Arrays:
    """``num`` training scenes, and two each to validate and test."""
    parts = {"train": (num, 1), "val": (2, 2), "test": (2, 3)}
    return Arrays(**{split: scenes(count, seed=seed, **options) for split, (count, seed) in parts.items()})


def node(name: str) -> dict[str, Any]:
    """What a file of conf/ holds."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONF_DIR / f"{name}.yaml"))  # type: ignore[assignment]
    return values


def _arguments(target: Any, node: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(target).parameters
    return {key: value for key, value in node.items() if key in names}
