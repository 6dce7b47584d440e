"""Final metrics with each setting that is called result-neutral switched to another value, digit by digit.

    python scripts/benchmark/neutral.py
    python scripts/benchmark/neutral.py data.num_train=2000 trainer.max_epochs=8     any override, for all runs

A run's identity leaves these settings out (``config.NON_SEMANTIC``): the same command with another value continues the
run or skips it as complete. So they must change nothing, down to the last digit of every metric and the last bit of the
weights. Below them stand controls, which do change results: settings that are part of the identity, and another number
of threads, with which the CPU's library adds in another order.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from measure import parser, print_head, print_table, run_python, run_segsweep, workplace

BASE = ("trainer=cpu", "data.num_train=160", "data.num_val=40", "data.num_test=40", "trainer.max_epochs=2")
NEUTRAL = {
    "data.storage=memory": ("data.storage=memory",),
    "data.storage=memory, no threads that read ahead": ("data.storage=memory", "data.num_workers=0"),
    "trainer.checkpoint_every_steps=3": ("trainer.checkpoint_every_steps=3",),
    "trainer.on_oom=halve": ("trainer.on_oom=halve",),
    "no pictures, no PR curves": ("trainer.tensorboard.pictures_every=0", "trainer.tensorboard.pr_curves=false"),
    "trainer.tensorboard.graph=true": ("trainer.tensorboard.graph=true",),
    "trainer.enable_model_summary=true": ("trainer.enable_model_summary=true",),
    "trainer.log_every_n_steps=1": ("trainer.log_every_n_steps=1",),
    "trainer.profiler=simple": ("trainer.profiler=simple",),
}
CHANGING = {
    "trainer.precision=32-true": ("trainer.precision=32-true",),
    "trainer.ema=0.9": ("trainer.ema=0.9",),
    "trainer.accumulate_grad_batches=2": ("trainer.accumulate_grad_batches=2",),
    "seed=1": ("seed=1",),
}
CONTROL = "control: "
WITHOUT_ALLOCATOR = (
    "import segsweep.allocator as a, segsweep.train as t, sys; t.keep_memory_between_steps = lambda: False; "
    "sys.argv = ['segsweep', *sys.argv[1:]]; t.main()"
)


def outcome(run: Path) -> tuple[str, str, str]:
    """Test mIoU and loss, and the digest of every metric and weight but the speed."""
    record = json.loads((run / "record.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timeless = [{key: value for key, value in line.items() if key != "train/images_per_s"} for line in lines]
    everything = json.dumps([record["metrics"]["test/miou"], record["metrics"]["test/loss"], timeless], sort_keys=True)
    weights = (run / "checkpoints" / "best.safetensors").read_bytes()
    digest = hashlib.sha256(everything.encode() + weights).hexdigest()[:12]
    return f"{record['metrics']['test/miou']:.6f}", f"{record['metrics']['test/loss']:.6f}", digest


def train(overrides: Sequence[str], folder: Path, name: str) -> tuple[str, str, str]:
    """The outcome of a run by the command."""
    run_segsweep([*overrides, f"hydra.run.dir={folder / name}"], folder)
    return outcome(folder / name)


def main() -> None:
    _, overrides = parser(__doc__).parse_known_args()
    print_head("Settings that are called result-neutral")
    line = [*BASE, *overrides]
    with workplace() as folder:
        as_shipped = train(line, folder, "base")
        rows = [("as shipped", *as_shipped, "")]
        for number, (name, changed) in enumerate({**NEUTRAL, **CHANGING}.items()):
            found = train([*line, *changed], folder, f"run{number}")
            rows.append((name if name in NEUTRAL else f"{CONTROL}{name}", *found, _verdict(found, as_shipped)))
        if torch.get_num_threads() > 1:
            with threads(1):
                found = train(line, folder, "one_thread")
            rows.append((f"{CONTROL}one thread", *found, _verdict(found, as_shipped)))
        run_python(["-c", WITHOUT_ALLOCATOR, *line, f"hydra.run.dir={folder / 'returned'}"], folder)
        found = outcome(folder / "returned")
        rows.insert(len(NEUTRAL) + 1, ("memory given back at every step", *found, _verdict(found, as_shipped)))
    print_table(("setting", "test mIoU", "test loss", "digest of metrics and weights", "against as shipped"), rows)
    wrong = [row[0] for row in rows[1:] if (row[-1] == "equal") == row[0].startswith(CONTROL)]
    raise SystemExit(f"error: not as expected: {', '.join(wrong)}" if wrong else 0)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Has runs compute with so many."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(number)
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _verdict(found: object, base: object) -> str:
    return "equal" if found == base else "differs"


if __name__ == "__main__":
    main()
