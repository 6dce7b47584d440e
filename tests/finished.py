"""Finished run folders without a training: random weights, and a record as a run writes it."""

import json

from safetensors.torch import save

from segsweep.composer import compose_job
from segsweep.config import build_model, fingerprint, semantic_part, settle
from segsweep.files import write_hashed
from segsweep.redaction import redact
from tests.narrow import NARROW

DIGITS = ["data=digits", "data.num_train=6", "data.num_val=3", "data.num_test=4", "trainer.precision=32-true"]


def write_finished(folder, model="unet", *overrides, seed=0, data=DIGITS):
    """A run of a narrow model on a few scenes of digits, or on ``data``, as if it had been trained.

    Args:
        folder: is made.
        model: option of conf/model.
        overrides: further ones.
        seed: of the weights.
        data: overrides that choose the data.
    """
    chosen = [f"model={model}", *NARROW.get(model, ()), "trainer=cpu", f"seed={seed}", *data, *overrides]
    cfg, choices = compose_job(chosen)
    plain = settle(cfg)
    network = build_model(plain)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    write_hashed(checkpoints / "best.safetensors", save({k: v.contiguous() for k, v in network.state_dict().items()}))
    about = {"epoch": 0, "monitor": "val/miou", "value": 0.5, "model": plain["model"]}
    (checkpoints / "best.json").write_text(json.dumps(about))
    names = plain["data"]["class_names"]
    record = {
        "schema": 1, "status": "completed", "error": None, "started": "2026-01-01", "finished": "2026-01-01",
        "wall_s": 1.0, "seed": seed, "family": plain["model"]["family"], "monitor": "val/miou",
        "choices": {key: value for key, value in choices.items() if "/" not in key and value},
        "overrides": chosen, "sweep": None, "config": redact(semantic_part(plain)), "metric_version": 1,
        "fingerprint": fingerprint(plain), "fingerprint_without_seed": fingerprint(plain, with_seed=False),
        "precision": "32-true", "device": "a CPU", "threads": 1, "parameters": 1, "floors": {}, "epochs": 1,
        "metrics": {"test/miou": 0.5, "val/miou": 0.5}, "images_tested": 4, "images_per_s": {},
        "data": {
            "fingerprint": "f", "split_sizes": {"train": 6, "val": 3, "test": 4}, "size": plain["data"]["size"],
            "class_names": names, "labelled_fraction": 1.0,
        },
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def change(file, **values):
    """Changes keys of a JSON file; dots lead into it."""
    content = json.loads(file.read_text())
    for path, value in values.items():
        *parents, key = path.split("__")
        node = content
        for parent in parents:
            node = node[parent]
        node[key] = value
    file.write_text(json.dumps(content))


def rewrite(file, data):
    """Replaces a hashed file and its digest, as somebody would who means harm."""
    write_hashed(file, data)
