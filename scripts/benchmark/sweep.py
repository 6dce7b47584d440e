"""What a job of a sweep costs beside its own run: our launcher against those that Hydra has.

    python scripts/benchmark/sweep.py
    python scripts/benchmark/sweep.py --few 2 --many 12 --rounds 3
    python scripts/benchmark/sweep.py --ours --rounds 6      more rounds, of ours alone

Sweeps over seeds of a job that trains one step, by the same task function. Times are of whole commands: the difference
between a sweep of many and one of few jobs is that of the jobs, without the start of the command. From it goes what
their records say that the runs took by themselves (``wall_s``, from the opening of a run's folder to its end), which
holds only where one job runs at a time. Sweeps with two jobs at once have whole seconds alone. All use all cores,
whatever OMP_NUM_THREADS says; so a busy machine falsifies the figures, where threads of a job wait for each other.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from measure import missing, parser, print_head, print_table, run_segsweep, spread, take_turns, workplace

# The cheapest real run: it decodes, trains, validates, tests and writes everything that a large one does.
JOB = (
    "model=unet",
    "model.widths=[4,8,8]",
    "data.num_train=12",
    "data.num_val=4",
    "data.num_test=4",
    "data.batch_size=4",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
BASIC = ("hydra/sweeper=basic", "hydra/launcher=basic")
JOBLIB = ("hydra/sweeper=basic", "hydra/launcher=joblib")
ONE_BY_ONE = {
    "ours (grid, local), a process for each job": ("sweep.jobs=1",),
    "Hydra's basic sweeper and launcher, one process": BASIC,
    "hydra-joblib-launcher, n_jobs=1": (*JOBLIB, "hydra.launcher.n_jobs=1"),
}
TWO_AT_ONCE = {
    "ours (grid, local), sweep.jobs=2": ("sweep.jobs=2",),
    "hydra-joblib-launcher, n_jobs=2": (*JOBLIB, "hydra.launcher.n_jobs=2"),
}


class Sweeps:
    """Runs sweeps of two sizes, and remembers what the runs took by themselves.

    Args:
        folder: to work in.
        few, many: jobs.
    """

    def __init__(self, folder: Path, few: int, many: int) -> None:
        self.folder, self.few, self.many = folder, few, many
        self.own: dict[str, list[float]] = {}

    def contestant(self, name: str, launcher: Sequence[str]) -> Callable[[], float]:
        """Seconds a job."""

        def run() -> float:
            few, many = (self._sweep(num, launcher) for num in (self.few, self.many))
            whole, own = ((many[i] - few[i]) / (self.many - self.few) for i in range(2))
            self.own.setdefault(name, []).append(own)
            return whole

        return run

    def _sweep(self, num: int, launcher: Sequence[str]) -> tuple[float, float]:
        """Seconds of a sweep, and of its runs by themselves."""
        seeds = ",".join(map(str, range(num)))
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            seconds, _ = run_segsweep(["-m", *JOB, *launcher, f"seed={seeds}", "name=bench"], Path(folder))
            files = list(Path(folder).glob("outputs/sweeps/bench/*/record.json"))
            records = [json.loads(file.read_text()) for file in files]
        if [record["status"] for record in records] != ["completed"] * num:
            raise RuntimeError(f"a sweep of {num} jobs by {' '.join(launcher)} has {len(records)} whole runs")
        return seconds, sum(record["wall_s"] for record in records)


def main() -> None:
    options = parser(__doc__, rounds=3, few=2, many=12)
    options.add_argument("--ours", action="store_true", help="ours alone")
    args = options.parse_args()
    print_head("Sweep: what a job costs", "hydra-core", "hydra-joblib-launcher")
    for name in THREADS:  # our launcher divides the cores by itself; the others would be held to what is set here
        os.environ.pop(name, None)
    left_out = {*BASIC, *JOBLIB} if args.ours else set()
    if not args.ours and missing("hydra-joblib-launcher", "Hydra's joblib launcher"):
        left_out = {JOBLIB[1]}
    with workplace() as folder:
        sweeps = Sweeps(folder, args.few, args.many)
        run_segsweep(JOB, folder)  # decodes
        for title, launchers in (("one job at a time", ONE_BY_ONE), ("two jobs at once", TWO_AT_ONCE)):
            contestants = {
                name: sweeps.contestant(name, overrides)
                for name, overrides in launchers.items()
                if left_out.isdisjoint(overrides)
            }
            found = take_turns(contestants, args.rounds)
            rows = []
            for name, whole in found.items():
                own = sweeps.own[name]
                beside = [a - b for a, b in zip(whole, own, strict=True)]
                parts = [spread(own), spread(beside)] if launchers is ONE_BY_ONE else ["", ""]
                rows.append((name, spread(whole), *parts))
            print_table((title, "s per job", "of them its own run", "beside it"), rows)


if __name__ == "__main__":
    main()
