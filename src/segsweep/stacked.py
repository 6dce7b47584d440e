"""Runs that differ in the seed alone, trained as one: their tasks, and the task that steps for all of them.

    StackedTask ── the stack of models, one optimizer, one schedule; what Lightning trains
      ├─ StackedMember seed=0 ── its loss, guard, counts and metrics; its model's weights are views of the stack's
      └─ StackedMember seed=1 …

Validation and everything after training treats a member as a run by itself.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segsweep.checkpoints import HashedCheckpointIO
from segsweep.guard import NotFiniteError
from segsweep.stacking import Stack
from segsweep.staged import StagedTraining
from segsweep.task import Task
from segsweep.types import Batch, SegmenterOutput

_STACKED = ("model.weights.", "model.buffer_")  # in the state of a ``StackedTask``: what has a row for each member


class OwnTrainer:
    """Lightning's trainer as one of the members sees it: data, metrics, logger and weights are its own."""

    def __init__(self, trainer: pl.Trainer, task: Task, data: pl.LightningDataModule, logger: Any) -> None:
        self.whole, self.datamodule, self.logger = trainer, data, logger
        self.callback_metrics: dict[str, Tensor] = {}
        self.train_dataloader: Any = None
        self.strategy = SimpleNamespace(
            root_device=trainer.strategy.root_device,
            lightning_module_state_dict=lambda: {f"model.{k}": v for k, v in task.model.state_dict().items()},
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


class StackedMember(Task):
    """The task of one of the runs. While it is stacked, ``own`` is its trainer, and ``output`` what its model made."""

    own: OwnTrainer | None = None
    output: SegmenterOutput | None = None

    def enter(self, own: OwnTrainer | None) -> None:
        """Makes it one of several, or with None a task by itself again."""
        self.own = own
        self.trainer = own  # type: ignore[assignment]

    def _learn(self, batch: Batch) -> tuple[SegmenterOutput | None, dict[str, Tensor]]:
        if self.output is None:
            return super()._learn(batch)
        return self.output, self.loss(self.output, batch)


class StackedTask(StagedTraining):
    """Trains the stack of the members' models by the sum of their losses.

    Args:
        members: of one regime of one stage, on the same images.
        optimizer: parameters -> an optimizer that treats every number by itself.
        scheduler: as in ``StagedTraining``.
    """

    def __init__(
        self,
        members: Sequence[StackedMember],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler | ReduceLROnPlateau],
    ) -> None:
        first = members[0]
        stack = Stack([member.model.train() for member in members])
        super().__init__(stack, first.regime, optimizer, scheduler, first.spec, first.monitor, first.seed)
        self.members = tuple(members)  # a tuple: nothing of them is trained or saved a second time
        for member in members:
            member.num_stacked = len(members)

    @property
    def stack(self) -> Stack:
        """The models."""
        stack: Any = self.model
        return stack  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _as(self, member: StackedMember) -> Iterator[None]:
        """Says of which seed an update was not finite."""
        try:
            yield
        except NotFiniteError as error:
            raise NotFiniteError(
                f"seed={member.seed}, of {len(self.members)} that are trained as one (trainer.stack_seeds): {error}. "
                f"It ends all of them; the others can go on in another sweep without it"
            ) from error

    def lend(self) -> None:
        """Puts the members where the stack is, and gives them views of its weights."""
        for member in self.members:
            member.to(self.device)
        self.stack.lend()

    def on_train_start(self) -> None:
        """Begins, or takes up what was interrupted."""
        super().on_train_start()
        loaders: Any = self.trainer.train_dataloader
        for member, loader in zip(self.members, loaders.members, strict=True):
            if member.own is not None:
                member.own.train_dataloader = loader
            member.on_train_start()

    def on_train_epoch_start(self) -> None:
        """Begins an epoch of each member."""
        for member in self.members:
            member.on_train_epoch_start()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Takes up the state within an epoch that a checkpoint was written in."""
        for member in self.members:
            member.on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the members' losses, each on its own part of the batch."""
        output: SegmenterOutput = self.stack(batch.image)
        totals = []
        for i, member in enumerate(self.members):
            member.output = SegmenterOutput(*(self._part(value, i) for value in output))
            with self._as(member):
                own = Batch(*(self._part(value, i) for value in (batch.image, batch.mask, batch.index)))
                totals.append(member.training_step(own, batch_idx))
            member.output = None
        return torch.stack(totals).sum()

    def _part(self, value: Any, i: int) -> Any:
        return None if value is None else value.chunk(len(self.members))[i]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keeps an update that is not finite from the weights of its member."""
        for member, gradients in zip(self.members, self.stack.gradients(), strict=True):
            alone: Any = SimpleNamespace(param_groups=[{"params": [SimpleNamespace(grad=own) for own in gradients]}])
            with self._as(member):
                member.guard.before_update(alone, self.current_epoch, self.global_step, is_scaled=False)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Notes the time."""
        for member in self.members:
            member.on_train_batch_end(outputs, batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        """Closes the epoch of each member."""
        for member in self.members:
            with self._as(member):
                member.on_train_epoch_end()

    def on_validation_model_eval(self) -> None:
        """Lightning knows nothing of the members."""
        super().on_validation_model_eval()
        for member in self.members:
            member.eval()

    def on_validation_model_train(self) -> None:
        """Back to training."""
        super().on_validation_model_train()
        for member in self.members:
            member.train()

    def on_validation_epoch_start(self) -> None:
        """Starts counting."""
        for member in self.members:
            with self._as(member):
                member.on_validation_epoch_start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores a batch by one model after the other."""
        for member in self.members:
            member.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of each member."""
        for member in self.members:
            member.on_validation_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what each member would have saved beside its weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["seeds"], checkpoint["members"] = [member.seed for member in self.members], []
        for member in self.members:
            own = {"loops": checkpoint["loops"]}
            with self._as(member):
                member.on_save_checkpoint(own)
            checkpoint["members"].append({key: value for key, value in own.items() if key != "loops"})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what each member takes up when training begins."""
        super().on_load_checkpoint(checkpoint)
        for member, own in zip(self.members, checkpoint["members"], strict=True):
            member.on_load_checkpoint({**own, "loops": checkpoint["loops"]})


class MemberCallbacks(Checkpoint):
    """Has the callbacks of each member see the training as if it were the member's alone.

    Args:
        members: with their trainers.
        callbacks: of each.
    """

    def __init__(self, members: Sequence[StackedMember], callbacks: Sequence[Sequence[pl.Callback]]) -> None:
        self.members, self.callbacks = list(members), [list(own) for own in callbacks]

    def _each(self, hook: str, *arguments: Any) -> None:
        for member, callbacks in zip(self.members, self.callbacks, strict=True):
            for callback in callbacks:
                getattr(callback, hook)(member.own, member, *arguments)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tells them what is continued."""
        self._each("on_load_checkpoint", checkpoint)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Weights are where they are trained now, and those of a checkpoint: the members get their views."""
        task: Any = pl_module
        task.lend()
        self._each("on_fit_start")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells them."""
        self._each("on_train_start")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells them."""
        self._each("on_validation_epoch_end")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells them."""
        self._each("on_validation_end")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells them."""
        self._each("on_train_epoch_end")

    def write(self, trainer: pl.Trainer) -> None:
        """Writes the best weights of those whose epoch was the best, as ``BestWeights`` does for one."""
        for member, callbacks in zip(self.members, self.callbacks, strict=True):
            for callback in callbacks:
                if (write := getattr(callback, "write", None)) is not None:
                    write(member.own)

    def state_dict(self) -> dict[str, Any]:
        """What each of them needs to know to go on."""
        return {"members": [{own.state_key: own.state_dict() for own in callbacks} for callbacks in self.callbacks]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Gives it to them."""
        for callbacks, states in zip(self.callbacks, state_dict["members"], strict=True):
            for callback in callbacks:
                if states.get(callback.state_key):
                    callback.load_state_dict(states[callback.state_key])


class GroupCheckpointIO(HashedCheckpointIO):
    """Reads of a group's checkpoint what the given seeds need: the others may have finished meanwhile."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint to the CPU.

        Raises:
            ValueError: the file is damaged, or of other seeds.
        """
        return only(super().load_checkpoint(path, map_location, weights_only), self.seeds)


def only(checkpoint: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """A checkpoint of some of the members of the group that wrote it: the others are finished already.

    Raises:
        ValueError: it has not all of these seeds.
    """
    if not set(seeds) <= set(checkpoint["seeds"]):
        raise ValueError(f"a checkpoint of the seeds {checkpoint['seeds']} cannot continue {list(seeds)}")
    rows = [checkpoint["seeds"].index(seed) for seed in seeds]
    key = MemberCallbacks.__qualname__
    callbacks = checkpoint["callbacks"]
    return {
        **checkpoint,
        "seeds": list(seeds),
        "members": [checkpoint["members"][row] for row in rows],
        "state_dict": {k: v[rows] if k.startswith(_STACKED) else v for k, v in checkpoint["state_dict"].items()},
        "optimizer_states": [_rows_of(state, rows) for state in checkpoint["optimizer_states"]],
        "callbacks": {**callbacks, key: {"members": [callbacks[key]["members"][row] for row in rows]}},
    }


def _rows_of(state: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    """The state of an optimizer; what has no dimension, such as the number of steps, is that of all."""
    of_each = {
        number: {k: v[rows] if isinstance(v, Tensor) and v.dim() else v for k, v in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": of_each}
