"""The one door to segmentation-models-pytorch: any of its architectures on any of its encoders.

How the data flows:

    image -> pad to the stride -> encoder -> decoder -> head -> crop -> logits

The library is imported where a model is built, so that a run without it does not wait for it.
"""

import copy
import difflib
import inspect
from collections.abc import Iterable
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segsweep.models.blocks import ceil_div
from segsweep.models.narrow_maps import Conv2d
from segsweep.models.repetition import conv_of_repeated, pays, with_own_gradient
from segsweep.types import SegmenterOutput

# Arguments of the library's classes that have an owner here, or would change what a segmenter returns.
_TAKEN = {
    "encoder_name",
    "encoder_weights",
    "in_channels",
    "classes",
    "activation",
    "upsampling",
    "aux_params",
    "kwargs",
}
_TIMM = "tu-"  # how the library marks an encoder that timm makes
_PROBE_S = 10.0  # seconds that a hub may take to answer
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
        make = _find_class(arch)
        _check_encoder(encoder_name)
        options = _check_options(make, encoder_name, options or {})
        weights: str | bool | None = encoder_weights
        if encoder_weights is not None:
            _check_weights(encoder_name, encoder_weights)
            weights = True if encoder_name.startswith(_TIMM) else encoder_weights
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
        _drop_unused(network, in_channels)
        self.arch = make.__name__
        halvings = 2 if self.arch == "DPT" else 1  # its decoder halves the last map of the encoder
        self.encoder = SMPEncoder(network.encoder, int(network.encoder.output_stride) * halvings)
        self.decoder, self.head = network.decoder, network.segmentation_head
        _quicken(self)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        try:
            features = self.encoder.body(self.encoder.pad(image))
            with _OwnGradients() if self.training and not torch.compiler.is_compiling() else nullcontext():
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


class _OwnGradients(TorchFunctionMode):
    """Does for what the library resizes what ``repeat`` does for the models here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function."""
        result = func(*args, **(kwargs or {}))
        return with_own_gradient(result) if func is F.interpolate else result


@cache
def _quick_unet_block() -> type[nn.Module]:
    """The library's block of a U-Net decoder, which goes up by ``conv_of_repeated`` where that pays."""
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock

    class QuickUnetDecoderBlock(UnetDecoderBlock):  # type: ignore[misc]
        def forward(self, x: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
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

    QuickUnetDecoderBlock.__qualname__ = "QuickUnetDecoderBlock"  # for pickle, which asks this module for it
    return QuickUnetDecoderBlock


def __getattr__(name: str) -> Any:
    if name == "QuickUnetDecoderBlock":
        return _quick_unet_block()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _quicken(network: nn.Module) -> None:
    block = _quick_unet_block()
    quick: dict[type, type] = {nn.Conv2d: Conv2d, block.__mro__[1]: block}
    for module in network.modules():
        module.__class__ = quick.get(type(module), type(module))


def _library() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise ImportError(
            f"this model needs segmentation-models-pytorch, which cannot be imported ({error}). "
            f'Install it: pip install "segmentation-models-pytorch>=0.6"'
        ) from error
    return segmentation_models_pytorch


def _find_class(arch: str) -> Any:
    classes = {c.__name__.lower(): c for c in _library().MODEL_ARCHITECTURES_MAPPING.values()}
    if arch.lower() not in classes:
        names = {name: c.__name__ for name, c in classes.items()}
        near = [names[name] for name in difflib.get_close_matches(arch.lower(), names, n=3, cutoff=0.5)]
        raise ValueError(f"arch={arch}: there is no such architecture. {_nearest(near, names.values())}")
    return classes[arch.lower()]


def _check_encoder(name: str) -> None:
    known = _library().encoders.get_encoder_names()
    if name in known:
        return
    import timm

    bare = name.removeprefix(_TIMM)
    networks = timm.list_models()
    if bare.partition(".")[0] in networks and name.startswith(_TIMM):
        return
    near = [f"{_TIMM}{bare}"] if bare in networks else []
    near += difflib.get_close_matches(name, [*known, *(_TIMM + network for network in networks)], n=3)
    raise ValueError(
        f"encoder_name={name}: there is no such encoder. {_nearest(near, ['tu-<any network of timm>', *known])}"
    )


def _check_options(make: Any, encoder_name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options, held against the signature of the class; what it does not know goes to timm if that is asked."""
    known = [name for name in inspect.signature(make).parameters if name not in _TAKEN]
    for name in options:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name in known or (encoder_name.startswith(_TIMM) and name not in _TAKEN and not near):
            continue
        owner = (
            f"options={name} is set by segsweep itself"
            if name in _TAKEN
            else f"options={name}: no argument of {make.__name__}"
        )
        raise ValueError(f"{owner}. {_nearest(difflib.get_close_matches(name, known, n=3), known)}")
    if make.__name__ == "DPT":
        return {"dynamic_img_size": True, **options}  # its encoders otherwise take one size only
    return options


def _nearest(near: Iterable[str], known: Iterable[str]) -> str:
    names, known = " or ".join(dict.fromkeys(near)), list(known)
    more = f" and {len(known) - 16} more" if len(known) > 16 else ""
    return f"Did you mean {names}?" if names else f"There is: {', '.join(known[:16])}{more}"


def _check_weights(encoder_name: str, weights: str) -> None:
    """Finds pretrained weights in the cache or on the hub, without the library's half minute of retries."""
    if encoder_name.startswith(_TIMM):
        import timm

        network, _, tag = encoder_name.removeprefix(_TIMM).partition(".")
        tagged = [name.partition(".")[2] for name in timm.list_pretrained(network)]
        if not tagged or (tag and tag not in tagged):
            there = f"There is: {', '.join(f'{_TIMM}{network}.{t}' for t in tagged)}" if tagged else "Use null"
            raise ValueError(f"encoder_weights={weights}: timm has no weights for {encoder_name}. {there}")
        cfg = timm.get_pretrained_cfg(encoder_name.removeprefix(_TIMM))
        if cfg.hf_hub_id:
            _check_hub(cfg.hf_hub_id, [cfg.hf_hub_filename or "model.safetensors"], None, weights)
        return
    settings = _library().encoders.encoders[encoder_name]["pretrained_settings"]
    if weights not in settings:
        raise ValueError(
            f"encoder_weights={weights}: {encoder_name} has no such weights. There is: {', '.join([*settings, 'null'])}"
        )
    found = settings[weights]
    _check_hub(found["repo_id"], ["config.json", "model.safetensors"], found["revision"], weights)


def _check_hub(repo: str, files: list[str], revision: str | None, weights: str) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    for file in files:
        if isinstance(try_to_load_from_cache(repo, file, constants.HF_HUB_CACHE, revision), str):
            continue
        try:
            get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=_PROBE_S)
        except Exception as error:  # whatever the network, its proxies and the hub may say
            pinned = f" --revision {revision}" if revision else ""
            raise ValueError(
                f"encoder_weights={weights}: {repo} is not in the cache {constants.HF_HUB_CACHE} and cannot be fetched "
                f"({type(error).__name__}). Where there is a network run 'hf download {repo}{pinned}' and copy its "
                f"folder models--{repo.replace('/', '--')} into that cache (HF_HUB_CACHE sets another), or use "
                f"model.encoder_weights=null"
            ) from error


def _drop_unused(network: nn.Module, in_channels: int) -> None:
    """Leaves out modules that are never called, and freezes other parameters that cannot change the output."""
    probe = copy.deepcopy(network).to("meta").eval()
    called: set[str] = set()
    for name, module in probe.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(f"{name}."))
    parameters = dict(probe.named_parameters())
    try:
        output = probe(torch.empty(1, in_channels, _PROBE_PIXELS, _PROBE_PIXELS, device="meta"))
    except (AssertionError, RuntimeError):
        return  # an encoder for one other size
    gradients = torch.autograd.grad(output.sum(), list(parameters.values()), allow_unused=True)
    unused = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}
    needed = (parameters.keys() - unused) | called
    for name in unused:
        network.get_parameter(name).requires_grad_(False)
    for part in {_whole_part(name, needed) for name in unused} - {None}:
        network.set_submodule(str(part), nn.Identity())


def _whole_part(name: str, needed: set[str]) -> str | None:
    """The largest module around a parameter in which nothing is needed."""
    parts = name.split(".")
    modules = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((module for module in modules if not any(n.startswith(f"{module}.") for n in needed)), None)
