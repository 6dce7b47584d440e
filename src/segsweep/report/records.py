"""Reads the records of run folders, which may be strangers': what a report computes with has its right type."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import EllipsisType, NoneType, UnionType
from typing import Any

from segsweep.contained import read_json
from segsweep.report.printable import printable
from segsweep.run import ConfigError

Record = dict[str, Any]
_Number = int | float | None
_Shape = type | UnionType | list["_Shape"] | dict[str | EllipsisType, "_Shape"]

_NEEDED = ("choices", "config", "fingerprint_without_seed", "overrides", "seed", "started", "status")
_CONFIG: dict[str | EllipsisType, _Shape] = {
    "model": dict, "data": dict, "loss": dict, "regime": dict, "trainer": dict, "optimizer": dict, "augment": dict,
}  # fmt: skip
# What a report reads; ``...``: every other key. A key that is not here is only ever shown.
_RECORD: dict[str | EllipsisType, _Shape] = {
    "status": str, "seed": int, "fingerprint": str, "fingerprint_without_seed": str, "overrides": [str],
    "choices": {...: str | NoneType}, "config": _CONFIG, "metrics": {...: _Number}, "metrics_last": {...: _Number},
    "floors": {...: {...: _Number}}, "images_per_s": {...: _Number}, "peak_memory_mb": {...: _Number},
    "versions": {...: str | NoneType}, "git": dict | NoneType, "error": {...: str | NoneType}, "code": dict | NoneType,
    "data": {
        "fingerprint": str, "class_names": [str], "split_sizes": {...: int}, "size": [int],
        "labelled_fraction": int | float,
    },
    **dict.fromkeys(("started", "finished", "family", "precision", "device", "sweep", "pretrained"), str | NoneType),
    **dict.fromkeys(
        ("parameters", "flops", "wall_s", "steps", "epochs", "best_epoch", "images_seen", "images_tested", "threads",
         "tuning_trials", "trial", "metric_version"), _Number,
    ),
    "readout": {...: {...: _Number}},
}  # fmt: skip


def find_records(folders: Iterable[Path]) -> list[Record]:
    """Reads the records in and below folders, each once.

    Raises:
        FileNotFoundError: a folder does not exist, or holds no run at all.
        ConfigError: a record cannot be read, or another program wrote it.
    """
    records: dict[Path, Record] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is not a folder. Give run or sweep folders, e.g. outputs/sweeps/families"
            )
        found = sorted(folder.rglob("record.json"))
        if not found:
            raise FileNotFoundError(f"{folder} holds no run (no record.json in or below it)")
        for file in found:
            records[file.parent.resolve()] = {**_read(file), "folder": str(file.parent)}
    return list(records.values())


def _read(file: Path) -> Record:
    record = read_json(file.parent, file.name)
    missing = [key for key in _NEEDED if key not in record]
    if missing:
        raise ConfigError(
            f"{file}: the record lacks {', '.join(missing)}: another program or version wrote it. Leave the folder out"
        )
    if wrong := next(_misfits(record, _RECORD), None):
        raise ConfigError(f"{file}: {printable(wrong)}, which no run writes there. Leave the folder out")
    return record


def _misfits(value: Any, shape: _Shape, path: str = "the record") -> Iterator[str]:
    """Where a value is not what it should be; a mapping may lack keys, and may be None where it is a whole part."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            if value is not None or path == "the record":
                yield f"{path} is {_kind(value)}"
            return
        for key, child in value.items():
            if (inner := shape.get(key, shape.get(...))) is not None:
                yield from _misfits(child, inner, f"{path}.{key}"[:200])
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{path} is {_kind(value)}"
            return
        for child in value:
            yield from _misfits(child, shape[0], path)
    elif not isinstance(value, shape) or isinstance(value, bool):
        yield f"{path} is {_kind(value)}"


def _kind(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)[:100]
