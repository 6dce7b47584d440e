"""What ``segsweep-export`` does, as a story: open, make, compare, measure, write."""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segsweep import hardware
from segsweep.claims import refuse_foreign
from segsweep.export import table, timing
from segsweep.export.agreement import REFERENCE, Agreement, compare
from segsweep.export.graphs import Pixels, Runner, named, onnx_runner, torch_runner
from segsweep.export.images import Images, images_of_files, images_of_run
from segsweep.export.trace import Deployed, NotExportableError
from segsweep.export.variants import NAMES, Variant, describe, make_variants
from segsweep.files import write_atomic
from segsweep.images.inputs import find_inputs
from segsweep.images.options import refuse_said, said
from segsweep.images.reading import Reading
from segsweep.opened import OpenedRun, open_finished
from segsweep.run import ConfigError

_SIZE = (256, 256)  # where a run fixes no size
_POINT = 0.01  # of mIoU: a loss that is said
_MOST_SIDE = 4096  # pixels of a crop that is believed
_WIDTH = 170  # characters, where nobody looks: a file or a pipe


class Disagreement(RuntimeError):  # noqa: N818
    """A graph that does not answer as the model does."""


def export(options: argparse.Namespace) -> None:
    """Exports a run as the command line says.

    Raises:
        ConfigError: the run or the images are not what they should be.
        NotExportableError: no graph can be made.
        Disagreement: a graph does not answer as the model does.
    """
    console = Console(width=None if os.isatty(1) else _WIDTH)
    run = open_finished(options.run, options.trust)
    out = options.out or Path("outputs", "export", run.name)
    _refuse_inside(out, options.run)
    refuse_foreign(out, "model.json", run.weights_sha256)
    size = run.spec.tile or run.spec.size or _crop(run) or _SIZE
    images = _images(run, size, options, out)
    if images.is_noise:
        console.print("warning: no real images at hand, so random noise stands in for them", style="yellow")
    with console.status("", spinner="dots") as status:
        formats, with_int8 = list(dict.fromkeys(options.format)), options.quantize == "int8"
        made = make_variants(run, formats, size, images, with_int8, options.half, status.update)
        variants = _made(made, run)
        status.update(f"comparing on {images.compared_on}")
        agreements = _compared(run, variants, images, size)
        _refuse_difference(variants, agreements, options.tolerance)
        status.update("measuring")
        rows = _rows(run, variants, agreements, size, options)
    facts = _facts(run, variants, images, size, options)
    _write(out, run, variants, rows, facts, size)
    _show(console, rows, facts, out)


def _images(run: OpenedRun, size: tuple[int, int], options: argparse.Namespace, out: Path) -> Images:
    most = max(1, options.limit)
    if not options.images:
        refuse_said(options, "--images")
        return images_of_run(run, size, options.root, most)
    if options.root:
        raise ConfigError("--root is where the run's own data lie, which --images replace. Leave out one of them")
    inputs, lines = find_inputs(options.images, out)
    if lines:
        raise ConfigError("\n".join(lines))
    reading = Reading.of_run(run.data_node, run.spec.in_channels, **said(options))
    named = ", ".join(Path(text).name or text for text in options.images)  # no path of the machine is written
    return images_of_files(inputs, named, run, reading, most, options.quantize == "int8")


def _made(made: Any, run: OpenedRun) -> list[Variant]:
    try:
        return list(made)
    except NotExportableError as error:
        target = str(run.model_node.get("_target_")).rpartition(".")[2]
        raise NotExportableError(
            f"{target} cannot be exported: {error}. docs/export.md lists what cannot, and why"
        ) from error


def _compared(run: OpenedRun, variants: list[Variant], images: Images, size: tuple[int, int]) -> dict[str, Agreement]:
    model = Deployed(run.model, run.spec).eval()

    def reference(pixels: Pixels) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(pixels)).numpy()

    runners: dict[str, Runner] = {REFERENCE: reference}
    for variant in variants:
        runners[variant.name] = (onnx_runner if variant.kind == "onnx" else torch_runner)(variant.graph.data)
    is_free = all(variant.graph.is_free for variant in variants)
    fits = run.spec.size == size and run.fit == "stretch"
    tile = run.spec.tile or (None if is_free or fits else size)
    return compare(runners, images.test, run.spec, tile)


def _refuse_difference(variants: list[Variant], agreements: dict[str, Agreement], tolerance: float) -> None:
    lines = [
        f"{variant.name}: only {found.equal:.3%} of the pixels have the class that torch says (largest difference of "
        f"logits {found.largest:.1e}), less than --tolerance {tolerance}; nothing was written"
        for variant in variants
        if variant.is_exact and not (found := agreements[variant.name]).equal >= tolerance
    ]
    if lines:
        raise Disagreement("\n".join(lines))


def _rows(
    run: OpenedRun,
    variants: list[Variant],
    agreements: dict[str, Agreement],
    size: tuple[int, int],
    options: argparse.Namespace,
) -> list[table.Row]:
    cpu: dict[str, timing.Cost] = {}
    gpu: dict[str, timing.Cost] = {}
    if options.rounds:
        with tempfile.TemporaryDirectory(prefix="segsweep-export-") as folder:
            files = {variant.name: (variant.kind, Path(folder) / NAMES[variant.name]) for variant in variants}
            for variant in variants:
                files[variant.name][1].write_bytes(variant.graph.data)
            shape = (1, run.spec.in_channels, *size)
            cpu = timing.measure(files, shape, max(1, options.threads), options.rounds)
            on_gpu = {name: file for name, file in files.items() if file[0] == "torch"}
            if on_gpu and torch.cuda.is_available():
                gpu = timing.measure(on_gpu, shape, 1, options.rounds, "cuda")
    base = cpu.get("onnx", cpu.get("torch.export"))
    weights = options.run / "checkpoints" / "best.safetensors"
    rows = [table.Row("torch", None, weights.stat().st_size, "any", "", agreements[REFERENCE], None, None, None)]
    for variant in variants:
        cost, graph = cpu.get(variant.name), variant.graph
        rows.append(
            table.Row(
                variant.name,
                NAMES[variant.name],
                len(graph.data),
                named(size, graph.is_free),
                graph.why_fixed,
                agreements[variant.name],
                cost,
                cost.times_faster_than(base) if cost and base else None,
                gpu.get(variant.name),
            )
        )
    return rows


def _facts(
    run: OpenedRun, variants: list[Variant], images: Images, size: tuple[int, int], options: argparse.Namespace
) -> dict[str, Any]:
    place = hardware.describe("gpu" if torch.cuda.is_available() else "cpu")["device"]
    return {
        "run": run.name,
        "weights_sha256": run.weights_sha256,
        "compared_on": images.compared_on,
        **_calibrated_on(variants, images),
        "timed": f"{size[0]}x{size[1]}, batch 1, {max(1, options.threads)} thread(s), median and quartiles of "
        f"{options.rounds} rounds",
        "machine": f"{place}; load {os.getloadavg()[0]:.1f}",
        "tolerance": options.tolerance,
    }


def _calibrated_on(variants: list[Variant], images: Images) -> dict[str, str]:
    """What the scales of int8 were chosen with, if it was made."""
    num = max(variant.num_calibrated for variant in variants)
    few = f"; only {num} of them are large enough" if num < len(images.calibration) else ""
    return {"calibrated_on": f"{images.calibrated_on}{few}"} if num else {}


def _write(
    out: Path, run: OpenedRun, variants: list[Variant], rows: list[table.Row], facts: dict[str, Any], size: Any
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    about = {key: json.loads(value) for key, value in describe(run, size).items()}
    write_atomic(out / "model.json", f"{json.dumps(about, indent=1)}\n".encode())
    for variant in variants:
        write_atomic(out / NAMES[variant.name], variant.graph.data)
    lines = [f"{key}: {value}" for key, value in facts.items()]
    write_atomic(out / "export.md", table.markdown(rows, lines, run.name).encode())
    write_atomic(out / "export.json", table.as_json(rows, facts).encode())


def _show(console: Console, rows: list[table.Row], facts: dict[str, Any], out: Path) -> None:
    for key in ("compared_on", "calibrated_on", "timed", "machine"):
        if key in facts:
            console.print(f"{key}: {facts[key]}", markup=False, highlight=False)
    console.print(table.screen(rows))
    for row in rows:
        if row.sizes != "any":
            console.print(f"{row.name} takes {row.sizes} only: {row.why_fixed}", markup=False, highlight=False)
    for line in _losses(rows):
        console.print(line, markup=False, highlight=False)
    for row in rows:
        if row.file:
            console.print(f"written: {out / row.file}", markup=False, highlight=False)
    console.print(f"written: {out}/model.json, export.md, export.json", markup=False, highlight=False)


def _losses(rows: list[table.Row]) -> Iterator[str]:
    """What costs more than a point of mIoU."""
    before = rows[0].agreement.miou
    for row in rows[1:]:
        after = row.agreement.miou
        if before is not None and after is not None and not before - after <= _POINT:
            yield f"warning: {row.name} loses {100 * (before - after):.1f} points of mIoU"


def _refuse_inside(out: Path, folder: Path) -> None:
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"--out {out} is inside the run folder, which stays as it is. Name another place")


def _crop(run: OpenedRun) -> tuple[int, int] | None:
    """That of the training, from the record: numbers that are checked, or none."""
    crop = run.data_node.get("crop")
    if not isinstance(crop, list) or len(crop) != 2:
        return None
    return (crop[0], crop[1]) if all(type(side) is int and 0 < side <= _MOST_SIDE for side in crop) else None
