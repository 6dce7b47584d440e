"""``segsweep-export``: a finished run as files that run without segsweep, checked, shrunk and measured."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from segsweep.images.options import add_reading
from segsweep.report.printable import printable
from segsweep.startup import importing


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``segsweep-export``."""
    options = _parser().parse_args(arguments)
    needed = ("onnx", "onnxruntime", "onnxscript") if "onnx" in options.format else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f'error: --format onnx needs {", ".join(missing)}: pip install "segsweep[export]"', file=sys.stderr)
        sys.exit(1)
    if options.quantize and "onnx" not in options.format:
        print("error: --quantize int8 is made from ONNX: add onnx to --format", file=sys.stderr)
        sys.exit(1)
    with importing():
        from segsweep.data.problems import DataError, Problem
        from segsweep.export.trace import NotExportableError
        from segsweep.export.work import Disagreement, export
        from segsweep.run import ConfigError

    try:
        export(options)
    except (ConfigError, DataError, Problem, NotExportableError, Disagreement, RuntimeError, OSError) as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(1)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give 0 to 1, e.g. 0.999")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segsweep-export",
        usage="%(prog)s RUN [options]\nexample: %(prog)s outputs/sweeps/families/model=unet,seed=0 --quantize int8",
        description="Writes the best weights of a finished run as graphs that run without segsweep: ONNX in one file, "
        "torch.export. Compares each with the model on real images, measures size, time, memory and mIoU, and writes "
        "nothing if one that should be equal is not.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    formats = ("onnx", "torch")
    parser.add_argument("--format", nargs="+", choices=formats, default=formats, help="default: both")
    parser.add_argument("--quantize", choices=("int8",), help="8-bit integers, too, calibrated on training images")
    parser.add_argument("--half", action="store_true", help="float16, too: half the size; on most CPUs not faster")
    parser.add_argument(
        "--images", nargs="+", metavar="IMAGES",
        help="compare on one half of these, calibrate on the other: files, folders, or patterns in quotes",
    )  # fmt: skip
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the run's dataset lies, if it lies on disk")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: outputs/export/<name of the run>")
    parser.add_argument(
        "--tolerance", type=_share, default=0.999, metavar="SHARE",
        help="of pixels that must have the class that torch says, in float32 (default: 0.999)",
    )  # fmt: skip
    parser.add_argument("--limit", type=_whole, default=500, metavar="N", help="images compared (default: 500)")
    parser.add_argument("--threads", type=_whole, default=1, metavar="N", help="CPU threads timed (default: 1)")
    parser.add_argument("--rounds", type=_whole, default=11, metavar="N", help="of timing (default: 11; 0: none)")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="CLASS",
        help="a model class outside segsweep that may be built, e.g. my_pkg.MyNet; repeatable",
    )  # fmt: skip
    add_reading(parser)
    return parser


if __name__ == "__main__":
    main()
