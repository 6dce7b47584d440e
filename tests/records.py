"""Run folders without a run, for tests of reports."""

import json
import math

import numpy as np
from PIL import Image

CLASSES = ["background", "thing"]
DATA = {
    "fingerprint": "d1", "split_sizes": {"train": 100, "val": 20, "test": 20}, "size": [48, 48],
    "class_names": CLASSES, "labelled_fraction": 1.0,
}  # fmt: skip


def write_record(folder, miou, *, seed=0, fraction=1.0, regime="supervised", model="unet", config=None, **changes):
    """A completed run of 48x48 images; ``config`` is added to what regime, model, seed and fraction make of it."""
    content = {
        "schema": 1, "status": "completed", "error": None, "started": "2026-01-01", "seed": seed, "family": "cnn",
        "metric_version": 1, "overrides": [], "choices": {"model": model, "regime": regime, "data": "digits"},
        "config": {
            "model": {"_target_": model, **(config or {})}, "regime": {"stages": regime}, "seed": seed,
            "data": {"labelled_fraction": fraction},
        },
        "fingerprint_without_seed": f"{model}-{regime}-{fraction}-{config}",
        "data": {**DATA, "labelled_fraction": fraction}, "floors": {}, "parameters": 1_500_000, "wall_s": 20.0,
        "images_per_s": {"train": 100.0, "inference": 1000.0}, "metrics": {"test/miou": miou, "val/miou": 0.5},
        "images_tested": 20,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({**content, **changes}))


def write_sweep(folder, num_configurations, num_seeds, *, num_epochs=10, names=CLASSES, num_pictures=2):
    """Runs whose scores are a function of configuration and seed, with all files that a report reads.

    Swept are ``model``, ``optimizer.lr`` and ``data.batch_size``; pictures have the best six configurations only.
    """
    for number in range(num_configurations):
        model, lr, batch = f"model{number % 5}", 10.0 ** -(1 + number // 5 % 4), 4 * (1 + number // 20)
        for seed in range(num_seeds):
            quality = 0.9 - 0.6 * number / num_configurations + 0.02 * math.sin(7 * seed + number)
            run = folder / f"model={model},optimizer.lr={lr},data.batch_size={batch},seed={seed}"
            ious = {name: quality * (1 - 0.3 * k / len(names)) for k, name in enumerate(names)}
            overrides = [f"model={model}", f"optimizer.lr={lr}", f"data.batch_size={batch}", f"seed={seed}"]
            config = {
                "model": {"_target_": model}, "optimizer": {"lr": lr}, "data": {"batch_size": batch}, "seed": seed,
            }  # fmt: skip
            metrics = {"test/miou": quality, "val/miou": quality + 0.01}
            write_record(
                run, quality, seed=seed, model=model, overrides=overrides, sweep=folder.name,
                fingerprint_without_seed=f"{model}-{lr}-{batch}", parameters=100_000 * (1 + number),
                flops=1e8 * (1 + number), data={**DATA, "class_names": names}, versions={"torch": "2.15.0"},
                git={"commit": "0" * 40, "dirty": False}, device="a CPU", precision="32-true", threads=1,
                metrics=metrics | {f"test/iou/{name}": iou for name, iou in ious.items()},
                floors={"location_prior": {"test/miou": 0.1, "val/miou": 0.1}}, finished="2026-01-02",
                peak_memory_mb={"host": 700.0 + number}, epochs=num_epochs, steps=10 * num_epochs,
            )  # fmt: skip
            record = json.loads((run / "record.json").read_text())
            (run / "record.json").write_text(json.dumps({**record, "config": config}))
            write_history(run, num_epochs, quality)
            write_confusion(run, len(names), quality)
            if number < 6 and num_pictures:
                write_examples(run, num_pictures, first=number)


def write_history(folder, num_epochs, quality):
    """``metrics.jsonl`` of a run that comes near to a score."""
    lines = [
        {"epoch": epoch, "step": 10 * (epoch + 1), "val/miou": quality * (1 - 0.6**epoch),
         "train/loss": 0.1 + 0.7**epoch, "val/loss": 0.2 + 0.8**epoch}
        for epoch in range(num_epochs)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_confusion(folder, num_classes, quality, num_images=20):
    """``test_confusion.npz``: each class is right by a share, the rest is taken for its neighbours."""
    right = int(1000 * quality)
    matrix = np.full((num_classes, num_classes), (1000 - right) // max(1, num_classes - 1), np.int32)
    np.fill_diagonal(matrix, right)
    names = np.array([f"{i:05d}" for i in range(num_images)])
    np.savez(folder / "test_confusion.npz", confusion=np.tile(matrix, (num_images, 1, 1)), names=names, groups=names)


def write_examples(folder, num_pictures, first=0):
    """``test_examples/``: the same fixed images for all, worst ones from a position of its own."""
    (folder / "test_examples").mkdir()
    strip = np.zeros((24, 96, 3), np.uint8)
    strip[6:18, 30:42] = strip[6:18, 54:66] = (200, 40, 40)
    for i in range(num_pictures):
        strip[..., 2] = 40 * i
        Image.fromarray(strip).save(folder / "test_examples" / f"fixed-{i:05d}.png")
        Image.fromarray(strip).save(folder / "test_examples" / f"worst-{i + 1}-{first + i + 5:05d}.png")


def judged(comparison):
    """A judgement made by hand: the first is better than all others, of which nothing is known against each other."""
    from segsweep.report.intervals import mean_interval
    from segsweep.report.judgement import Judgement, Pair, Standing, Verdict

    rows = [row for row in comparison.configurations if row.completed]
    standings = [Standing(row, mean_interval(row.values("test/miou")), None, None) for row in rows]
    pairs = []
    for i, row in enumerate(rows):
        for other in rows[i + 1 :]:
            gap = mean_interval(
                [a - b for a, b in zip(row.values("test/miou"), other.values("test/miou"), strict=False)]
            )
            verdict = Verdict.NO_EVIDENCE if i else Verdict.BETTER
            verdict = verdict if len(row.completed) > 1 else Verdict.TOO_FEW_SEEDS
            more = 2 if verdict is Verdict.NO_EVIDENCE else None
            pairs.append(Pair(row.name, other.name, gap.n, gap, gap, 0.75, verdict, more, None))
    return Judgement(standings, pairs, "20 blocks of 1 image" if pairs else "")
