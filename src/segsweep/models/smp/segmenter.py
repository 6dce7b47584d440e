"""The segmenter: any architecture of the library on any of its encoders, for images of any size.

How the data flows:

    image -> pad to the stride -> encoder -> decoder -> head -> crop -> logits
"""

import copy
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsweep.models.blocks import ceil_div
from segsweep.models.repetition import OwnGradients
from segsweep.models.smp.request import check_encoder, find_class, options_for, weights_for
from segsweep.types import SegmenterOutput

_PROBE_PIXELS = 224  # height and width of an image that nearly every encoder takes, a multiple of the strides 32 and 14


class SMPEncoder(nn.Module):
    """An encoder of the library, for images of any size.

    Args:
        body: the library's encoder.
        stride: pixels; height and width are padded to a multiple of it.

    Attributes:
        out_channels: channels of each map, as in the library: the image itself comes first where it does there.

    Shape:
        image (N, C, H, W) -> list of maps, fine to coarse, (N, out_channels[i], ceil(H / s), ceil(W / s)) at stride s.
    """

    def __init__(self, body: Any, stride: int) -> None:
        super().__init__()
        self.body: nn.Module = body
        self.stride = stride
        self.out_channels = tuple(channels for channels in body.out_channels if channels)

    def pad(self, image: Tensor) -> Tensor:
        """Adds rows below and columns to the right, up to a multiple of the stride.

        Of zeros: the mean colour of standardised images, and what convolutions pad with.
        """
        height, width = image.shape[-2:]
        # Not -width % stride: an exported graph for any size is to know that the stride divides the sum.
        columns, rows = (ceil_div(side, self.stride) * self.stride - side for side in (width, height))
        return F.pad(image, (0, columns, 0, rows))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps an image to its features."""
        padded = self.pad(image)
        maps = self.body(padded)
        if isinstance(maps, tuple):  # a transformer's maps and its class tokens
            maps = maps[0]
        # A transformer without a map at stride 2 gives one without channels.
        return [_crop(x, image, padded) for x in maps if x.shape[1]]


def _crop(x: Tensor, image: Tensor, padded: Tensor) -> Tensor:
    """The part of a map of ``padded`` that shows ``image``, cells that show only a part of it included."""
    rows, columns = (ceil_div(image.shape[i] * x.shape[i], padded.shape[i]) for i in (-2, -1))
    return x[..., :rows, :columns]


class SMP(nn.Module):
    """An architecture of segmentation-models-pytorch on one of its encoders.

    Parts that cannot change the output (the stages of an encoder that PSPNet does not read: 20 of 21 M parameters with
    resnet34) are left out, so that the count of parameters is that of the network that runs.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        arch: class of the library, e.g. ``Unet`` or ``DeepLabV3Plus``; upper and lower case do not matter.
        encoder_name: encoder of the library, or ``tu-`` and any network of timm.
        encoder_weights: name of pretrained weights, mostly ``imagenet``; None: random ones.
        options: further arguments of the class, e.g. ``{"decoder_channels": [128, 64, 32, 16, 8]}``.

    Shape:
        image (N, C, H, W), any H and W -> logits (N, K, H, W).

    Raises:
        ImportError: the library is not installed.
        ValueError: no such class, encoder, weights or argument, weights that cannot be had, or a class that refuses
            the encoder; an image too small for its pooling; one image to train on where it normalises over the batch.

    Reference:
        Iakubovskii 2019, github.com/qubvel-org/segmentation_models.pytorch. Differs: any size passes, by padding.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        arch: str,
        encoder_name: str,
        encoder_weights: str | None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        make = find_class(arch)
        check_encoder(encoder_name)
        options = options_for(make, encoder_name, options or {})
        weights = weights_for(encoder_name, encoder_weights)
        if torch.get_default_device().type == "meta":
            weights = None  # only the shapes are wanted
        with torch.device("cpu"):  # some encoders compute with values while they are built, which meta tensors lack
            network = make(
                encoder_name=encoder_name,
                encoder_weights=weights,
                in_channels=in_channels,
                classes=num_classes,
                **options,
            )
        kind = f"{make.__qualname__} {encoder_name} {in_channels} {sorted(options.items())}"
        _drop_unused(network, in_channels, kind)
        self.arch = make.__name__
        halvings = 2 if self.arch == "DPT" else 1  # its decoder halves the last map of the encoder
        self.encoder = SMPEncoder(network.encoder, int(network.encoder.output_stride) * halvings)
        self.decoder, self.head = network.decoder, network.segmentation_head
        # Here and not above: it imports the library.
        from segsweep.models.smp.quick import quicken

        quicken(self)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        try:
            features = self.encoder.body(self.encoder.pad(image))
            with OwnGradients() if self.training and not torch.compiler.is_compiling() else nullcontext():
                decoded = self.decoder(*features) if isinstance(features, tuple) else self.decoder(features)
        except (ValueError, RuntimeError) as error:
            size = f"{image.shape[-2]}x{image.shape[-1]}"
            if "more than 1 value per channel" in str(error):
                raise ValueError(
                    f"{self.arch} cannot train on {len(image)} image of {size} alone: its normalisation is left with "
                    f"one value a channel. Set data.batch_size=2 or more"
                ) from error
            if "Output size is too small" in str(error):
                raise ValueError(
                    f"{self.arch} needs images larger than {size}: raise data.size or data.crop"
                ) from error
            raise
        return SegmenterOutput(self.head(decoded)[..., : image.shape[-2], : image.shape[-1]])


class _Unused(NamedTuple):
    """What of a network cannot change its output, by name."""

    parameters: frozenset[str]
    parts: frozenset[str]  # modules in which nothing is needed


_known: dict[str, _Unused] = {}  # of networks built before: weights and classes make no difference


def _drop_unused(network: nn.Module, in_channels: int, kind: str) -> None:
    """Leaves out modules that are never called, and freezes other parameters that cannot change the output."""
    if kind not in _known:
        _known[kind] = _unused(network, in_channels)
    for name in _known[kind].parameters:
        network.get_parameter(name).requires_grad_(False)
    for part in _known[kind].parts:
        network.set_submodule(part, nn.Identity())


def _unused(network: nn.Module, in_channels: int) -> _Unused:
    probe = copy.deepcopy(network).to("meta").eval()
    called: set[str] = set()
    for name, module in probe.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(f"{name}."))
    try:
        output = probe(torch.empty(1, in_channels, _PROBE_PIXELS, _PROBE_PIXELS, device="meta"))
    except (AssertionError, RuntimeError):
        return _Unused(frozenset(), frozenset())  # an encoder for one other size
    reached = _leaves(output)
    parameters = dict(probe.named_parameters())
    unused = {name for name, parameter in parameters.items() if id(parameter) not in reached}
    needed = (parameters.keys() - unused) | called
    return _Unused(frozenset(unused), frozenset(filter(None, (_whole_part(name, needed) for name in unused))))


def _leaves(output: Tensor) -> set[int]:
    """Identities of the parameters that a gradient of the output would reach."""
    found: set[int] = set()
    seen, nodes = set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(id(leaf))
        nodes += [before for before, _ in node.next_functions]
    return found


def _whole_part(name: str, needed: set[str]) -> str | None:
    """The largest module around a parameter in which nothing is needed."""
    parts = name.split(".")
    modules = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((module for module in modules if not any(n.startswith(f"{module}.") for n in needed)), None)
