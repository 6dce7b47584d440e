"""Whether it would be noticed that a module is passed over and its work done in another way."""

from torch import nn
from torch.nn.modules import module as of_all


def is_watched(module: nn.Module) -> bool:
    """Whether somebody hooked into a module, or into all, or gave it another ``forward``."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    common = (of_all._global_forward_hooks, of_all._global_forward_pre_hooks)
    common_backward = (of_all._global_backward_hooks, of_all._global_backward_pre_hooks)
    return "forward" in vars(module) or any((*own, *common, *common_backward))
