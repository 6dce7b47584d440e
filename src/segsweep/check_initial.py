"""Sees before a run starts that the run named by ``init_from`` can be no start, or no teacher, of it."""

from collections.abc import Iterator
from typing import Any

from segsweep.config import make_model, stages_with
from segsweep.initial import KEY, compare, look_at, model_target, other_architecture, shapes_in


def initial_mistakes(plain: dict[str, Any]) -> Iterator[str]:
    """The mistakes of a settled config about ``init_from`` and pruning, one line each.

    Args:
        plain: all groups, found correct by themselves.
    """
    yield from _pruning_mistakes(plain)
    source, teaches = plain.get(KEY), stages_with(plain, "takes_teacher")
    if source is None:
        if teaches:
            yield f"the regime learns from a teacher: give the folder of its completed run, {KEY}=RUN"
        return
    try:
        source = source if isinstance(source, dict) else look_at(source)
        shapes = shapes_in(source)
        if teaches:
            yield from _unfit_teacher(source, plain)
            return
    except ValueError as error:
        yield str(error)
        return
    if (own := _shapes_of_model(plain)) is not None:
        num_classes = (len(plain["data"]["class_names"]), len(source["class_names"]))
        if differing := compare(own, shapes, num_classes)[0]:
            yield other_architecture(source, differing)


def _shapes_of_model(plain: dict[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of the model's tensors, which take no memory; None if that cannot be told so."""
    import torch

    try:
        with torch.device("meta"):
            model = make_model(plain["model"])
    except Exception:  # the model is told about where it is tried itself
        return None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _unfit_teacher(source: dict[str, Any], plain: dict[str, Any]) -> Iterator[str]:
    """Why a run cannot teach this one, a line each."""
    where, data = f"{KEY}={source['folder']}", plain["data"]
    theirs, own = set(source["class_names"]), set(data["class_names"])
    if theirs != own:
        some = [name if name.isprintable() else repr(name) for name in sorted(theirs ^ own)[:4]]
        yield f"{where}: the teacher knows other classes ({', '.join(some)}, ...). Classes have to agree by name"
    for key in ("in_channels", "mean", "std"):
        if source[key] != data[key]:
            seen = repr(source[key])[:100]
            yield f"{where}: the teacher has seen data.{key}={seen}, here it is {data[key]}. Set it as there"
    target = model_target(source)
    if not target.startswith("segsweep.models.") and target != plain["model"]["_target_"]:
        yield (
            f"{where}: its model is {target[:100]!r}, which is not segsweep's own. Opening a run executes nothing from "
            f"it: a class of yours is built only if model= names the same one"
        )


def _pruning_mistakes(plain: dict[str, Any]) -> Iterator[str]:
    prunes, trainer = stages_with(plain, "prunes"), plain["trainer"]
    if not prunes:
        return
    if trainer.get("ema") is not None:
        yield "trainer.ema: averages bring back weights that are pruned. Set it to null under this regime"
    if trainer.get("strategy") == "fsdp":
        yield "trainer.strategy=fsdp: no process has all weights to choose from. Use trainer=ddp under this regime"
    if prunes[-1] != list(plain["regime"]["stages"])[-1]:
        hint = "Let the last one have the objective segsweep.objectives.SegmentPruned"
        yield f"regime.stages: what is pruned in {prunes[-1]} grows again in the stages after it. {hint}"
