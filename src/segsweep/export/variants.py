"""The graphs of a run that were asked for."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from segsweep.export.graphs import Format, Graph, Pixels, make_graph, named
from segsweep.export.images import Images
from segsweep.export.quantise import quantise
from segsweep.export.trace import Deployed, NotExportableError
from segsweep.opened import OpenedRun
from segsweep.run import ConfigError

NAMES = {
    "onnx": "model.onnx",
    "onnx half": "model.half.onnx",
    "onnx int8": "model.int8.onnx",
    "torch.export": "model.pt2",
    "torch.export half": "model.half.pt2",
}


@dataclass(frozen=True)
class Variant:
    """A graph in one of its forms.

    Attributes:
        name: of ``NAMES``.
        kind: ``onnx`` or ``torch``.
        graph: the file's content.
        is_exact: whether it is to answer as the model does; else it is a trade that the table shows.
        num_calibrated: images that its scales were chosen with, if they were.
    """

    name: str
    kind: Format
    graph: Graph
    is_exact: bool
    num_calibrated: int = 0


def make_variants(
    run: OpenedRun,
    formats: Sequence[Format],
    size: tuple[int, int],
    images: Images,
    with_int8: bool,
    with_half: bool,
    say: Callable[[str], None],
) -> Iterator[Variant]:
    """Makes what was asked for, one after another.

    Raises:
        ConfigError: no image is large enough to calibrate int8 on.
        NotExportableError: one of them cannot be made.
    """
    about = describe(run, size)
    for kind in formats:
        base = "onnx" if kind == "onnx" else "torch.export"
        for is_half in (False, True) if with_half else (False,):
            name = f"{base} half" if is_half else base
            say(f"making {NAMES[name]}")
            model = Deployed(run.model, run.spec, torch.float16 if is_half else torch.float32).eval()
            try:
                graph = make_graph(kind, model, run.spec.in_channels, size, about | {"variant": json.dumps(name)})
            except NotExportableError as error:
                raise NotExportableError(f"{name}: {error}") from error
            yield Variant(name, kind, graph, not is_half)
            if kind == "onnx" and with_int8 and not is_half:
                say(f"making {NAMES['onnx int8']}")
                yield _int8(graph, images, about, size)


def _int8(graph: Graph, images: Images, about: dict[str, str], size: tuple[int, int]) -> Variant:
    pixels = list(_calibration(images, size, graph.is_free))
    if not pixels:
        height, width = size
        raise ConfigError(
            f"int8: no image to calibrate on is as large as {height}x{width}, which is all that the graph takes. Give "
            "larger ones with --images"
        )
    own = {"sizes": json.dumps(named(size, graph.is_free)), "variant": json.dumps("onnx int8")}
    data = quantise(graph.data, pixels, about | own)
    return Variant("onnx int8", "onnx", dataclasses.replace(graph, data=data), False, len(pixels))


def _calibration(images: Images, size: tuple[int, int], is_free: bool) -> Iterator[Pixels]:
    """Images as they are if the graph takes them, else the part in their middle."""
    for picture in images.calibration:
        pixels = picture.pixels
        if pixels.shape[1:] != size and (not is_free or pixels[0].size > 4 * size[0] * size[1]):
            if pixels.shape[1] < size[0] or pixels.shape[2] < size[1]:
                continue
            top, left = (pixels.shape[1] - size[0]) // 2, (pixels.shape[2] - size[1]) // 2
            pixels = pixels[:, top : top + size[0], left : left + size[1]]
        yield pixels[None]


def describe(run: OpenedRun, size: tuple[int, int]) -> dict[str, str]:
    """What a user of the file has to know, as text that every reader takes for text: JSON in ASCII."""
    spec = run.spec
    facts: dict[str, Any] = {
        "input": "pixels (N, C, H, W) uint8, 0..255 as in the image file, RGB or grey; standardised inside",
        "output": "logits (N, K, H, W) float32; the class of a pixel is the largest",
        "class_names": spec.class_names,
        "in_channels": spec.in_channels,
        "mean": spec.mean,
        "std": spec.std,
        "trained_size": spec.size,
        "example_size": size,
        "fit": run.fit,
        "tile": spec.tile,
        "tile_overlap": spec.tile_overlap,
        "ignore_index": spec.ignore_index,
        "palette": run.colours[: len(spec.class_names)].tolist(),
        "run": run.name,
        "weights_sha256": run.weights_sha256,
        "made_by": "segsweep-export",
        "torch": str(torch.__version__),
    }
    return {key: json.dumps(value) for key, value in facts.items()}
