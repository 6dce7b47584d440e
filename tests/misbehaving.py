"""Segmenters that end their process in training, each in its own way."""

import os
import signal
import time

from segsweep.models.unet import UNet


class Raises(UNet):
    def forward(self, image):
        if self.training:
            raise ArithmeticError("=1+1 is two")
        return super().forward(image)


class Exits(UNet):
    def forward(self, image):
        if self.training:
            os._exit(3)
        return super().forward(image)


class IsKilled(UNet):
    def forward(self, image):
        if self.training:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(image)


class Hangs(UNet):
    def forward(self, image):
        while self.training:
            time.sleep(1)
        return super().forward(image)
