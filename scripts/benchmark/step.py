"""A training step of segsweep as shipped against a bare loop on the same model, loss, batch and precision.

    python scripts/benchmark/step.py                     U-Net at 192x256, batch 8, RGB, 12 classes
    python scripts/benchmark/step.py --device cuda --batch-size 64
    python scripts/benchmark/step.py --model null        microseconds around a model that costs nothing
    python scripts/benchmark/step.py model=reseg optimizer.lr=0.001    any override

Ours is the Trainer as ``config.build`` makes it: TensorBoard, checkpoints, history, pictures and the progress bar of a
terminal. Both run in one process, and blocks of their steps alternate: the data loader of the fit, between two of our
steps, lends the machine to the bare loop, so that each of our blocks has a bare block before and one after it. Blocks
of ours take turns between batches that are gathered and augmented (what a user gets) and the bare loop's ready ones.
"""

import itertools
import time
from pathlib import Path
from typing import Any

import null
import pytorch_lightning as pl
from bare import BareLoop, device_of, prepare, ready_batches, settled, wait_for
from measure import parser, print_head, print_table, ratios, spread, take_turns, workplace
from scenes import write_scenes
from shipped import Loader, be_quiet, fit

from segsweep.config import Parts
from segsweep.data.train_batches import TrainBatches

LIVE, READY = "gathered and augmented", "ready batches"
WARM = 2  # steps of an epoch before its first block


class Alternation:
    """Measures our blocks and those of the bare loop, which runs while the fit waits for its next batch."""

    def __init__(self, bare: BareLoop, block: int) -> None:
        self.bare, self.block = bare, block
        self.bare_s: list[float] = []
        self.blocks: list[tuple[str, float, int]] = []  # where batches came from, seconds, bare block before it
        self._kinds = itertools.cycle((LIVE, READY))
        self._kind, self._start = LIVE, 0.0

    def before_batch(self, i: int) -> bool:
        """Ends one of our blocks where it is due, lends the machine, and begins the next one."""
        if i >= WARM and (i - WARM) % self.block == 0:
            wait_for(self.bare.device)
            if i > WARM:
                self.blocks.append((self._kind, time.perf_counter() - self._start, len(self.bare_s) - 1))
            self.bare_s.append(self.bare.run(self.block))
            self._kind, self._start = next(self._kinds), time.perf_counter()
        return self._kind == LIVE

    def pairs(self, kind: str) -> tuple[list[float], list[float]]:
        """Seconds of our blocks of a kind, and for each the mean of the bare blocks before and after it."""
        found = [(seconds, (self.bare_s[i] + self.bare_s[i + 1]) / 2) for k, seconds, i in self.blocks if k == kind]
        return [ours for ours, _ in found], [bare for _, bare in found]


class Ends(pl.Callback):
    """Seconds between the last step of an epoch and the first of the next, without the validation and its pictures."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = self._validation = self._validated = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """An epoch ends with its last step."""
        if trainer.is_last_batch:
            self._start = time.perf_counter()

    def on_validation_start(self, *_: Any) -> None:
        """Not ours."""
        self._validation = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        """What is left until the next epoch: checkpoints, history, TensorBoard's scalars."""
        self._validated = time.perf_counter() - self._validation

    def on_train_epoch_start(self, *_: Any) -> None:
        """The next one."""
        if self._start:
            self.seconds.append(time.perf_counter() - self._start - self._validated)


def compare(plain: dict[str, Any], folder: Path, block: int) -> tuple[Alternation, list[float]]:
    """Trains by turns; returns the blocks, and the seconds of the epochs' ends."""
    ends = Ends()
    found: list[Alternation] = []

    def prepare(parts: Parts) -> Loader:
        device = device_of(plain)
        inner = TrainBatches(parts.data, device)
        ready = ready_batches(parts.data, device)
        bare = BareLoop(plain, parts.data, ready)
        bare.run(3)
        found.append(Alternation(bare, block))
        parts.trainer.callbacks.insert(0, ends)
        return Loader(inner, ready, len(inner), found[0].before_batch)

    fit(plain, folder, prepare)
    return found[0], ends.seconds


def print_comparison(found: Alternation, ends: list[float], plain: dict[str, Any], epoch: int) -> None:
    """Prints both kinds of blocks, and what an epoch's end adds."""
    size, batch = plain["data"]["size"], plain["data"]["batch_size"]
    name = plain["model"]["_target_"].rpartition(".")[2]
    print(
        f"{name}, {size[0]}x{size[1]}, batch {batch}, {plain['trainer']['precision']}; blocks of {found.block} steps."
    )
    print("Throughput of ours divided by that of the bare loop; median (quartiles).\n")
    rows = []
    for kind in (LIVE, READY):
        ours, bare = found.pairs(kind)
        times = [spread([1e3 * s / found.block for s in seconds], 1) for seconds in (bare, ours)]
        rows.append((kind, len(ours), *times, spread(ratios(bare, ours), 3)))
        if kind == LIVE and ends:
            end = sorted(ends)[len(ends) // 2]
            whole = [b / (o + end * found.block / epoch) for o, b in zip(ours, bare, strict=True)]
            label = f"the same, and the end of an epoch of {epoch} steps ({end:.2f} s beside validation and pictures)"
            rows.append((label, len(ours), "", "", spread(whole, 3)))
    print_table(("our step", "pairs", "bare, ms", "ours, ms", "ratio"), rows)


def main() -> None:
    options = parser(__doc__, pairs=10, block=10, batch_size=8, steps=500, rounds=5)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--model", choices=("unet", "null"), default="unet", help="null: microseconds per step")
    options.add_argument("--size", type=int, nargs=2, default=(192, 256), help="pixels, height and width")
    options.add_argument("--blocks", type=int, default=4, help="of ours in an epoch")
    args, overrides = options.parse_known_args()
    be_quiet()
    trainer = [f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}"]
    print_head(f"Step: {args.model}", device=args.device)
    with workplace() as folder:
        if args.model == "null":
            data = [*null.OVERRIDES, f"data.num_train={2 * args.steps}", "trainer.max_epochs=1"]
            plain = null.put_into(settled([*data, *trainer, *overrides]))
            prepare(plain)
            null.print_null(take_turns(null.contestants(plain, folder, args.steps), args.rounds))
            return
        steps = WARM + args.blocks * args.block + 1
        epochs = max(2, -(-2 * args.pairs // args.blocks))  # the end of the last one is not seen
        data = write_scenes(folder / "scenes", tuple(args.size), (steps * args.batch_size, 8, 8), 12)
        facts = [f"data.batch_size={args.batch_size}", f"trainer.max_epochs={epochs}", "model=unet"]
        plain = settled([*data, *facts, *trainer, *overrides])
        prepare(plain)
        print_comparison(*compare(plain, folder / "run", args.block), plain, steps)


if __name__ == "__main__":
    main()
