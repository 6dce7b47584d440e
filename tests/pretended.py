"""A device that is none: its tensors say that they lie there, and have their values on the CPU.

Code for GPUs runs on it where there is none, to the same values. It fails where tensors of both devices meet, but for
single numbers and positions, and notes what a host would wait for: copies, and operations that need a value or a number
of values. (Not what is inside of one operation, as in those of linear algebra.) It takes the place of torch's device
``meta``, whose tensors have no values: torch lets these have gradients, and refuses what it has to know a GPU for, such
as mixed precision and fused optimizers.
"""

import traceback
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

THERE = torch.device("meta")
HERE = torch.device("cpu")

_aten = torch.ops.aten
_INDEXING = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
)
# The host needs a value of these, or the size of their result.
_WAITING = (
    _aten._local_scalar_dense.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.bincount.default,
    _aten._unique2.default,
    _aten.unique_dim.default,
    _aten.unique_consecutive.default,
    _aten.repeat_interleave.Tensor,
    _aten.multinomial.default,
    _aten.histc.default,
    # A number to fill with that is a tensor. (CUDA waits for one on the device alone.)
    _aten.masked_fill.Tensor,
    _aten.masked_fill_.Tensor,
    _aten.index_fill.int_Tensor,
    _aten.index_fill_.int_Tensor,
)


class Far(Tensor):
    """A tensor on the device; ``values`` are what it has in truth."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, requires_grad: bool = False) -> "Far":
        self = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=THERE,
            requires_grad=requires_grad,
        )
        self.values = values
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func}: a tensor of the pretended device in a thread, or at a time, that knows none")


class Pretended(TorchDispatchMode):
    """The device is there within this context, in this thread.

    Attributes:
        waits: what a host would have waited for: operation, file and line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._calls = _Calls()

    def __enter__(self) -> "Pretended":
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        flat, structure = tree_flatten((args, kwargs or {}))
        tensors = [x for x in flat if isinstance(x, Tensor)]
        target = next((x for x in flat if isinstance(x, torch.device)), None)
        if self._is_waited_for(func, args, tensors, target, kwargs or {}):
            self._note(func)
        if func not in (_aten.copy_.default, _aten._to_copy.default):
            _refuse_mixture(func, args, tensors)
        near_args, near_kwargs = tree_unflatten([_near(x) for x in flat], structure)
        result = func(*near_args, **near_kwargs)
        if target != THERE and (target is not None or not _is_far(func, tensors)):
            return result
        if torch.Tag.inplace_view in func.tags:  # sizes are those of the wrapper, too
            with no_dispatch():
                func(*args, **(kwargs or {}))
        changed = {id(x.values): x for x in tensors if isinstance(x, Far)}  # in place: the very tensor comes back
        return tree_map_only(Tensor, lambda x: changed[id(x)] if id(x) in changed else Far(x), result)

    def _is_waited_for(self, func, args, tensors, target, kwargs) -> bool:
        are_far = [isinstance(x, Far) for x in tensors]
        if func is _aten._to_copy.default:
            moves = target is not None and (target == THERE) != are_far[0]
            return moves and not (target == THERE and kwargs.get("non_blocking"))
        if func is _aten.copy_.default:
            is_asynchronous = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            return are_far[0] != are_far[1] and not (are_far[0] and is_asynchronous)
        if func in _INDEXING and any(are_far):
            indices = [x for x in args[1] if x is not None]
            return any(x.dtype == torch.bool or not isinstance(x, Far) for x in indices)
        return func in _WAITING and any(are_far) and kwargs.get("output_size") is None

    def _note(self, func) -> None:
        frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.filename != __file__]
        self.waits.append(f"{func} in {frames[-1].filename}:{frames[-1].lineno}")


class _Calls(TorchFunctionMode):
    """What torch would do without asking ``Pretended``."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], Far):
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}).to(THERE)
        if func is Tensor.tolist and isinstance(args[0], Far):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


def _is_far(func, tensors: list[Tensor]) -> bool:
    """Whether a result lies on the device: where what is copied to does, or any operand."""
    are_far = [isinstance(x, Far) for x in tensors]
    return are_far[0] if func is _aten.copy_.default else any(are_far)


def _refuse_mixture(func, args, tensors: list[Tensor]) -> None:
    """As a GPU's operations do: but for single numbers and positions, which torch copies."""
    if not any(isinstance(x, Far) for x in tensors):
        return
    allowed = {id(x) for x in args[1]} if func in _INDEXING else set()
    for x in tensors:
        if not isinstance(x, Far) and x.dim() > 0 and id(x) not in allowed:
            raise RuntimeError(f"{func}: one tensor is on the CPU, {tuple(x.shape)} {x.dtype}, others on the device")


def _near(argument: Any) -> Any:
    """What the CPU is given in place of an argument."""
    if isinstance(argument, Far):
        return argument.values
    return HERE if isinstance(argument, torch.device) and argument == THERE else argument
