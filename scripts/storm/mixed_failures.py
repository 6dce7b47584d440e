"""A sweep in which one job raises, one calls ``sys.exit(3)``, one kills itself and one hangs past its timeout.

    python scripts/storm/mixed_failures.py
    python scripts/storm/mixed_failures.py --control      Hydra's own launcher: the check has to fail

Lost counts: results of jobs without a fault that are missing, failures that the record, the ledger or ``failed.csv``
does not name with their class, an exit code of 0, and, when the same command runs again, jobs that are tried though
they were complete, or not tried though they had failed.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from commands import TINY, Command
from witness import Row, SweepWitness, completed, ledger, parser, records, report, workplace

# What a job does, and the class by which its failure is named.
FAULTS = {"raise": "RuntimeError", "exit": "exit", "kill": "killed", "hang": "timeout"}
SOME_JOBS_FAILED = 3  # the exit code


@dataclass(frozen=True)
class MixedSweep:
    """A sweep with four failing jobs among others."""

    num_jobs: int
    timeout_s: int
    is_control: bool = False

    @property
    def words(self) -> list[str]:
        """Value of ``model.fault`` of each job; the faults lie evenly between the others."""
        fine = [f"fine{i}" for i in range(self.num_jobs - len(FAULTS))]
        for i, fault in enumerate(FAULTS):
            fine.insert((i + 1) * self.num_jobs // (len(FAULTS) + 1), fault)
        return fine

    def start(self, folder: Path) -> Command:
        """Starts the sweep, or tries again what failed."""
        model = ["model._target_=faulty.Net", f"+model.fault={','.join(self.words)}"]
        arguments = ["-m", *TINY, *model, f"sweep.timeout_s={self.timeout_s}", "name=mixed"]
        return Command([*arguments, *["hydra/launcher=basic"] * self.is_control], folder)

    def run(self, folder: Path) -> list[Row]:
        """Runs the sweep and then the same command again."""
        sweep = folder / "outputs/sweeps/mixed"
        first = Row("sweep with raise, sys.exit(3), SIGKILL, hang", self.num_jobs, remark="jobs")
        first.losses = self._finish(folder)
        witness = SweepWitness(sweep)
        witness.look()
        first.losses += self._judge(sweep)
        if self.is_control:
            return [first]
        again = Row("the same command after those failures", self.num_jobs, remark="only the four are tried")
        before = len(ledger(sweep))
        again.losses = self._finish(folder) + self._judge(sweep)
        tried = sorted(line["job"] for line in ledger(sweep)[before:] if line["status"] == "running")
        failed = sorted(name for name, record in records(sweep).items() if record["status"] == "failed")
        again.losses += [f"tried again: {tried}, failed: {failed}"] * (tried != failed)
        again.losses += witness.judge(self.num_jobs - len(FAULTS))
        return [first, again]

    def _finish(self, folder: Path) -> list[str]:
        """Waits for the command; a hanging job must not hold it up."""
        command = self.start(folder)
        patience = 300 + 3 * self.timeout_s
        code = command.wait(patience)
        if code is None:
            return [f"process {pid} outlived a kill" for pid in command.kill()] + ["the sweep hangs with its job"]
        return [f"exit code {code} instead of {SOME_JOBS_FAILED}"] * (code != SOME_JOBS_FAILED)

    def _judge(self, sweep: Path) -> list[str]:
        """What is missing in a sweep that has ended."""
        done = completed(sweep)
        losses = [f"no result of {word}" for word in self.words if word not in FAULTS and not _job(word, done)]
        told = {line["job"]: line for line in ledger(sweep)}
        table = sweep / "failed.csv"
        rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
        for word, kind in FAULTS.items():
            name = _job(word, records(sweep))
            sources = {
                "the record": _class(records(sweep).get(name, {})),
                "the ledger": _class(told.get(name, {})),
                "failed.csv": next((row["class"] for row in rows if row["job"].removeprefix("./") == name), None),
            }
            losses += [f"{word}: {source} says {said}" for source, said in sources.items() if said != kind]
        return losses + [f"failed.csv has {len(rows)} rows"] * (len(rows) != len(FAULTS))


def _job(word: str, names: list[str] | dict[str, object]) -> str:
    """The job with this value of ``model.fault``."""
    return next((name for name in names if name.endswith(f"model.fault={word}") or f"model.fault={word}," in name), "")


def _class(line: dict[str, dict[str, str] | None]) -> str | None:
    return (line.get("error") or {}).get("class")


def main() -> None:
    args = parser(__doc__, jobs=20, timeout_s=30).parse_args()
    with workplace(args.folder) as folder:
        report(MixedSweep(args.jobs, args.timeout_s, args.control).run(folder), args.control)


if __name__ == "__main__":
    main()
