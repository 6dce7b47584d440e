"""Sees mistakes in a composed config before data, GPU or checkpoints are touched, and names all of them at once.

Every ``_target_`` node is bound against the signature of its target and its values are checked against the annotations,
and every part that can be built without data is built once, to hear its own complaint.
"""

import inspect
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segsweep.check_initial import initial_mistakes
from segsweep.check_stacking import stacking_mistakes
from segsweep.config import (
    TOP_LEVEL,
    arguments,
    data_nodes,
    settle,
    settle_trainer,
)
from segsweep.hints import did_you_mean, override
from segsweep.signatures import Choices, Defaults, check_node, shown
from segsweep.trials import TRIALS

# Arguments that ``config.build`` passes itself.
_PASSED = {
    "data": {"source", "augment", "regime", "seed"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "mode"},
    "trainer": {"logger", "callbacks", "plugins", "default_root_dir"},
}
_LONGEST_NAME = 255  # bytes
_DOCTOR = "{}; segsweep-data with the same overrides looks at the masks and suggests it"
_MISSING_HINTS = {
    "data.root": "the folder of the dataset, e.g. data.root=/data/camvid",
    "data.num_classes": _DOCTOR.format("data.num_classes=2"),
    "data.class_names": _DOCTOR.format(override("data.class_names", ["background", "cell"])),
    "data.size": _DOCTOR.format(override("data.size", [256, 256])),
}


# Groups that a group's check looks at, itself alone by default.
_READS = {"regime": ("regime", "model", "data"), "trainer": ("trainer", "data", "regime")}
_INITIAL = {"init_from", "model", "data", "regime", "trainer"}  # what its check looks at
Memo = dict[str, list[str]]  # what was said of groups before; a sweep repeats most of them in every job


def mistakes(cfg: DictConfig, choices: Choices, memo: Memo | None = None) -> list[str]:
    """All mistakes of a config, one line each: what, where, how to fix it.

    Args:
        cfg: the job's config, without Hydra's own node.
        choices: option of each group, to name the file that holds a default.
        memo: carried from config to config, so that a group that was checked is not checked again.
    """
    lines = [*unknown_top_level(cfg), *_missing(cfg)]
    unresolved = [] if lines else list(_unresolved(cfg))
    if lines or unresolved:
        # What depends on a missing value cannot be checked; the other groups can.
        return lines + unresolved + check_values(_without_missing(cfg), choices, memo)
    return check_values(settle(cfg), choices, memo)


def unknown_top_level(cfg: Iterable[Any]) -> Iterator[str]:
    """A line for each key of the top level that is none."""
    for key in map(str, cfg):
        if key not in TOP_LEVEL:
            yield f"{key}: unknown key. {did_you_mean(key, TOP_LEVEL)}"


def _missing(cfg: DictConfig) -> Iterator[str]:
    flat = OmegaConf.to_container(cfg, resolve=False)
    for path, value in _leaves(flat, ""):
        if value == "???":  # OmegaConf's mark of a value that must be given
            yield not_set(path)


def not_set(path: str) -> str:
    """The line about a key that has to be given."""
    return f"{path} is not set. Give {_MISSING_HINTS.get(path, f'a value: {path}=...')}"


def _unresolved(cfg: DictConfig) -> Iterator[str]:
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        yield f"{error.full_key}: {_how(str(error).splitlines()[0])}"


def _how(message: str) -> str:
    """What OmegaConf says of an interpolation, and what to write instead."""
    if "interpolation type hydra" in message or "HydraConfig was not set" in message:
        return "a run knows nothing of ${hydra:...}. Write the value itself, or refer to another key, e.g. ${seed}"
    if "Environment variable" in message:
        return f"{message}. Set the variable, or write a default: ${{oc.env:NAME,value}}"
    return f"{message}. Refer to a key that there is, by its whole path, e.g. ${{data.num_classes}}"


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield path, node
    else:
        for key, child in children:
            yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _without_missing(cfg: DictConfig) -> dict[str, Any]:
    """The groups that resolve, settled."""
    plain: dict[str, Any] = {}
    for key in TOP_LEVEL:
        try:
            value = cfg.get(key)
            is_group = OmegaConf.is_config(value)
            plain[key] = OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if is_group else value
        except OmegaConfBaseException:
            continue
    return {key: settle_trainer(node) if key == "trainer" else node for key, node in plain.items()}


def check_values(plain: dict[str, Any], choices: Choices, memo: Memo | None = None) -> list[str]:
    """The mistakes of settled groups, without those about keys that are missing.

    Args:
        plain: some or all groups and keys of the top level.
        choices: option of each group.
        memo: carried from job to job of a sweep, so that a group that was checked is not checked again.
    """
    memo = {} if memo is None else memo
    lines: list[str] = []
    for group, node in plain.items():
        if isinstance(node, dict) and group in TOP_LEVEL and group != "init_from":
            read = {name: plain.get(name) for name in _READS.get(group, (group,))}
            key = json.dumps([group, choices.get(group), read], default=repr)
            if key not in memo:
                memo[key] = _check_group(group, plain, choices)
            lines += memo[key]
    if not lines and (plain.get("trainer") or {}).get("stack_seeds") is not None:
        key = json.dumps(["stack_seeds", {**plain, "seed": 0, "name": None}], default=repr)
        if key not in memo:
            memo[key] = list(stacking_mistakes(plain))
        lines += memo[key]
    if not lines and plain.keys() >= _INITIAL:
        key = json.dumps(["init_from", {name: plain.get(name) for name in sorted(_INITIAL)}], default=repr)
        if key not in memo:
            memo[key] = list(initial_mistakes(plain))
        lines += memo[key]
    lines += _check_scalars(plain)
    return lines


def _check_group(group: str, plain: dict[str, Any], choices: Choices) -> list[str]:
    passed, defaults = _PASSED.get(group, set()), Defaults(group, choices)
    others = _data_keys() if group == "data" else set()
    said = (line for part in _nodes(group, plain) for line in check_node(group, part, passed, defaults, others))
    # A key that both the source and the DataModule take is one mistake.
    lines = list({line.partition(": ")[0]: line for line in said}.values())
    if not lines and group in TRIALS:
        lines += TRIALS[group](plain, defaults)
    return lines


def _nodes(group: str, plain: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The ``_target_`` nodes of a group: one, but for the data, whose keys serve the source and the DataModule."""
    node = arguments(plain, group)
    if group == "trainer":
        # Its trial takes fewer than Lightning does.
        node = {key: value for key, value in node.items() if key != "precision"}
    try:
        return data_nodes(node) if group == "data" else (node,)
    except Exception:  # Hydra raises its own and plain ones; check_node names what is wrong with the target
        return (node,)


def _data_keys() -> set[str]:
    """Keys of the DataModule, which stand beside those of the source."""
    from segsweep.data.datamodule import DataModule

    return set(inspect.signature(DataModule).parameters) - _PASSED["data"]


def _check_scalars(plain: dict[str, Any]) -> Iterator[str]:
    seed = plain.get("seed", 0)  # one that refers to what is not there has been named already
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        yield f"seed={shown(seed)} is not a whole number of 0 or more, e.g. seed=0"
    name = plain.get("name")
    if name is not None and (not isinstance(name, str | int) or str(name) in ("", ".", "..") or "/" in str(name)):
        yield f"name={shown(name)} does not name a folder; use letters, digits, '-' and '_'"
    elif (length := len(os.fsencode(str(name)))) > _LONGEST_NAME:
        yield f"name is {length} bytes long; file systems take {_LONGEST_NAME}. Choose a shorter one"
    data, loss = plain.get("data"), plain.get("loss")
    if "monitor" in plain and isinstance(data, dict) and isinstance(data.get("class_names"), list):
        from segsweep import metrics

        terms = loss.get("terms") if isinstance(loss, dict) else None
        is_on = {term: factor != 0 for term, factor in terms.items()} if isinstance(terms, dict) else {}
        known = {f"val/{metric}" for metric in (*metrics.names(data["class_names"]), "loss")}
        known |= {f"val/loss/{term}" for term in is_on if is_on[term]}
        if plain["monitor"] not in known:
            yield f"monitor={plain['monitor']!r} is not logged. {did_you_mean(str(plain['monitor']), known)}"
