"""Several runs that differ in the seed alone, trained as one in this process (``trainer.stack_seeds``).

Each has its own folder, lock, record, history, TensorBoard events and best weights, and is tested by itself, as if it
had been trained alone; checkpoints to continue from are shared, in the folder of the first.
"""

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from segsweep import signals
from segsweep.allocator import keep_memory_between_steps
from segsweep.config import Parts, arguments, build, build_model, make_partial, settle
from segsweep.endings import is_out_of_memory
from segsweep.fitting import MemoryTooSmallError, prepare, shown
from segsweep.run import Run, open_run
from segsweep.table import write_row
from segsweep.train import LIGHTNING_NOISE, config_text, describe, errors_logged, finish, identity, search_facts, test

if TYPE_CHECKING:
    from segsweep.stacked import StackedMember

log = logging.getLogger(__name__)

FOLDER = "checkpoints/stacked"  # of the first run: another run than the group must not take them for its own


class Member(NamedTuple):
    """What one run of a group is made of.

    Attributes:
        cfg: composed and checked.
        folder: of the run; it exists.
        origin: facts for the record: ``choices``, ``overrides``, ``sweep``.
    """

    cfg: DictConfig
    folder: Path
    origin: dict[str, Any]


class _Open:
    """A run that this process has opened."""

    def __init__(self, member: Member) -> None:
        self.folder, self.plain, self.started = member.folder, settle(member.cfg), time.time()
        facts = {**member.origin, **identity(self.plain), **search_facts(member.folder, self.plain)}
        self.context = open_run(member.folder, facts)
        self.run: Run = self.context.__enter__()
        if not self.run.is_completed:
            (member.folder / "config.yaml").write_text(config_text(member.cfg))

    def close(self, own_s: float, error: BaseException | None = None) -> None:
        """Writes how it ended.

        Args:
            own_s: seconds of this session that are the run's own; the others belong to the rest of the group.
            error: that ended it.
        """
        self.run.others_s = time.time() - self.started - own_s
        if error is None:
            self.context.__exit__(None, None, None)
        else:
            with contextlib.suppress(BaseException):  # it is raised once, for all of them
                self.context.__exit__(type(error), error, error.__traceback__)
        write_row(self.folder, self.run.record)


def train_together(members: Sequence[Member]) -> None:
    """Trains runs as one, and tests one after the other; those that are complete are left alone.

    Args:
        members: of one config but for the seed, in the order of the group.

    Raises:
        Interrupted: by SIGTERM or SIGINT; the same call continues the group.
    """
    keep_memory_between_steps()
    warnings.filterwarnings("ignore", message=LIGHTNING_NOISE)
    opened: list[_Open] = []
    started = time.time()
    with errors_logged(), signals.handled():
        try:
            for member in members:
                one = _Open(member)
                if one.run.is_completed:
                    log.info("complete already: %s", shown(one.folder))
                    one.context.__exit__(None, None, None)
                else:
                    opened.append(one)
            if opened:
                _work(opened, started)
        except BaseException as error:
            for one in opened:
                one.close((time.time() - started) / len(opened), error)
            raise


def _work(opened: list[_Open], started: float) -> None:
    """Trains all, then tests and closes one after the other; those that it has closed are no longer in the list."""
    parts = _fit([one.run for one in opened], [one.plain for one in opened])
    each_s = (time.time() - started) / len(opened)
    for own in parts:
        one, tested = opened[0], time.time()
        test(one.run, own, one.plain)
        finish(one.run, own, one.plain)
        opened.pop(0).close(each_s + time.time() - tested)


def _fit(runs: Sequence[Run], plains: Sequence[dict[str, Any]]) -> list[Parts]:
    """Trains; gives the parts of each run, ready to be tested."""
    import torch

    from segsweep import cost, hardware

    hardware.prepare(plains[0]["trainer"]["accelerator"], plains[0]["trainer"]["tf32"])
    cost.reset_peak_memory()
    models = [build_model(plain) for plain in plains]
    for run, model, plain in zip(runs, models, plains, strict=True):
        run.save(threads=torch.get_num_threads(), **describe(model, plain))
    try:
        return _train(runs, models, plains)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryTooSmallError(
            f"out of memory with {len(runs)} seeds of {plains[0]['data']['batch_size']} images each at a time. Lower "
            f"trainer.stack_seeds={plains[0]['trainer']['stack_seeds']} or data.batch_size"
        ) from error


def _train(runs: Sequence[Run], models: Sequence[Any], plains: Sequence[dict[str, Any]]) -> list[Parts]:
    from segsweep import shortcuts
    from segsweep.data.stacked import StackedData
    from segsweep.stacked import StackedMember, StackedTask

    seeds = [int(plain["seed"]) for plain in plains]
    folder, checkpoint, step = _place(runs, seeds)
    parts = [
        build(plain, model, run.folder, step, task_type=StackedMember)
        for run, model, plain in zip(runs, models, plains, strict=True)
    ]
    for own in parts[1:]:
        own.data.store = parts[0].data.store  # decoded once, open once
    for run, own in zip(runs, parts, strict=True):
        prepare(run, own, is_new=checkpoint is None)
    members = [_member(own) for own in parts]
    task = StackedTask(members, make_partial(plains[0]["optimizer"]), make_partial(plains[0]["scheduler"]))
    trainer = _trainer(parts, plains[0], folder, seeds)
    shortcuts.shorten_steps(trainer, task)
    data = StackedData([own.data for own in parts])
    log.info(
        "training the seeds %s as one: steps %d to the end of epoch %d on %s, %s, %d threads",
        *(", ".join(map(str, seeds)), step + 1, trainer.max_epochs),
        *(runs[0].record[key] for key in ("device", "precision", "threads")),
    )
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    counters = trainer.fit_loop.state_dict()
    for member, own in zip(members, parts, strict=True):
        member.enter(None)
        own.data.trainer = None
        own.trainer.fit_loop.load_state_dict(counters)  # what is shown of the test stands at the last step
    return parts


def _place(runs: Sequence[Run], seeds: list[int]) -> tuple[Path, Path | None, int]:
    """Where the group keeps its checkpoints, the one to continue from, and the steps that are behind it."""
    from segsweep.checkpoints import HashedCheckpointIO, newest_whole

    first = runs[0]
    before = first.before.get("stack") or {}
    folder = Path(os.path.normpath(first.folder / before.get("checkpoints", FOLDER)))
    if (checkpoint := newest_whole(folder)) is not None:
        state = HashedCheckpointIO().load_checkpoint(checkpoint)
        if set(seeds) <= set(state["seeds"]):
            for run in runs:
                run.save(stack={"seeds": state["seeds"], "checkpoints": os.path.relpath(folder, run.folder)})
            return folder, checkpoint, int(state["global_step"])
        log.warning(
            "the seeds %s were begun as a group of %s: as another group they are trained again from the start",
            *(", ".join(map(str, those)) for those in (seeds, state["seeds"])),
        )
    elif before:
        log.warning("the group has no checkpoint in %s: it is trained from the start", shown(folder))
    for run in runs:
        run.save(stack={"seeds": seeds, "checkpoints": os.path.relpath(first.folder / FOLDER, run.folder)})
    return first.folder / FOLDER, None, 0


def _trainer(parts: Sequence[Parts], plain: dict[str, Any], folder: Path, seeds: Sequence[int]) -> Any:
    """The trainer of the whole group, which shows nothing and saves no weights itself: its members' callbacks do."""
    from pytorch_lightning.callbacks import RichProgressBar

    from segsweep import callbacks, checkpoints, shortcuts
    from segsweep.stacked import GroupCheckpointIO, MemberCallbacks, OwnTrainer

    trainers, members = [vars(own.trainer) for own in parts], [_member(own) for own in parts]
    bars = [bar for bar in trainers[0]["callbacks"] if isinstance(bar, RichProgressBar)]
    ours = (checkpoints.LastCheckpoints, callbacks.SignalStop, RichProgressBar)
    of_each = [[one for one in own["callbacks"] if not isinstance(one, ours)] for own in trainers]
    both = MemberCallbacks(members, of_each)
    every = plain["trainer"].get("checkpoint_every_steps")
    last = checkpoints.LastCheckpoints(folder, every, both)
    changed = {
        "enable_progress_bar": bool(bars),
        "profiler": plain["trainer"].get("profiler") or shortcuts.Unprofiled(),
        "logger": False,
    }
    trainer = make_partial({**arguments(plain, "trainer"), **changed})(
        default_root_dir=folder.parent,
        callbacks=shortcuts.without_idle_hooks([*bars, both, last, callbacks.SignalStop()]),
        plugins=[GroupCheckpointIO(seeds)],
    )
    for member, own in zip(members, parts, strict=True):
        member.enter(OwnTrainer(trainer, member, own.data, own.logger))
    return trainer


def _member(parts: Parts) -> "StackedMember":
    task: Any = parts.task
    return task  # type: ignore[no-any-return]
