"""Tells from the folders of runs alone what a storm has cost: records, ledgers, and the bytes of files.

Nothing here looks into the program. The storms beside it share this, and how they start and print.
"""

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """One row of the table: how often a fault was tried, and what it cost."""

    fault: str
    attempts: int = 0
    losses: list[str] = field(default_factory=list)
    remark: str = ""

    def __str__(self) -> str:
        remark = f" ({self.remark})" if self.remark else ""
        return f"| {self.fault}{remark} | {self.attempts} | {len(self.losses)} |"


class SweepWitness:
    """Remembers what a sweep had finished, and complains when that is lost, changed or run again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: list[str] = []
        self._finished: dict[str, str] = {}  # digest of each finished run at the first look

    def look(self) -> None:
        """Compares the finished runs with what they were when they were first seen."""
        now = {name: digest_of(self.folder / name) for name in completed(self.folder)}
        for name, digest in self._finished.items():
            if now.get(name) != digest:
                self.losses.append(f"{name}: {'was changed' if name in now else 'is no longer complete'}")
        self._finished |= now

    def judge(self, num_expected: int) -> list[str]:
        """What the sweep has lost in all, once it is over."""
        self.look()
        if len(self._finished) != num_expected:
            self.losses.append(f"{len(self._finished)} results instead of {num_expected}")
        states: dict[str, list[str]] = {}
        for line in ledger(self.folder):
            states.setdefault(line["job"], []).append(line["status"])
        for name in self._finished:
            told = states.get(name, [])
            if told.count("completed") != 1 or told[-1] != "completed":
                self.losses.append(f"{name}: the ledger says {', '.join(told)}")
        return list(dict.fromkeys(self.losses))


def records(sweep: Path) -> dict[str, dict[str, Any]]:
    """The record of each job that has one."""
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(sweep.glob("*/record.json"))}


def completed(sweep: Path) -> list[str]:
    """The jobs that are complete."""
    return [name for name, record in records(sweep).items() if record["status"] == "completed"]


def ledger(sweep: Path) -> list[dict[str, Any]]:
    """The lines of a sweep's ledger but for a torn last one."""
    file = sweep / "ledger.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def digest_of(folder: Path) -> str:
    """SHA-256 over names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def digest_of_weights(run: Path) -> str:
    """SHA-256 of the tensors of the best and of the last weights, and of the last optimizer's state."""
    import torch
    from safetensors.torch import load_file

    checkpoints = run / "checkpoints"
    newest = max(checkpoints.glob("last-*.ckpt"), key=lambda path: int(path.stem.split("-")[1]))
    last = torch.load(newest, "cpu", weights_only=True)
    digest = hashlib.sha256()
    for tree in (load_file(checkpoints / "best.safetensors"), last["state_dict"], last["optimizer_states"]):
        for path, tensor in _tensors(tree):
            digest.update(path.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if hasattr(tree, "numpy"):
        yield path, tree
    elif isinstance(tree, dict):
        for key in sorted(tree, key=str):
            yield from _tensors(tree[key], f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for i, item in enumerate(tree):
            yield from _tensors(item, f"{path}/{i}")


def history(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without the speed, which is a matter of time."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "train/images_per_s"} for line in lines]


def parser(description: str | None, **numbers: int) -> argparse.ArgumentParser:
    """Options that every storm has, and some numbers of its own with their defaults."""
    result = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    result.add_argument("--control", action="store_true", help="switch the protection off: something has to be lost")
    result.add_argument("--seed", type=int, default=0, help="of the random moments")
    result.add_argument("--folder", type=Path, help="where to leave the runs; a temporary folder unless given")
    for name, default in numbers.items():
        result.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return result


@contextlib.contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """The folder of a storm: the given one, which has to be new or empty, or one that is removed afterwards.

    Raises:
        SystemExit: the folder is not empty.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="storm-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"error: --folder {folder} is not empty. Give a new one")
    yield folder.resolve()


def report(rows: Iterable[Row], is_control: bool) -> None:
    """Prints the rows and exits with 1 if something was lost; of a control, if nothing was."""
    is_fine = True
    for row in rows:
        for loss in row.losses:
            print(f"lost: {loss}", file=sys.stderr)
        print(row, flush=True)
        is_fine &= bool(row.losses) == is_control
    sys.exit(not is_fine)
