"""The pictures of each image, with what stands below them: for the page, the files and TensorBoard alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segsweep.explain.attribution import Attribution
from segsweep.explain.drawing import Picture, classes, enlarged, heat, level, outlined, photo, signed, truth
from segsweep.explain.field import Field
from segsweep.explain.findings import Explained, Findings
from segsweep.explain.uncertainty import Doubt

TITLES = {"grad-cam": "Seg-Grad-CAM", "integrated-gradients": "Integrated gradients", "occlusion": "Occlusion"}
_DECADES = 4  # of sensitivity that are shown
_HELD = 0.9


@dataclass(frozen=True)
class Pane:
    """One picture.

    Attributes:
        key: for file names and tags.
        title: above it.
        picture: (H, W, 3) uint8, enlarged.
        caption: below it.
    """

    key: str
    title: str
    picture: Picture
    caption: str


@dataclass(frozen=True)
class Tops:
    """What is shown at full strength, the same for all images, so that they can be compared."""

    entropy: float
    dropout: float
    ensemble: float


def tops(findings: Findings) -> Tops:
    """The largest values over all images."""
    images = findings.images
    return Tops(
        _largest([image.doubt.entropy for image in images if image.doubt]),
        _largest([m for image in images if image.dropout and (m := image.dropout.mutual) is not None]),
        _largest([m for image in images if image.ensemble and (m := image.ensemble.mutual) is not None]),
    )


def panes(image: Explained, findings: Findings, top: Tops) -> list[Pane]:
    """Image, prediction with the region that is explained, and every map."""
    run, target = findings.run, image.target
    seen = photo(image.sample.image, run.spec)
    height, width = image.prediction.shape
    native = image.sample.native
    resized = "" if native == (height, width) else f", from {native[1]}x{native[0]}"
    result = [
        Pane("image", "Image", enlarged(seen), f"{width}x{height} pixels{resized}"),
        Pane(
            "prediction",
            "Prediction",
            outlined(classes(seen, image.prediction, run.colours), target.region),
            f"outlined: what is explained, {target.name}",
        ),
    ]
    if image.sample.mask is not None:
        result.insert(1, Pane("truth", "Truth", enlarged(truth(seen, image.sample.mask, run.colours)), "the mask"))
    for method, found in image.maps.items():
        draw = heat if method == "grad-cam" else signed
        caption = _said(method, found, image.sanity.get(method), findings)
        result.append(Pane(method, TITLES[method], enlarged(draw(seen, found.values)), caption))
    if image.doubt:
        caption = f"entropy of the softmax, mean {image.doubt.entropy.mean():.3f}; brightest: {top.entropy:.2f}"
        result.append(Pane("entropy", "Uncertainty", enlarged(level(image.doubt.entropy, top.entropy)), caption))
    more = (("dropout", "dropout passes", image.dropout), ("ensemble", "runs", image.ensemble))
    for key, members, doubt in more:
        if doubt and doubt.mutual is not None:
            result += _disagreement(key, members, doubt, getattr(top, key), top.entropy)
    return result


def field_pane(field: Field) -> Pane:
    """The receptive field on a logarithmic scale, with the square that holds 90 %."""
    strongest = max(float(field.sensitivity.max()), 1e-300)
    decades = np.log10(np.maximum(field.sensitivity / strongest, 10.0**-_DECADES)) / _DECADES + 1
    picture = level(decades)
    row, column = field.point
    reach = field.side(_HELD) // 2
    inside = np.zeros(field.sensitivity.shape, bool)
    inside[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
    caption = f"90 % within {field.side(_HELD)}x{field.side(_HELD)} pixels (outlined); {extent_text(field)}"
    return Pane(f"receptive-field-{field.name}", field.name, outlined(picture, inside), caption)


def extent_text(field: Field) -> str:
    """The theoretical receptive field in words."""
    extent = field.extent
    if extent.height is None and extent.width is None:
        return f"could see all of an image, as far as was looked ({extent.canvas[0]}x{extent.canvas[1]})"
    height = extent.height or f"over {extent.canvas[0]}"
    width = extent.width or f"over {extent.canvas[1]}"
    return f"could see {height}x{width} pixels at most"


def extent_short(field: Field) -> str:
    """The theoretical receptive field for a table."""
    extent = field.extent
    if extent.height is None and extent.width is None:
        return f"all of {extent.canvas[0]}x{extent.canvas[1]}"
    return f"{extent.height or f'over {extent.canvas[0]}'}x{extent.width or f'over {extent.canvas[1]}'}"


def _said(method: str, found: Attribution, sanity: float | None, findings: Findings) -> str:
    parts = []
    if method == "grad-cam":
        parts.append(f"of {findings.layer}")
    if found.gap is not None and found.total is not None and found.difference is not None:
        parts.append(f"adds up to {found.total:.3g} of {found.difference:.3g} ({found.gap:.1%} apart)")
    if method == "occlusion":
        parts.append(f"output falls by up to {max(0.0, float(found.values.max())):.3g}")
    if sanity is not None:
        parts.append(f"correlation with random weights {sanity:+.2f}")
    return "; ".join(parts)


def _disagreement(key: str, members: str, doubt: Doubt, top: float, top_entropy: float) -> list[Pane]:
    mutual = doubt.mutual if doubt.mutual is not None else np.zeros_like(doubt.entropy)
    said = f"of {doubt.num} {members}, mean "
    return [
        Pane(
            f"{key}-entropy",
            f"Uncertainty of the {members}",
            enlarged(level(doubt.entropy, top_entropy)),
            f"entropy of the mean {said}{doubt.entropy.mean():.3f}; brightest: {top_entropy:.2f}",
        ),
        Pane(
            f"{key}-disagreement",
            f"Disagreement of the {members}",
            enlarged(level(mutual, top)),
            f"mutual information {said}{mutual.mean():.4f}; brightest: {top:.3f}",
        ),
    ]


def _largest(maps: list[NDArray[np.float32]]) -> float:
    return max((float(values.max()) for values in maps), default=1.0) or 1.0
