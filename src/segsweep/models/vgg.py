"""The first three blocks of VGG16, with the weights that torchvision publishes."""

from itertools import pairwise
from typing import Literal
from urllib.error import URLError

import torch
from torch import Tensor, nn

_BLOCKS = ((64, 64), (128, 128), (256, 256, 256))
_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"  # the file name holds the first digits of its SHA-256


class VGG16Trunk(nn.Module):
    """VGG16 up to conv3_3: maps at strides 1, 2 and 4. 1.735 M parameters.

    Args:
        in_channels: 3, or 1: grey is repeated, because the weights know colours.
        weights: ``imagenet`` or None for random ones.
        is_frozen: no gradients; the maps are those of the given weights throughout.

    Shape:
        image (N, C, H, W) -> [(N, 64, H, W), (N, 128, ceil(H/2), ceil(W/2)), (N, 256, ceil(H/4), ceil(W/4))].

    Raises:
        FileNotFoundError: the weights are not on this machine and cannot be fetched.

    Reference:
        Simonyan and Zisserman 2015, arXiv:1409.1556.
    """

    def __init__(self, in_channels: int, weights: Literal["imagenet"] | None, is_frozen: bool) -> None:
        super().__init__()
        self.out_channels = tuple(block[-1] for block in _BLOCKS)
        self.is_frozen = is_frozen
        layers: list[nn.Module] = []
        for block, first in zip(_BLOCKS, (3, 64, 128), strict=True):
            for i, o in pairwise((first, *block)):
                layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers[:-1])  # numbered as torchvision's, so that its file fits
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):  # without normalisation, torch's own start shrinks the maps at every layer
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.get_parameter("bias"))
        if weights is not None:
            self._load()
        self.features.requires_grad_(not is_frozen)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps an image to its features, fine to coarse."""
        maps: list[Tensor] = []
        x = image if image.shape[1] == 3 else image.expand(-1, 3, -1, -1)
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps, x]

    def _load(self) -> None:
        try:
            state = torch.hub.load_state_dict_from_url(_URL, progress=False, check_hash=True, weights_only=True)
        except (URLError, OSError) as error:
            raise FileNotFoundError(
                f"the ImageNet weights of VGG16 are not on this machine and could not be fetched ({error}). Where "
                f"there is a network, fetch {_URL} and put it into {torch.hub.get_dir()}/checkpoints, or set "
                f"model.trunk_weights=null"
            ) from error
        own = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
        self.features.load_state_dict({key: own[key] for key in self.features.state_dict()})
