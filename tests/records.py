"""Run folders with nothing but a record, for tests of reports."""

import json

DATA = {
    "fingerprint": "d1", "split_sizes": {"train": 100, "val": 20, "test": 20}, "size": [48, 48],
    "class_names": ["background", "thing"], "labelled_fraction": 1.0,
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
