"""``segsweep-predict``: a finished run on images of one's own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segsweep.images.inputs import Input, find_inputs
from segsweep.images.options import add_reading, said
from segsweep.predict import TTA
from segsweep.predict.names import KINDS
from segsweep.report.printable import printable
from segsweep.signals import Interrupted, handled
from segsweep.startup import importing

if TYPE_CHECKING:
    from segsweep.predict.predictor import Predictor

_DESCRIPTION = """\
Segments images with a finished run: files, folders (and all below), patterns, TIFFs of several pages, images of any
size. Writes PNGs of class numbers with the dataset's palette into DIR, or GeoTIFFs where the image has a georeference,
and a line about each into DIR/predictions.jsonl. The same command again does what is left."""
_EXAMPLES = """\
examples:
  segsweep-predict outputs/sweeps/families/model=unet,seed=0 photos/ --out predictions
  segsweep-predict RUN 'scans/**/*.tif' --out predictions --overlay --entropy
  segsweep-predict RUN photos/ --out predictions --with RUN2 --with RUN3 --tta flips
Exit code 0: all are there. 1: some could not be predicted, a line each, or nothing was begun. docs/predict.md"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``segsweep-predict``."""
    options = _parser().parse_args(arguments)
    try:
        with handled():
            code = _predict(options)
    except Interrupted as interrupted:
        _say(f"{interrupted.kind}; the same command does what is left")
        raise
    except (OSError, ValueError) as error:
        for line in str(error).splitlines():
            _say(line)
        code = 1
    if code:
        sys.exit(code)


def _predict(options: argparse.Namespace) -> int:
    inputs, lines = find_inputs(options.images, options.out)
    for line in lines:
        _say(line)
    if not inputs:
        return 1
    predictor = _load(options)
    for note in predictor.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    return _run(predictor, inputs, options, len(lines))


def _load(options: argparse.Namespace) -> Predictor:
    with importing():  # here, because --help needs no torch
        from segsweep.predict.predictor import Predictor

    return Predictor(
        options.run,
        options.trust,
        others=options.others,
        tta=options.tta,
        flips=options.flips,
        tile="never" if options.whole else options.tile and (options.tile[0], options.tile[1]),
        overlap=options.overlap,
        device=options.device,
        **said(options),
    )


def _run(predictor: Predictor, inputs: Sequence[Input], options: argparse.Namespace, num_missing: int) -> int:
    from rich.console import Console
    from rich.progress import track

    from segsweep.predict.job import Job
    from segsweep.predict.manifest import FILE, Manifest
    from segsweep.predict.writing import Writer

    kinds = [kind for kind in KINDS if getattr(options, kind)]
    out: Path = options.out
    with Manifest(out, _belongs_to(predictor, kinds, options)) as manifest:
        job = Job(predictor, manifest, Writer(out, kinds, predictor.colours), options.georeference, _say)
        console = Console(stderr=True)
        steps = track(
            job.run(inputs), "predicting", len(inputs), console=console, transient=True, disable=not sys.stderr.isatty()
        )
        for _ in steps:
            pass
    failed = job.num_failed + num_missing
    there = f", {job.num_there} there already" if job.num_there else ""
    print(f"{job.num_written} predicted{there}{f', {failed} could not be' if failed else ''}: {out}/{FILE}")
    return 1 if failed else 0


def _belongs_to(predictor: Predictor, kinds: Sequence[str], options: argparse.Namespace) -> dict[str, object]:
    """What decides the content of every file."""
    ensemble, reading = predictor.ensemble, predictor.reading
    return {
        "runs": [run.name for run in predictor.runs],
        "weights": [run.weights_sha256 for run in predictor.runs],
        "classes": list(predictor.class_names),
        "options": {
            "files": ["classes", *kinds],
            "flips": [flip or "none" for flip in ensemble.flips],
            "scales": ensemble.scales,
            "tile": "never" if ensemble.is_whole else ensemble.tile,
            "overlap": ensemble.overlap,
            "precision": ensemble.precision,
            "scale": reading.scale,
            "alpha": reading.alpha,
            "exif": reading.exif,
            "georeference": options.georeference,
        },
    }


def _say(line: str) -> None:
    print(f"error: {printable(line)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segsweep-predict",
        usage="%(prog)s RUN IMAGES... --out DIR [options]\n"
        "example: %(prog)s outputs/sweeps/families/model=unet,seed=0 photos/ --out masks --overlay",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, or patterns in quotes")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or one to continue")
    _add_outputs(parser.add_argument_group("what is written beside the class numbers"))
    _add_ways(parser.add_argument_group("how images are segmented"))
    add_reading(parser).add_argument(
        "--no-georeference", dest="georeference", action="store_false", help="write PNGs whatever the image has"
    )
    return parser


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--overlay", action="store_true", help="NAME.overlay.png: the classes' colours over the image")
    group.add_argument(
        "--entropy",
        action="store_true",
        help="NAME.entropy.png: uncertainty, 16-bit grey, white where all classes are equally likely",
    )
    group.add_argument(
        "--probabilities",
        action="store_true",
        help="NAME.probabilities.npy: of each class, float16 (K, H, W), 2 bytes a class and pixel",
    )


def _add_ways(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--with",
        dest="others",
        action="append",
        default=[],
        type=Path,
        metavar="RUN2",
        help="average the probabilities with those of another run of the same data; may be repeated",
    )
    group.add_argument("--tta", choices=TTA, help="average over flips of the image, over scales 0.75, 1, 1.25, or both")
    group.add_argument(
        "--flips",
        nargs="+",
        choices=("h", "v", "hv"),
        help="left and right, up and down, both: which of them, besides none (default: those it was trained with)",
    )
    tiles = group.add_mutually_exclusive_group()
    tiles.add_argument(
        "--tile",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="overlapping tiles of this size in pixels (default: as the run was tested; 512 512 for what is too large)",
    )
    tiles.add_argument("--whole", action="store_true", help="never by tiles, whatever memory that takes")
    group.add_argument("--overlap", type=float, metavar="SHARE", help="of a tile (default: as the run was tested)")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    group.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE.CLASS",
        help="a model class of yours that the run may have built; may be repeated",
    )


if __name__ == "__main__":
    main()
