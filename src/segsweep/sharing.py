"""What processes that train one run together tell each other; a process that trains alone tells itself."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Processes that train this run; 1 unless a process group was set up."""
    return dist.get_world_size() if _is_shared() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if _is_shared() else 0


def gather(value: T) -> list[T]:
    """The values that all ranks give, in the order of the ranks; every rank has to call it.

    Args:
        value: small and picklable; it travels through the host.
    """
    if not _is_shared():
        return [value]
    found: list[T | None] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks below each other, in the order of the ranks; every rank has to call it.

    Args:
        rows: (n, ...), where n may differ between the ranks and may be 0.
    """
    if not _is_shared():
        return rows
    numbers = gather(len(rows))
    padded = rows.new_zeros((max(numbers), *rows.shape[1:]))
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in numbers]
    dist.all_gather(found, padded)
    return torch.cat([part[:num] for part, num in zip(found, numbers, strict=True)])


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized()
