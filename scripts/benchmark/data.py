"""Images a second of each phase between files and training batches: decode, open, gather, augment.

    python scripts/benchmark/data.py
    python scripts/benchmark/data.py --camvid DIR --device cuda

Decoding is done once for all runs; opening, once a run; gathering and augmenting, at each step. The same augmentation
by torchvision and kornia: scripts/benchmark/augment.py.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bare import device_of, settled, wait_for
from measure import parser, print_head, print_table, spread, take_turns, workplace
from scenes import write_scenes

from segsweep.allocator import keep_memory_between_steps
from segsweep.config import build_data
from segsweep.data.train_batches import TrainBatches

AUGMENTS = ("none", "light", "standard", "strong")


def decode(overrides: list[str], folder: Path) -> float:
    """Images a second, from files to a cache of its own."""
    before = os.environ["SEGSWEEP_CACHE"]
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        os.environ["SEGSWEEP_CACHE"] = cache
        try:
            start = time.perf_counter()
            store = build_data(settled(overrides)).store
            return sum(len(split.items) for split in store.splits.values()) / (time.perf_counter() - start)
        finally:
            os.environ["SEGSWEEP_CACHE"] = before


def open_cache(overrides: list[str]) -> float:
    """Images a second that are there once the cache is open."""
    data = build_data(settled(overrides))
    start = time.perf_counter()
    store = data.store
    return sum(len(split.items) for split in store.splits.values()) / (time.perf_counter() - start)


def batches(overrides: list[str], num: int) -> Callable[[], float]:
    """What measures the images a second of training batches."""
    plain = settled(overrides)
    device, data = device_of(plain), build_data(plain)
    loader = TrainBatches(data, device)

    def run() -> float:
        found = iter(loader)
        next(found)
        wait_for(device)
        start, images = time.perf_counter(), 0
        for _, batch in zip(range(num), found, strict=False):
            images += len(batch.image)
        wait_for(device)
        return images / (time.perf_counter() - start)

    return run


def measure(name: str, overrides: list[str], folder: Path, rounds: int, num: int) -> None:
    """Prints the table of one dataset."""
    plain = settled(overrides)
    size = plain["data"]["size"]
    phases = {
        "decode: files to cache": partial(decode, overrides, folder),
        "open the cache": partial(open_cache, overrides),
    }
    found = take_turns(phases, rounds)
    small = [side // 2 for side in size]
    steps = {}
    for augment in AUGMENTS:
        what = f"gather, {'standardise' if augment == 'none' else f'augment={augment}'}"
        for part, crop in (("whole images", "null"), (f"crops {small[0]}x{small[1]}", f"[{small[0]},{small[1]}]")):
            steps[f"{what}, {part}"] = batches([*overrides, f"augment={augment}", f"data.crop={crop}"], num)
    found |= take_turns(steps, rounds)
    rows = [(phase, spread(rates, 0), spread([1e3 / rate for rate in rates], 3)) for phase, rates in found.items()]
    batch = plain["data"]["batch_size"]
    print_table((f"{name} {size[0]}x{size[1]}, batch {batch}", "images/s", "ms per image"), rows)


def main() -> None:
    options = parser(__doc__, rounds=5, batches=10)
    options.add_argument("--camvid", type=Path, help="root of CamVid; default: synthetic images alone")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = options.parse_args()
    keep_memory_between_steps()
    trainer = [f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", "data.batch_size=8"]
    print_head("Data", device=args.device)
    with workplace() as folder:
        scenes = write_scenes(folder / "scenes", (360, 480), (8 * (args.batches + 1), 8, 8), 12)
        measure("synthetic PNG files", [*scenes, *trainer], folder, args.rounds, args.batches)
        if args.camvid is None:
            print("left out: CamVid: no --camvid DIR\n")
        else:
            camvid = ["data=camvid", f"data.root={args.camvid.resolve()}", *trainer]
            measure("CamVid", camvid, folder, args.rounds, args.batches)


if __name__ == "__main__":
    main()
