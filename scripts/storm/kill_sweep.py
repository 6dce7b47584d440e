"""Kills a sweep at random moments, starts it again by the same command, and counts what is lost.

    python scripts/storm/kill_sweep.py              SIGKILL to the whole process group
    python scripts/storm/kill_sweep.py --alone      to the command alone: its children have to end by themselves
    python scripts/storm/kill_sweep.py --control    plain Hydra, which takes up nothing: the check has to fail

Lost counts: results that are missing in the end, finished runs that were lost, changed (any byte of any file) or run
again, and processes that outlive a kill. The moments are uniform from the start of the command to the time by which an
undisturbed sweep has done ``--share`` percent of its work, so that the kills meet all of the sweep, its start included.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from commands import PLAIN_HYDRA, TINY, Command
from witness import Row, SweepWitness, ledger, parser, report, workplace


@dataclass(frozen=True)
class Storm:
    """What to do to which sweep."""

    num_jobs: int
    num_kills: int
    seed: int = 0
    share: float = 0.2  # of a sweep's work that the longest life has time for
    alone: bool = False
    is_control: bool = False

    def start(self, folder: Path, name: str) -> Command:
        """Starts the sweep, or continues it."""
        seeds = ",".join(map(str, range(self.num_jobs)))
        arguments = ["-m", *TINY, f"seed={seeds}", f"name={name}", *PLAIN_HYDRA * self.is_control]
        return Command(arguments, folder, altered="no_skip" if self.is_control else None)

    def run(self, folder: Path) -> Row:
        """Kills until enough kills have met a living sweep; a sweep that ends before is followed by another one."""
        longest = self._longest_life(folder)
        draw = random.Random(self.seed)
        row = Row("sweep, SIGKILL of the command alone" if self.alone else "sweep, SIGKILL of the process group")
        met_jobs = num_sweeps = 0
        while row.attempts < self.num_kills:
            num_sweeps += 1
            witness = SweepWitness(folder / f"outputs/sweeps/storm{num_sweeps}")
            while True:
                before = len(ledger(witness.folder))
                command = self.start(folder, witness.folder.name)
                code = command.wait(draw.uniform(0, longest) if row.attempts < self.num_kills else None)
                if code is not None:
                    break
                row.losses += [f"process {pid} outlived a kill" for pid in command.kill(self.alone)]
                row.attempts += 1
                met_jobs += len(ledger(witness.folder)) > before
                witness.look()
            row.losses += [f"exit code {code} of a sweep without faults"] * (code != 0)
            row.losses += self._run_again(folder, witness)
        row.remark = f"{num_sweeps} x {self.num_jobs} jobs, {met_jobs} kills came after the start-up"
        return row

    def _longest_life(self, folder: Path) -> float:
        """Times an undisturbed sweep."""
        started = time.monotonic()
        command = self.start(folder, "undisturbed")
        command.wait_for(lambda: bool(ledger(folder / "outputs/sweeps/undisturbed")))
        start_up = time.monotonic() - started
        if command.wait() != 0:
            raise RuntimeError(f"a sweep fails without any kill; see {command.output}")
        work = time.monotonic() - started - start_up
        print(f"undisturbed: {start_up:.1f} s to the first job, {work:.1f} s of work", flush=True)
        return start_up + self.share * work

    def _run_again(self, folder: Path, witness: SweepWitness) -> list[str]:
        """Once more the same command: there is nothing left for it to do."""
        lost = witness.judge(self.num_jobs)
        if not lost:
            self.start(folder, witness.folder.name).wait()
            lost = witness.judge(self.num_jobs)
        return lost


def main() -> None:
    options = parser(__doc__, jobs=20, kills=25, share=20)
    options.add_argument("--alone", action="store_true", help="kill the command alone, not its group")
    args = options.parse_args()
    storm = Storm(args.jobs, args.kills, args.seed, args.share / 100, args.alone, args.control)
    with workplace(args.folder) as folder:
        report([storm.run(folder)], args.control)


if __name__ == "__main__":
    main()
