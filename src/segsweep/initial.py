"""Where a run starts from: the best weights of another run (``init_from``), read as data.

What counts is their content, not where they lie: a run that was moved or renamed is the same start, one that was
trained again is another. No path of it is written anywhere.
"""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segsweep.files import read_hashed

if TYPE_CHECKING:
    from torch import nn

KEY = "init_from"
WEIGHTS = Path("checkpoints", "best.safetensors")
_MOST_JSON = 32 << 20  # bytes, of a record
_DIGITS = 12  # of a digest, where people read it
_SHOWN = 6  # tensors in a line
log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]


def settled(value: Any) -> Any:
    """What is known of the run that ``init_from`` names: plain values; as it is where that is none to start from."""
    if not isinstance(value, str):
        return value
    try:
        return look_at(value)
    except ValueError:
        return value  # the check says what is wrong


def look_at(value: Any) -> dict[str, Any]:
    """Reads what a run folder says of itself; the weights are not opened.

    Returns:
        ``folder`` as typed, ``run`` (its name), ``weights_sha256``, ``seed``, ``kind`` (its identity without the seed),
        ``class_names``, and of its data ``in_channels``, ``mean`` and ``std``.

    Raises:
        ValueError: it is no completed run; one line.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{KEY}={value!r} names no folder; give that of a completed run, or null")
    folder = Path(value)
    if not folder.is_dir():
        raise ValueError(f"{KEY}={value}: there is no such folder. Give that of a completed run, or null")
    if not (folder / "record.json").exists():
        hint = "Give one of the runs in it" if any(folder.glob("*/record.json")) else "Give the folder of a run"
        raise ValueError(f"{KEY}={value}: no run, it has no record.json. {hint}")
    record = _read_json(folder, Path("record.json"))
    if (status := record.get("status")) != "completed":
        raise ValueError(f"{KEY}={value}: the run is {str(status)[:20]!r}. Complete it first, or name another")
    digest = _read(folder, WEIGHTS.with_name(f"{WEIGHTS.name}.sha256"), 100).decode(errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", digest) or not (folder / WEIGHTS).is_file():
        raise ValueError(f"{KEY}={value}: {WEIGHTS} is not there, or without its SHA-256. Run it again")
    data = (record.get("config") or {}).get("data")
    data = data if isinstance(data, dict) else {}
    return {
        "folder": value,
        "run": folder.resolve().name,
        "weights_sha256": digest,
        "seed": record.get("seed"),
        "kind": str(record.get("fingerprint_without_seed"))[:64],
        **{key: data.get(key) for key in ("in_channels", "mean", "std")},
        "class_names": [str(name) for name in names] if isinstance(names := data.get("class_names"), list) else [],
    }


def facts(source: Any) -> dict[str, str] | None:
    """What a record says of it: ``run`` and ``weights_sha256``."""
    return {key: source[key] for key in ("run", "weights_sha256")} if isinstance(source, dict) else None


def told(source: Any, seed: int) -> Any:
    """One text that people and reports tell starts apart by: a name and a digest.

    Runs that each start from the run of their own seed, of otherwise equal runs, start alike.
    """
    if not isinstance(source, dict):
        return source
    name, digest = source["run"], source["weights_sha256"]
    if source["seed"] == seed:
        alike = re.sub(rf"\bseed={seed}\b", "seed=*", name)
        name, digest = alike if alike != name else "the run of the same seed", source["kind"]
    return f"{name} ({digest[:_DIGITS]})"


def identity(source: Any, seed: int | None) -> Any:
    """What of it a fingerprint is made of.

    Args:
        source: as ``settled`` returns it.
        seed: None, or that of the run if the fingerprint is to leave it out: then a start from the run of the same seed
            is one that follows from the seed.
    """
    if not isinstance(source, dict):
        return source
    return source["kind"] if seed is not None and source["seed"] == seed else source["weights_sha256"]


def nameable(override: str) -> str:
    """An override as folders are named by it: of ``init_from`` with the name of the run alone.

    >>> nameable('init_from="/data/runs/model=unet,seed=0"'), nameable("seed=0")
    ('init_from=model=unet,seed=0', 'seed=0')
    """
    key, _, value = override.partition("=")
    name = Path(value.strip("\"'")).name
    return f"{KEY}={name}" if key.lstrip("+") == KEY and name else override


def load_into(model: "nn.Module", source: Any, class_names: Sequence[str]) -> None:
    """Gives a model the weights of the run, all but a classifier of another number of classes.

    Args:
        model: with random weights.
        source: as ``settled`` returns it.
        class_names: of the data that is to be learnt.

    Raises:
        ValueError: the weights are damaged, others than before, or of another architecture.
    """
    from safetensors.torch import load

    source = source if isinstance(source, dict) else look_at(source)
    folder = Path(source["folder"])
    if look_at(source["folder"])["weights_sha256"] != source["weights_sha256"]:
        raise ValueError(f"{KEY}={source['folder']}: the weights have just changed. Start again")
    theirs, own = load(read_hashed(folder / WEIGHTS)), model.state_dict()
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (own, theirs)]
    differing, left = compare(shapes[0], shapes[1], (len(class_names), len(source["class_names"])))
    if differing:
        raise ValueError(other_architecture(source, differing))
    model.load_state_dict({**own, **{name: value for name, value in theirs.items() if name not in left}})
    log.info("%s: %d tensors of %s", KEY, len(theirs) - len(left), told(source, -1))
    if left:
        log.info("%s: left at random, because the number of classes differs: %s", KEY, ", ".join(left))
    elif list(class_names) != source["class_names"]:
        log.warning("%s: classes have other names than those that its classifier was trained on", KEY)


def shapes_in(source: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the run's file of weights; their values are not read.

    Raises:
        ValueError: it is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(source["folder"]) / WEIGHTS, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{KEY}={source['folder']}: {WEIGHTS} is damaged: {str(error)[:200]}") from None


def model_target(source: Mapping[str, Any]) -> str:
    """Name of the class of its model, as the run has it.

    Raises:
        ValueError: the run does not say.
    """
    content = _read_json(Path(source["folder"]), WEIGHTS.with_name("best.json"))
    node = content.get("model")
    return str(node.get("_target_")) if isinstance(node, dict) else "none"


def compare(own: Shapes, theirs: Shapes, num_classes: tuple[int, int]) -> tuple[list[str], list[str]]:
    """Holds the tensors of a model against those of a file.

    Args:
        own: shapes of the model.
        theirs: shapes in the file.
        num_classes: of both.

    Returns:
        What differs, a phrase for each tensor; and the names of tensors that differ in the number of classes alone.
    """
    differing: list[str] = []
    left: list[str] = []
    for name, shape in own.items():
        there = theirs.get(name, shape)
        if there == shape:
            continue
        if len(shape) == len(there) and all(a == b or (a, b) == num_classes for a, b in zip(shape, there, strict=True)):
            left.append(name)
        else:
            differing.append(f"{name} is {list(there)} there and {list(shape)} here")
    differing += [f"{name} {list(shape)} is not in it" for name, shape in own.items() if name not in theirs]
    differing += [
        f"{name[:100]} {list(shape)} is not in this model" for name, shape in theirs.items() if name not in own
    ]
    return differing, left


def other_architecture(source: Mapping[str, Any], differing: Sequence[str]) -> str:
    """The line about weights that do not fit."""
    more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    listed = "; ".join(line if line.isprintable() else repr(line) for line in differing[:_SHOWN])
    return (
        f"{KEY}={source['folder']}: weights of another architecture ({listed}{more}). Choose the model= and its "
        f"arguments as that run has them, or start from another one"
    )


def _read(folder: Path, name: Path, most: int) -> bytes:
    """Reads a plain file that lies in the folder itself, if it is not larger than ``most`` bytes."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > most:
            raise OSError("not a file that a run has written")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{KEY}={folder}: {os.fspath(name)} cannot be read: {error.strerror or error}") from None


def _read_json(folder: Path, name: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(folder, name, _MOST_JSON))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{KEY}={folder}: {name} is damaged: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict | None):
        raise ValueError(f"{KEY}={folder}: {name} is no record of a run")
    return content
