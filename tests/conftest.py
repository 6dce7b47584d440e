"""Shared fixtures: a private data cache, and configs composed as the command line would compose them."""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# A shell ignores Ctrl-C for what it starts in the background, and processes inherit that: tests sending it would hang.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch: processes side by side share the cores; with all threads each, they would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from hydra import initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from segsweep import CONF_DIR
from segsweep.composer import Composed, Composer
from segsweep.train import train

gc.disable()  # until all is imported

# Below, torch is imported where it is used: it takes seconds, and the process that hands out tests does without.
if TYPE_CHECKING:
    from torch import Tensor

    from segsweep.types import Batch

# A scene or two of everything: what is under test is the plumbing, not the accuracy.
TINY = [
    "data.num_train=12",
    "data.num_val=4",
    "data.num_test=5",
    "data.batch_size=4",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
]


# What the record of a run says about where it comes from.
ORIGIN = {"choices": {"model": "unet", "data": "digits"}, "overrides": [], "sweep": None}

# Keys that data=folder needs for the ``image_tree`` below.
FOLDER = ["data=folder", "data.num_classes=3", "data.class_names=[a,b,c]", *TINY[3:]]


def options(group: str) -> list[str]:
    """Names of the YAML files of a config group: a new option is tested unasked."""
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


def quick_ones(group, *names):
    """All options of a group; whole runs with those that are not named are slow."""
    return [pytest.param(name, marks=[] if name in names else pytest.mark.slow) for name in options(group)]


def loss_overrides(option: str) -> list[str]:
    """What selects an option of ``loss``; ``sum`` is nothing without a factor."""
    return [f"loss={option}", *["loss.terms.focal=1", "loss.terms.dice=0.5"] * (option == "sum")]


def history(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [timeless(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(metrics: dict) -> dict:
    """Metrics without the only one that is a matter of time."""
    return {key: value for key, value in metrics.items() if key != "train/images_per_s"}


def batch_of(mask: Tensor, image: Tensor | None = None) -> Batch:
    """A batch with these masks (N, H, W), and grey images of nothing unless given."""
    import torch

    from segsweep.types import Batch

    return Batch(torch.zeros(len(mask), 1, *mask.shape[1:]) if image is None else image, mask, torch.arange(len(mask)))


@pytest.fixture
def example() -> tuple[Tensor, Tensor]:
    """Logits (2, 11, 6, 5) and a mask that shows all 11 classes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 11, 6, 5, generator=generator)
    return logits, torch.randint(0, 11, (2, 6, 5), generator=generator)


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SEGSWEEP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _speed_is_measured_in_a_moment() -> Iterator[None]:
    """At the end of every run; nobody looks at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segsweep.cost._INFERENCE_S", 0.02)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_continued_run_waits() -> Iterator[None]:
    """For a later second in a name of events: numbers of one length put files of one process in order."""
    from tensorboard.summary.writer.event_file_writer import AtomicCounter

    from segsweep import callbacks

    wait = callbacks._wait_for_a_later_name

    def wait_for_others(folder):
        if any(f".{os.getpid()}." not in file.name for file in folder.glob("events.out.tfevents.*[0-9]")):
            wait(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(10**9))
        patch.setattr(callbacks, "_wait_for_a_later_name", wait_for_others)
        yield


@pytest.fixture(scope="session", autouse=True)
def _config_files_are_parsed_once() -> Iterator[None]:
    """A config is made of some twenty files, and looking for them and parsing them takes half of its time.

    Those of this package and of Hydra's stay as they are; of others a changed file is read again.
    """
    Plugins.instance()  # registers the classes below, which are none that can be imported
    ours, hydras = (SourcesRegistry.instance().resolve(scheme) for scheme in ("file", "pkg"))
    parsed, found = {}, {}

    def load_once(load):
        def load_config(self, config_path):
            key = (self.provider, self.path, config_path)
            if not stays(self):
                file = Path(self.path, self._normalize_file_name(config_path))
                if not file.is_file():
                    return load(self, config_path)
                state = file.stat()
                key += (state.st_mtime_ns, state.st_size, state.st_ino)
            if key not in parsed:
                parsed[key] = pickle.dumps(load(self, config_path))
            return pickle.loads(parsed[key])  # Hydra writes to what it gets

        return load_config

    def look_once(is_config):
        def looked(self, config_path):
            if not stays(self):
                return is_config(self, config_path)
            key = (self.path, config_path)
            if key not in found:
                found[key] = is_config(self, config_path)
            return found[key]

        return looked

    def stays(source):
        return isinstance(source, hydras) or source.path == str(CONF_DIR)

    with pytest.MonkeyPatch.context() as patch:
        for source in (ours, hydras):
            patch.setattr(source, "load_config", load_once(source.load_config))
            patch.setattr(source, "is_config", look_once(source.is_config))
        yield


@pytest.fixture(scope="session")
def composed() -> Callable[..., Composed]:
    """``composed("model=unet", ...)`` -> config and option of each group, as a sweep composes its jobs: in 3 ms."""
    jobs = Composer()

    def compose_one(*overrides: str) -> Composed:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return jobs.job(overrides)

    return compose_one


@pytest.fixture(scope="session")
def composer(composed) -> Callable[..., DictConfig]:
    """``composer("model=unet", ...)`` -> the composed config."""
    return lambda *overrides: composed(*overrides).config


@pytest.fixture
def start(composer, tmp_path):
    """``start("folder", *overrides)`` trains there, a narrow U-Net unless a model is named, and returns the folder."""

    def run(name, *overrides):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        narrow = [] if any(override.startswith("model") for override in overrides) else ["model.widths=[4,8]"]
        train(composer(*TINY, *narrow, *overrides), folder, ORIGIN)
        return folder

    return run


@pytest.fixture(scope="session")
def finished(composer, tmp_path_factory):
    """A tiny run to start from, to prune or to learn from: model.widths=[4,8], seed=0. Not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "model=unet,seed=0"
    folder.mkdir()
    train(composer(*TINY, "model.widths=[4,8]", "trainer.max_epochs=1"), folder, ORIGIN)
    return folder


@pytest.fixture(scope="session")
def whole_run(composer, tmp_path_factory):
    """What ``start("run")`` leaves, for tests that only look at it. Not to be written to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    folder.mkdir()
    train(composer(*TINY, "model.widths=[4,8]"), folder, ORIGIN)
    return folder


@pytest.fixture
def without_figures(monkeypatch):
    """Drawing takes most of the time of a report, and only tests of its board look at what is drawn."""
    monkeypatch.setattr("segsweep.report.board.ranking", lambda _: None)
    monkeypatch.setattr("segsweep.report.board.pareto", lambda _: {})


@pytest.fixture
def interrupted(monkeypatch):
    """``with interrupted(before_epoch=2): ...`` has a run end there as Ctrl-C would end it."""

    @contextmanager
    def interrupt(before_epoch: int):
        from segsweep.task import Task

        original = Task.on_train_epoch_start

        def stop(self):
            if self.current_epoch == before_epoch:
                raise KeyboardInterrupt
            original(self)

        with monkeypatch.context() as patch:
            patch.setattr(Task, "on_train_epoch_start", stop)
            with pytest.raises(SystemExit):
                yield

    return interrupt


@pytest.fixture
def in_process():
    """Puts back what a command leaves behind in the process that runs it: log handlers, signals, Hydra's state."""
    names = (None, "segsweep", "pytorch_lightning")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers, on_sigterm = logging.root.handlers[:], signal.getsignal(signal.SIGTERM)
    yield
    GlobalHydra.instance().clear()
    signal.signal(signal.SIGTERM, on_sigterm)
    for extra in set(logging.root.handlers) - set(handlers):
        extra.close()
    logging.root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def image_tree(tmp_path: Path) -> Path:
    """A small dataset in the layout of data=folder: 3 classes, two sizes of images, 255 ignored."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    root = tmp_path / "my data"  # a space: it has to work
    for split, num in (("train", 5), ("val", 3), ("test", 3)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(num):
            height, width = (20, 30) if i % 2 else (24, 32)
            mask = rng.integers(0, 3, (height // 2, width // 2)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
            image = np.stack([mask * 100, 255 - mask * 100, mask * 50], axis=2)
            image = (image + rng.integers(0, 5, image.shape)).clip(0, 255).astype(np.uint8)
            mask[0, :3] = 255
            name = f"{split}/seq{i % 2}_{i:03d}.png"
            Image.fromarray(image).save(root / "images" / name)
            Image.fromarray(mask).save(root / "masks" / name)
    return root


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Libraries complain at exit about what was never collected."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts the rows of the table of bad inputs; a row counts if all its cases passed."""
    rows: dict[str, bool] = {}
    tracebacks = 0
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if row := re.search(r"test_bad_inputs\.py.*\[row-(\d+)-", report.nodeid):
                rows[row[1]] = rows.get(row[1], True) and report.passed
                tracebacks += ("traceback", 1) in report.user_properties
    if rows:
        declared = sum(rows.values())
        terminalreporter.write_line(f"bad inputs: {declared}/{len(rows)} as declared, {tracebacks} tracebacks")
