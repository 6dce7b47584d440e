"""Whose an output folder is: a command writes into new folders, empty ones, and those that it wrote of the same run."""

import os
from pathlib import Path

from segsweep.contained import read_json
from segsweep.report.printable import printable
from segsweep.run import ConfigError


def refuse_foreign(out: Path, marker: str, weights_sha256: str) -> None:
    """Sees to it that nothing of anybody else's is overwritten or mixed with what is written.

    Args:
        out: folder; it need not exist.
        marker: file that the command writes there first: JSON with ``weights_sha256``.
        weights_sha256: of the run that is at work.

    Raises:
        ConfigError: the folder holds other files, or the output of another run.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise ConfigError(f"--out {out} is not a folder. Name a new one")
    others = sorted(os.listdir(out))
    if not others:
        return
    if marker not in others:
        raise ConfigError(
            f"{out} holds other files ({printable(others[0])}) and no {marker}. Choose a new folder with --out, so "
            "that nothing is overwritten"
        )
    if read_json(out, marker).get("weights_sha256") != weights_sha256:
        raise ConfigError(f"{out} holds the output of another run, or of this one trained anew. Choose another --out")
