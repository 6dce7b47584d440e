"""Charts of the page: the reliability diagram, and how the receptive field fills."""

from collections.abc import Sequence

from segsweep.counting import NUM_BINS
from segsweep.explain.calibration import Calibration
from segsweep.explain.field import Field
from segsweep.report.charts.figure import Figure
from segsweep.report.charts.plot import CHART_LETTERS, Axis, Mark, Plot
from segsweep.report.charts.svg import element, text, title
from segsweep.report.page.roster import abbreviated, short_names

_WIDTH, _TOP, _SIDE, _LEFT = 372.0, 10.0, 250.0, 46.0  # user units: a square with bars, counts below
_COUNTS, _GAP = 52.0, 34.0


def reliability(calibration: Calibration) -> Figure:
    """Accuracy of the pixels of each bin of confidence, with how many there are below."""
    pixels, confidence, right = calibration.counts.T
    parts = [*_axes(), _diagonal()]
    width = _SIDE / NUM_BINS
    foot = _TOP + _SIDE + _GAP + _COUNTS
    for i in range(NUM_BINS):
        if not pixels[i]:
            continue
        accuracy, mean, share = right[i] / pixels[i], confidence[i] / pixels[i], pixels[i] / pixels.sum()
        hover = (
            f"confidence {i / NUM_BINS:.2f} to {(i + 1) / NUM_BINS:.2f}: {int(pixels[i]):,} pixels ({share:.2%}), "
            f"mean confidence {mean:.3f}, accuracy {accuracy:.3f}"
        )
        x, height = _LEFT + i * width + 1, float(accuracy * _SIDE)
        parts.append(_bar(x, _TOP + _SIDE - height, width - 2, height, "bin", hover))
        gap = abs(mean - accuracy) * _SIDE
        top = _TOP + _SIDE - max(mean, accuracy) * _SIDE
        parts.append(_bar(x, float(top), width - 2, float(gap), "over" if mean > accuracy else "under", hover))
        tall = max(1.0, float(share * _COUNTS))
        parts.append(_bar(x, foot - tall, width - 2, tall, "bin", hover))
    parts.append(_line(_LEFT, foot, _LEFT + _SIDE, foot, "axis"))
    parts.append(text("share of pixels", _LEFT - 6, foot - _COUNTS / 2 + 4, "tick", "end"))
    parts.append(text("100 %", _LEFT + _SIDE + 6, foot - _COUNTS + 4, "tick"))
    svg = element(
        "svg", *parts, viewBox=f"-40 0 {_WIDTH:g} {foot + 8:g}", role="img", class_="plot reliability",
        aria_label=f"Reliability diagram of {calibration.about}",
    )  # fmt: skip
    caption = (
        f"{int(pixels.sum()):,} pixels of {calibration.num_images:,} images in {NUM_BINS} equal bins. Dashed: "
        "confidence is accuracy. Orange: more confident than right, green: less. Below: how many pixels a bin has."
    )
    return Figure(f"Reliability: {calibration.about}", svg, caption)


def filling(fields: Sequence[Field]) -> Figure:
    """Share of the sensitivity within squares around the point, a line for each model."""
    labels = short_names([field.name.replace(",", " ") for field in fields])
    marks = [
        Mark(field.name, label, abbreviated(label, CHART_LETTERS), slot)
        for slot, (field, label) in enumerate(zip(fields, labels, strict=True))
    ]
    curves = [[(float(2 * r + 1), held) for r, held in enumerate(f.reach())] for f in fields]
    sides = [x for curve in curves for x, _ in curve]
    longest = max(map(len, labels)) if len(fields) > 1 else 0
    plot = Plot(
        Axis("side of the square around the point, pixels", sides),
        Axis("share of the sensitivity", [0.0, 1.0], limits=(0, 1)),
        longest,
    )
    for share in (0.5, 0.9):
        plot.level(share, f"{share:.0%}")
    for mark, field, curve in zip(marks, fields, curves, strict=True):
        said = ", ".join(f"{s:.0%} within {field.side(s)}" for s in (0.5, 0.9, 0.95))
        plot.line(mark, curve, hover=f"{field.name}: {said} pixels", is_named=len(fields) > 1)
    caption = "The sooner a curve rises, the more the prediction at the point rests on what lies around it."
    return Figure("How much lies how near", plot.render("Share of the sensitivity by distance"), caption)


def _axes() -> list[str]:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _LEFT + tick * _SIDE, _TOP + (1 - tick) * _SIDE
        parts.append(_line(_LEFT, y, _LEFT + _SIDE, y, "grid"))
        parts.append(text(f"{tick:g}", _LEFT - 6, y + 3.5, "tick", "end"))
        parts.append(text(f"{tick:g}", x, _TOP + _SIDE + 14, "tick", "middle"))
    parts.append(_line(_LEFT, _TOP + _SIDE, _LEFT + _SIDE, _TOP + _SIDE, "axis"))
    parts.append(text("confidence", _LEFT + _SIDE / 2, _TOP + _SIDE + 27, "title", "middle"))
    middle = _TOP + _SIDE / 2
    turned = f"rotate(-90 8 {middle:.1f})"
    parts.append(element("text", "accuracy", x=8.0, y=middle, class_="title", text_anchor="middle", transform=turned))
    return parts


def _diagonal() -> str:
    return _line(_LEFT, _TOP + _SIDE, _LEFT + _SIDE, _TOP, "level")


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _bar(x: float, y: float, width: float, height: float, class_: str, hover: str) -> str:
    return element("rect", title(hover), x=x, y=y, width=width, height=height, class_=class_)
