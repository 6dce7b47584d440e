"""Fetches a public dataset through torchvision, for the data files that name a class of it."""

import fcntl
import importlib
from pathlib import Path

from segsweep.data.problems import DataError, Problem


def download(downloader: str | None, root: Path, obtain: str | None) -> None:
    """Downloads and unpacks a dataset into ``root``, unless that has been done; runs that start together do it once.

    Args:
        downloader: dotted name of a class that is called with ``(root, download=True)``.
        root: folder of the dataset; it is made.
        obtain: what to download by hand, said when this fails.

    Raises:
        DataError: there is no downloader, torchvision is missing, or the download fails.
    """
    by_hand = obtain or "Download it by hand and set data.root to it"
    if downloader is None:
        raise DataError([Problem("E-DOWNLOAD", "data.download=true", "is not possible for this dataset", by_hand)])
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".download.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel if this process dies
            done = root / f".downloaded-{downloader}"  # torchvision unpacks VOC again each time it is asked
            if not done.exists():
                _load(downloader, by_hand)(str(root), download=True)
                done.touch()
    except (OSError, RuntimeError) as error:  # no network, a page that has moved, a checksum that differs
        what = f"failed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})"
        raise DataError([Problem("E-DOWNLOAD", "data.download=true", what, by_hand)]) from None


def _load(downloader: str, by_hand: str) -> type:
    module, _, name = downloader.rpartition(".")
    package = module.split(".")[0]
    try:
        found = getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        fix = f"Install it (pip install {package}). Or: {by_hand}"
        raise DataError([Problem("E-DOWNLOAD", "data.download=true", f"needs {package}", fix)]) from None
    except RuntimeError as error:  # a torchvision that was built for another torch
        what = f"needs a {package} that fits torch (it says: {str(error).splitlines()[0]})"
        fix = f"Install the release of {package} that belongs to your torch. Or: {by_hand}"
        raise DataError([Problem("E-DOWNLOAD", "data.download=true", what, fix)]) from None
    if not isinstance(found, type):
        fix = f"Name a class, e.g. torchvision.datasets.VOCSegmentation. Or: {by_hand}"
        raise DataError(
            [Problem("E-DOWNLOAD", f"data.downloader={downloader}", "is no class that can be imported", fix)]
        )
    return found
