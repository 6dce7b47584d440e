"""Parts of the library that train sooner on a CPU, in the place of its own; imported where a model is built."""

from itertools import accumulate

from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from segmentation_models_pytorch.encoders.resnet import BasicBlock, Bottleneck, ResNetEncoder
from torch import Tensor, nn

from segsweep.models.narrow_maps import Conv2d
from segsweep.models.normalisation import BatchNorm2d, Layers, in_turn
from segsweep.models.repetition import conv_of_repeated, pays


class QuickUnetDecoderBlock(UnetDecoderBlock):  # type: ignore[misc]
    """The library's block of a U-Net decoder, which goes up by ``conv_of_repeated`` where that pays."""

    def forward(self, x: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        """Maps (N, D, h, w) to (N, E, height, width)."""
        if not (self.training and self._only_repeats(x, height, width, skip_connection)):
            return super().forward(x, height, width, skip_connection)  # type: ignore[no-any-return]
        conv, *others = self.conv1
        x = conv_of_repeated(conv, x, skip_connection)
        return in_turn((*others, self.conv2, self.attention2), x)

    def _only_repeats(self, x: Tensor, height: int, width: int, skip_connection: Tensor | None) -> bool:
        is_attentive = not isinstance(getattr(self.attention1, "attention", None), nn.Identity)
        is_twice = (height, width) == (2 * x.shape[-2], 2 * x.shape[-1])
        if self.interpolation_mode != "nearest" or not is_twice or (is_attentive and skip_connection is not None):
            return False
        return pays(self.conv1[0], x, skip_connection)


class QuickBasicBlock(BasicBlock):  # type: ignore[misc]
    """torchvision's block of ResNet-18 and ResNet-34."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, D, H, W) to (N, E, h, w)."""
        result = in_turn((self.conv1, self.bn1, self.relu, self.conv2, self.bn2), x)
        result += x if self.downsample is None else self.downsample(x)
        return self.relu(result)  # type: ignore[no-any-return]


class QuickBottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's block of deeper ResNets."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, D, H, W) to (N, E, h, w)."""
        first, second = (self.conv1, self.bn1, self.relu), (self.conv2, self.bn2, self.relu)
        result = in_turn((*first, *second, self.conv3, self.bn3), x)
        result += x if self.downsample is None else self.downsample(x)
        return self.relu(result)  # type: ignore[no-any-return]


class QuickResNetEncoder(ResNetEncoder):  # type: ignore[misc]
    """The library's ResNet."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps an image to its features, itself first."""
        stages = (
            (self.conv1, self.bn1, self.relu),
            (self.maxpool, self.layer1),
            *((layer,) for layer in (self.layer2, self.layer3, self.layer4)),
        )
        return list(accumulate(stages[: self._depth], lambda x, stage: in_turn(stage, x), initial=x))


class QuickConv2dReLU(Layers, Conv2dReLU):  # type: ignore[misc]
    """The library's convolution with what follows it."""


_QUICK: dict[type, type] = {
    UnetDecoderBlock: QuickUnetDecoderBlock,
    ResNetEncoder: QuickResNetEncoder,
    BasicBlock: QuickBasicBlock,
    Bottleneck: QuickBottleneck,
    Conv2dReLU: QuickConv2dReLU,
    nn.Sequential: Layers,
    nn.Conv2d: Conv2d,
    nn.BatchNorm2d: BatchNorm2d,
}


def quicken(network: nn.Module) -> None:
    """Changes the class of modules that have a quick one; what they are made of and its names stay what they are."""
    for module in network.modules():
        if type(module) in _QUICK:
            module.__class__ = _QUICK[type(module)]
