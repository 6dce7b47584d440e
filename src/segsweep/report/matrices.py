"""Per-image confusion matrices of finished runs, reduced to what a pooled score needs."""

import zipfile
import zlib
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
        counts: (n, 3, K) int64: pixels of each class in the truth, in the prediction, in both.
    """

    names: NDArray[np.str_]
    groups: NDArray[np.str_]
    counts: NDArray[np.int64]


def read_matrices(folder: Path) -> Matrices:
    """What a run folder says about its test images.

    Raises:
        ValueError: the file is missing or damaged; the message says which and how.
    """
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as arrays:
            confusion, names = arrays["confusion"], arrays["names"]
            groups = arrays.get("groups", names)
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
    diagonal = np.diagonal(confusion, axis1=1, axis2=2)
    margins = (confusion.sum(axis=2), confusion.sum(axis=1), diagonal)
    return Matrices(names, groups, np.stack(margins, axis=1).astype(np.int64))
