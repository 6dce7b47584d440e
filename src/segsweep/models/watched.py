"""Whether it would be noticed that a module is passed over and its work done in another way."""

from torch import nn


def is_watched(module: nn.Module) -> bool:
    """Whether somebody hooked into a module, or gave it another ``forward``."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "forward" in vars(module) or any(hooks)
