"""Work on the next things while the present one is used: by threads, and by a device that they are sent to."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

S = TypeVar("S")
T = TypeVar("T")


def map_ahead(function: Callable[[S], T], arguments: Iterable[S], workers: int) -> Iterator[T]:
    """``map`` that has threads work on the next arguments; order and results are those of ``map``.

    Threads, not processes: gathering decoded bytes holds no Python lock, and nothing is copied between address spaces.
    """
    if workers == 0:
        yield from map(function, arguments)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for argument in arguments:
                pending.append(pool.submit(function, argument))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # an epoch may be left early
            for future in pending:
                future.cancel()


def locked(x: Tensor, device: torch.device) -> Tensor:
    """In memory that a GPU reads by itself, if it is to go to one: copying from any other takes the host's time."""
    return x.pin_memory() if device.type == "cuda" and not x.is_cuda else x


def sent(x: Tensor, device: torch.device) -> Tensor:
    """On the device, for which the host does not wait: it has still to do what it was asked for before."""
    return x.to(device, non_blocking=True)
