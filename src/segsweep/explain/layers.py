"""Finds the map of a model that Grad-CAM weighs."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from segsweep.hints import did_you_mean
from segsweep.run import ConfigError

_SHOWN = 12


class Map(NamedTuple):
    """What a module puts out: D channels of h x w places."""

    channels: int
    height: int
    width: int


@torch.no_grad()
def maps_of(model: nn.Module, image: Tensor) -> dict[str, Map]:
    """Modules that put out one map, (N, D, h, w) with more than one place, once in a pass; in the order of the pass.

    Args:
        model: in evaluation mode.
        image: (1, C, H, W).
    """
    return {name: shape for name, shape in _outputs(model, image).items() if shape is not None}


def choose_layer(model: nn.Module, image: Tensor, name: str | None) -> str:
    """The layer to weigh: the one that the user names, else the last map of the model's ``encoder``.

    Raises:
        ConfigError: there is no such layer, or none was named and the model has no encoder with maps.
    """
    maps = maps_of(model, image)
    if name is not None:
        if name not in maps:
            raise ConfigError(f"--layer {name}: the model has no such map. {did_you_mean(name, maps)}")
        return name
    if found := _last_of_encoder(model, image):
        return found
    listed = ", ".join(f"{layer} ({m.channels}x{m.height}x{m.width})" for layer, m in list(maps.items())[-_SHOWN:])
    choice = f"Choose one of its maps with --layer, the last of which are: {listed}" if maps else "It has no maps"
    raise ConfigError(f"grad-cam: {type(model).__name__} has no convolutional encoder. {choice}")


def _last_of_encoder(model: nn.Module, image: Tensor) -> str | None:
    outputs = {name: shape for name, shape in _outputs(model, image).items() if name.startswith("encoder.")}
    try:
        wide = _outputs(model, torch.cat([image, image], dim=-1))
    except (ValueError, RuntimeError):  # a model for one size
        wide = dict(outputs)
    order = list(outputs)
    # A module's hook is called after those inside of it: the last one is the outermost that has this very map.
    maps = [name for name in order if _is_map(outputs[name], wide.get(name))]
    # The only maps of a vision transformer are its patches, before anything has been understood.
    return maps[-1] if maps and order.index(maps[-1]) >= len(order) // 2 else None


def _is_map(shape: Map | None, wide: Map | None) -> bool:
    """Whether it follows the image: the keys of an attention have four dimensions, too."""
    if shape is None or wide is None:
        return False
    return wide[:2] == shape[:2] and (wide.width == shape.width or abs(wide.width - 2 * shape.width) <= 1)


@torch.no_grad()
def _outputs(model: nn.Module, image: Tensor) -> dict[str, Map | None]:
    """Every module that is called once, in the order in which they end: its map, or None if it puts out none."""
    found: dict[str, Map | None] = {}
    calls: dict[str, int] = {}

    def look(name: str, output: object) -> None:
        calls[name] = calls.get(name, 0) + 1
        is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2] * output.shape[-1] > 1
        found[name] = Map(*output.shape[1:]) if is_map and isinstance(output, Tensor) else None

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: shape for name, shape in found.items() if calls[name] == 1}
