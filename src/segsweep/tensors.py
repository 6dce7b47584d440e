"""Safetensors files that a stranger may have written: names, types and shapes are known before any memory is taken."""

import json
import struct
from math import prod
from typing import TYPE_CHECKING, Any

from segsweep.run import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADER = 16 << 20  # bytes, of names and shapes
_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def read_header(start: bytes, size: int, shown: str) -> dict[str, Any]:
    """What is in a file; refuses what two readers could understand in two ways.

    Args:
        start: the first bytes of the file, ``MOST_HEADER`` and 8 of them or all.
        size: of the file in bytes.
        shown: its name in messages.

    Returns:
        ``dtype``, ``shape`` and ``data_offsets`` of each tensor.

    Raises:
        ConfigError: it is not whole, or ambiguous.
    """
    try:
        (length,) = struct.unpack("<Q", start[:8])
        if length > min(MOST_HEADER, size - 8):
            raise ValueError("the header is longer than the file")
        header = dict(json.loads(start[8 : 8 + length].decode(), object_pairs_hook=_once))
        header.pop("__metadata__", None)
        _check_places([entry["data_offsets"] for entry in header.values()], size - 8 - length)
        for entry in header.values():
            num_bytes = _DTYPES[entry["dtype"]] * _num_values(entry["shape"])
            if num_bytes != entry["data_offsets"][1] - entry["data_offsets"][0]:
                raise ValueError("the size of a tensor is not that of its shape")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, struct.error) as error:
        raise _unread(shown, error) from None
    return header


def load_tensors(data: bytes, shown: str) -> "dict[str, Tensor]":
    """The tensors of a file whose header has been read.

    Raises:
        ConfigError: it is not what the format allows.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise _unread(shown, error) from None


def _unread(shown: str, error: Exception) -> ConfigError:
    said = str(error)[:200]
    detail = said if said.isprintable() else repr(said)
    return ConfigError(f"{shown} is no safetensors file that we read: {detail}. Get the run folder again")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands in it twice")
    return content


def _check_places(places: list[list[int]], num_bytes: int) -> None:
    end = 0
    for place in sorted(places):
        if place[0] != end or place[1] < end:
            raise ValueError("its tensors overlap or leave gaps")
        end = place[1]
    if end != num_bytes:
        raise ValueError("it has more or fewer bytes than its tensors")


def _num_values(shape: list[int]) -> int:
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError("a shape is none")
    return prod(shape)
