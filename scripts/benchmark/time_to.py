"""Seconds of training until a validation mIoU is reached, for each precision and option of the engine.

    python scripts/benchmark/time_to.py                          digits, to 0.6, 0.7 and 0.8
    python scripts/benchmark/time_to.py --camvid DIR --targets 0.3,0.4 --epochs 20
    python scripts/benchmark/time_to.py --option "EMA=trainer.ema=0.99"

Whole runs; the seconds are those of training epochs alone (images of an epoch over ``train/images_per_s``, from
metrics.jsonl), up to the end of the first epoch whose ``val/miou`` is at least the target; with ``trainer.compile``
what is compiled in the first of them counts. Validation and the start are in the seconds of the whole command.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bare import settled
from measure import parser, print_head, print_table, run_segsweep, spread, workplace

from segsweep.compiling import compile_mistake

OPTIONS = {
    "float32": ("trainer.precision=32-true",),
    "bf16-mixed": ("trainer.precision=bf16-mixed",),
    "bf16-mixed, compiled": ("trainer.precision=bf16-mixed", "trainer.compile=default"),
}
DIGITS = ("data=digits",)
CAMVID = ("data=camvid", "data.size=[180,240]", "data.batch_size=8", "augment=standard")


def available(options: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Those that this version has and this machine can run; of the others it is said."""
    trainer = settled([])["trainer"]
    found = {}
    for name, overrides in options.items():
        lacking = [key for o in overrides if (key := o.partition("=")[0]).removeprefix("trainer.") not in trainer]
        reason = f"there is no {', '.join(lacking)}" if lacking else compile_mistake(settled(overrides)["trainer"])
        if reason:
            print(f"left out: {name}: {reason}\n")
        else:
            found[name] = overrides
    return found


def seconds_to(targets: Sequence[float], run: Path) -> list[float | None]:
    """Seconds of training to each target, None if it was never reached."""
    record = json.loads((run / "record.json").read_text())
    batch = record["config"]["data"]["batch_size"]
    images = batch * math.ceil(record["data"]["split_sizes"]["train"] / batch)
    passed, found = 0.0, {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        passed += images / line["train/images_per_s"]
        found |= {target: passed for target in targets if target not in found and line.get("val/miou", 0) >= target}
    return [found.get(target) for target in targets]


def cell(values: Sequence[float | None]) -> str:
    """Median over seeds; how many never reached it."""
    reached = [value for value in values if value is not None]
    if not reached:
        return "never"
    missed = f", {len(values) - len(reached)} never" if len(reached) < len(values) else ""
    return spread(reached, 1) + missed


def main() -> None:
    options = parser(__doc__, epochs=8, seeds=3)
    options.add_argument("--camvid", type=Path, help="root of CamVid, to be used instead of digits")
    options.add_argument("--targets", default="0.6,0.7,0.8", help="val/miou, in 0..1")
    options.add_argument("--option", action="append", default=[], help='one more: "name=overrides, by spaces"')
    options.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    args, overrides = options.parse_known_args()
    targets = [float(target) for target in args.targets.split(",")]
    print_head("Time to a validation mIoU", device="cuda" if args.device == "gpu" else "cpu")
    data = DIGITS if args.camvid is None else (*CAMVID, f"data.root={args.camvid.resolve()}")
    contestants = available({**OPTIONS, **{o.partition("=")[0]: o.partition("=")[2].split() for o in args.option}})
    found: dict[str, list[list[float | None]]] = {name: [] for name in contestants}
    whole: dict[str, list[float]] = {name: [] for name in contestants}
    with workplace() as folder:
        for seed in range(args.seeds):
            for name, option in contestants.items():
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    run = Path(place) / "run"
                    facts = [f"trainer={args.device}", f"trainer.max_epochs={args.epochs}", f"seed={seed}"]
                    line = [*data, *facts, *overrides, *option, f"hydra.run.dir={run}"]
                    seconds, _ = run_segsweep(line, Path(place))
                    found[name].append(seconds_to(targets, run))
                    whole[name].append(seconds)
    what = " ".join([*data[:1], *overrides]) or "digits"
    print(f"{what}, {args.epochs} epochs, {args.seeds} seeds; seconds of training, median (quartiles).\n")
    rows = []
    for name, runs in found.items():
        cells = [cell([run[i] for run in runs]) for i in range(len(targets))]
        rows.append((name, *cells, spread(whole[name], 1)))
    print_table(("option", *(f"to {target:g}" for target in targets), "whole command"), rows)


if __name__ == "__main__":
    main()
