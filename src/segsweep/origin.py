"""Which code made a result: versions of packages, and the state of the checkout. Standard library only."""

import contextlib
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_PACKAGES = ("segsweep", "torch", "pytorch-lightning", "hydra-core", "torchmetrics", "numpy", "llvmlite")


@cache
def versions() -> Mapping[str, str]:
    """Versions of the packages that decide results, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError, version  # here, because it takes 15 ms to import

    found: dict[str, str] = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def git_state() -> dict[str, str | bool] | None:
    """Commit of the source tree that this package runs from, and whether it has changes; None if it is no checkout."""
    try:
        if not is_checkout():
            return None
        lines = _git("status", "--porcelain=v2", "--branch", "--untracked-files=no").splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    is_dirty = any(not line.startswith("#") for line in lines)
    return None if commit == "(initial)" else {"commit": commit, "dirty": is_dirty}


@cache
def is_checkout() -> bool:
    """Whether this package is a part of the git repository that it lies in, and not just installed within it.

    Raises:
        OSError, subprocess.SubprocessError: git does not say.
    """
    return bool(_git("ls-files", "--error-unmatch", Path(__file__).name))


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
