"""Sees before a run starts that its seeds cannot be trained as one (``trainer.stack_seeds``)."""

from collections.abc import Iterator
from typing import Any

from segsweep.config import arguments, make
from segsweep.hints import written

# Optimizers that treat every number by itself: others would mix what belongs to different seeds.
_ELEMENTWISE = {f"torch.optim.{name}" for name in ("AdamW", "Adam", "SGD", "RMSprop", "Adadelta")}
_SIDE = 32  # pixels of the images that a model is tried on, if it takes any size


def stacking_mistakes(plain: dict[str, Any]) -> Iterator[str]:
    """The mistakes of a settled config about ``trainer.stack_seeds``, one line each; none where it is null."""
    node = plain.get("trainer") or {}
    number = node.get("stack_seeds")
    if number is None:
        return
    key = f"trainer.stack_seeds={written(number)}"
    if not isinstance(number, int) or isinstance(number, bool) or number < 2:
        yield f"{key}: give 2 or more seeds to train as one, or null"
        return
    for is_wrong, what, fix in _refused(plain, node):
        if is_wrong:
            yield f"{key}: {what}. {fix}, or leave trainer.stack_seeds=null"
    if (reason := _what_no_stack_can(plain)) is not None:
        yield f"{key}: {reason}. Leave trainer.stack_seeds=null for this model"


def _refused(plain: dict[str, Any], node: dict[str, Any]) -> Iterator[tuple[bool, str, str]]:
    """Whether the config asks for something that seeds cannot share, what, and what to write instead."""
    stopping = node.get("early_stopping") or {}
    yield (
        any(stopping.get(name) is not None for name in ("patience", "threshold")),
        "early stopping would end all seeds with the first",
        "Set trainer.early_stopping.patience=null and trainer.early_stopping.threshold=null",
    )
    yield (
        node.get("gradient_clip_val") is not None,
        "trainer.gradient_clip_val would clip the gradients of all seeds together",
        "Set it to null",
    )
    yield node.get("on_oom") == "halve", "trainer.on_oom=halve divides the batch of one seed", "Set trainer.on_oom=fail"
    for name in ("ema", "compile"):
        yield node.get(name) is not None, f"trainer.{name} knows one model alone", f"Set trainer.{name}=null"
    yield (
        node.get("strategy") in ("ddp", "fsdp"),
        f"trainer.strategy={node.get('strategy')} shares one run between processes",
        "Use trainer=auto",
    )
    yield (
        node.get("precision") == "16-mixed",
        "trainer.precision=16-mixed scales the losses of all seeds by one factor",
        "Use bf16-mixed or 32-true",
    )
    scheduler, optimizer = (str((plain.get(group) or {}).get("_target_")) for group in ("scheduler", "optimizer"))
    yield (
        scheduler.endswith("ReduceLROnPlateau"),
        "scheduler=plateau would change the learning rate of all seeds by the metric of one",
        "Choose another, e.g. scheduler=cosine",
    )
    yield (
        optimizer not in _ELEMENTWISE,
        f"{optimizer} may treat the weights of several seeds as those of one",
        f"Use one of {', '.join(sorted(name.rpartition('.')[2].lower() for name in _ELEMENTWISE))}",
    )
    trial = (plain.get("sweep") or {}).get("trial")
    yield trial is not None, "the trials of a search are decided about one by one", "Use a grid (-m without a sweeper)"
    yield (
        not _is_supervised(plain.get("regime") or {}),
        "only plain supervised training is stacked",
        "regime=supervised",
    )


def _is_supervised(regime: dict[str, Any]) -> bool:
    """Whether there is one stage, on labelled images as they are, with the whole model."""
    stages = list((regime.get("stages") or {}).values())
    if len(stages) != 1 or regime.get("readout") is not None:
        return False
    objective = stages[0].get("objective") or {}
    is_plain = str(objective.get("_target_")).endswith(".Segment") and not objective.get("noise")
    is_plain = is_plain and not objective.get("mask_ratio")
    return is_plain and (stages[0].get("images"), stages[0].get("encoder")) == ("labelled", "trained")


def _what_no_stack_can(plain: dict[str, Any]) -> str | None:
    """What torch says of two models of the config run as one, where tensors have shapes but no memory."""
    import torch

    from segsweep.stacking import Stack

    data = plain.get("data") or {}
    size = data.get("crop") or data.get("size") or [_SIDE, _SIDE]
    try:
        with torch.device("meta"):
            models = [make(arguments(plain, "model")).train() for _ in range(2)]
            image = torch.zeros(4, data["in_channels"], *size)
    except Exception:  # the model and the data are told about where they are tried themselves
        return None
    try:
        Stack(models)(image)
    except Exception as error:
        said = str(error).splitlines()[0].partition(". ")[0]
        if "random operation" in said:
            return "the model draws random numbers in training (dropout, noise), and each seed would draw others"
        return f"torch cannot run several of these models as one ({said})"
    return None
