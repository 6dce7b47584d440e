"""The page ``index.html``: one file that needs no network, in the style of the report's."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segsweep.explain.charts import filling, reliability
from segsweep.explain.drawing import Picture, png
from segsweep.explain.findings import Explained, Findings
from segsweep.explain.panes import TITLES, Pane, extent_short, extent_text
from segsweep.explain.work import agreement
from segsweep.report.page.write import TEMPLATES as REPORT_TEMPLATES
from segsweep.report.page.write import environment
from segsweep.report.table import Table

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_CHIPS = 12
_WIDE = 2.0  # times as wide as high
_CLOSE = 0.05  # of a sum to what it should be
_SIDE = 480  # pixels of an embedded picture, longer side


@dataclass(frozen=True)
class Shown:
    """A picture on the page."""

    title: str
    uri: str
    caption: str


@dataclass(frozen=True)
class Chip:
    """A class that occurs in a prediction, with its colour."""

    name: str
    colour: str
    share: str
    is_explained: bool


@dataclass(frozen=True)
class Part:
    """One image."""

    anchor: str
    name: str
    about: str
    chips: list[Chip]
    panes: list[Shown]
    is_wide: bool

    @property
    def columns(self) -> int:
        """Pictures beside each other: all, or full rows."""
        num, most = len(self.panes), 3 if self.is_wide else 6
        return -(-num // -(-num // most))


@dataclass(frozen=True)
class Fact:
    """A name and a value."""

    name: str
    text: str


def page(findings: Findings, panes: Sequence[Sequence[Pane]], fields: Sequence[Pane], command: str) -> str:
    """The page as HTML.

    Args:
        findings: to show.
        panes: of each image.
        fields: of each receptive field.
        command: that made it.
    """
    run = findings.run
    parts = [
        Part(
            f"i{number}",
            image.sample.name,
            _about(image),
            _chips(image, findings),
            [_shown(pane) for pane in each],
            _is_wide(each),
        )
        for number, (image, each) in enumerate(zip(findings.images, panes, strict=True), start=1)
    ]
    return str(
        environment(_TEMPLATES, REPORT_TEMPLATES)
        .get_template("explain.html.j2")
        .render(
            name=run.name,
            facts=_facts_line(findings),
            sentences=sentences(findings),
            parts=parts,
            fields=[_shown(pane) for pane in fields],
            field_figure=filling(findings.fields) if findings.fields else None,
            field_table=_field_table(findings) if findings.fields else None,
            fields_are_wide=_is_wide(fields),
            field_about=_field_about(findings),
            calibrations=[reliability(each) for each in findings.calibrations],
            notes=findings.notes,
            made=_made(findings),
            command=command,
            methods=list(findings.images[0].maps) if findings.images else [],
            style=(REPORT_TEMPLATES / "page.css").read_text() + (_TEMPLATES / "explain.css").read_text(),
        )
    )


@dataclass(frozen=True)
class Finding:
    """A sentence: of what, and what."""

    subject: str
    text: str


def sentences(findings: Findings) -> list[Finding]:
    """What was found, in words; for the top of the page and for the terminal."""
    return [*_said_of_maps(findings), *_said_of_fields(findings), *_said_of_calibration(findings)]


def _said_of_maps(findings: Findings) -> list[Finding]:
    said = []
    gaps = [found.gap for image in findings.images for found in image.maps.values() if found.gap is not None]
    if gaps:
        more = "" if max(gaps) < _CLOSE else "; raise --steps for a closer sum"
        text = f"add up to the change of the output within {max(gaps):.1%}{more}"
        said.append(Finding(TITLES["integrated-gradients"], text))
    for method, value in agreement(findings).items():
        text = f"rank correlation with its maps under random weights {value:+.2f}: {_verdict(value)}"
        said.append(Finding(TITLES[method], text))
    return said


def _said_of_fields(findings: Findings) -> list[Finding]:
    return [
        Finding(
            f.name,
            f"half of what moves the prediction at {_point(findings)} lies within {f.side(0.5)}x{f.side(0.5)} pixels, "
            f"90 % within {f.side(0.9)}x{f.side(0.9)}; it {extent_text(f)}",
        )
        for f in findings.fields
    ]


def _said_of_calibration(findings: Findings) -> list[Finding]:
    said = []
    for each in findings.calibrations:
        over = each.overconfidence
        lean = f"mean confidence is {abs(over):.1%} {'above' if over > 0 else 'below'} accuracy"
        said.append(Finding(f"Calibration, {each.about}", f"expected error (ECE) {each.error:.4f}; {lean}"))
    return said


def _verdict(value: float) -> str:
    if abs(value) < 0.3:
        return "they depend on what was learnt"
    if abs(value) < 0.6:
        return "part of them follows from the image and the place alone"
    return "much of them follows from the image and the place alone, so compare strengths, not outlines"


def _is_wide(panes: Sequence[Pane]) -> bool:
    return any(pane.picture.shape[1] > _WIDE * pane.picture.shape[0] for pane in panes)


def _about(image: Explained) -> str:
    return f"why {image.target.name}: {image.target.about}"


def _chips(image: Explained, findings: Findings) -> list[Chip]:
    run, total = findings.run, image.prediction.size
    counts = {k: int((image.prediction == k).sum()) for k in sorted({int(k) for k in image.prediction.flat})}
    ordered = sorted(counts, key=lambda k: -counts[k])[:_MOST_CHIPS]
    return [
        Chip(
            run.spec.class_names[k],
            "#" + bytes(int(v) for v in run.colours[k]).hex(),
            f"{counts[k] / total:.1%}",
            k == image.target.number,
        )
        for k in ordered
    ]


def _facts_line(findings: Findings) -> str:
    run = findings.run
    metrics = run.record.get("metrics")
    score = metrics.get("test/miou") if isinstance(metrics, Mapping) else None
    parts = [str(run.model_node.get("_target_", "")).rpartition(".")[2], str(run.model_node.get("family", ""))]
    parts += [f"test mIoU {score:.4f}"] if isinstance(score, int | float) else []
    parts.append(f"{len(findings.images)} image{'' if len(findings.images) == 1 else 's'}")
    return " · ".join(part[:80] for part in parts if part)


def _point(findings: Findings) -> str:
    point = findings.settings.point
    return f"row {point[0]}, column {point[1]}" if point else "the centre"


def _field_about(findings: Findings) -> str:
    if not findings.fields:
        return ""
    first = findings.fields[0]
    views = f"{first.num_images} image{'' if first.num_images == 1 else 's'}"
    if first.num_views > first.num_images:
        views = f"{first.num_views} views of {views}, shifted around"
    return (
        f"How much each pixel changes what is predicted at {_point(findings)}: mean size of the gradient of the "
        f"logits, over {views}. Colours are logarithmic, from a ten-thousandth of the strongest to the strongest."
    )


def _field_table(findings: Findings) -> Table:
    header = ("run", "family", "50 % within", "90 % within", "95 % within", "at most")
    rows = [
        (f.name, f.family, *(f"{f.side(s)}x{f.side(s)}" for s in (0.5, 0.9, 0.95)), extent_short(f))
        for f in findings.fields
    ]
    return Table("", header, rows, ("run", "family"))


def _made(findings: Findings) -> list[Fact]:
    run, settings = findings.run, findings.settings
    facts = [Fact("weights, SHA-256", run.weights_sha256[:16])]
    if findings.images and findings.images[0].maps:
        facts.append(Fact("baseline", f"{settings.baseline} colour"))
    if findings.layer:
        facts.append(Fact("Grad-CAM, layer", findings.layer))
    if findings.images and "integrated-gradients" in findings.images[0].maps:
        facts.append(Fact("integrated gradients, steps", str(settings.steps)))
    size = run.spec.size
    facts.append(Fact("size", f"{size[0]}x{size[1]}, {run.fit}" if size else "that of each image"))
    return facts


def _shown(pane: Pane) -> Shown:
    data = base64.b64encode(png(_small(pane.picture))).decode()
    return Shown(pane.title, f"data:image/png;base64,{data}", pane.caption)


def _small(picture: Picture) -> Picture:
    step = -(-max(picture.shape[0], picture.shape[1]) // _SIDE)
    if step == 1:
        return picture
    height, width = (side // step * step for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // step, step, width // step, step, 3)
    small: Picture = blocks.mean(axis=(1, 3)).astype(picture.dtype)
    return small
