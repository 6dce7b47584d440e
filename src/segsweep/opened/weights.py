"""Reads weights that a stranger may have written: each name and shape is held against the model first."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from segsweep.contained import read_bytes
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.tensors import MOST_HEADER, load_tensors, read_header

FILE = "checkpoints/best.safetensors"
_SHOWN = 3


def read_weights(folder: Path, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Reads the best weights of a run.

    Args:
        folder: of the run.
        state: of a model of its architecture; only names, shapes and types matter, so it may be on the meta device.

    Returns:
        The tensors, and the SHA-256 of the file in hexadecimal digits.

    Raises:
        ConfigError: the file is not whole, ambiguous, or holds other tensors than the model has.
    """
    shown = os.path.relpath(folder / FILE)
    # What fits the model and no more is ever read.
    most = sum(8 * tensor.numel() for tensor in state.values()) + MOST_HEADER
    data = read_bytes(folder, FILE, most)
    digest = hashlib.sha256(data).hexdigest()
    said = read_bytes(folder, f"{FILE}.sha256", 1 << 10).strip()
    if said != digest.encode():
        raise ConfigError(f"{shown} is damaged: its SHA-256 is not the one beside it. Get the run folder again")
    _check_shapes(read_header(data, len(data), shown), state, shown)
    return load_tensors(data, shown), digest


def _check_shapes(header: Mapping[str, Any], state: Mapping[str, Tensor], shown: str) -> None:
    differing = [
        f"{name}: {header[name]['dtype']} {list(header[name]['shape'])} instead of {list(tensor.shape)}"
        for name, tensor in state.items()
        if name in header and tuple(header[name]["shape"]) != tuple(tensor.shape)
    ]
    differing += [f"{name} is missing" for name in state if name not in header]
    differing += [f"{printable(name)[:100]} is unknown" for name in header if name not in state]
    if differing:
        listed = "; ".join(differing[:_SHOWN]) + (f"; and {len(differing) - _SHOWN} more" if differing[_SHOWN:] else "")
        raise ConfigError(f"{shown} does not belong to the model that checkpoints/best.json describes: {listed}")
