"""A short version of every benchmark, on embedded and synthetic data: what ``make benchmark`` runs. Figures are rough.

python scripts/benchmark/short.py
CAMVID=DIR python scripts/benchmark/short.py     with what needs CamVid
python scripts/benchmark/short.py step sweep     some of them
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SHORT = {
    "step": "step.py --pairs 3 --block 4 --blocks 3",
    "null": "step.py --model null --rounds 3 --steps 300",
    "where": "where.py --steps 3",
    "passes": "passes.py --rounds 3",
    "validation": "validation.py --rounds 3 --images 16",
    "start": "start.py --repeats 3",
    "sweep": "sweep.py --rounds 1 --few 2 --many 4",
    "data": "data.py --rounds 3 --batches 3",
    "augment": "augment.py --rounds 3 --seconds 0.1",
    "recurrence": "recurrence.py --rounds 2 --seconds 0.1",
    "stack": "stack.py --rounds 2 --seconds 0.1 --seeds 2 --cases 3",
    "scaling": "scaling.py --rounds 1 --steps 3 --sizes 64 128 192 --batches 4 8 16 --jobs 3 60 --runs 10 100",
    "time_to": "time_to.py --seeds 1 --epochs 3 --targets 0.05,0.1 data.num_train=800 data.num_val=100",
    "memory": "memory.py --models unet --size 96 128",
    "large_image": "large_image.py --side 2000 --kinds 0 2",
    "accuracy": "accuracy.py --epochs 1 --seeds 0 --digits 160 40 40 --out {folder}/accuracy.jsonl",
}
CAMVID = {
    "epoch": "epoch.py --root {camvid} --steps 3 --eval-steps 1 --repeats 1 --workers 0 2",
    "camvid": "data.py --camvid {camvid} --rounds 1 --batches 3",
}


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    chosen = sys.argv[1:] or [*SHORT, *CAMVID]
    if unknown := set(chosen) - SHORT.keys() - CAMVID.keys():
        sys.exit(f"error: {', '.join(sorted(unknown))}: choose from {', '.join([*SHORT, *CAMVID])}")
    camvid = os.environ.get("CAMVID")
    failed = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for name in chosen:
            if name in CAMVID and not camvid:
                print(f"left out: {name}: needs CamVid (CAMVID=DIR, as data=camvid wants it)\n", flush=True)
                continue
            script, *options = (part.format(folder=folder, camvid=camvid) for part in {**SHORT, **CAMVID}[name].split())
            before = time.perf_counter()
            done = subprocess.run([sys.executable, str(HERE / script), *options], stderr=subprocess.PIPE, text=True)
            if done.returncode:
                failed.append(name)
                print(f"FAILED: {name}\n{done.stderr[-2000:]}", flush=True)
            print(f"({script} {' '.join(options[:2])} ...: {time.perf_counter() - before:.0f} s)\n", flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all. Each script without options takes longer and says more")
    sys.exit(f"error: failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
