"""Reads weights that a stranger may have written: each name and shape is held against the model first."""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from segsweep.contained import read_bytes
from segsweep.report.printable import printable
from segsweep.run import ConfigError

FILE = "checkpoints/best.safetensors"
_MOST_HEADER = 16 << 20  # bytes, of names and shapes
_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
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
    most = sum(8 * tensor.numel() for tensor in state.values()) + _MOST_HEADER
    data = read_bytes(folder, FILE, most)
    digest = hashlib.sha256(data).hexdigest()
    said = read_bytes(folder, f"{FILE}.sha256", 1 << 10).strip()
    if said != digest.encode():
        raise ConfigError(f"{shown} is damaged: its SHA-256 is not the one beside it. Get the run folder again")
    _check_shapes(_header(data, shown), state, shown)
    return load(data), digest


def _header(data: bytes, shown: str) -> dict[str, Any]:
    """Names, types, shapes and places; refuses what two readers could understand in two ways."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a name stands in it twice")
        return content

    try:
        (length,) = struct.unpack("<Q", data[:8])
        if length > min(_MOST_HEADER, len(data) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(data[8 : 8 + length], object_pairs_hook=once)
        header.pop("__metadata__", None)
        end = 0
        for place in sorted(entry["data_offsets"] for entry in header.values()):
            if place[0] != end or place[1] < end:
                raise ValueError("its tensors overlap or leave gaps")
            end = place[1]
        if end != len(data) - 8 - length:
            raise ValueError("it has more or fewer bytes than its tensors")
        for entry in header.values():
            size = _DTYPES[entry["dtype"]] * torch.Size(entry["shape"]).numel()
            if size != entry["data_offsets"][1] - entry["data_offsets"][0]:
                raise ValueError("the size of a tensor is not that of its shape")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, RuntimeError, struct.error) as error:
        detail = printable(str(error))[:200]
        raise ConfigError(f"{shown} is no safetensors file that we read: {detail}. Get the run folder again") from None
    return dict(header)


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
