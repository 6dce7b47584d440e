"""How figures grow: images a second by image size and by batch, seconds by jobs of a sweep and by runs in a report.

    python scripts/benchmark/scaling.py
    python scripts/benchmark/scaling.py images jobs --rounds 3

``images``: training of U-Net as shipped, data and augmentation included, without the ends of epochs. ``jobs``: the
whole command with ``sweep.dry_run=true``, and of it the plan alone: to compose, check and name the jobs, in a process
that has imported everything. ``report``: the whole command on synthetic runs.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bare import device_of, prepare, settled, wait_for
from hydra import initialize_config_dir
from measure import parser, print_head, print_table, run_segsweep, spread, take_turns, workplace
from report import time_report
from scenes import write_scenes
from shipped import Loader, be_quiet, fit

from segsweep import CONF_DIR
from segsweep.composer import Composer
from segsweep.data.train_batches import TrainBatches
from segsweep.inspection import inspect_jobs
from segsweep.plan import make_plan

MODELS = "model=unet,reseg,conv_autoencoder"
WARM = 2  # steps that do not count


def training_speed(overrides: Sequence[str], folder: Path) -> Callable[[], float]:
    """What measures the images a second of an epoch."""
    plain = settled(overrides)
    prepare(plain)
    device = device_of(plain)
    marks: list[float] = []

    def run() -> float:
        marks.clear()

        def before_batch(_: int) -> bool:
            wait_for(device)
            marks.append(time.perf_counter())
            return True

        def whole(parts: object) -> Loader:
            inner = TrainBatches(parts.data, device)  # type: ignore[attr-defined]
            return Loader(inner, [], len(inner), before_batch)

        with tempfile.TemporaryDirectory(dir=folder) as place:
            fit(plain, Path(place), whole)
        return plain["data"]["batch_size"] * (len(marks) - 1 - WARM) / (marks[-1] - marks[WARM])

    return run


def print_images(args: argparse.Namespace, folder: Path) -> None:
    """Prints the speed for each size at the middle batch, and for each batch at the middle size."""
    size, batch = args.sizes[len(args.sizes) // 2], args.batches[len(args.batches) // 2]
    cases = dict.fromkeys([*((side, batch) for side in args.sizes), *((size, number) for number in args.batches)])
    device = "gpu" if args.device == "cuda" else "cpu"
    runs = {}
    for side, number in cases:
        images = (number * (args.steps + WARM + 1), 2, 2)
        scenes = write_scenes(folder / f"{side}-{number}", (side, side), images, 12)
        facts = [f"data.batch_size={number}", "trainer.max_epochs=1", f"trainer={device}", "model=unet"]
        runs[f"{side}x{side}, batch {number}"] = training_speed([*scenes, *facts], folder)
    found = take_turns(runs, args.rounds)
    rows = [
        (name, spread(rates, 1), spread([rate * side**2 / 1e6 for rate in rates], 2))
        for (name, rates), (side, _) in zip(found.items(), cases, strict=True)
    ]
    print_table(("training of U-Net", "images/s", "million pixels/s"), rows)


def dry_run(num: int, folder: Path) -> float:
    """Seconds of the command."""
    return run_segsweep(["-m", MODELS, f"seed={_seeds(num)}", "sweep.dry_run=true"], folder)[0]


def plan(num: int, folder: Path) -> float:
    """Seconds without the command around it."""
    start = time.perf_counter()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        made = make_plan(folder, [MODELS, f"seed={_seeds(num)}"], (), Composer(), inspect_jobs)
    if len(made.jobs) != num:
        raise RuntimeError(f"the plan has {len(made.jobs)} jobs instead of {num}")
    return time.perf_counter() - start


def _seeds(num: int) -> str:
    return ",".join(map(str, range(num // 3)))


def print_jobs(folder: Path, numbers: Sequence[int], rounds: int) -> None:
    """Prints both for each number of jobs."""
    plan(3, folder)  # imports
    kinds = {f"{kind.__name__} {num}": partial(kind, num, folder) for num in numbers for kind in (dry_run, plan)}
    found = take_turns(kinds, rounds)
    rows = [(f"{num} jobs", spread(found[f"dry_run {num}"]), spread(found[f"plan {num}"])) for num in numbers]
    print_table(("sweep of", "dry run, whole command, s", "its plan alone, s"), rows)


def print_reports(numbers: Sequence[int], rounds: int) -> None:
    """Prints what a report takes for each number of runs, five seeds in each configuration."""
    rows = []
    for num in sorted(numbers):
        costs = [time_report(num // 5, 5) for _ in range(rounds)]
        cells = [spread([getattr(cost, field) for cost in costs], 1) for field in ("seconds", "cpu_s")]
        rows.append((f"{num:,} runs", *cells, f"{max(cost.peak_mb for cost in costs):,.0f}"))
    print_table(("report of", "s", "CPU s", "peak MB"), rows)


def main() -> None:
    options = parser(__doc__, rounds=3, steps=6)
    options.add_argument("what", nargs="*", help="images, jobs, report; default: all")
    options.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 192, 256, 384], help="sides in pixels")
    options.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    options.add_argument("--jobs", type=int, nargs="+", default=[3, 30, 300], help="multiples of three")
    options.add_argument("--runs", type=int, nargs="+", default=[10, 100, 1000], help="multiples of five")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = options.parse_args()
    if unknown := set(args.what) - {"images", "jobs", "report"}:
        options.error(f"{', '.join(sorted(unknown))}: choose from images, jobs, report")
    be_quiet()
    what = args.what or ["images", "jobs", "report"]
    print_head("Scaling", "hydra-core", device=args.device)
    with workplace() as folder:
        if "images" in what:
            print_images(args, folder)
        if "jobs" in what:
            print_jobs(folder, args.jobs, args.rounds)
    if "report" in what:
        print_reports(args.runs, args.rounds)


if __name__ == "__main__":
    main()
