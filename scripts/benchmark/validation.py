"""Validation as shipped against inference alone: the same model, images and precision.

    python scripts/benchmark/validation.py
    python scripts/benchmark/validation.py --device cuda --batch-size 64

A validation reads the images, segments them, computes the loss, and counts for each image what every metric follows
from: confusion, boundaries, calibration. Inference is the forward pass on batches that are ready. The third contestant
is what a user waits for: Lightning's loop around the validation, and the pictures that it draws for TensorBoard.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bare import device_of, prepare, settled, wait_for
from measure import parser, print_head, print_table, ratios, spread, take_turns, workplace
from scenes import write_scenes
from shipped import be_quiet

from segsweep.config import build, build_model
from segsweep.losses import adapt

INFERENCE = "inference alone"


def contestants(plain: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Images a second of both."""
    parts = build(plain, build_model(plain), folder, 0)
    adapt(parts.task.loss, parts.data.class_counts())
    device = device_of(plain)
    parts.trainer.validate(parts.task, datamodule=parts.data, verbose=False)  # puts everything where it belongs
    model = parts.task.model.eval().to(device)
    ready = [batch.image for batch in parts.data.val_dataloader()]
    num = sum(map(len, ready))
    is_bf16 = plain["trainer"]["precision"] == "bf16-mixed"

    def timed(run: Any) -> float:
        parts.task.to(device)  # Lightning leaves it on the CPU
        wait_for(device)
        start = time.perf_counter()
        run()
        wait_for(device)
        return num / (time.perf_counter() - start)

    def bare() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            for image in ready:
                model(image)

    def shipped() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            task = parts.task
            task.on_validation_epoch_start()
            for i, batch in enumerate(parts.data.val_dataloader()):
                task.validation_step(batch, i)
            task.eval_counts.compute()

    def whole() -> None:
        parts.trainer.validate(parts.task, datamodule=parts.data, verbose=False)

    model(ready[0])
    runs = {INFERENCE: bare, "validation": shipped, "validation with Lightning's loop and pictures": whole}
    return {name: partial(timed, run) for name, run in runs.items()}


def main() -> None:
    options = parser(__doc__, rounds=7, batch_size=8, images=64)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--size", type=int, nargs=2, default=(192, 256), help="pixels, height and width")
    args, overrides = options.parse_known_args()
    be_quiet()
    print_head("Validation", device=args.device)
    with workplace() as folder:
        data = write_scenes(folder / "scenes", tuple(args.size), (8, args.images, 8), 12)
        facts = [f"data.batch_size={args.batch_size}", f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}"]
        plain = settled([*data, *facts, *overrides])
        prepare(plain)
        found = take_turns(contestants(plain, folder / "run"), args.rounds)
    print(f"{args.size[0]}x{args.size[1]}, batch {args.batch_size}, {args.images} images")
    rows = [(name, spread(values, 1), spread(ratios(values, found[INFERENCE]), 3)) for name, values in found.items()]
    print_table(("", "images/s", "of inference alone"), rows)


if __name__ == "__main__":
    main()
