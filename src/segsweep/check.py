"""Sees mistakes in a composed config before data, GPU or checkpoints are touched, and names all of them at once.

Every ``_target_`` node is bound against the signature of its target and its values are checked against the annotations,
and every part that can be built without data is built once, to hear its own complaint.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segsweep.check_sharing import sharing_mistakes
from segsweep.config import (
    TOP_LEVEL,
    arguments,
    data_nodes,
    fingerprint,
    make,
    make_partial,
    semantic_part,
    settle,
    settle_plain,
    settle_trainer,
)
from segsweep.hints import did_you_mean, override, written
from segsweep.run import redact
from segsweep.signatures import HYDRA_KEYS, Choices, Defaults, check_node, shown

# Arguments that ``config.build`` passes itself.
_PASSED = {
    "data": {"source", "augment", "regime", "seed"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "mode"},
    "trainer": {"logger", "callbacks", "plugins", "default_root_dir"},
}
_TRAINER_ALLOWED: dict[str, tuple[Any, ...]] = {
    "accelerator": ("cpu", "gpu"),
    "num_nodes": (1,),
    "strategy": ("auto", "ddp", "fsdp"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
    "on_oom": ("fail", "halve"),
    "enable_checkpointing": (True,),  # a run without checkpoints could be neither scored nor continued
    "barebones": (False,),
}
_DOCTOR = "{}; segsweep-data with the same overrides looks at the masks and suggests it"
_MISSING_HINTS = {
    "data.root": "the folder of the dataset, e.g. data.root=/data/camvid",
    "data.num_classes": _DOCTOR.format("data.num_classes=2"),
    "data.class_names": _DOCTOR.format(override("data.class_names", ["background", "cell"])),
    "data.size": _DOCTOR.format(override("data.size", [256, 256])),
}


# Groups that a group's check looks at, itself alone by default.
_READS = {"regime": ("regime", "model", "data"), "trainer": ("trainer", "data", "regime")}
Memo = dict[str, list[str]]  # what was said of groups before; a sweep repeats most of them in every job


@dataclass(frozen=True)
class JobConfig:
    """The composed config of a job as plain values.

    Attributes:
        config: interpolations kept.
        resolved: as ``resolved`` returns it.
        choices: option of each group.
    """

    config: dict[str, Any]
    resolved: dict[str, Any] | None
    choices: dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """What is known of a job before it runs.

    Attributes:
        lines: its mistakes; the other fields are empty if there are any.
        fingerprint: its identity.
        kind: its identity without the seed.
        config: what the identity is made of, secrets redacted.
    """

    lines: list[str]
    fingerprint: str = ""
    kind: str = ""
    config: dict[str, Any] | None = None


def inspect_jobs(jobs: Sequence[JobConfig]) -> list[Verdict]:
    """Checks the jobs of a sweep; takes and gives plain values, so that another process may do it."""
    memo: Memo = {}
    return [_inspect(job, memo) for job in jobs]


def _inspect(job: JobConfig, memo: Memo) -> Verdict:
    if job.resolved is None:
        return Verdict(mistakes(OmegaConf.create(job.config), job.choices))
    plain = settle_plain(job.resolved)
    lines = [*_unknown_top_level(plain), *check_values(plain, job.choices, memo)]
    if lines:
        return Verdict(lines)
    return Verdict([], fingerprint(plain), fingerprint(plain, with_seed=False), redact(semantic_part(plain)))


def resolved(cfg: DictConfig) -> dict[str, Any] | None:
    """All values of a config, or None if one is missing or refers to what is not there."""
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException:
        return None


def mistakes(cfg: DictConfig, choices: Choices) -> list[str]:
    """All mistakes of a config, one line each: what, where, how to fix it.

    Args:
        cfg: the job's config, without Hydra's own node.
        choices: option of each group, to name the file that holds a default.
    """
    lines = [*_unknown_top_level(cfg), *_missing(cfg)]
    unresolved = [] if lines else list(_unresolved(cfg))
    if lines or unresolved:
        # What depends on a missing value cannot be checked; the other groups can.
        return lines + unresolved + check_values(_without_missing(cfg), choices)
    return check_values(settle(cfg), choices)


def _unknown_top_level(cfg: Iterable[Any]) -> Iterator[str]:
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
        yield f"{error.full_key}: {str(error).splitlines()[0]}"


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
        if isinstance(node, dict) and group in TOP_LEVEL:
            read = {name: plain.get(name) for name in _READS.get(group, (group,))}
            key = json.dumps([group, choices.get(group), read], default=repr)
            if key not in memo:
                memo[key] = _check_group(group, plain, choices)
            lines += memo[key]
    lines += _check_scalars(plain)
    return lines


def _check_group(group: str, plain: dict[str, Any], choices: Choices) -> list[str]:
    passed, defaults = _PASSED.get(group, set()), Defaults(group, choices)
    others = _data_keys() if group == "data" else set()
    said = (line for part in _nodes(group, plain) for line in check_node(group, part, passed, defaults, others))
    # A key that both the source and the DataModule take is one mistake.
    lines = list({line.partition(": ")[0]: line for line in said}.values())
    if not lines and group in _TRIALS:
        lines += _TRIALS[group](plain, defaults)
    return lines


def _nodes(group: str, plain: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The ``_target_`` nodes of a group: one, but for the data, whose keys serve the source and the DataModule."""
    node = arguments(plain, group)
    try:
        return data_nodes(node) if group == "data" else (node,)
    except Exception:  # Hydra raises its own and plain ones; check_node names what is wrong with the target
        return (node,)


def _data_keys() -> set[str]:
    """Keys of the DataModule, which stand beside those of the source."""
    from segsweep.data.datamodule import DataModule

    return set(inspect.signature(DataModule).parameters) - _PASSED["data"]


def _check_scalars(plain: dict[str, Any]) -> Iterator[str]:
    seed = plain.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        yield f"seed={shown(seed)} is not a whole number of 0 or more, e.g. seed=0"
    name = plain.get("name")
    if name is not None and (not isinstance(name, str | int) or str(name) in ("", ".", "..") or "/" in str(name)):
        yield f"name={shown(name)} does not name a folder; use letters, digits, '-' and '_'"
    data, loss = plain.get("data"), plain.get("loss")
    if "monitor" in plain and isinstance(data, dict) and isinstance(data.get("class_names"), list):
        from segsweep import metrics

        terms = loss.get("terms") if isinstance(loss, dict) else None
        is_on = {term: factor != 0 for term, factor in terms.items()} if isinstance(terms, dict) else {}
        known = {f"val/{metric}" for metric in (*metrics.names(data["class_names"]), "loss")}
        known |= {f"val/loss/{term}" for term in is_on if is_on[term]}
        if plain["monitor"] not in known:
            yield f"monitor={plain['monitor']!r} is not logged. {did_you_mean(str(plain['monitor']), known)}"


def _try_trainer(plain: dict[str, Any], defaults: Defaults) -> list[str]:
    """What Lightning accepts but this program cannot do, and what only the machine can tell."""
    import torch

    from segsweep import callbacks

    node = plain["trainer"]
    stopping = node.get("early_stopping")
    if not isinstance(stopping, dict):
        return ["trainer.early_stopping is no pair of patience and threshold; leave both null to switch it off"]
    target = {"_target_": f"{callbacks.__name__}.early_stopping", **stopping}
    lines = list(check_node("trainer.early_stopping", target, {"monitor"}, defaults))
    for key, allowed in _TRAINER_ALLOWED.items():
        if node.get(key) not in allowed:
            lines.append(f"trainer.{key}={shown(node.get(key))}: use {' or '.join(map(shown, allowed))}")
    lines += sharing_mistakes(plain)
    if not isinstance(node.get("max_epochs"), int) or node["max_epochs"] < 1:
        lines.append(
            f"trainer.max_epochs={node.get('max_epochs')}: give 1 or more; trainer.max_steps may end it earlier"
        )
    every = node.get("checkpoint_every_steps")
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        lines.append(f"trainer.checkpoint_every_steps={shown(every)}: give 1 or more optimisation steps, or null")
    if node.get("accelerator") == "gpu" and not torch.cuda.is_available():
        lines.append(
            "trainer.accelerator=gpu: torch sees no GPU here. Use trainer=cpu, or trainer=auto for what there is"
        )
    return lines


def _try_optimizer(plain: dict[str, Any], defaults: Defaults) -> list[str]:
    return _trial("optimizer", plain["optimizer"], defaults, lambda: _dummy_optimizer(plain))


def _try_scheduler(plain: dict[str, Any], defaults: Defaults) -> list[str]:
    import torch

    def build() -> None:
        function = make_partial(plain["scheduler"])
        offered = {"total_steps": 10, "mode": "max"}
        taken = inspect.signature(function).parameters
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        function(optimizer, **{k: v for k, v in offered.items() if k in taken})

    return _trial("scheduler", plain["scheduler"], defaults, build)


def _dummy_optimizer(plain: dict[str, Any]) -> Any:
    import torch

    return make_partial(plain["optimizer"])([torch.nn.Parameter(torch.zeros(1))])


def _try_data(plain: dict[str, Any], defaults: Defaults) -> list[str]:
    """Builds the DataModule: sources look at folders and names when they are built; no image is opened."""
    node = plain["data"]

    def build() -> None:
        source, module = data_nodes(node)
        make_partial({**module, "source": None})(augment=None, regime=None, seed=0)  # first: it is quick
        make(source)

    return _trial("data", node, defaults, build)


def _try_model(plain: dict[str, Any], defaults: Defaults) -> list[str]:
    """Builds the model where tensors have shapes but no memory."""
    import torch

    def build() -> None:
        with torch.device("meta"):
            make(arguments(plain, "model"))

    return _trial("model", plain["model"], defaults, build)


def _try_regime(plain: dict[str, Any], defaults: Defaults) -> list[str]:
    """Builds the regime, and holds it against a model without memory: some stages need an encoder."""
    import torch

    from segsweep.staged import prepare
    from segsweep.types import DataSpec

    def build() -> None:
        regime = make(arguments(plain, "regime"))
        data = plain.get("data") or {}
        try:
            names, mean, std = (tuple(data[key]) for key in ("class_names", "mean", "std"))
            spec = DataSpec(names, data["in_channels"], data["ignore_index"], mean, std, data["size"])
            with torch.device("meta"):
                model = make(arguments(plain, "model"))
        except Exception:  # the model and the data are told about where they are tried themselves
            return
        with torch.device("meta"):
            prepare(regime, model, spec)

    return _trial("regime", plain["regime"], defaults, build)


def _try_parts(group: str) -> Callable[[dict[str, Any], Defaults], list[str]]:
    return lambda plain, defaults: _trial(group, plain[group], defaults, lambda: make(plain[group]))


_TRIALS: dict[str, Callable[[dict[str, Any], Defaults], list[str]]] = {
    "optimizer": _try_optimizer,
    "scheduler": _try_scheduler,
    "data": _try_data,
    "model": _try_model,
    "trainer": _try_trainer,
    "loss": _try_parts("loss"),
    "regime": _try_regime,
    "augment": _try_parts("augment"),
}


def _failed_node(path: str, node: dict[str, Any], error: Exception) -> tuple[str, dict[str, Any]]:
    """The node inside a part that could not be built, by the path that Hydra puts last; else the part itself."""
    where = re.search(r"\nfull_key: (\S+)$", str(error))
    inner = OmegaConf.select(OmegaConf.create(node), where[1]) if where else None
    if where is None or not OmegaConf.is_dict(inner):
        return path, node
    return f"{path}.{where[1]}", OmegaConf.to_container(inner)  # type: ignore[return-value]


def _trial(path: str, node: dict[str, Any], defaults: Defaults, build: Callable[[], Any]) -> list[str]:
    """Builds a part once; its own complaint becomes the line, with the key whose value it quotes."""
    from hydra.errors import InstantiationException

    try:
        build()
    except InstantiationException as error:
        cause = error.__cause__ or error
        path, node = _failed_node(path, node, error)
    except Exception as error:
        cause = error
    else:
        return []
    if isinstance(lines := getattr(cause, "lines", None), list):  # a DataError: each line says everything
        return lines
    message = (str(cause) or repr(cause)).splitlines()[0]
    if message.startswith("data."):
        return [message]
    if re.split(r"[.=:]", message)[0] in node:  # it names its key already
        return [f"{path}.{message}"]
    key = next(
        (k for k, v in node.items() if k not in HYDRA_KEYS and not isinstance(v, bool) and f": {v}" in message), None
    )
    where = f"{path}.{key}={written(node[key])}" if key else path
    return [f"{where}: {message}{defaults.advice(f'{path}.{key}', node[key]) if key else ''}"]
