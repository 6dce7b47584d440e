"""A training epoch on CamVid as a user would write it (tutorial.py) against the same by ``segsweep`` as shipped.

    python scripts/benchmark/epoch.py --root DIR
    python scripts/benchmark/epoch.py --root DIR --workers 0 1 2 --repeats 2
    python scripts/benchmark/epoch.py --root DIR --steps 4 --eval-steps 1     a quick look

U-Net on a ResNet-18 without pretrained weights, 320x320 random crops, horizontal flips, batch 16, AdamW, cross entropy
plus Dice. Each is a process of its own that trains, validates and tests; contestants take turns. Images a second are
those of training epochs alone, seconds those of the whole command. DIR is as ``data=camvid`` wants it. A shared machine
does not always compute as fast: products of matrices before each of our turns say what it gave.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from bare import DTYPES, gflops
from measure import (
    missing,
    parser,
    print_head,
    print_table,
    ratios,
    run_python,
    run_segsweep,
    spread,
    take_turns,
    workplace,
)

TUTORIAL = Path(__file__).with_name("tutorial.py")
CROP, BATCH = 320, 16
OURS = (
    "data=camvid",
    f"data.crop=[{CROP},{CROP}]",
    f"data.batch_size={BATCH}",
    "model=smp",
    "model.arch=Unet",
    "model.encoder_name=resnet18",
    "augment=none",
    "augment.hflip=0.5",
)
# Asks the network whether there is a newer version of itself at every start, which is no part of training.
QUIET = "NO_ALBUMENTATIONS_UPDATE"


class Contest:
    """Runs both; remembers what each has found beside its images a second.

    Args:
        root: of the dataset.
        folder: to work in.
        epochs, steps, eval_steps: how much; None: all.
        device: cpu or gpu.
    """

    def __init__(
        self, root: Path, folder: Path, epochs: int, steps: int | None, eval_steps: int | None, device: str
    ) -> None:
        self.root, self.folder, self.device = root, folder, device
        self.epochs, self.steps, self.eval_steps = epochs, steps, eval_steps
        self.seconds: dict[str, list[float]] = {}
        self.products: dict[str, list[float]] = {name: [] for name in DTYPES}  # GFLOP/s before each of our turns

    def tutorial(self, workers: int) -> Callable[[], float]:
        """Images a second of the script."""
        arguments = [f"--root={self.root}", f"--workers={workers}", f"--epochs={self.epochs}", f"--batch-size={BATCH}"]
        arguments += ["--crop", str(CROP), str(CROP), f"--device={self.device}"]
        arguments += [f"--steps={self.steps}"] * bool(self.steps)
        arguments += [f"--eval-steps={self.eval_steps}"] * bool(self.eval_steps)

        def run() -> float:
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                seconds, printed = run_python([str(TUTORIAL), *arguments], Path(folder))
            self.seconds.setdefault(f"tutorial, {workers} workers", []).append(seconds)
            return statistics.median(json.loads(printed.splitlines()[-1])["images_per_s"])

        return run

    def ours(self, name: str, *overrides: str) -> Callable[[], float]:
        """Images a second of ``segsweep``."""
        limits = [f"trainer.limit_train_batches={self.steps}"] * bool(self.steps)
        for split in ("val", "test"):
            limits += [f"trainer.limit_{split}_batches={self.eval_steps}"] * bool(self.eval_steps)
        arguments = [*OURS, f"data.root={self.root}", f"trainer={self.device}", f"trainer.max_epochs={self.epochs}"]

        def run() -> float:
            for dtype, found in self.products.items():
                found.append(gflops(DTYPES[dtype], "cuda" if self.device == "gpu" else "cpu"))
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                run = Path(folder) / "run"
                command = [*arguments, *limits, *overrides, f"hydra.run.dir={run}"]
                seconds, _ = run_segsweep(command, Path(folder))
                lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            self.seconds.setdefault(name, []).append(seconds)
            return statistics.median(line["train/images_per_s"] for line in lines)

        return run


def main() -> None:
    options = parser(__doc__, epochs=1, repeats=2)
    options.add_argument("--root", type=Path, required=True, help="of CamVid, as data=camvid wants it")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the script's DataLoader")
    options.add_argument("--steps", type=int, help="of a training epoch; default: all")
    options.add_argument("--eval-steps", type=int, help="of validation and test; default: all")
    options.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    options.add_argument("--fp32", action="store_true", help="ours in float32, too")
    args = options.parse_args()
    packages = ("segmentation-models-pytorch", "albumentations", "opencv-python-headless")
    print_head("Epoch: the script of a tutorial", *packages, device="cuda" if args.device == "gpu" else "cpu")
    if missing("albumentations", "the tutorial's script"):
        return
    os.environ[QUIET] = "1"
    with workplace() as folder:
        contest = Contest(args.root.resolve(), folder, args.epochs, args.steps, args.eval_steps, args.device)
        names = {"ours": contest.ours("ours")}
        if args.fp32:
            names["ours, float32"] = contest.ours("ours, float32", "trainer.precision=32-true")
        names |= {f"tutorial, {n} workers": contest.tutorial(n) for n in args.workers}
        Contest(contest.root, folder, 1, 1, 1, args.device).ours("decoding")()  # what follows reads the cache
        found = take_turns(names, args.repeats)
    print(f"{args.repeats} repeats, {args.epochs} epochs, {args.steps or 'all'} steps in each, batch {BATCH}; ours had")
    print("decoded the images before. Ratio: ours, as shipped, divided by it; median (quartiles).\n")
    products = ", ".join(f"{name} {spread(found, 0)}" for name, found in contest.products.items())
    print(f"Products of matrices of 2048 before our turns, GFLOP/s: {products}.\n")
    rows = [
        (name, spread(rates), spread(contest.seconds[name], 1), spread(ratios(found["ours"], rates)))
        for name, rates in found.items()
    ]
    print_table(("training epoch", "images/s", "whole command, s", "ours is faster by"), rows)


if __name__ == "__main__":
    main()
