"""From composed YAML to objects: the only place that calls Hydra's ``instantiate``.

The config is read-only once composed. ``settle`` turns it into plain values, ``fingerprint`` into an identity,
``build`` into objects. Light to import: torch and Lightning are imported where something is built.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from segsweep import initial

if TYPE_CHECKING:
    from pathlib import Path

    import pytorch_lightning as pl
    from torch import nn

    from segsweep.board import Board
    from segsweep.callbacks import History, RunLogger
    from segsweep.checkpoints import BestWeights
    from segsweep.data.datamodule import DataModule
    from segsweep.pruning import Pruning
    from segsweep.task import Task

GROUPS = ("model", "loss", "data", "augment", "optimizer", "scheduler", "regime", "trainer")
TOP_LEVEL = (*GROUPS, "seed", "name", "monitor", "init_from", "sweep")

# Keys of a node that are facts for people and other nodes, not arguments of its target.
FACTS = {
    "model": {"family"},
    "trainer": {
        *("early_stopping", "checkpoint_every_steps", "on_oom", "tensorboard", "tf32", "compile", "ema", "stack_seeds"),
    },
    "regime": {"monitor"},
}

# Keys that change no result. Everything else, defaults included, is part of a run's identity.
NON_SEMANTIC = (
    "name",
    "sweep",
    "data.root",
    "data.max_pixels",
    "data.follow_links",
    "data.allow_leak",
    "data.download",
    "data.downloader",
    "data.obtain",
    "data.storage",
    "data.num_workers",
    "trainer.checkpoint_every_steps",
    "trainer.on_oom",
    "trainer.tensorboard",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)


def job_part(cfg: DictConfig) -> DictConfig:
    """A composed config without Hydra's own node."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def overrides_of(cfg: DictConfig, part: str) -> list[str]:
    """The overrides of a config, interpolations in them as they were typed.

    Args:
        cfg: composed, with Hydra's own node.
        part: ``task``, or ``hydra`` for those of that node.
    """
    typed: list[str] = OmegaConf.to_container(cfg.hydra.overrides[part], resolve=False)  # type: ignore[assignment]
    return typed


def is_silent(key: str) -> bool:
    """Whether a dotted key changes no result."""
    return any(key == path or key.startswith(f"{path}.") for path in NON_SEMANTIC)


def settle(cfg: DictConfig) -> dict[str, Any]:
    """Resolves interpolations and everything that is ``auto`` to plain values: what the run will really do.

    ``trainer.accelerator`` and ``trainer.precision`` follow from this machine's capability flags; ``init_from`` becomes
    what is known of that run, its weights' digest among it.
    """
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return settle_plain(plain)


def settle_plain(plain: dict[str, Any]) -> dict[str, Any]:
    """The same for values that are resolved already."""
    start = {"init_from": initial.settled(plain["init_from"])} if "init_from" in plain else {}
    return {**plain, **start, "trainer": settle_trainer(plain["trainer"])}


def plain_group(cfg: DictConfig, group: str) -> dict[str, Any]:
    """One group as plain values; what has to be given and is not stays ``???``."""
    node: dict[str, Any] = OmegaConf.to_container(cfg[group], resolve=True, throw_on_missing=False)  # type: ignore[assignment]
    return node


def settle_trainer(node: dict[str, Any]) -> dict[str, Any]:
    """The trainer's node with the accelerator and precision that ``auto`` stands for here."""
    from segsweep import hardware

    accelerator, precision = node.get("accelerator"), node.get("precision")
    if accelerator == "auto":
        accelerator = hardware.pick_accelerator()
    if precision == "auto":
        precision = hardware.pick_precision(str(accelerator))
    return {**node, "accelerator": accelerator, "precision": precision}


def fingerprint(plain: dict[str, Any], with_seed: bool = True) -> str:
    """Identity of a run: the hash of its settled config without the keys that change no result.

    Args:
        plain: as ``settle`` returns it.
        with_seed: without it, runs that differ in nothing but the seed are equal.

    Returns:
        16 hexadecimal digits.
    """
    semantic = semantic_part(plain)
    if "init_from" in semantic:  # by its content: a run that was moved is the same start
        semantic["init_from"] = initial.identity(plain["init_from"], None if with_seed else plain["seed"])
    if not with_seed:
        semantic.pop("seed")
    return hashlib.sha256(json.dumps(semantic, sort_keys=True).encode()).hexdigest()[:16]


def semantic_part(plain: dict[str, Any]) -> dict[str, Any]:
    """A copy without the keys that change no result."""
    semantic = copy.deepcopy(plain)
    for path in NON_SEMANTIC:
        *parents, key = path.split(".")
        node = semantic
        for parent in parents:
            node = node.get(parent) or {}
        node.pop(key, None)
    # A run that starts from nothing is the one that it was before there was such a key.
    if (source := semantic.pop("init_from", None)) is not None:
        semantic["init_from"] = initial.told(source, plain["seed"])
    return semantic


@dataclass(frozen=True)
class Parts:
    """The objects of one run."""

    data: DataModule
    task: Task
    trainer: pl.Trainer
    logger: RunLogger
    best: BestWeights
    history: History
    pruning: list[Pruning]
    board: Board

    @property
    def ends_as(self) -> str:
        """Status of the run: ``completed``, or what the search that it is a trial of has made of it."""
        return next((callback.ends_as for callback in self.pruning), "completed")


def stages_with(plain: dict[str, Any], what: str) -> list[str]:
    """Names of the stages whose objective says so of itself: that it ``takes_teacher``, or ``prunes``."""
    from hydra.utils import get_class

    stages = plain["regime"].get("stages") or {}
    targets = {name: (stage.get("objective") or {}).get("_target_") for name, stage in stages.items()}
    return [name for name, target in targets.items() if target and getattr(get_class(target), what, False)]


def build_model(plain: dict[str, Any]) -> nn.Module:
    """Builds the segmenter with the random weights of the run's seed, or those of the run that it starts from.

    Raises:
        ValueError: ``init_from`` names no run with weights for this model.
    """
    import torch

    from segsweep.rng import mix

    torch.manual_seed(mix(plain["seed"], "weights"))
    model = make_model(plain["model"])
    # A run that learns from a teacher names whom to learn from, and not what to begin as.
    if plain.get("init_from") is not None and not stages_with(plain, "takes_teacher"):
        initial.load_into(model, plain["init_from"], plain["data"]["class_names"])
    return model


def make_model(node: dict[str, Any]) -> nn.Module:
    """Builds a segmenter with random weights from the config of one."""
    model: nn.Module = make(arguments({"model": node}, "model"))
    return model


def data_nodes(node: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides the data's node by signatures: what its ``_target_`` (the source) takes, and what the DataModule takes.

    Facts that both need, such as ``class_names``, go to both; a key that neither knows stays with the source.
    """
    from hydra.utils import get_class

    from segsweep.data.datamodule import DataModule

    source = set(inspect.signature(get_class(node["_target_"])).parameters)
    module = set(inspect.signature(DataModule).parameters)
    ours = {"_target_": f"{DataModule.__module__}.DataModule"}
    return (
        {key: value for key, value in node.items() if key in source or key not in module},
        ours | {key: value for key, value in node.items() if key in module},
    )


def build_data(plain: dict[str, Any]) -> DataModule:
    """Builds the source and the DataModule over it; looks at names, opens no image."""
    source, module = data_nodes(plain["data"])
    parts = {"augment": make(plain["augment"]), "regime": make(arguments(plain, "regime")), "seed": plain["seed"]}
    # make_partial: an error of the source arrives as it is, not wrapped into one of Hydra's.
    data: DataModule = make_partial(module)(source=make_partial(source)(), **parts)
    return data


def build(
    plain: dict[str, Any],
    model: nn.Module,
    folder: Path,
    resume_step: int | None,
    pieces: int = 1,
    task_type: type[Task] | None = None,
) -> Parts:
    """Builds everything around the model.

    Args:
        plain: as ``settle`` returns it.
        model: the segmenter.
        folder: of the run.
        resume_step: optimisation step of the checkpoint that is being continued, None for a new run.
        pieces: into how many pieces a batch is divided.
        task_type: class of the task; None: ``Task``.
    """
    from pytorch_lightning.utilities import rank_zero_only

    from segsweep import averaging, callbacks, checkpoints, compiling, panels, pruning, shortcuts, strategies
    from segsweep.board import Board
    from segsweep.label_panels import LabelPanel
    from segsweep.task import Task

    data = build_data(plain)
    data.pieces = pieces
    task = (task_type or Task)(
        model,
        make(plain["loss"]),
        data.regime,
        make_partial(plain["optimizer"]),
        make_partial(plain["scheduler"]),
        data.spec,
        plain["monitor"],
        plain["seed"],
    )
    best = checkpoints.BestWeights(folder / "checkpoints", plain["monitor"], plain["model"], make_model)
    history = callbacks.History(folder / "metrics.jsonl")
    stopping = callbacks.early_stopping(plain["monitor"], **plain["trainer"]["early_stopping"])
    bar = callbacks.progress_bar() if plain["trainer"]["enable_progress_bar"] else []
    # One rank draws; none can while each has a part of the weights.
    draws = rank_zero_only.rank == 0 and plain["trainer"]["strategy"] != "fsdp"  # type: ignore[attr-defined]
    board = Board(**plain["trainer"]["tensorboard"])
    pictures = [panels.Gallery([*panels.all_panels(), LabelPanel()], board.pictures_every)] if draws else []
    last = checkpoints.LastCheckpoints(folder / "checkpoints", plain["trainer"].get("checkpoint_every_steps"), best)
    pruners = pruning.pruning(folder, plain["sweep"]["trial"])
    logger = callbacks.RunLogger(folder, resume_step)
    changed = {
        "enable_progress_bar": bool(bar),
        "accumulate_grad_batches": plain["trainer"].get("accumulate_grad_batches", 1) * pieces,
        "strategy": None,
        "profiler": plain["trainer"].get("profiler") or shortcuts.Unprofiled(),
    }
    trainer: pl.Trainer = make_partial({**arguments(plain, "trainer"), **changed})(
        strategy=strategies.strategy(plain["trainer"]["strategy"]),
        default_root_dir=folder,
        logger=logger,
        callbacks=shortcuts.without_idle_hooks(
            [
                *pictures,  # before the averaging, which takes the averaged weights away at the end of a validation
                *averaging.averaging(plain["trainer"]["ema"]),
                *compiling.compiled(task.model, plain["trainer"]["compile"]),
                *bar,
                *stopping,
                callbacks.MemoryCurve(),
                history,
                best,
                last,
                *pruners,
                callbacks.SignalStop(),
            ]
        ),
        plugins=[checkpoints.HashedCheckpointIO()],
    )
    shortcuts.shorten_steps(trainer, task)
    return Parts(data, task, trainer, logger, best, history, pruners, board)


def build_whole(parts: Parts, plain: dict[str, Any], folder: Path) -> Parts:
    """What was trained with divided weights (``trainer.strategy=fsdp``), with all of them in every process, to be used.

    Args:
        parts: of the training, which is over.
        plain: as ``settle`` returns it.
        folder: of the run; its last checkpoint has all weights.
    """
    from segsweep import checkpoints, losses

    together = {**plain, "trainer": {**plain["trainer"], "strategy": "ddp"}}
    whole = build(together, build_model(plain), folder, None)
    last = checkpoints.newest_whole(folder / "checkpoints")
    if last is None:
        raise ValueError(f"{folder}: no checkpoint is whole. Start the run again")
    whole.task.load_state_dict(checkpoints.HashedCheckpointIO().load_checkpoint(last)["state_dict"])
    whole.task.images_seen = parts.task.images_seen
    losses.adapt(whole.task.loss, whole.data.class_counts())
    whole.trainer.logger = parts.logger
    return replace(whole, logger=parts.logger, best=parts.best, history=parts.history)


def arguments(plain: dict[str, Any], group: str) -> dict[str, Any]:
    """A group's node without its facts: what its target is called with."""
    return {key: value for key, value in plain[group].items() if key not in FACTS.get(group, ())}


def make(node: dict[str, Any]) -> Any:
    """Calls the ``_target_`` of a node and of the nodes in it; lists and dicts arrive as plain Python."""
    from hydra.utils import instantiate

    return instantiate(node, _convert_="all")


def make_partial(node: dict[str, Any]) -> Any:
    """The target of a node with the node's arguments, waiting for those that are objects."""
    return make({**node, "_partial_": True})
