"""Time and memory of graphs, each in a process of its own, in turns."""

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK_S = 0.1  # of passes that are timed as one


@dataclass(frozen=True)
class Cost:
    """Of a pass over one image.

    Attributes:
        seconds: of each round.
        peak_mb: MB of 10**6 bytes, most that the process has held, libraries included.
    """

    seconds: tuple[float, ...]
    peak_mb: float

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)

    def times_faster_than(self, other: "Cost") -> float:
        """Median over the rounds of how many times as long the other took."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


class _Child:
    def __init__(self, kind: str, file: Path, threads: int, device: str, shape: tuple[int, ...]) -> None:
        script = Path(__file__).with_name("child.py")
        sources = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
        arguments = [kind, file, threads, device, *shape]
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.passes = 0

    def get_ready(self) -> None:
        self.passes = max(1, round(_BLOCK_S / max(self._answer(), 1e-6)))

    def seconds(self) -> float:
        self._tell(str(self.passes))
        return self._answer() / self.passes

    def end(self) -> float:
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self._answer()

    def _tell(self, line: str) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def _answer(self) -> float:
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        if not line:
            raise RuntimeError(f"the process that measures has ended with {self.process.wait()}")
        return float(line)


def measure(
    files: Mapping[str, tuple[str, Path]], shape: tuple[int, ...], threads: int, rounds: int, device: str = "cpu"
) -> dict[str, Cost]:
    """Measures files by turns: in each round every one of them once, each round begun by another one.

    Args:
        files: name -> (``onnx`` or ``torch``, file).
        shape: (1, C, H, W).
        threads: of each process.
        rounds: how often.
        device: ``cpu`` or ``cuda``.

    Raises:
        RuntimeError: a process has ended, for want of memory for example.
    """
    with _children(files, shape, threads, device) as children:
        names = list(children)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for i in range(rounds):
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                seconds[name].append(children[name].seconds())
        return {name: Cost(tuple(seconds[name]), children[name].end()) for name in names}


@contextlib.contextmanager
def _children(
    files: Mapping[str, tuple[str, Path]], shape: tuple[int, ...], threads: int, device: str
) -> Iterator[dict[str, _Child]]:
    children: dict[str, _Child] = {}
    try:
        for name, (kind, file) in files.items():
            children[name] = _Child(kind, file, threads, device, shape)
            children[name].get_ready()
        yield children
    finally:
        for child in children.values():
            child.process.kill()
            child.process.wait()
            for stream in (child.process.stdin, child.process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
