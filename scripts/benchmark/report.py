"""Seconds and peak memory of a report on synthetic runs: 200 configurations of 5 seeds, unless told otherwise.

    python scripts/benchmark/report.py
    python scripts/benchmark/report.py --configurations 20 --seeds 3

Writes run folders as the tests do (tests/records.py), then times the command in a process of its own, start included.
"""

import argparse
import os
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
heavy = {"torch", "pytorch_lightning", "matplotlib"} & sys.modules.keys()
print("imported:", *sorted(heavy) or ["nothing heavy"], file=sys.stderr)
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
        command = [sys.executable, "-c", _REPORT, str(sweep)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = process.stderr.read() if process.stderr else ""
        _, status, used = os.wait4(process.pid, 0)  # what this child alone has used
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise RuntimeError(said)
        size = (sweep / "report" / "index.html").stat().st_size
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, size / 1e6, said.strip())


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
