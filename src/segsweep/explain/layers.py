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
    found: dict[str, Map] = {}
    calls: dict[str, int] = {}

    def look(name: str, output: object) -> None:
        calls[name] = calls.get(name, 0) + 1
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2] * output.shape[-1] > 1:
            found[name] = Map(*output.shape[1:])

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
    # A module's hook is called after those inside of it: the last one is the outermost that has this very map.
    encoder = [layer for layer in maps if layer.startswith("encoder.")]
    if encoder:
        return encoder[-1]
    listed = ", ".join(f"{layer} ({m.channels}x{m.height}x{m.width})" for layer, m in list(maps.items())[:_SHOWN])
    more = f" and {len(maps) - _SHOWN} more" if len(maps) > _SHOWN else ""
    choice = f"Choose one of its maps with --layer: {listed}{more}" if maps else "It has no maps at all"
    raise ConfigError(f"grad-cam: {type(model).__name__} has no convolutional encoder. {choice}")
