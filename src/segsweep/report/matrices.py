"""Per-image confusion matrices of finished runs."""

import io
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FILE = "test_confusion.npz"  # train.py writes it into each run folder


class Matrices(NamedTuple):
    """The test images of one run, in the order of the split.

    Attributes:
        names: (n,) strings.
        groups: (n,) strings; images of one group (video, patient) are not independent.
        confusion: (n, K, K) integers, truth in rows.
    """

    names: NDArray[np.str_]
    groups: NDArray[np.str_]
    confusion: NDArray[np.integer]


def read_matrices(folder: Path) -> Matrices:
    """What a run folder says about its test images.

    Raises:
        ValueError: the file is missing or damaged; the message says which and how.
    """
    file = folder / FILE
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            confusion, names = arrays["confusion"], _strings(arrays.zip.read("names.npy"))
            groups = _strings(arrays.zip.read("groups.npy")) if "groups" in arrays else names
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{file} is damaged ({error})") from None
    n, k = len(names), confusion.shape[-1] if confusion.ndim else 0
    if confusion.shape != (n, k, k) or groups.shape != (n,) or n == 0 or confusion.dtype.kind not in "iu":
        raise ValueError(f"{file} is damaged (confusion {confusion.dtype} {confusion.shape} of {n} names)")
    if confusion.min() < 0:
        raise ValueError(f"{file} is damaged (negative counts)")
    return Matrices(names, groups, confusion)


@lru_cache(maxsize=16)
def _strings(content: bytes) -> NDArray[np.str_]:
    """The array in a file; all runs of a sweep have the same one, and its header takes longer to read than its text."""
    strings: NDArray[np.str_] = np.load(io.BytesIO(content), allow_pickle=False)
    return strings
