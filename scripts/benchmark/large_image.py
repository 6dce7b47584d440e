"""Peak memory and time of segsweep-predict on one large image: runs at native and at fixed size, few and many classes.

    python scripts/benchmark/large_image.py
    python scripts/benchmark/large_image.py --side 4000 --files --overlay --entropy

The image is noise, whose PNG is as large as its pixels; each prediction is a process of its own, and its peak is what
the system has seen of it (VmHWM), imports included.
"""

import re
from argparse import REMAINDER
from pathlib import Path

import numpy as np
from measure import parser, print_head, print_table, run_python, run_segsweep, workplace
from PIL import Image
from scenes import write_scenes

_KINDS = {
    "native size, 11 classes": (11, ["data.size=null", "data.crop=[128,128]"]),
    "native size, 150 classes": (150, ["data.size=null", "data.crop=[128,128]"]),
    "fixed size 512x512, 11 classes": (11, ["data.size=[512,512]", "data.crop=[128,128]"]),
    "fixed size 512x512, 150 classes": (150, ["data.size=[512,512]", "data.crop=[128,128]"]),
}
_CHILD = """
import sys
from pathlib import Path
from segsweep.predict.command import main
main(sys.argv[1:])
print([line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")][0])
"""


def main() -> None:
    options = parser(__doc__, side=10_000)
    options.add_argument("--model", default="unet", help="option of model=")
    options.add_argument("--kinds", type=int, nargs="+", default=[0, 1, 2, 3], help="which rows of the table")
    options.add_argument("--files", nargs=REMAINDER, default=[], help="what to write beside the class numbers")
    args = options.parse_args()
    print_head("Large image")
    with workplace() as folder:
        image = folder / "large.png"
        _write_noise(image, args.side)
        print(f"{args.side}x{args.side} RGB, {image.stat().st_size / 1e6:,.0f} MB, model={args.model}\n", flush=True)
        rows = (_row(folder, image, args.model, list(_KINDS)[i], args.files) for i in args.kinds)
        print_table(["run", "peak MB", "seconds"], rows)


def _write_noise(file: Path, side: int) -> None:
    rng = np.random.default_rng(0)
    picture = Image.new("RGB", (side, side))
    for top in range(0, side, 500):
        rows = rng.integers(0, 256, (min(500, side - top), side, 3), dtype=np.uint8)
        picture.paste(Image.fromarray(rows), (0, top))
    picture.save(file, compress_level=1)


def _row(folder: Path, image: Path, model: str, kind: str, files: list[str]) -> tuple[str, str, str]:
    num_classes, how = _KINDS[kind]
    place = folder / re.sub(r"\W+", "_", kind)
    scenes = write_scenes(place / "scenes", (160, 160), (4, 2, 2), num_classes)
    facts = [*scenes, *how, f"model={model}", "data.batch_size=2", "trainer=cpu", "trainer.max_epochs=1"]
    run_segsweep([*facts, f"hydra.run.dir={place / 'run'}"], folder)
    said = [str(place / "run"), str(image), "--out", str(place / "out"), *files]
    seconds, output = run_python(["-c", _CHILD, *said], folder)
    found = re.search(r"VmHWM:\s+(\d+) kB", output)
    peak = "?" if found is None else f"{int(found[1]) * 1024 / 1e6:,.0f}"
    return kind, peak, f"{seconds:,.0f}"


if __name__ == "__main__":
    main()
