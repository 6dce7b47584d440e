"""What a run shows in TensorBoard beside its metrics and panels, at its start and at its end."""

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from segsweep.confusion import confusion_picture
from segsweep.curves import NUM_THRESHOLDS, curve
from segsweep.layout import layout
from segsweep.metrics import Counts
from segsweep.pictures import show
from segsweep.task import Task

log = logging.getLogger(__name__)

_MOST_CURVES = 24  # classes


@dataclass(frozen=True)
class Board:
    """What is shown beyond scalars, as far as it has a price.

    Attributes:
        pictures_every: epochs between panels of pictures; the last epoch has them in any case; 0: never.
        pr_curves: whether the test counts what curves of precision and recall are made of.
        graph: whether the model's operations are shown.
    """

    pictures_every: Annotated[int, Ge(0)] = 1
    pr_curves: bool = True
    graph: bool = False


def begin(logger: TensorBoardLogger, task: Task, config: str, size: tuple[int, int] | None) -> None:
    """Shows the config, and which curves belong together; with a size the graph of the model, too.

    Args:
        logger: of the run.
        task: not yet trained, on the CPU.
        config: of the run, YAML.
        size: height and width of an image, None: no graph.
    """
    writer = logger.experiment
    writer.add_text("config", f"```yaml\n{config}```")
    writer.add_custom_scalars(layout(task.spec.class_names))
    if size is not None:
        _add_graph(writer, task.model, torch.zeros(1, task.spec.in_channels, *size))
    writer.flush()


def end(logger: TensorBoardLogger, task: Task, counts: Counts, step: int) -> None:
    """Shows the confusion of the test split and, if they were counted, precision against recall of its classes.

    Args:
        logger: of the run.
        task: that was tested.
        counts: of the test split.
        step: optimisation steps done.
    """
    writer, names = logger.experiment, task.spec.class_names
    pooled = counts.confusion.sum(axis=0)
    show(writer, "test/confusion", confusion_picture(pooled, names), step)
    if task.test_scores is None:
        return
    # Classes with most pixels: those of which a curve says most.
    shown = [k for k in pooled.sum(axis=1).argsort(kind="stable")[::-1][:_MOST_CURVES] if pooled[k].any()]
    for k in sorted(shown):
        values = curve(task.test_scores[k])
        writer.add_pr_curve_raw(f"test/{names[k]}", *values, global_step=step, num_thresholds=NUM_THRESHOLDS)


class Segmenter(nn.Module):
    """A model as TensorBoard can show it, where its name stands in the graph: what returns one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Class scores."""
        logits: Tensor = self.model(image).logits
        return logits


def _add_graph(writer: Any, model: nn.Module, image: Tensor) -> None:
    """Traces the model; training goes on with the random state that this has found."""
    was_training = model.training
    silent = contextlib.redirect_stdout(io.StringIO())  # torch prints what it raises
    with torch.random.fork_rng([]), torch.no_grad(), silent, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trace is of one size: branches on sizes are what it warns of
        try:
            writer.add_graph(Segmenter(model).eval(), image, use_strict_trace=False)
        except Exception as error:  # whatever a model does that cannot be traced: the run goes on without its graph
            reason = (str(error) or repr(error)).splitlines()[0]
            log.warning("no graph in TensorBoard (trainer.tensorboard.graph): torch cannot trace the model: %s", reason)
    model.train(was_training)
