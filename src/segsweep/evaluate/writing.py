"""The folder of an evaluation: a record that ``segsweep-report`` reads, a table of the images, and pictures."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segsweep.contained import read_json
from segsweep.evaluate.scoring import Scored, Scoring
from segsweep.files import remove_unfinished, write_atomic
from segsweep.metrics import VERSION
from segsweep.opened import OpenedRun
from segsweep.origin import versions
from segsweep.redaction import redact
from segsweep.report.printable import printable
from segsweep.report.table import csv_text
from segsweep.run import SCHEMA

_COPIED = ("family", "parameters", "flops", "pretrained", "wall_s", "steps", "epochs", "images_seen", "tuning_trials")


def write_evaluation(
    folder: Path, runs: Sequence[OpenedRun], settings: Mapping[str, Any], about_data: dict[str, Any], scoring: Scoring,
    scored: Scored,
) -> None:  # fmt: skip
    """Writes everything that an evaluation leaves, each file as a whole, the record last.

    Args:
        folder: is made; may hold an earlier evaluation of the same, see ``is_place_for``.
        runs: that were scored, as one.
        settings: what was asked for, part of the identity.
        about_data: of the images, as ``images.about_data`` returns it.
        scoring: the model and the images.
        scored: what came out.
    """
    record = _record(runs, settings, about_data, scored)
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    arrays = io.BytesIO()
    names, groups = (np.array([getattr(item, key) for item in scored.items]) for key in ("name", "group"))
    np.savez_compressed(arrays, **scored.counts._asdict(), names=names, groups=groups)
    write_atomic(folder / "test_confusion.npz", arrays.getbuffer())
    write_atomic(folder / "images.csv", images_table(scored).encode())
    (folder / "test_examples").mkdir(exist_ok=True)
    for name, picture in scoring.examples(scored):
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        write_atomic(folder / "test_examples" / f"{name}.png", png.getbuffer())
    write_atomic(folder / "record.json", (json.dumps(record, indent=1) + "\n").encode())


def is_place_for(folder: Path, fingerprint: str) -> bool:
    """Whether a folder is new, empty, or holds an earlier evaluation of the same."""
    if not folder.exists() or not any(folder.iterdir()):
        return True
    return (folder / "record.json").exists() and read_json(folder, "record.json").get("fingerprint") == fingerprint


def identity(runs: Sequence[OpenedRun], settings: Mapping[str, Any]) -> tuple[str, str]:
    """What an evaluation is known by, with the seed and without it."""
    config = _config(runs, settings)
    without_seed = {key: value for key, value in config.items() if key != "seed"}
    return _digest([config, [run.weights_sha256 for run in runs]]), _digest([without_seed, len(runs)])


def _config(runs: Sequence[OpenedRun], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**_mapping(runs[0].record.get("config")), "evaluate": dict(settings)}


def images_table(scored: Scored) -> str:
    """CSV with a row for each image, worst first: mIoU over its own classes, accuracy and the IoU of each class."""
    rows = []
    for position, item in enumerate(scored.items):
        metrics = scored.of_image(position)
        values = [metrics["miou"], metrics["pixel_accuracy"]] + [metrics[f"iou/{n}"] for n in scored.spec.class_names]
        key = np.inf if np.isnan(metrics["miou"]) else metrics["miou"]
        rows.append((key, [printable(item.name), scored.splits[position], *map(_number, values)]))
    rows.sort(key=lambda row: row[0])
    header = ["image", "split", "miou", "pixel_accuracy", *(f"iou/{printable(n)}" for n in scored.spec.class_names)]
    return csv_text(header, [cells for _, cells in rows])


def _record(
    runs: Sequence[OpenedRun], settings: Mapping[str, Any], about_data: dict[str, Any], scored: Scored
) -> dict[str, Any]:
    """The record of the first run, with what an evaluation changes."""
    first = runs[0].record
    config, (fingerprint, without_seed) = _config(runs, settings), identity(runs, settings)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    weights = [run.weights_sha256 for run in runs]
    seed = first.get("seed") if isinstance(first.get("seed"), int) else 0
    metrics = {f"test/{name}": None if np.isnan(value) else value for name, value in scored.metrics.items()}
    data = _mapping(first.get("data"))
    return {
        "schema": SCHEMA,
        "status": "completed",
        "error": None,
        "started": now,
        "finished": now,
        **{key: first[key] for key in _COPIED if isinstance(first.get(key), int | float | str | None) and key in first},
        "choices": {**_mapping(first.get("choices")), "data": about_data["name"]},
        "overrides": [],
        "sweep": None,
        "seed": seed,
        "config": redact({**config, "seed": seed}),
        "fingerprint": fingerprint,
        "fingerprint_without_seed": without_seed,
        "metric_version": VERSION,
        "versions": dict(versions()),
        "evaluated": {"runs": [run.name for run in runs], "weights_sha256": weights, **settings},
        "data": {
            **{key: about_data[key] for key in ("fingerprint", "split_sizes", "size")},
            "class_names": list(scored.spec.class_names),
            "labelled_fraction": data.get("labelled_fraction"),
        },
        "floors": {},
        "images_tested": len(scored.items),
        "images_per_s": {"evaluation": scored.images_per_s},
        "metrics": metrics,
    }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
