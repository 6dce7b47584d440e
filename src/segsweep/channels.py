"""Output channels of convolutions: which are worth least, and how to take them out of a network for good.

A channel can be taken out where batch normalisation follows the convolution: with its scale and shift at 0 the channel
is 0 everywhere, whatever comes in, and stays 0 through ReLU, pooling, resizing and concatenation. Which inputs of the
later convolutions are dead is read off such a network, so no module has to be known by name.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_SIDE = 64  # pixels of the image by which channels are followed
_TOLERANCE = 1e-3  # of the largest logit: sums in another order, no more

_CONVS = (nn.Conv2d, nn.ConvTranspose2d)


class Pair(NamedTuple):
    """A convolution and the batch normalisation behind it."""

    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d


def pairs(model: nn.Module) -> list[Pair]:
    """All of them, in the order of the modules; grouped convolutions are left out, whose channels are not their own."""
    found: list[Pair] = []
    for path, module in model.named_modules():
        children = list(module.named_children()) if isinstance(module, nn.Sequential) else []
        for (name, conv), (_, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and conv.groups == 1 and isinstance(norm, nn.BatchNorm2d) and norm.affine:
                found.append(Pair(f"{path}.{name}" if path else name, conv, norm))
    return found


def num_kept(width: int, amount: float) -> int:
    """Channels that are left of ``width`` if a share ``amount`` goes; one at least.

    >>> num_kept(16, 0.5), num_kept(3, 0.5), num_kept(4, 0.99)
    (8, 2, 1)
    """
    return max(1, width - int(width * amount + 1e-6))


def worth(pair: Pair) -> Tensor:
    """(out_channels,) float32: the L1 norm of each filter as it acts, with the scale of the batch normalisation in it.

    Reference:
        Li et al. 2017, arXiv:1608.08710. Differs: there without batch normalisation, after which the norm of a filter
        itself says nothing.
    """
    size = pair.conv.weight.detach().float().abs().flatten(1).sum(dim=1)
    scale: Tensor = pair.norm.weight.detach().float().abs()
    variance = pair.norm.running_var
    return size * scale if variance is None else size * scale / (variance.float() + pair.norm.eps).sqrt()


def least(score: Tensor, number: int) -> Tensor:
    """A mask of the shape of ``score``, uint8: 0 at the ``number`` smallest values, 1 elsewhere."""
    mask = torch.ones(score.numel(), dtype=torch.uint8, device=score.device)
    mask[score.flatten().topk(number, largest=False).indices] = 0
    return mask.view_as(score)


def taken_out(
    model: nn.Module, kept: Mapping[str, Tensor], node: Mapping[str, Any], build: Callable[[dict[str, Any]], nn.Module]
) -> tuple[nn.Module, dict[str, Any]] | None:
    """The same network without its dead channels.

    Args:
        model: a segmenter, whose dead channels have scale and shift 0.
        kept: name of a convolution -> (out_channels,) which of its channels are alive.
        node: config of the model. The argument ``widths`` decides how wide it is.
        build: such a node -> model.

    Returns:
        A narrower model in evaluation mode on the CPU, and its node; None where there is none: the model has no
        ``widths``, or other modules than convolutions see the channels.
    """
    widths = node.get("widths")
    if not isinstance(widths, list) or not widths:
        return None
    shares = {len(mask): int(mask.count_nonzero()) for mask in kept.values()}
    narrow_node = {**node, "widths": [shares.get(width, width) for width in widths]}
    with torch.random.fork_rng(devices=[]):  # random weights are replaced
        whole, narrow = build(dict(node)).eval(), build(narrow_node).eval()
        probe = build(dict(node)).eval()
    whole.load_state_dict(model.state_dict())
    image = torch.randn(2, int(node["in_channels"]), _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    try:
        narrow.load_state_dict(_cut(whole, kept, _live_inputs(probe, kept, torch.ones_like(image))))
        with torch.no_grad():
            before, after = whole(image).logits, narrow(image).logits
    except (RuntimeError, IndexError):  # shapes that do not fit
        return None
    if not torch.allclose(before, after, rtol=0, atol=_TOLERANCE * max(1.0, float(before.abs().max()))):
        return None
    return narrow, narrow_node


@torch.no_grad()
def _live_inputs(probe: nn.Module, kept: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """Name of a convolution -> (in_channels,) bool, which of its inputs are not 0 everywhere.

    Every layer of the probe gives 1 wherever a channel is alive and 0 where it is not, whatever comes in.
    """
    live: dict[str, Tensor] = {}
    for module in probe.modules():
        if isinstance(module, (*_CONVS, nn.Linear, nn.BatchNorm2d)):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.ones_(module.bias)
    for pair in pairs(probe):
        if pair.name in kept:
            pair.norm.bias.copy_(kept[pair.name])

    def see(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = inputs[0].amax(dim=(0, 2, 3)) > 0
            live[name] = live[name] | seen if name in live else seen

        return hook

    for name, module in probe.named_modules():
        if isinstance(module, _CONVS):
            module.register_forward_pre_hook(see(name))
    probe(image)
    return live


def _cut(model: nn.Module, kept: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model without the dead outputs and inputs of its convolutions."""
    state = dict(model.state_dict())
    norms = {pair.name: pair.norm for pair in pairs(model)}
    names = {module: name for name, module in model.named_modules()}
    for name, module in model.named_modules():
        if not isinstance(module, _CONVS):
            continue
        weight, out = state[f"{name}.weight"], kept[name].bool() if name in kept else None
        into, out_of = (0, 1) if isinstance(module, nn.ConvTranspose2d) else (1, 0)
        if name in live and module.groups == 1:
            weight = weight.index_select(into, live[name].nonzero()[:, 0])
        if out is not None:
            weight = weight.index_select(out_of, out.nonzero()[:, 0])
            if module.bias is not None:
                state[f"{name}.bias"] = state[f"{name}.bias"][out]
            norm = names[norms[name]]
            for part in ("weight", "bias", "running_mean", "running_var"):
                if f"{norm}.{part}" in state:
                    state[f"{norm}.{part}"] = state[f"{norm}.{part}"][out]
        state[f"{name}.weight"] = weight
    return state
