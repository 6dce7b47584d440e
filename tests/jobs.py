"""Jobs that need no torch, and what they do: importable by name, because they run in processes of their own."""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from segsweep import signals
from segsweep.run import open_run
from segsweep.sweep import Job


def job(sweep: Path, what: str, index: int = 0, **changes) -> Job:
    """A job that does ``what``, the name of a function below, in ``<sweep>/<index>_<what>``."""
    fields = {
        "index": index,
        "folder": sweep / f"{index}_{what}",
        "overrides": (f"model={what}", "seed=0"),
        "config": {"what": what},
        "choices": {"model": what},
        "fingerprint": f"f_{what}",
        "kind": what,
    }
    return Job(**{**fields, **changes})


def target(job: Job) -> None:
    """Does what the job's config says inside of a run."""
    facts = {"fingerprint": job.fingerprint, "config": {}, "sweep": "s", "monitor": "val/miou"}
    if job.config.get("outside"):
        globals()[job.config["what"]](job, None)
    with signals.handled(), open_run(job.folder, facts) as run:
        if not run.is_completed:
            globals()[job.config["what"]](job, run)


def works(job, run):
    times = {"from": time.time(), "pid": os.getpid(), "environment": dict(os.environ)}
    time.sleep(job.config.get("seconds", 0))
    metrics = {"val/miou": 0.5 + job.index / 10, "test/miou": 0.4}
    run.save(metrics=metrics, times={**times, "to": time.time()}, peak_memory_mb={"host": 100.0})


def raises(job, run):
    raise ValueError("bad\nvalue")


def exits(job, run):
    sys.exit(3)


def exits_at_once(job, run):
    os._exit(4)


def is_killed(job, run):
    print("my last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(job, run):
    ctypes.string_at(0)


def hangs(job, run):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (job.folder / "metrics.jsonl").write_text(json.dumps({"epoch": 2, "step": 12}) + "\n")
    (job.folder / "hangs").write_text(str(os.getpid()))
    time.sleep(60)


def hangs_with_a_child(job, run):
    (job.folder / "grandchild").write_text(str(pid := os.fork()))
    if pid == 0:
        time.sleep(60)
    hangs(job, run)


def waits(job, run):
    """As a run in training: SIGTERM ends it as interrupted."""
    (job.folder / "hangs").write_text(str(os.getpid()))
    time.sleep(60)


def eats(job, run):
    eaten = bytearray()
    for _ in range(1000):
        eaten += os.urandom(1 << 20) * 16
        time.sleep(0.02)
    time.sleep(60)


def sweep_for_ever(folder: Path) -> None:
    """A program with a sweep of two jobs that never end; leaves its exit code to whoever ends it."""
    from segsweep.sweep import SweepOptions
    from segsweep.sweep.machine import Machine
    from segsweep.sweep.pool import Pool

    what = sys.argv[2]
    with Pool(SweepOptions(jobs=2), 3, target, sweep="s", machine=Machine(2), preload=()) as pool:
        for i in range(3):
            pool.submit(job(folder, what, i))
        while not pool.is_idle:
            pool.outcome()


if __name__ == "__main__":
    sweep_for_ever(Path(sys.argv[1]))
