"""A run folder as the commands that use a trained model see it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segsweep.contained import read_json
from segsweep.opened.facts import read_facts
from segsweep.opened.table import MODELS, build_model
from segsweep.opened.weights import read_weights
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.types import DataSpec


@dataclass(frozen=True)
class OpenedRun:
    """A run with its best weights; everything but ``model`` is plain data.

    Attributes:
        folder: of the run, as the user named it.
        name: of the folder, fit to be printed.
        record: content of ``record.json``, unchecked but for what is below: text of a stranger.
        spec: facts of the data that it was trained on.
        fit: how images are brought to ``spec.size``: ``stretch`` or ``pad``.
        model: on the CPU, in evaluation mode, float32.
        model_node: ``_target_``, ``family`` and arguments of the model.
        data_node: config of the data, unchecked.
        colours: (256, 3) uint8, of the classes.
        weights_sha256: of the file of weights, in hexadecimal digits.
    """

    folder: Path
    name: str
    record: dict[str, Any]
    spec: DataSpec
    fit: str
    model: nn.Module
    model_node: dict[str, Any]
    data_node: dict[str, Any]
    colours: NDArray[np.uint8]
    weights_sha256: str


def open_finished(folder: Path, trust: Sequence[str] = ()) -> OpenedRun:
    """Opens a run that has weights to use. Writes nothing and executes nothing from the folder.

    Args:
        folder: of the run.
        trust: exact names of model classes outside of segsweep that may be built.

    Raises:
        ConfigError: the folder is no run, the run has no weights or reads its classes off clusters, or something in it
            is damaged or not what a run writes; a line each.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder. Give one of a finished run, e.g. outputs/sweeps/families/<job>")
    if not (folder / "record.json").exists() and any(folder.glob("*/record.json")):
        raise ConfigError(f"{folder} is a sweep. Give one of its runs; segsweep-report {folder} says which is best")
    record = read_json(folder, "record.json")
    shown = os.path.relpath(folder / "record.json")
    config = record.get("config")
    if not isinstance(config, dict) or not isinstance(data_node := config.get("data"), dict):
        raise ConfigError(f"{shown} lacks config.data: another program or version wrote it")
    _refuse_readout(config, shown)
    spec, fit, colours = read_facts(data_node, shown)
    best = read_json(folder, "checkpoints/best.json")
    node, said = best.get("model"), os.path.relpath(folder / "checkpoints" / "best.json")
    if not isinstance(node, dict):
        raise ConfigError(f"{said} lacks the model: another program or version wrote it")
    if (node.get("num_classes"), node.get("in_channels")) != (spec.num_classes, spec.in_channels):
        raise ConfigError(f"{said}: num_classes and in_channels of the model are not those of the data in {shown}")
    model, digest = _model(node, trust, folder, said)
    name = printable(folder.resolve().name)
    return OpenedRun(folder, name, record, spec, fit, model, node, data_node, colours, digest)


def _model(node: dict[str, Any], trust: Sequence[str], folder: Path, shown: str) -> tuple[nn.Module, str]:
    """The model with the weights of the file; takes no memory before the sizes of both are known to agree."""
    with torch.random.fork_rng(devices=[]):  # random weights are replaced
        with torch.device("meta" if str(node.get("_target_")) in MODELS else "cpu"):
            model = build_model(node, trust, shown)
        tensors, digest = read_weights(folder, model.state_dict())
        if any(tensor.is_meta for tensor in model.state_dict().values()):
            model = build_model(node, trust, shown)
    model.load_state_dict(tensors)
    return model.eval(), digest


def _refuse_readout(config: dict[str, Any], shown: str) -> None:
    regime = config.get("regime")
    if isinstance(regime, dict) and regime.get("readout") is not None:
        raise ConfigError(
            f"{shown}: this run has seen no label; its classes are read off clusters that are matched to training "
            "masks (regime.readout), which are not in the folder. Train with labels, e.g. regime=pretrain"
        )
