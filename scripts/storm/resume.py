"""Stops one run at the ends of epochs and kills it at random moments: is what continues the same run?

    python scripts/storm/resume.py
    python scripts/storm/resume.py --control      random numbers go on from epoch to epoch: the check has to fail

With dropout, shuffling, strong augmentation and mixing, on the CPU. Every run is forked from a process that has
imported everything; from there on it is the command. Kills are uniform from the moment at which it opens its folder to
its end. Lost counts: continued runs whose best or last weights (SHA-256 of the tensors, the optimizer's state included)
or whose lines of metrics differ from those of a run that was left alone.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from commands import TINY, WarmRun
from witness import Row, digest_of_weights, history, parser, report, workplace

# The one model with dropout, of the smallest size.
DROPOUT = ("model=fc_densenet", "model.layers=[1,1,1]", "model.growth_rate=4", "model.first_channels=4")


@dataclass(frozen=True)
class ResumeStorm:
    """How often to stop a run."""

    num_stops: int
    num_kills: int
    seed: int = 0
    is_control: bool = False

    def start(self, folder: Path, name: str, change: str = "") -> WarmRun:
        """Starts the run of this name, or continues it."""
        arguments = [text for text in TINY if not text.startswith(("model", "trainer.max_epochs"))]
        arguments += [*DROPOUT, "augment=strong", f"trainer.max_epochs={self.num_stops + 1}", f"name={name}"]
        altered = ",".join(filter(None, ["no_reseeding" * self.is_control, change]))
        return WarmRun(arguments, folder, altered=altered or None)

    def run(self, folder: Path) -> list[Row]:
        """Compares every continued run with the one that was left alone."""
        alone = folder / "outputs/runs/alone"
        seconds = self._leave_alone(folder, alone)
        stops = Row("run stopped at the end of an epoch and continued", self.num_stops)
        for epoch in range(1, self.num_stops + 1):
            name = f"stopped{epoch}"
            stops.losses += self._expect(self.start(folder, name, f"stop_before_epoch:{epoch}"), 130, name)
            stops.losses += self._continue(folder, name, alone)
        return [stops, self._kill(folder, alone, seconds)] if self.num_kills else [stops]

    def _kill(self, folder: Path, alone: Path, seconds: float) -> Row:
        """Kills until enough runs have been met alive: one may be faster than the one that was timed."""
        row = Row("run killed by SIGKILL at a random moment and continued")
        draw = random.Random(self.seed)
        epochs: list[int] = []
        for i in range(10 * self.num_kills):
            run = folder / f"outputs/runs/killed{i}"
            command = self.start(folder, run.name)
            command.wait_for((run / "record.json").exists)
            if command.wait(draw.uniform(0, seconds)) is not None:
                continue
            command.kill()
            row.attempts += 1
            epochs.append(_num_epochs(run))
            row.losses += self._continue(folder, run.name, alone)
            if row.attempts == self.num_kills:
                break
        row.remark = f"epochs behind it: {', '.join(map(str, sorted(epochs)))}"
        return row

    def _leave_alone(self, folder: Path, alone: Path) -> float:
        """Runs without a stop; the seconds from its folder to its end."""
        command = self.start(folder, alone.name)
        command.wait_for((alone / "record.json").exists)
        started = time.monotonic()
        if command.wait() != 0:
            raise RuntimeError(f"a run fails without any kill; see {command.output}")
        return time.monotonic() - started

    def _continue(self, folder: Path, name: str, alone: Path) -> list[str]:
        losses = self._expect(self.start(folder, name), 0, name)
        if losses:
            return losses
        run = folder / f"outputs/runs/{name}"
        if digest_of_weights(run) != digest_of_weights(alone):
            losses.append(f"{name}: other weights")
        elif history(run) != history(alone):
            losses.append(f"{name}: other metrics")
        return losses

    def _expect(self, command: WarmRun, expected: int, name: str) -> list[str]:
        code = command.wait()
        return [f"{name}: exit code {code} instead of {expected}; see {command.output}"] * (code != expected)


def _num_epochs(run: Path) -> int:
    """Epochs that a run has finished."""
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def main() -> None:
    args = parser(__doc__, stops=5, kills=20).parse_args()
    with workplace(args.folder) as folder:
        num_kills = 0 if args.control else args.kills  # without reseeding a killed run may be started from scratch
        report(ResumeStorm(args.stops, num_kills, args.seed, args.control).run(folder), args.control)


if __name__ == "__main__":
    main()
