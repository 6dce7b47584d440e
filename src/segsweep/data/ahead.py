"""Work on the next things while the present one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
