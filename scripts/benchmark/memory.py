"""Peak memory of a training process: ours, whole, against a bare loop on the same model, batch and precision.

    python scripts/benchmark/memory.py
    python scripts/benchmark/memory.py --models unet reseg --size 192 256 --batch-size 8

Each is a process of its own, imports included. Ours also validates, tests and draws; the figure is its record's.
On a GPU it is the memory of the device that tensors take.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path

from bare import BareLoop, device_of, prepare, ready_batches, settled
from measure import parser, print_head, print_table, run_python, run_segsweep, workplace
from scenes import write_scenes

from segsweep.config import build_data
from segsweep.cost import peak_memory_mb

PRECISIONS = ("bf16-mixed", "32-true")


def child(steps: int, overrides: list[str]) -> None:
    """In a process of its own: a bare loop's peak."""
    plain = settled(overrides)
    prepare(plain)
    data = build_data(plain)
    BareLoop(plain, data, ready_batches(data, device_of(plain), num=1)).run(steps)
    print(json.dumps(peak_memory_mb()))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*json.loads(sys.argv[2]))
        return
    options = parser(__doc__, batch_size=8, steps=4)
    options.add_argument("--models", nargs="+", default=["unet", "reseg", "conv_autoencoder"], help="options of model=")
    options.add_argument("--size", type=int, nargs=2, default=(192, 256), help="pixels, height and width")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = options.parse_args()
    kind = "device" if args.device == "cuda" else "host"
    print_head("Memory", device=args.device)
    size = f"{args.size[0]}x{args.size[1]}"
    rows = []
    with workplace() as folder:
        counts = (args.steps * args.batch_size, args.batch_size, args.batch_size)
        scenes = write_scenes(folder / "scenes", tuple(args.size), counts, 12)
        for model, precision in itertools.product(args.models, PRECISIONS):
            facts = [f"model={model}", f"trainer.precision={precision}", f"data.batch_size={args.batch_size}"]
            facts += [f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", "trainer.max_epochs=1"]
            overrides = [*scenes, *facts]
            line = json.dumps([args.steps, overrides])
            bare = json.loads(run_python([__file__, "--child", line], folder)[1].splitlines()[-1])[kind]
            with tempfile.TemporaryDirectory(dir=folder) as place:
                run = Path(place) / "run"
                run_segsweep([*overrides, f"hydra.run.dir={run}"], folder)
                ours = json.loads((run / "record.json").read_text())["peak_memory_mb"][kind]
            rows.append((f"{model}, {precision}", f"{bare:,.0f}", f"{ours:,.0f}", f"{ours - bare:+,.0f}"))
    print_table((f"{kind} memory, {size}, batch {args.batch_size}", "bare loop, MB", "ours, MB", "ours more"), rows)


if __name__ == "__main__":
    main()
