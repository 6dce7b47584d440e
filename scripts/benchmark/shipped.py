"""Training as shipped, in this process: TensorBoard, checkpoints, history, pictures and the progress bar of a terminal.

A benchmark changes one thing, the loader that batches come through; what it does between two steps is up to it.
"""

import io
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from segsweep.config import Parts, build, build_model
from segsweep.losses import adapt
from segsweep.types import Batch


class Terminal(io.StringIO):
    """Where the progress bar draws as in a terminal, unseen."""

    def isatty(self) -> bool:
        """It says so."""
        return True


class Loader:
    """The loader of a fit, which decides where batches come from and what happens between them.

    Args:
        inner: the project's own; None: there are only ready batches.
        ready: batches.
        num: of an epoch.
        before: called before each batch with its number; returns whether the batch comes from ``inner``.
    """

    def __init__(self, inner: Any, ready: Sequence[Batch], num: int, before: Callable[[int], bool]) -> None:
        self.inner, self.ready, self.num, self.before = inner, itertools.cycle(ready), num, before
        self.sampler = inner

    def start_at(self, piece: int) -> None:
        """Training begins at the beginning."""

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[Batch]:
        live = iter(self.inner or ())
        for i in range(self.num):
            yield next(live) if self.before(i) else next(self.ready)


def fit(plain: dict[str, Any], folder: Path, prepare: Callable[[Parts], Loader]) -> None:
    """Trains as ``segsweep`` does, in a terminal, with a loader of the benchmark."""
    with redirect_stdout(Terminal()):
        parts = build(plain, build_model(plain), folder, 0)
        adapt(parts.task.loss, parts.data.class_counts())
        loader = prepare(parts)
        parts.data.train_dataloader = lambda: loader
        parts.trainer.fit(parts.task, datamodule=parts.data, weights_only=True)
        parts.logger.experiment.close()


def be_quiet() -> None:
    """Has Lightning say nothing between the tables."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    os.environ["TERM"] = "xterm"  # a dumb terminal has no progress bar
