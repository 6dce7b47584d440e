"""Parts of the library that train sooner on a CPU, in the place of its own; imported where a model is built."""

from itertools import pairwise

from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from segsweep.models.narrow_maps import Conv2d
from segsweep.models.normalisation import BatchNorm2d
from segsweep.models.repetition import conv_of_repeated, pays


class QuickUnetDecoderBlock(UnetDecoderBlock):  # type: ignore[misc]
    """The library's block of a U-Net decoder, which goes up by ``conv_of_repeated`` where that pays."""

    def forward(self, x: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        """Maps (N, D, h, w) to (N, E, height, width)."""
        if not (self.training and self._only_repeats(x, height, width, skip_connection)):
            return super().forward(x, height, width, skip_connection)  # type: ignore[no-any-return]
        conv, *others = self.conv1
        x = conv_of_repeated(conv, x, skip_connection)
        for layer in (*others, self.conv2, self.attention2):
            x = layer(x)
        return x

    def _only_repeats(self, x: Tensor, height: int, width: int, skip_connection: Tensor | None) -> bool:
        is_attentive = not isinstance(getattr(self.attention1, "attention", None), nn.Identity)
        is_twice = (height, width) == (2 * x.shape[-2], 2 * x.shape[-1])
        if self.interpolation_mode != "nearest" or not is_twice or (is_attentive and skip_connection is not None):
            return False
        return pays(self.conv1[0], x, skip_connection)


class QuickBasicBlock(BasicBlock):
    """A block of ResNet-18 and ResNet-34 whose first normalisation brings the ReLU along."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, D, H, W) to (N, E, h, w)."""
        result = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        result += x if self.downsample is None else self.downsample(x)
        return self.relu(result)  # type: ignore[no-any-return]


class QuickBottleneck(Bottleneck):
    """A block of deeper ResNets whose first two normalisations bring the ReLU along."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, D, H, W) to (N, E, h, w)."""
        result = self.bn3(self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(x))))))
        result += x if self.downsample is None else self.downsample(x)
        return self.relu(result)  # type: ignore[no-any-return]


_QUICK: dict[type, type] = {
    UnetDecoderBlock: QuickUnetDecoderBlock,
    nn.Conv2d: Conv2d,
    nn.BatchNorm2d: BatchNorm2d,
    BasicBlock: QuickBasicBlock,
    Bottleneck: QuickBottleneck,
}


def quicken(network: nn.Module) -> None:
    """Changes the class of modules that have a quick one; parameters and names stay what they are."""
    for module in network.modules():
        if type(module) in _QUICK:
            module.__class__ = _QUICK[type(module)]
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for (_, norm), (name, following) in pairwise(module.named_children()):
                if type(norm) is BatchNorm2d and type(following) is nn.ReLU:
                    norm.rectifies = True
                    module.set_submodule(name, nn.Identity())
        elif isinstance(module, (QuickBasicBlock, ResNet)):
            module.bn1.rectifies = True
        elif isinstance(module, QuickBottleneck):
            module.bn1.rectifies = module.bn2.rectifies = True
        if isinstance(module, ResNet):
            module.relu = nn.Identity()  # behind the first normalisation
