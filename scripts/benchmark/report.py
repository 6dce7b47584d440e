"""Seconds and peak memory of a report on synthetic runs: 200 configurations of 5 seeds, unless told otherwise.

    python scripts/benchmark/report.py
    python scripts/benchmark/report.py --configurations 20 --seeds 3

Writes run folders as the tests do (tests/records.py), then times the command in a process of its own, start included.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
_REPORT = """
import sys
from segsweep.report.command import main
main(sys.argv[1:])
heavy = {"torch", "pytorch_lightning", "matplotlib"} & sys.modules.keys()
print("imported:", *sorted(heavy) or ["nothing heavy"], file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Times segsweep-report on synthetic runs.")
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="lines in metrics.jsonl of each run")
    parser.add_argument("--classes", type=int, default=11)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.records import write_sweep

    with tempfile.TemporaryDirectory() as folder:
        names = ["background", *(f"class {number}" for number in range(1, options.classes))]
        sweep = Path(folder) / "sweep"
        write_sweep(sweep, options.configurations, options.seeds, num_epochs=options.epochs, names=names)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _REPORT, str(sweep)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stderr)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = (sweep / "report" / "index.html").stat().st_size
    runs = options.configurations * options.seeds
    print(f"{runs:,} runs: {seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of CPU time), ", end="")
    print(f"at most {used.ru_maxrss / 1024:,.0f} MB, index.html {size / 1e6:.1f} MB; {done.stderr.strip()}")


if __name__ == "__main__":
    main()
