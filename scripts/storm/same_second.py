"""Starts many identical unnamed runs in the same second, and two processes on one named run.

    python scripts/storm/same_second.py
    python scripts/storm/same_second.py --control      folders named by the second alone, no lock: the check has to fail

Importing torch takes seconds, and twenty processes do not do it at once on a few cores. So each is forked from one that
has imported everything, and waits, with its config checked, for a file that says at which second to go on; what comes
next is to choose the folder. Lost counts: folders that are missing, runs without a result, results that
differ, and a second process that is let into a run.
"""

import math
import time
from pathlib import Path

from commands import TINY, WarmRun
from witness import Row, digest_of_weights, parser, records, report, workplace

REFUSED = 1  # the exit code


def same_second(folder: Path, num_runs: int, is_control: bool = False) -> Row:
    """Starts identical unnamed runs that choose their folders in the same second."""
    row = Row("identical unnamed runs started in the same second", num_runs)
    gate = folder / "gate"
    gate.mkdir()
    altered = f"start_at_gate:{gate}" + ",shared_folder" * is_control
    commands = [WarmRun(list(TINY), folder, altered=altered) for _ in range(num_runs)]
    deadline = time.monotonic() + 600
    while len(list(gate.iterdir())) < num_runs and time.monotonic() < deadline:
        time.sleep(0.1)
    # The file has to be whole when it appears.
    (gate.parent / "go").write_text(str(math.ceil(time.time()) + 1))
    (gate.parent / "go").rename(gate / "go")
    codes = [command.wait() for command in commands]
    runs = folder / "outputs/runs"
    seconds = {path.name.rsplit("_", 1 if not is_control else 0)[0] for path in runs.iterdir()}
    row.losses = [f"exit code {code}" for code in codes if code != 0]
    row.losses += [f"{len(seconds)} seconds instead of one: {sorted(seconds)}"] * (len(seconds) != 1)
    done = [name for name, record in records(runs).items() if record["status"] == "completed"]
    row.losses += ["no folder with a result of its own"] * (num_runs - len(done))
    digests = {digest_of_weights(runs / name) for name in done}
    row.losses += [f"{len(digests)} different results"] * (len(digests) > 1)
    return row


def two_processes(folder: Path, is_control: bool = False) -> Row:
    """Starts a second process on a run while the first one is at it."""
    row = Row("second live process on a named run", 1)
    altered = "no_lock" if is_control else None
    arguments = [*TINY, "trainer.max_epochs=500", "name=twin"]
    first = WarmRun(arguments, folder, altered=altered)
    first.wait_for((folder / "outputs/runs/twin/metrics.jsonl").exists)
    start = (folder / "output.txt").stat().st_size
    second = WarmRun(arguments, folder, altered=altered)
    code = second.wait(120)
    said = (folder / "output.txt").read_text()[start:]
    if code is None:
        second.kill()
    row.losses += [f"the second process ended with {code}"] * (code != REFUSED)
    row.losses += ["the second process does not say why"] * ("being run by another process" not in said)
    row.losses += ["the first process ended"] * (first.wait(0) is not None)
    first.kill()
    return row


def main() -> None:
    args = parser(__doc__, runs=20).parse_args()
    with workplace(args.folder) as folder:
        rows = (same_second(folder, args.runs, args.control), two_processes(folder, args.control))
        report(rows, args.control)


if __name__ == "__main__":
    main()
