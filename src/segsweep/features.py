"""What a frozen encoder makes of the training images, computed once for a whole run."""

import logging
import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from segsweep.types import Batch

log = logging.getLogger(__name__)

_SHARE = 0.25  # of free memory that the features may take


@torch.no_grad()
def frozen_features(encoder: nn.Module, batches: Iterable[Batch], num_images: int) -> Tensor | None:
    """The coarsest map of every image.

    Args:
        encoder: image -> list of maps, fine to coarse; its weights do not change during the run.
        batches: every image of the split once, all of one size.
        num_images: of the split.

    Returns:
        (num_images, D, h, w) in the order of the split, on the device and in the precision of the encoder; None, with a
        line in the log, if that would take more than a quarter of free memory.
    """
    features: Tensor | None = None
    for batch in batches:
        maps: Tensor = encoder(batch.image)[-1]
        if features is None:
            num_bytes = num_images * maps[0].nbytes
            if num_bytes > _SHARE * _free_bytes(maps.device):
                log.info("features of the frozen encoder would take %.1f GB: they are computed anew", num_bytes / 1e9)
                return None
            features = maps.new_empty((num_images, *maps.shape[1:]))
        features[batch.index] = maps
    if features is not None:
        log.info("features of the frozen encoder: computed once, %.0f MB", features.nbytes / 1e6)
    return features


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
