"""What a sweep costs beside the training of its jobs: a benchmark, to be run on an idle machine.

    python scripts/storm/marginal_cost.py parallel    two jobs at once against one after the other
    python scripts/storm/marginal_cost.py plan        composing and checking 300 jobs

Times are of whole commands. ``parallel``: the difference between two sizes of a sweep, so that the start does not
count. ``plan``: dry runs with 300 combinations and with one, and the imports by themselves: of torch, and of all that
the checks need and the jobs share. Rounds alternate between the contestants; medians are printed. What a job costs
beside its own run is measured by scripts/benchmark/sweep.py.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from commands import TINY, Command
from witness import workplace

FEW = 2
# Runs that are long enough for a step's speed to count, and those in which everything else does.
DIGITS = ("trainer=cpu", "trainer.enable_progress_bar=false", "data.num_val=40", "data.num_test=40")
WORK = {
    "reseg on digits": (*DIGITS, "model=reseg", "data.num_train=320", "trainer.max_epochs=2"),
    "unet on digits": (*DIGITS, "model=unet", "data.num_train=640", "trainer.max_epochs=2"),
    "runs of one small epoch": (*TINY, "trainer.max_epochs=1"),
}


class Bench:
    """Runs commands one after the other in a folder, and times them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._num = 0

    def time(self, arguments: Sequence[str]) -> float:
        """Seconds of a command from start to end.

        Raises:
            RuntimeError: it failed.
        """
        self._num += 1
        started = time.perf_counter()
        command = Command(["-m", *arguments, f"name=bench{self._num}"], self.folder)
        if command.wait() != 0:
            raise RuntimeError(f"a sweep failed; see {command.output}")
        return time.perf_counter() - started

    def time_jobs(self, arguments: Sequence[str], few: int, many: int) -> float:
        """Seconds of a job in a sweep, from two sizes of the sweep."""
        seconds = {num: self.time([*arguments, f"seed={_range(num)}"]) for num in (few, many)}
        return (seconds[many] - seconds[few]) / (many - few)


def parallel(bench: Bench, rounds: int) -> None:
    """Prints the throughput of two jobs at once against one after the other."""
    print("| jobs | one after the other, s per job | two at once, s per job | ratio |\n|---|--:|--:|--:|")
    for name, arguments in WORK.items():
        pairs = []
        for _ in range(rounds):
            one, two = (bench.time_jobs([*arguments, f"sweep.jobs={jobs}"], FEW, FEW + 6) for jobs in (1, 2))
            pairs.append((one, two))
        one, two = (statistics.median(values) for values in zip(*pairs, strict=True))
        ratio = statistics.median(one / two for one, two in pairs)
        print(f"| {name} | {one:.2f} | {two:.2f} | {ratio:.2f} |", flush=True)


def plan(bench: Bench, rounds: int, num_jobs: int = 300) -> None:
    """Prints how long a dry run takes."""
    models = "unet,reseg,conv_autoencoder"
    many = [f"model={models}", f"seed={_range(num_jobs // 3)}", "sweep.dry_run=true"]
    one = ["model=unet", "seed=0", "sweep.dry_run=true"]
    times = {name: [] for name in ("torch", "stack", "one", "many")}
    for _ in range(rounds):
        times["torch"].append(_time_import("torch"))
        times["stack"].append(_time_import("pytorch_lightning, segmentation_models_pytorch"))
        times["one"].append(bench.time(one))
        times["many"].append(bench.time(many))
    torch, stack, single, all_of_them = (statistics.median(values) for values in times.values())
    print("| dry run | s |\n|---|--:|")
    print(f"| import of torch alone | {torch:.2f} |\n| import of torch, Lightning and smp | {stack:.2f} |")
    print(f"| 1 job | {single:.2f} |\n| {num_jobs} jobs | {all_of_them:.2f} |")
    print(f"| {num_jobs} jobs beside the import of torch | {all_of_them - torch:.2f} |")
    print(f"| {num_jobs} jobs beside all imports | {all_of_them - stack:.2f} |")


def _time_import(modules: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
    return time.perf_counter() - started


def _range(num: int) -> str:
    return ",".join(map(str, range(num)))


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("what", choices=("parallel", "plan"))
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before\n")
    with workplace(None) as folder:
        {"parallel": parallel, "plan": plan}[args.what](Bench(folder), args.rounds)


if __name__ == "__main__":
    main()
