"""Pictures to train on where there is no dataset: the same files each time, in the layout of ``data=folder``."""

from pathlib import Path

import numpy as np
from PIL import Image

BLOCK = 8  # pixels, side of the squares that a scene is made of
SPLITS = ("train", "val", "test")


def write_scenes(root: Path, size: tuple[int, int], counts: tuple[int, int, int], num_classes: int) -> list[str]:
    """Writes RGB images with masks as PNG files; a block's brightness follows from its class.

    Args:
        root: of the dataset.
        size: (H, W) in pixels.
        counts: images of train, val and test.
        num_classes: K.

    Returns:
        The overrides that make ``segsweep`` read them.
    """
    rng = np.random.default_rng(0)
    for split, count in zip(SPLITS, counts, strict=True):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            blocks = rng.integers(0, num_classes, (-(-size[0] // BLOCK), -(-size[1] // BLOCK)), dtype=np.uint8)
            mask = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[: size[0], : size[1]]
            colour = mask[..., None] * np.array([255 // num_classes] * 3)
            image = (colour + rng.integers(0, 16, (*size, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{i:04d}.png", compress_level=1)
            Image.fromarray(mask).save(root / "masks" / split / f"{i:04d}.png", compress_level=1)
    names = ",".join(f"c{i}" for i in range(num_classes))
    facts = (f"num_classes={num_classes}", f"class_names=[{names}]", f"size=[{size[0]},{size[1]}]", f"root={root}")
    return ["data=folder", *(f"data.{fact}" for fact in facts)]
