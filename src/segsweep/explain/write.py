"""Writes what was found: the page, PNG files, ``explain.json`` and a TensorBoard event file, each as a whole."""

import json
import math
from pathlib import Path
from typing import Any

from segsweep.events import image as image_value
from segsweep.events import replace_events, scalar
from segsweep.explain.drawing import png
from segsweep.explain.field import SHARES
from segsweep.explain.findings import Explained, Findings
from segsweep.explain.page import page
from segsweep.explain.panes import Pane, field_pane, panes, tops
from segsweep.explain.uncertainty import Doubt
from segsweep.files import write_atomic

FILE = "index.html"
MARKER = "explain.json"  # written first: says whose the folder is


def write(findings: Findings, out: Path, command: str) -> None:
    """Writes everything below ``out``, which is made if it does not exist.

    Args:
        findings: to write.
        out: folder.
        command: that made it, for the page.
    """
    top = tops(findings)
    shown = [panes(image, findings, top) for image in findings.images]
    fields = [field_pane(field) for field in findings.fields]
    pictures = out / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    write_atomic(out / MARKER, (json.dumps(_finite(facts(findings)), indent=1) + "\n").encode())
    for picture in pictures.glob("*.png"):  # of other images of the same run
        picture.unlink()
    values = []
    for image, each in zip(findings.images, shown, strict=True):
        values += [
            _write_picture(pictures / f"{image.sample.name}-{p.key}.png", f"{image.sample.name}/{p.key}", p)
            for p in each
        ]
    for number, pane in enumerate(fields):
        values.append(_write_picture(pictures / f"receptive-field-{number}.png", f"receptive-field/{pane.title}", pane))
    for calibration, tag in zip(findings.calibrations, ("ece", "ece_masks"), strict=False):
        values.append(scalar(f"explain/{tag}", calibration.error))
    write_atomic(out / FILE, page(findings, shown, fields, command).encode())
    replace_events(out, "explain", values, 0)


def facts(findings: Findings) -> dict[str, Any]:
    """All figures as plain values."""
    return {
        "run": findings.run.name,
        "weights_sha256": findings.run.weights_sha256,
        "images": [_image_facts(image) for image in findings.images],
        "receptive_field": [
            {
                "run": f.name,
                "side": {f"{share:g}": f.side(share) for share in SHARES},
                "theoretical": [f.extent.height, f.extent.width],
                "looked_at": list(f.extent.canvas),
                "point": list(f.point),
                "views": f.num_views,
            }
            for f in findings.fields
        ],
        "calibration": [
            {"of": c.about, "ece": c.error, "overconfidence": c.overconfidence, "bins": c.counts.tolist()}
            for c in findings.calibrations
        ],
        "notes": findings.notes,
    }


def _image_facts(image: Explained) -> dict[str, Any]:
    doubts = {"softmax": image.doubt, "dropout": image.dropout, "ensemble": image.ensemble}
    return {
        "name": image.sample.name,
        "class": image.target.name,
        "region": image.target.about,
        "maps": {
            method: {"sum": found.total, "output_change": found.difference, "random_weights": image.sanity.get(method)}
            for method, found in image.maps.items()
        },
        "uncertainty": {name: _doubt_facts(doubt) for name, doubt in doubts.items() if doubt},
    }


def _doubt_facts(doubt: Doubt) -> dict[str, Any]:
    mutual = None if doubt.mutual is None else float(doubt.mutual.mean())
    return {"entropy": float(doubt.entropy.mean()), "mutual_information": mutual, "members": doubt.num}


def _write_picture(path: Path, tag: str, pane: Pane) -> Any:
    data = png(pane.picture)
    write_atomic(path, data)
    return image_value(f"explain/{tag}", data, pane.picture.shape[0], pane.picture.shape[1])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
