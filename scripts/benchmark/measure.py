"""What all benchmarks share: rounds that alternate, medians with their spread, tables that say where they come from.

On a machine that others use, too, seconds of one contestant say little. So contestants take turns, and what counts is
the ratio within a turn; a figure is the median over the turns, and its spread the quartiles.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import segsweep

SOURCES = Path(segsweep.__file__).parents[1]  # of this checkout, whatever the folder that a command works in


def parser(description: str | None, **numbers: int) -> argparse.ArgumentParser:
    """Options of a benchmark, the first paragraph of whose docstring is the help."""
    result = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    for name, default in numbers.items():
        result.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")
    return result


def print_head(title: str, *packages: str, device: str = "cpu") -> None:
    """Prints a heading, and what the figures below it depend on."""
    print(f"\n### {title}\n\n{machine(*packages, device=device)}\n", flush=True)


def machine(*packages: str, device: str = "cpu") -> str:
    """Date, hardware and versions, in one line."""
    import torch

    from segsweep import hardware

    names = ("torch", "pytorch-lightning", *packages)
    versions = [f"{name} {found}" for name in names if (found := installed(name)) is not None]
    place = hardware.describe("gpu" if device == "cuda" else "cpu")["device"]
    cores = f"{len(os.sched_getaffinity(0))} CPU cores, {torch.get_num_threads()} threads"
    facts = [str(datetime.date.today()), f"{place}, {cores}", f"Python {platform.python_version()}", *versions]
    return "; ".join([*facts, f"load {os.getloadavg()[0]:.1f} before"])


def installed(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing(package: str, what: str) -> bool:
    """Whether a contestant has to be left out, which is said."""
    if installed(package) is not None:
        return False
    print(f'left out: {what}: {package} is not installed (pip install "segsweep[benchmark]")\n', flush=True)
    return True


def take_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Calls each contestant once a round, each round begun by another one.

    Args:
        contestants: what measures something.
        rounds: how often.

    Returns:
        What each has returned, round by round.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            found[name].append(contestants[name]())
    return found


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Quotients within the rounds."""
    return [a / b for a, b in zip(values, others, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and, if there are several values, quartiles.

    >>> spread([1.0, 2.0, 3.0])
    '2.00 (1.50 to 2.50)'
    """
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    low, _, high = statistics.quantiles(values, method="inclusive")
    return f"{middle} ({low:,.{digits}f} to {high:,.{digits}f})"


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table as its rows come: the first column is text, the others are numbers."""
    print(f"| {' | '.join(header)} |\n|---|{'--:|' * (len(header) - 1)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    print(flush=True)


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is removed afterwards, with a data cache of its own."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("SEGSWEEP_CACHE")
        os.environ["SEGSWEEP_CACHE"] = str(Path(folder) / "cache")
        try:
            yield Path(folder)
        finally:
            os.environ.pop("SEGSWEEP_CACHE")
            if before is not None:
                os.environ["SEGSWEEP_CACHE"] = before


def run_python(arguments: Sequence[str], folder: Path) -> tuple[float, str]:
    """Runs Python as a user would, in a process of its own.

    Returns:
        Seconds from start to end, and what was printed.

    Raises:
        RuntimeError: it failed.
    """
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout[-3000:]}")
    return seconds, done.stdout


def run_segsweep(arguments: Sequence[str], folder: Path) -> tuple[float, str]:
    """The same for the command ``segsweep``."""
    return run_python(["-m", "segsweep", *arguments], folder)
