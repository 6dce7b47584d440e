"""``segsweep-explain``: why a finished run decided so, and what it can see, from its folder and some images."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segsweep.images.inputs import find_inputs
from segsweep.images.options import add_reading, refuse_said, said
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.startup import importing

if TYPE_CHECKING:
    from collections.abc import Callable

    from segsweep.explain.findings import Findings, Settings
    from segsweep.explain.images import Sample

_PARTS = ("attribution", "receptive-field", "uncertainty", "calibration")
_METHODS = ("grad-cam", "integrated-gradients", "occlusion")
_BASELINES = ("mean", "black", "white")
_OUT = Path("outputs", "explain")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``segsweep-explain``."""
    options = _parser().parse_args(arguments)
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _explain(options, shlex.join(["segsweep-explain", *typed]))
    except (OSError, ValueError) as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(1)


def _explain(options: argparse.Namespace, command: str) -> None:
    with importing():  # here, because --help needs no torch
        from segsweep.claims import refuse_foreign
        from segsweep.explain.attribution import captum, patches
        from segsweep.explain.images import read_samples, split_samples
        from segsweep.explain.masks import with_masks
        from segsweep.explain.target import class_number
        from segsweep.explain.work import find_out, num_passes
        from segsweep.explain.write import MARKER, write
        from segsweep.images.reading import Reading
        from segsweep.opened import open_finished

    settings = _settings(options)
    patches((1, 1), settings.patch, settings.stride)  # a mistake in them is said before anything is opened
    inputs, lines = find_inputs(options.images, options.out or _OUT)
    if lines:
        raise ConfigError("\n".join(lines))
    run = open_finished(options.run, options.trust)
    out = options.out or _OUT / _plain(run.name)
    refuse_foreign(out, MARKER, run.weights_sha256)
    compare, ensemble = ([open_finished(f, options.trust) for f in fs] for fs in (options.compare, options.ensemble))
    if settings.class_name is not None:
        class_number(settings.class_name, run.spec)
    if "attribution" in settings.parts:
        captum()
    samples: list[Sample] = []
    if inputs:
        reading = Reading.of_run(run.data_node, run.spec.in_channels, **said(options))
        samples = read_samples(inputs, run.spec, run.fit, reading)
        if options.masks:
            samples = with_masks(samples, options.masks, run.spec, run.data_node, reading)
    samples += split_samples(run, options.test, options.root) if options.test else []
    with _bar(num_passes(run, samples, settings, len(compare))) as tick:
        findings = find_out(run, samples, settings, compare, ensemble, options.masks is not None, tick)
    write(findings, out, command)
    _print(findings, samples, out)


def _settings(options: argparse.Namespace) -> "Settings":
    from segsweep.explain.findings import Settings

    for name, value, least in (
        ("--steps", options.steps, 2),
        ("--dropout-passes", options.dropout_passes, 2),
        ("--most", options.most, 1),
    ):
        if value < least:
            raise ConfigError(f"{name} {value}: give {least} or more")
    if not options.images and not options.test:
        raise ConfigError("there is nothing to explain: give images, or numbers of test images with --test")
    if options.masks and not options.images:
        raise ConfigError("--masks belong to image files; those of --test are known")
    if not options.images:
        refuse_said(options, "IMAGES")
    if options.root and not options.test:
        raise ConfigError("--root is where the data of the run lies, for --test. Leave it out")
    if options.class_name is not None and options.point is not None:
        raise ConfigError("--class and --point exclude each other: the point chooses the class that is predicted there")
    if options.compare and "receptive-field" not in options.only:
        raise ConfigError("--compare shows receptive fields, which --only leaves out. Leave out one of them")
    if options.ensemble and "uncertainty" not in options.only:
        raise ConfigError("--ensemble shows uncertainty, which --only leaves out. Leave out one of them")
    if options.masks and "calibration" not in options.only:
        raise ConfigError("--masks are for the calibration, which --only leaves out. Leave out one of them")
    return Settings(
        parts=tuple(part for part in _PARTS if part in options.only),
        methods=tuple(method for method in _METHODS if method in options.methods),
        class_name=options.class_name,
        point=None if options.point is None else (options.point[0], options.point[1]),
        layer=options.layer,
        steps=options.steps,
        baseline=options.baseline,
        patch=options.patch,
        stride=options.stride,
        sanity=not options.no_sanity,
        dropout_passes=options.dropout_passes,
        most=options.most,
    )


@contextmanager
def _bar(total: int) -> "Iterator[Callable[[int], None]]":
    """A progress bar for whoever looks; it vanishes when it is full."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("explaining", total=total)
        yield lambda num: progress.advance(task, num)


def _print(findings: "Findings", samples: "Sequence[Sample]", out: Path) -> None:
    from segsweep.explain.page import sentences

    num = len(samples)
    print(f"{findings.run.name}: {num} image{'' if num == 1 else 's'}")
    for image in findings.images:
        print(printable(f"  {image.sample.name}: {image.target.name}, {image.target.about}"))
    for sentence in sentences(findings):
        print(printable(f"  {sentence.subject}: {sentence.text}"))
    for note in findings.notes:
        print(printable(f"  {note}"))
    print(f"written: {out}/index.html, images/*.png, explain.json")
    print(f"written: {out}/events.out.tfevents.*, pictures for: tensorboard --logdir {shlex.quote(str(out))}")


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.+=," else "_" for c in name).strip(".")[:100] or "run"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segsweep-explain",
        usage="%(prog)s RUN IMAGES... [options]\nexample: %(prog)s outputs/sweeps/families/model=unet,seed=0 new/a.png",
        description="Explains why a finished run predicts a class in images (Seg-Grad-CAM, integrated gradients, "
        "occlusion), what it sees (effective receptive field), how sure it is and whether that is right (uncertainty, "
        "calibration). Writes one page, PNG files, explain.json and TensorBoard pictures.",
        epilog="examples: segsweep-explain outputs/sweeps/families/model=unet,seed=0 images/*.png; "
        "segsweep-explain RUN --test 345; segsweep-explain RUN image.png --point 120 80; "
        "segsweep-explain RUN images/ --only receptive-field --compare RUN2",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("images", nargs="*", metavar="IMAGES", help="files, folders, or patterns in quotes")
    parser.add_argument("--out", type=Path, help="where to write (default: outputs/explain/<name of the run>)")
    parser.add_argument("--test", nargs="+", type=int, default=[], metavar="N", help="images of the run's own test "
                        "split, by number as in test_examples/")  # fmt: skip
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the data of the run lies, for --test; embedded "
                        "data need none")  # fmt: skip
    what = parser.add_argument_group("what is explained")
    what.add_argument("--class", dest="class_name", metavar="NAME", help="class to explain, over the pixels predicted "
                      "as it (default: the most frequent one but class 0)")  # fmt: skip
    what.add_argument("--point", nargs=2, type=int, metavar=("ROW", "COL"), help="explain the connected region of the "
                      "class predicted there, in pixels of the image file from 0")  # fmt: skip
    what.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, metavar="PART", help=", ".join(_PARTS))
    what.add_argument("--most", type=int, default=8, help="images to explain one by one (default: %(default)s); the "
                      "others count in the receptive field and the calibration")  # fmt: skip
    how = parser.add_argument_group("attribution")
    how.add_argument("--methods", nargs="+", choices=_METHODS, default=_METHODS, metavar="METHOD",
                     help=", ".join(_METHODS))  # fmt: skip
    how.add_argument("--layer", metavar="NAME", help="map that Grad-CAM weighs (default: the encoder's last)")
    how.add_argument("--baseline", choices=_BASELINES, default="mean", help="what stands for nothing: the data's mean "
                     "colour (default), black or white")  # fmt: skip
    how.add_argument("--steps", type=int, default=64, help="of integrated gradients (default: %(default)s)")
    how.add_argument("--patch", type=int, help="pixels, side of an occluding patch (default: so that 400 places do)")
    how.add_argument("--stride", type=int, help="pixels from patch to patch (default: half a patch)")
    how.add_argument("--no-sanity", action="store_true", help="do not compare the maps with those of random weights")
    add_reading(parser)
    more = parser.add_argument_group("other runs and truth")
    more.add_argument("--compare", nargs="+", action="extend", type=Path, default=[], metavar="RUN",
                      help="runs whose receptive fields stand beside this one's")  # fmt: skip
    more.add_argument("--ensemble", nargs="+", action="extend", type=Path, default=[], metavar="RUN",
                      help="runs (seeds) that are asked with this one: entropy of the mean, disagreement")  # fmt: skip
    more.add_argument("--dropout-passes", type=int, default=20, metavar="N", help="of MC dropout, for a model that has "
                      "dropout (default: %(default)s)")  # fmt: skip
    more.add_argument("--masks", type=Path, metavar="DIR", help="masks of the images (equal stems): calibration on "
                      "them, beside that of the run's test split")  # fmt: skip
    more.add_argument("--trust", action="append", default=[], metavar="CLASS", help="a model class outside of segsweep "
                      "that may be built, e.g. my_pkg.MyNet; repeatable")  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
