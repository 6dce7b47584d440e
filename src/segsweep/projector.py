"""Latents of test images for TensorBoard's Projector tab."""

import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from segsweep.data.datamodule import DataModule
from segsweep.pictures import thumbnail
from segsweep.task import Task
from segsweep.types import DataSpec

_MAX_IMAGES = 256
_SIDE = 48  # pixels of a thumbnail; TensorBoard takes one picture of all of them, 8192 pixels wide at most
_PLACES = 2  # rows and columns of what is kept of a latent's places


def log_latents(logger: TensorBoardLogger, task: Task, data: DataModule) -> None:
    """Writes the latents of up to 256 test images, spread evenly, each with its thumbnail, class and name.

    The latent is averaged over each quarter of its places: a code of one channel would else be one number, and the
    projector needs three. A model without a latent, and images that are segmented by tiles, have nothing to show.

    Args:
        logger: of the run; TensorBoard wants ``projector_config.pbtxt`` beside its events, and what that file names.
        task: in evaluation mode.
        data: of the run.
    """
    items = data.store.splits["test"].items
    num = len(items)
    chosen = sorted({round(i * (num - 1) / (_MAX_IMAGES - 1)) for i in range(_MAX_IMAGES)})
    positions: list[int] = []
    latents: list[Tensor] = []
    counts, thumbnails = [], []
    for batch in data.test_images(chosen):
        with torch.inference_mode(), task.trainer.precision_plugin.forward_context():
            latent = None if task.spec.tile else task.forward(batch.image).latent
        if latent is None:
            return
        positions += batch.index.tolist()
        latents += _pooled(latent.float()).cpu()
        counts += [_class_counts(mask, task.spec) for mask in batch.mask]
        thumbnails += [thumbnail(image, task.spec, _SIDE) for image in batch.image.cpu().numpy()]
    folder = Path(logger.log_dir)
    (folder / "projector_config.pbtxt").unlink(missing_ok=True)  # of an interrupted end of this run; torch would append
    shutil.rmtree(folder / "00000", ignore_errors=True)
    names = [task.spec.class_names[k] for k in main_classes(torch.stack(counts))]
    logger.experiment.add_embedding(
        torch.stack(latents),
        metadata=[[name, items[p].name] for name, p in zip(names, positions, strict=True)],
        metadata_header=["class", "image"],
        label_img=torch.from_numpy(np.stack(thumbnails)).permute(0, 3, 1, 2) / 255,
        global_step=0,
        tag="latent",
    )


def main_classes(counts: Tensor) -> list[int]:
    """The class that each image shows most of, the one that most pixels of all images have (background) left aside.

    Args:
        counts: (n, K) pixels of each class in each image.

    Returns:
        n class numbers; that commonest class for an image of nothing else.
    """
    commonest = int(counts.sum(dim=0).argmax())
    rest = counts.clone()
    rest[:, commonest] = 0
    shown = rest.argmax(dim=1)
    return torch.where(rest.sum(dim=1) > 0, shown, commonest).tolist()


def _pooled(latent: Tensor) -> Tensor:
    """(N, D, h, w) -> (N, D x places): the mean of each quarter of the places, or all of them if they are fewer."""
    height, width = latent.shape[-2:]
    return F.adaptive_avg_pool2d(latent, (min(_PLACES, height), min(_PLACES, width))).flatten(1)


def _class_counts(mask: Tensor, spec: DataSpec) -> Tensor:
    return torch.bincount(mask[mask != spec.ignore_index].flatten(), minlength=spec.num_classes).cpu()
