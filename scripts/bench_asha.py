"""Successive halving against a whole grid: how good is the best of it, for how many epochs?

    python scripts/bench_asha.py --out outputs/bench_asha          3 repetitions of 16 configurations x 8 epochs
    python scripts/bench_asha.py --out /tmp/x --tiny               does it run at all?

Both are searches of the same 16 points (4 learning rates x 4 losses, a narrow U-Net on digits) with
``hydra/sweeper/sampler=grid``: one without a pruner, which is the grid and the control, and one with ``asha``. Epochs
are lines of the runs' metrics.jsonl. Repetitions differ in the seed of the runs and in the order of the points. The
same command continues an interrupted benchmark. Exits with 1 unless every repetition is within 2 points of the grid's
best mIoU at no more than 40 % of its epochs.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SPACE = ["optimizer.lr=1e-4,1e-3,5e-3,3e-2", "loss=cross_entropy,ce_dice,dice,focal"]
MODEL = ["data=digits", "model=unet", "model.widths=[8,16,32]", "trainer=cpu"]
TINY = ["data.num_train=64", "data.num_val=32", "data.num_test=32"]
MOST_POINTS, MOST_EPOCHS = 0.02, 0.40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--jobs", default="1", help="at once; 1: each selection knows all trials before it")
    parser.add_argument("--reduction-factor", type=int, default=2, help="of asha: one of as many goes on")
    parser.add_argument("--as-published", action="store_true", help="promotions go before new runs")
    parser.add_argument("--tiny", action="store_true", help="a few images, one repetition")
    options = parser.parse_args()
    rows = []
    for seed in range(1 if options.tiny else options.repetitions):
        found = {pruner: search(options, pruner, seed) for pruner in ("none", "asha")}
        grid, asha = found["none"], found["asha"]
        row = {
            "seed": seed,
            "share_of_epochs": asha["epochs"] / grid["epochs"],
            "points_lost": {key: round(grid[key] - asha[key], 4) for key in ("val/miou", "test/miou")},
            **found,
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    (options.out / "bench_asha.json").write_text(json.dumps(rows, indent=1) + "\n")
    good = all(r["points_lost"]["val/miou"] <= MOST_POINTS and r["share_of_epochs"] <= MOST_EPOCHS for r in rows)
    print("passed" if good else "NOT passed")
    sys.exit(not good)


def search(options: argparse.Namespace, pruner: str, seed: int) -> dict:
    """Runs one search and sums it up."""
    folder = options.out / f"{pruner}_{seed}"
    command = [sys.executable, "-m", "segsweep", "-m", *MODEL, *SPACE, f"trainer.max_epochs={options.epochs}",
               f"seed={seed}", "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", f"hydra/sweeper/pruner={pruner}",
               f"hydra.sweeper.seed={seed}", "hydra.sweeper.n_trials=null", f"hydra.sweep.dir={folder}",
               f"name={folder.name}", f"sweep.jobs={options.jobs}", *(TINY if options.tiny else [])]  # fmt: skip
    if pruner == "asha":
        command.append(f"hydra.sweeper.pruner.reduction_factor={options.reduction_factor}")
        command.append(f"hydra.sweeper.pruner.breadth_first={str(not options.as_published).lower()}")
    start = time.perf_counter()
    subprocess.run(command, check=True)
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*/record.json"))]
    completed = [record for record in records if record["status"] == "completed"]
    best = max(completed, key=lambda record: record["metrics"]["val/miou"])
    return {
        "trials": len(records),
        "completed": len(completed),
        "epochs": sum(len(file.read_text().splitlines()) for file in folder.glob("*/metrics.jsonl")),
        "best": " ".join(sorted(text for text in best["overrides"] if text.startswith(("optimizer.lr", "loss")))),
        "val/miou": best["metrics"]["val/miou"],
        "test/miou": best["metrics"]["test/miou"],
        "seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    main()
