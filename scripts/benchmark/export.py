"""What int8 and half bring on a CPU: graphs of a finished run, by turns in processes of their own, at several sizes.

Each round times every graph once; the ratio is taken within a round, so that a busy machine slows both. ``--choices``
compares ways to quantise instead: speed, mIoU on the run's test split, and equal pixels.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from measure import parser, print_head, print_table, ratios, spread

from segsweep.export.agreement import REFERENCE, compare
from segsweep.export.graphs import make_graph, onnx_runner
from segsweep.export.images import Images, images_of_run
from segsweep.export.quantise import quantise
from segsweep.export.timing import measure
from segsweep.export.trace import Deployed
from segsweep.export.variants import NAMES, make_variants
from segsweep.opened import OpenedRun, open_finished


def times(
    files: Mapping[str, tuple[str, Path]], channels: int, size: tuple[int, int], threads: int, rounds: int
) -> None:
    costs = measure(files, (1, channels, *size), threads, rounds)
    base = costs["onnx"].seconds
    rows = []
    for name, cost in costs.items():
        milliseconds = [1e3 * second for second in cost.seconds]
        rows.append((name, spread(milliseconds), spread(ratios(base, cost.seconds)), f"{cost.peak_mb:,.0f}"))
    print(f"{size[0]}x{size[1]}, {threads} thread{'s' * (threads > 1)}:\n")
    print_table(("graph", "ms", "times as fast as onnx", "peak MB"), rows)


def choices(run: OpenedRun, images: Images, folder: Path, rounds: int) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

    size = run.spec.size or (256, 256)
    data = make_graph("onnx", Deployed(run.model, run.spec).eval(), run.spec.in_channels, size, {}).data
    pixels = [picture.pixels[None] for picture in images.calibration]
    signed = {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}}
    ways = {
        "as segsweep-export": {},
        "weights of 8 bits": {"reduce_range": False},
        "one scale a layer": {"per_channel": False},
        "percentile": {"calibrate_method": CalibrationMethod.Percentile},
        "entropy": {"calibrate_method": CalibrationMethod.Entropy},
        "signed, symmetric activations": signed,
        "QOperator": {"quant_format": QuantFormat.QOperator},
        "convolutions alone": {"op_types_to_quantize": ["Conv"]},
    }
    made = {"onnx": data} | {name: quantise(data, pixels, {}, **changes) for name, changes in ways.items()}
    files = {}
    for i, (name, content) in enumerate(made.items()):
        files[name] = ("onnx", folder / f"{i}.onnx")
        files[name][1].write_bytes(content)
    runners = {name: onnx_runner(content) for name, content in made.items()}
    found = compare({REFERENCE: runners["onnx"], **runners}, images.test, run.spec, None)
    costs = measure(files, (1, run.spec.in_channels, *size), 1, rounds)
    rows = []
    for name in made:
        faster = spread(ratios(costs["onnx"].seconds, costs[name].seconds))
        miou = found[name].miou
        rows.append((name, faster, "" if miou is None else f"{miou:.4f}", f"{found[name].equal:.2%}"))
    print_table(("quantised", "times as fast as onnx", "mIoU", "equal pixels"), rows)


def main() -> None:
    options = parser(__doc__, rounds=21)
    options.add_argument("run", type=Path, help="folder of a finished run")
    options.add_argument("--sizes", nargs="+", default=["48x48", "192x256"], help="default: 48x48 192x256")
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    options.add_argument("--root", type=Path, help="of data on disk")
    options.add_argument("--choices", action="store_true", help="compare ways to quantise")
    args = options.parse_args()
    run = open_finished(args.run)
    size = run.spec.size or (256, 256)
    images = images_of_run(run, size, args.root, 500)
    print_head(f"Export of {run.name}", "onnx", "onnxruntime")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.choices:
            choices(run, images, folder, args.rounds)
            return
        files = {}
        for variant in make_variants(run, ["onnx", "torch"], size, images, True, True, lambda text: None):
            if variant.name != "torch.export half":  # some thirty times as slow on a CPU
                files[variant.name] = (variant.kind, folder / NAMES[variant.name])
                files[variant.name][1].write_bytes(variant.graph.data)
        for text in args.sizes:
            height, width = map(int, text.split("x"))
            for threads in args.threads:
                times(files, run.spec.in_channels, (height, width), threads, args.rounds)


if __name__ == "__main__":
    main()
