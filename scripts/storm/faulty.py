"""A user's own model that fails in every way there is: ``model._target_=faulty.Net +model.fault=raise``."""

import os
import signal
import sys
import time

from torch import Tensor

from segsweep.models.unet import UNet
from segsweep.types import SegmenterOutput


class Net(UNet):
    """A U-Net that trains, unless its fault is one of ``raise``, ``exit``, ``kill`` and ``hang``.

    Args:
        in_channels, num_classes, widths: as in ``UNet``.
        fault: what happens at its first training step; any other word is a name for a job without fault.
    """

    def __init__(self, in_channels: int, num_classes: int, widths: tuple[int, ...], fault: str) -> None:
        super().__init__(in_channels, num_classes, widths)
        self.fault = fault

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch, or fails."""
        if self.training:
            self._fail()
        return super().forward(image)

    def _fail(self) -> None:
        if self.fault == "raise":
            raise RuntimeError("a defect of the model")
        if self.fault == "exit":
            sys.exit(3)
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while self.fault == "hang":  # as a deadlock would: it minds no signal but SIGKILL
            try:
                time.sleep(3600)
            except BaseException:
                continue
