"""How soon something happens: help, composed config, completion, and the first training step.

    python scripts/benchmark/start.py

Whole processes, medians and quartiles. The first step is that of a run on data that was decoded before, as a whole
command and without its imports: a process that has imported all that an earlier one has, before its clock starts.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from measure import parser, print_head, print_table, spread, workplace

RUN = ("trainer=cpu", "trainer.max_epochs=1")
# Stops at the end of the first step; names the modules that were needed.
FIRST_STEP = """
import json, os, sys, time
modules, overrides = sys.argv[1], sys.argv[2:]
for name in json.load(open(modules)) if sys.argv[0] == "warm" else ():
    try:
        __import__(name)
    except Exception:
        pass
start = time.perf_counter()
from segsweep.startup import importing
with importing():  # as the command does
    from segsweep import train
fit = train.fit
def fit_to_the_first_step(*args):
    from segsweep.task import Task
    whole = Task.on_train_batch_end
    def end(self, *args):
        whole(self, *args)
        print("first step", time.perf_counter() - start, flush=True)
        if sys.argv[0] == "cold":
            json.dump(sorted(sys.modules), open(modules, "w"))
        os._exit(0)
    Task.on_train_batch_end = end
    return fit(*args)
train.fit = fit_to_the_first_step
sys.argv = ["segsweep", *overrides]
train.main()
"""


def seconds(arguments: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> float:
    """Of a whole process."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        check=True,
    )
    return time.perf_counter() - start


def first_step(kind: str, modules: Path, folder: Path) -> float:
    """Seconds to the end of the first step; ``cold`` writes down the modules, ``warm`` imports them before."""
    code = FIRST_STEP.replace("sys.argv[0] ==", f"{kind!r} ==")
    done = subprocess.run(
        [sys.executable, "-c", code, str(modules), *RUN], cwd=folder, capture_output=True, text=True, check=True
    )
    return float(next(line for line in done.stdout.splitlines() if line.startswith("first step")).split()[-1])


def main() -> None:
    args = parser(__doc__, repeats=7).parse_args()
    print_head("Start")
    rows = []
    with workplace() as folder:
        line = {"COMP_LINE": "segsweep model=un", "COMP_POINT": "17"}
        commands: dict[str, tuple[Sequence[str], dict[str, str]]] = {
            "segsweep --help": (("-m", "segsweep", "--help"), {}),
            "segsweep --cfg job": (("-m", "segsweep", "--cfg", "job"), {}),
            "tab completion": (("-m", "segsweep", "-sc", "query=bash"), line),
        }
        for name, (arguments, environment) in commands.items():
            seconds(arguments, folder, environment)
            rows.append((name, spread([seconds(arguments, folder, environment) for _ in range(args.repeats)])))
        modules = folder / "modules.json"
        first_step("cold", modules, folder)  # decodes the data, too
        repeats = max(3, args.repeats // 2)
        for kind, label in (("cold", "first step, with imports"), ("warm", "first step, imports excluded")):
            rows.append((label, spread([first_step(kind, modules, folder) for _ in range(repeats)])))
    print_table(("from command to", "seconds"), rows)


if __name__ == "__main__":
    main()
