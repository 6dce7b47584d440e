"""Seconds and peak memory of a report on synthetic runs: 200 configurations of 5 seeds, unless told otherwise.

    python scripts/benchmark/report.py
    python scripts/benchmark/report.py --configurations 20 --seeds 3

Writes run folders as the tests do (tests/records.py), then times the command in a process of its own, start included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_REPORT = """
import sys
from segsweep.report.command import main
main(sys.argv[1:])
import json, resource
from pathlib import Path
own = resource.getrusage(resource.RUSAGE_SELF)
# Not of getrusage, where a process begins with the peak of the one that started it.
peak = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
heavy = sorted({"torch", "pytorch_lightning", "matplotlib"} & sys.modules.keys())
print(json.dumps([own.ru_utime + own.ru_stime, int(peak[0]) / 1024, heavy]), file=sys.stderr)
"""


class Cost(NamedTuple):
    """What a report has taken: wall seconds, seconds of CPU time, MB at its peak, MB of its page."""

    seconds: float
    cpu_s: float
    peak_mb: float
    page_mb: float
    imported: str


def time_report(configurations: int, seeds: int, epochs: int = 30, classes: int = 11) -> Cost:
    """Writes synthetic runs and has a report made of them.

    Args:
        configurations: of runs.
        seeds: runs of each.
        epochs: lines in metrics.jsonl of each run.
        classes: K.

    Raises:
        RuntimeError: it failed.
    """
    sys.path.insert(0, str(ROOT))
    from tests.records import write_sweep

    with tempfile.TemporaryDirectory() as folder:
        names = ["background", *(f"class {number}" for number in range(1, classes))]
        sweep = Path(folder) / "sweep"
        write_sweep(sweep, configurations, seeds, num_epochs=epochs, names=names)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _REPORT, str(sweep)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(done.stderr)
        cpu_s, peak_mb, heavy = json.loads(done.stderr.splitlines()[-1])
        size = (sweep / "report" / "index.html").stat().st_size
    return Cost(seconds, cpu_s, peak_mb, size / 1e6, f"imported: {', '.join(heavy) or 'nothing heavy'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Times segsweep-report on synthetic runs.")
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="lines in metrics.jsonl of each run")
    parser.add_argument("--classes", type=int, default=11)
    options = parser.parse_args()
    cost = time_report(options.configurations, options.seeds, options.epochs, options.classes)
    runs = options.configurations * options.seeds
    print(f"{runs:,} runs: {cost.seconds:.1f} s ({cost.cpu_s:.1f} s of CPU time), ", end="")
    print(f"at most {cost.peak_mb:,.0f} MB, index.html {cost.page_mb:.1f} MB; {cost.imported}")


if __name__ == "__main__":
    main()
