"""Builds each part of a config once, without data and without memory for weights, to hear its own complaint."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from segsweep.check_sharing import sharing_mistakes
from segsweep.config import arguments, data_nodes, make, make_partial
from segsweep.hints import written
from segsweep.signatures import HYDRA_KEYS, Defaults, check_node, shown

_SCALED = "16-mixed"
_TRAINER_ALLOWED: dict[str, tuple[Any, ...]] = {
    "accelerator": ("cpu", "gpu"),
    "num_nodes": (1,),
    "strategy": ("auto", "ddp", "fsdp"),
    "precision": ("32-true", "bf16-mixed", _SCALED),
    "gradient_clip_algorithm": (None, "norm", "value"),
    "on_oom": ("fail", "halve"),
    "enable_checkpointing": (True,),  # a run without checkpoints could be neither scored nor continued
    "barebones": (False,),
    "tf32": (True, False),
}


def _try_trainer(plain: dict[str, Any], defaults: Defaults) -> list[str]:
    """What Lightning accepts but this program cannot do, and what only the machine can tell."""
    import torch

    from segsweep import callbacks
    from segsweep.averaging import ema_mistake
    from segsweep.compiling import compile_mistake

    node = plain["trainer"]
    stopping = node.get("early_stopping")
    if not isinstance(stopping, dict):
        return ["trainer.early_stopping is no pair of patience and threshold; leave both null to switch it off"]
    target = {"_target_": f"{callbacks.__name__}.early_stopping", **stopping}
    lines = list(check_node("trainer.early_stopping", target, {"monitor"}, defaults))
    shows = node.get("tensorboard")
    if not isinstance(shows, dict):
        return [*lines, "trainer.tensorboard is no mapping; leave it out, or give pictures_every, pr_curves and graph"]
    lines += check_node("trainer.tensorboard", {"_target_": "segsweep.board.Board", **shows}, set(), defaults)
    for key, allowed in _TRAINER_ALLOWED.items():
        if node.get(key) not in allowed:
            offered = [one for one in allowed if one != _SCALED or node.get("accelerator") != "cpu"]
            lines.append(f"trainer.{key}={shown(node.get(key))}: use {' or '.join(map(shown, offered))}")
    lines += sharing_mistakes(plain)
    if not isinstance(node.get("max_epochs"), int) or node["max_epochs"] < 1:
        lines.append(
            f"trainer.max_epochs={node.get('max_epochs')}: give 1 or more; trainer.max_steps may end it earlier"
        )
    every = node.get("checkpoint_every_steps")
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        lines.append(f"trainer.checkpoint_every_steps={shown(every)}: give 1 or more optimisation steps, or null")
    batches = node.get("accumulate_grad_batches")
    if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
        lines.append(f"trainer.accumulate_grad_batches={shown(batches)}: give 1 or more batches per optimisation step")
    clip = node.get("gradient_clip_val")
    if clip is not None and (not isinstance(clip, int | float) or isinstance(clip, bool) or not clip > 0):
        lines.append(f"trainer.gradient_clip_val={shown(clip)}: give a number above 0, or null for no clipping")
    lines += [line for line in (compile_mistake(node), ema_mistake(node)) if line]
    lines += _scaled_mistakes(node, (plain.get("optimizer") or {}).get("fused"))
    if node.get("accelerator") == "gpu" and not torch.cuda.is_available():
        lines.append(
            "trainer.accelerator=gpu: torch sees no GPU here. Use trainer=cpu, or trainer=auto for what there is"
        )
    return lines


def _scaled_mistakes(trainer: dict[str, Any], is_fused: object) -> list[str]:
    """What ``precision=16-mixed``, which scales gradients, does not go with."""
    if trainer.get("precision") != _SCALED:
        return []
    if trainer.get("accelerator") == "cpu":  # Lightning would train in bf16 and say so nowhere
        return ["trainer.precision=16-mixed is for GPUs. Use bf16-mixed on a CPU, or auto for what it has natively"]
    if trainer.get("gradient_clip_val") is not None and is_fused:
        return [
            "trainer.gradient_clip_val: with trainer.precision=16-mixed a fused optimizer scales gradients back by "
            "itself, after they would be clipped. Add optimizer.fused=false, or use bf16-mixed"
        ]
    return []


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
    return _trial("model", plain["model"], defaults, lambda: _model_without_memory(plain))


_latest: list[Any] = []  # a model's node and the model: model and regime are tried with the same


def _model_without_memory(plain: dict[str, Any]) -> Any:
    """The model where tensors have shapes but no memory; it is only looked at."""
    import torch

    node = arguments(plain, "model")
    if not (_latest and _latest[0] == repr(node)):
        with torch.device("meta"):
            model = make(node)
        _latest[:] = repr(node), model.to("meta") if isinstance(model, torch.nn.Module) else model
    return _latest[1]


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
            model = _model_without_memory(plain)
        except Exception:  # the model and the data are told about where they are tried themselves
            return
        with torch.device("meta"):
            prepare(regime, model, spec)

    return _trial("regime", plain["regime"], defaults, build)


def _try_parts(group: str) -> Callable[[dict[str, Any], Defaults], list[str]]:
    return lambda plain, defaults: _trial(group, plain[group], defaults, lambda: make(plain[group]))


# What each group is tried by: (settled groups, advice on defaults) -> lines.
TRIALS: dict[str, Callable[[dict[str, Any], Defaults], list[str]]] = {
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
