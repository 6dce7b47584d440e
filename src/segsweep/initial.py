"""Where a run starts from: the best weights of another run (``init_from``), read as data.

What counts is their content, not where they lie: a run that was moved or renamed is the same start, one that was
trained again is another. No path of it is written anywhere.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segsweep.contained import read_bytes, read_json, read_start
from segsweep.run import ConfigError
from segsweep.tensors import MOST_HEADER, load_tensors, read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

KEY = "init_from"
WEIGHTS = "checkpoints/best.safetensors"
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
        ConfigError: it is no completed run; one line.
    """
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{KEY}={value!r} names no folder; give that of a completed run, or null")
    folder = Path(value)
    if not folder.is_dir():
        raise ConfigError(f"{KEY}={value}: there is no such folder. Give that of a completed run, or null")
    if not (folder / "record.json").exists():
        hint = "Give one of the runs in it" if any(folder.glob("*/record.json")) else "Give the folder of a run"
        raise ConfigError(f"{KEY}={value}: no run, it has no record.json. {hint}")
    record = _read_json(folder, "record.json")
    if not isinstance(record.get("config"), dict | None):
        raise ConfigError(f"{KEY}={value}: record.json does not hold what a run writes there: another program wrote it")
    if (status := record.get("status")) != "completed":
        raise ConfigError(f"{KEY}={value}: the run is {str(status)[:20]!r}. Complete it first, or name another")
    with _of_key(value):
        digest = read_bytes(folder, f"{WEIGHTS}.sha256", 100, f"{WEIGHTS}.sha256").decode(errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", digest) or not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{KEY}={value}: {WEIGHTS} is not there, or without its SHA-256. Run it again")
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
        ConfigError: the weights are damaged, others than before, or of another architecture.
    """
    source = source if isinstance(source, dict) else look_at(source)
    if look_at(source["folder"])["weights_sha256"] != source["weights_sha256"]:
        raise ConfigError(f"{KEY}={source['folder']}: the weights have just changed. Start again")
    own = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    differing, left = compare(shapes, shapes_in(source), (len(class_names), len(source["class_names"])))
    if differing:
        raise ConfigError(other_architecture(source, differing))
    theirs = _tensors(source)
    model.load_state_dict({**own, **{name: value for name, value in theirs.items() if name not in left}})
    log.info("%s: %d tensors of %s", KEY, len(theirs) - len(left), told(source, -1))
    if left:
        log.info("%s: left at random, because the number of classes differs: %s", KEY, ", ".join(left))
    elif list(class_names) != source["class_names"]:
        log.warning("%s: classes have other names than those that its classifier was trained on", KEY)


def shapes_in(source: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the run's file of weights; their values are not read.

    Raises:
        ConfigError: it is no such file.
    """
    with _of_key(source["folder"]):
        start, size = read_start(Path(source["folder"]), WEIGHTS, 8 + MOST_HEADER, WEIGHTS)
        header = read_header(start, size, WEIGHTS)
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _tensors(source: Mapping[str, Any]) -> "dict[str, Tensor]":
    """All of them; their shapes are known to be those of a model, so that they take no more memory than that."""
    folder = Path(source["folder"])
    with _of_key(folder):
        data = read_bytes(folder, WEIGHTS, (folder / WEIGHTS).stat().st_size, WEIGHTS)
        if hashlib.sha256(data).hexdigest() != source["weights_sha256"]:
            raise ConfigError(f"{WEIGHTS} is damaged: its SHA-256 is not the one beside it")
        return load_tensors(data, WEIGHTS)


def model_target(source: Mapping[str, Any]) -> str:
    """Name of the class of its model, as the run has it.

    Raises:
        ConfigError: the run does not say.
    """
    content = _read_json(Path(source["folder"]), "checkpoints/best.json")
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


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    with _of_key(folder):
        return read_json(folder, name, name)


@contextlib.contextmanager
def _of_key(folder: object) -> Iterator[None]:
    """Begins what a reader of run folders says with the key that names the folder."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{KEY}={folder}: {error}") from None
