"""Training of one run: from its newest whole checkpoint, and in smaller pieces where memory does not suffice."""

import gc
import logging
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segsweep.config import Parts, build, build_model
from segsweep.endings import is_out_of_memory
from segsweep.run import ConfigError, Run

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from segsweep.data.datamodule import DataModule
    from segsweep.data.storage import Store

log = logging.getLogger(__name__)


class MemoryTooSmallError(RuntimeError):
    """The batch does not fit. ``kind`` is the error class in the record."""

    kind = "oom"


def fit(run: Run, model: "nn.Module", plain: dict[str, Any]) -> Parts:
    """Trains, from the newest whole checkpoint if the folder has one.

    Raises:
        MemoryTooSmallError: the batch does not fit, nor, with ``trainer.on_oom=halve``, does one image.
    """
    from segsweep.checkpoints import newest_whole

    batch_size = plain["data"]["batch_size"]
    held = (run.record.get("effective_batch") or {}).get("batch_size", batch_size)
    checkpoint = newest_whole(run.folder / "checkpoints")
    if checkpoint is None:
        held = batch_size  # nothing to be consistent with: this machine may have more memory than the one before
    while True:
        try:
            return _attempt(run, model, plain, checkpoint, math.ceil(batch_size / held))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            held = _halved(held, plain, error)
        # Outside of the clause above, in which the error would keep the step's tensors alive.
        _free_memory()
        effective = {"batch_size": held, "accumulate_grad_batches": _accumulated(plain) * math.ceil(batch_size / held)}
        run.save(effective_batch=effective)
        log.warning(
            "out of memory: going on with %d images at a time and %d batches gathered for a step, which has as many "
            "images as before (trainer.on_oom=halve)",
            *effective.values(),
        )
        checkpoint, model = newest_whole(run.folder / "checkpoints"), build_model(plain)


def _accumulated(plain: dict[str, Any]) -> int:
    return int(plain["trainer"].get("accumulate_grad_batches", 1))


def _halved(held: int, plain: dict[str, Any], error: Exception) -> int:
    """Images at a time of the next attempt.

    Raises:
        MemoryTooSmallError: there is none.
    """
    halves = plain["trainer"].get("on_oom") == "halve"
    if halves and held > 1:
        return held // 2
    wide = "" if halves else ", or have batches divided: trainer.on_oom=halve"
    precision = "" if plain["trainer"]["precision"] != "32-true" else ", set trainer.precision=bf16-mixed"
    raise MemoryTooSmallError(
        f"out of memory with {held} image{'s' * (held > 1)} at a time (trainer.on_oom={'halve' if halves else 'fail'}, "
        f"data.batch_size={plain['data']['batch_size']}, trainer.precision={plain['trainer']['precision']}). Lower "
        f"data.batch_size, train on smaller images (data.crop){precision}{wide}"
    ) from error


def _free_memory() -> None:
    import torch

    gc.collect()  # trainer, task and callbacks refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _attempt(run: Run, model: "nn.Module", plain: dict[str, Any], checkpoint: Path | None, pieces: int) -> Parts:
    """Trains from a checkpoint or from the start, with batches divided into pieces."""
    from segsweep.checkpoints import HashedCheckpointIO, batches_within_epoch

    first_epoch, resume_step, place = 1, 0, ""
    if checkpoint:
        state = HashedCheckpointIO().load_checkpoint(checkpoint)
        resume_step, is_within = state["global_step"], batches_within_epoch(state) > 0
        first_epoch = state["epoch"] + (1 if is_within else 2)
        place = f" (after step {resume_step})" * is_within
    parts = build(plain, model, run.folder, resume_step, pieces)
    teach(parts, plain)
    trainer = parts.trainer
    prepare(run, parts, is_new=resume_step == 0)
    _count_in_pieces(trainer, parts.data)
    log.info(
        "training: epochs %d%s to %s on %s, %s, %d threads",
        first_epoch,
        place,
        trainer.max_epochs,
        run.record["device"],
        run.record["precision"],
        run.record["threads"],
    )
    trainer.fit(parts.task, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    return parts


def teach(parts: Parts, plain: dict[str, Any]) -> None:
    """Gives the stages that learn from a teacher the model of the run that ``init_from`` names.

    Raises:
        ConfigError: it is no run with weights to use, or knows other classes.
    """
    pupils: list[Any] = [one for one in parts.data.regime.objectives.values() if one.takes_teacher]
    if not pupils:
        return
    from segsweep.opened import open_finished

    source = plain["init_from"]
    if not isinstance(source, dict):
        raise ConfigError("the regime learns from a teacher: give the folder of its completed run, init_from=RUN")
    # A class of the user's own is built if it is the one that the user has typed for this run.
    teacher = open_finished(Path(source["folder"]), trust=(plain["model"]["_target_"],))
    if teacher.weights_sha256 != source["weights_sha256"]:
        raise ConfigError(f"init_from={source['folder']}: the weights have just changed. Start again")
    theirs, own = teacher.spec.class_names, parts.data.spec.class_names
    if set(theirs) != set(own):
        raise ConfigError(f"init_from={source['folder']}: the teacher knows other classes than data.class_names has")
    for pupil in pupils:
        pupil.learn_from(teacher.model, [theirs.index(name) for name in own])
    log.info("teacher: %s, %s", teacher.name, type(teacher.model).__name__)


def prepare(run: Run, parts: Parts, is_new: bool) -> None:
    """Opens the data, and writes down what is known of a run before its first step.

    Args:
        run: open.
        parts: of it.
        is_new: whether it begins; else what stands at step 0 is there already, and would double.
    """
    from segsweep import board, cost
    from segsweep.floors import floors
    from segsweep.losses import adapt

    data = parts.data
    store = _open_data(run, data)
    adapt(parts.task.loss, data.class_counts())
    sizes = {name: len(split.items) for name, split in store.splits.items()}
    if "flops" not in run.record:  # images keep their own size, which only now is known
        run.save(flops=cost.count_flops(parts.task.model, data.spec.in_channels, data.train_size))
    run.save(
        floors=floors(store, data.spec),
        data={
            "fingerprint": store.fingerprint,
            "split_sizes": sizes,
            "size": list(data.train_size),
            "class_names": list(data.spec.class_names),
            "labelled_fraction": data.labelled_fraction,
        },
    )
    if is_new:
        text = (run.folder / "config.yaml").read_text()
        board.begin(parts.logger, parts.task, text, data.train_size if parts.board.graph else None)


def _count_in_pieces(trainer: "pl.Trainer", data: "DataModule") -> None:
    """Lightning takes every piece of a batch for a batch: what the config says in batches is turned into pieces."""
    if data.pieces == 1:
        return
    limit, interval = trainer.limit_train_batches, trainer.val_check_interval
    num = math.ceil(len(data.store.splits["train"].items) / data.batch_size)
    num = int(num * limit) if isinstance(limit, float) else min(num, limit or num)
    trainer.limit_train_batches = num * data.pieces
    if isinstance(interval, int):
        trainer.val_check_interval = interval * data.pieces
    elif isinstance(interval, float) and interval < 1:
        trainer.val_check_interval = max(1, int(num * interval)) * data.pieces


def _open_data(run: Run, data: "DataModule") -> "Store":
    """Opens the decoded data, says what was found in it, and refuses to go on with a run on other data."""
    start = time.perf_counter()
    store = data.store
    for note in store.notes:
        log.log(logging.WARNING if note.level == "warning" else logging.INFO, "data: %s", note.text)
    if store.leaks:
        log.warning("data: %d pictures are in two splits, which data.allow_leak permits", len(store.leaks))
    before = (run.before.get("data") or {}).get("fingerprint", store.fingerprint)
    if before != store.fingerprint:
        raise ConfigError(
            f"{shown(run.folder)} was started on other data: the files below data.root have changed since "
            f"(fingerprint {before[:12]}, now {store.fingerprint[:12]}). Restore them, or choose another name="
        )
    sizes = ", ".join(f"{len(split.items):,} {name}" for name, split in store.splits.items())
    log.info(
        "data: %s images, %d classes, %.0f MB decoded, open in %.2f s",
        sizes,
        data.spec.num_classes,
        store.num_bytes() / 1e6,
        time.perf_counter() - start,
    )
    return store


def shown(folder: Path) -> str:
    """Relative, so that a log says nothing about the machine it was written on."""
    return os.path.relpath(folder)
