"""Whether speed costs accuracy: the script of a tutorial (tutorial.py) against ``segsweep`` after the same epochs.

    python scripts/benchmark/accuracy.py --camvid DIR --out FILE                             an hour
    python scripts/benchmark/accuracy.py --camvid DIR --digits 0 0 0 --seeds 2 --out FILE    one more pair of runs
    python scripts/benchmark/accuracy.py --camvid DIR --out FILE --by segsweep               ours alone
    python scripts/benchmark/accuracy.py --out FILE --table                                  the table of what is there

U-Net on a ResNet-18 from random weights, AdamW, a tenth of the steps to warm up and a cosine, cross entropy plus Dice,
the same images at the same size. The script trains in float32, ours as shipped. Scored are the weights after the last
epoch on the test split, both by ``segsweep.metrics`` at the native size of the masks. A line of --out is a finished
run; the same command continues where it was cut off.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bare import settled
from measure import missing, parser, print_head, print_table, run_python, run_segsweep, workplace
from PIL import Image
from scenes import SPLITS

from segsweep.config import build_data
from segsweep.data.storage import Store

DIGITS = ("data=digits", "data.batch_size=16", "augment=none")
CAMVID = ("data=camvid", "data.size=[180,240]", "data.batch_size=8", "augment=none", "augment.hflip=0.5")
MODEL = ("model=smp", "model.arch=Unet", "model.encoder_name=resnet18", "optimizer.lr=0.001")
OURS, TUTORIAL = "segsweep", "tutorial's script"


def ours(overrides: Sequence[str], folder: Path) -> float:
    """Test mIoU of the last epoch."""
    run_segsweep([*overrides, f"hydra.run.dir={folder / 'run'}"], folder)
    record = json.loads((folder / "run" / "record.json").read_text())
    return float(record["metrics_last"]["test/miou"])


def tutorial(overrides: Sequence[str], folder: Path) -> float:
    """The same of the script, whose images are ours as files."""
    plain = settled(overrides)
    data = build_data(plain)
    write_images(data.store, folder / "images")
    facts = {
        "root": folder / "images",
        "num_classes": data.spec.num_classes,
        "ignore_index": data.spec.ignore_index,
        "channels": data.spec.in_channels,
        "hflip": plain["augment"]["hflip"],
        "batch_size": data.batch_size,
        "epochs": plain["trainer"]["max_epochs"],
        "lr": plain["optimizer"]["lr"],
        "seed": plain["seed"],
        "device": plain["trainer"]["accelerator"],
    }
    line = [f"--{name.replace('_', '-')}={value}" for name, value in facts.items()]
    for name in ("mean", "std"):
        line += [f"--{name}", *map(str, plain["data"][name])]
    _, printed = run_python([str(Path(__file__)), "--child", json.dumps([line, list(overrides)])], folder)
    return float(printed.splitlines()[-1])


def write_images(store: Store, root: Path) -> None:
    """Images and masks at the size that we train on, as PNG files."""
    for name, split in store.splits.items():
        for kind, read in (("images", split.image), ("masks", split.mask)):
            (root / kind / name).mkdir(parents=True)
            for i in range(len(split.items)):
                Image.fromarray(read(i).squeeze()).save(root / kind / name / f"{i:05d}.png", compress_level=1)


def child(line: Sequence[str], overrides: Sequence[str]) -> None:
    """In a process of its own: trains the script's network, scores it, prints its test mIoU."""
    import torch
    from tutorial import arguments, loaders, train

    from segsweep.metrics import summarise
    from segsweep.models.blocks import resize_to
    from segsweep.tally import ImageCounts

    args = arguments(line)
    net = train(args)[0].eval()
    data = build_data(settled(overrides))
    split, spec = data.store.splits["test"], data.spec
    counts, position = ImageCounts(spec.num_classes, spec.ignore_index), 0
    with torch.inference_mode():
        for image, _ in loaders(args)["test"]:
            for logits in net(image.to(net.device)).cpu():
                height, width = split.sizes[position].tolist()  # without what was padded
                mask = torch.from_numpy(split.native_mask(position))[None].long()
                scored = resize_to(logits[None, :, :height, :width].float(), mask)
                counts.update(scored, mask, torch.tensor([position]))
                position += 1
    print(summarise(counts.compute(), spec.class_names)["miou"])


def plan(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The runs, contestants by turns."""
    scenes = [f"data.num_{split}={num}" for split, num in zip(SPLITS, args.digits, strict=True)]
    sizes = "/".join(map(str, args.digits))
    sets = {f"digits {sizes}": [*DIGITS, *scenes]} if any(args.digits) else {}
    if args.camvid is not None:
        sets["CamVid 180x240"] = [*CAMVID, f"data.root={args.camvid.resolve()}"]
    for seed in args.seeds:
        for name, data in sets.items():
            facts = (f"trainer={args.device}", f"trainer.max_epochs={args.epochs}", f"seed={seed}")
            for contestant in args.by:
                overrides = [*data, *MODEL, *facts]
                run = {"data": name, "epochs": args.epochs, "device": args.device, "seed": seed, "by": contestant}
                yield {**run, "overrides": overrides}


def finished(out: Path) -> list[dict[str, Any]]:
    """The runs that are done."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def print_results(out: Path) -> None:
    """Means over the seeds of each, and of the differences where both have a seed."""
    scores: dict[tuple[str, int, str], dict[str, dict[int, float]]] = {}
    for line in finished(out):
        found = scores.setdefault((line["data"], line["epochs"], line.get("device", "cpu")), {OURS: {}, TUTORIAL: {}})
        found[line["by"]][line["seed"]] = line["test/miou"]
    rows = []
    for (data, epochs, device), by in scores.items():
        pairs = [(by[OURS][seed], by[TUTORIAL][seed]) for seed in sorted(by[OURS].keys() & by[TUTORIAL].keys())]
        columns = [[*by[OURS].values()], [*by[TUTORIAL].values()], [a - b for a, b in pairs]]
        rows.append((f"{data}, {epochs} epochs, {device}", *map(_mean, columns)))
    print("Mean, standard deviation and number of runs; pairs share the number of a seed and the images.\n")
    print_table(("test mIoU", OURS, TUTORIAL, "difference of pairs"), rows)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation} ({len(values)})"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*json.loads(sys.argv[2]))
        return
    options = parser(__doc__, epochs=8)
    options.add_argument("--camvid", type=Path, help="root of CamVid; default: digits alone")
    options.add_argument(
        "--digits", type=int, nargs=3, default=(2000, 400, 400), help="scenes of train, val and test; 0: no digits"
    )
    options.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    options.add_argument("--by", nargs="+", choices=(OURS, TUTORIAL), default=(OURS, TUTORIAL), help="who trains")
    options.add_argument("--out", type=Path, default=Path("outputs/benchmark/accuracy.jsonl"))
    options.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    options.add_argument("--table", action="store_true", help="train nothing")
    args = options.parse_args()
    print_head("Accuracy: the script of a tutorial", "segmentation-models-pytorch", "albumentations")
    if not args.table and not missing("albumentations", "the tutorial's script"):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        keys = ("data", "epochs", "device", "seed", "by")
        done = [[line.get(key) for key in keys] for line in finished(args.out)]
        with workplace() as folder:
            for run in plan(args):
                if [run[key] for key in keys] in done:
                    continue
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    train = ours if run["by"] == OURS else tutorial
                    run["test/miou"] = train(run["overrides"], Path(place))
                with args.out.open("a") as file:
                    file.write(json.dumps(run) + "\n")
    print_results(args.out)


if __name__ == "__main__":
    main()
