"""The options that say how images are read, the same for every command."""

import argparse
from typing import Any

from segsweep.run import ConfigError

_NAMES = ("scale", "alpha", "exif", "max_pixels")


def add_reading(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds them to a command; returns their group, which may take more."""
    group = parser.add_argument_group("how images are read (what is not said: as in training)")
    group.add_argument(
        "--scale", type=float, nargs=2, metavar=("BLACK", "WHITE"), help="values that become black and white"
    )
    group.add_argument("--alpha", choices=("drop", "composite"), help="what to do with transparent images")
    group.add_argument("--exif", choices=("apply", "ignore"), help="what to do with rotation tags")
    group.add_argument("--max-pixels", type=float, metavar="N", help="larger images are refused (default: 128e6)")
    return group


def said(options: argparse.Namespace) -> dict[str, Any]:
    """What of them was typed, as ``Reading.of_run`` takes it; None for the others."""
    return {name: getattr(options, name) for name in _NAMES}


def refuse_said(options: argparse.Namespace, where: str) -> None:
    """Refuses them where no image files are given.

    Args:
        options: of the command line.
        where: how image files are given, for the message.

    Raises:
        ConfigError: one of them was typed.
    """
    for name, value in said(options).items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} says how image files are read: give some with {where}, or leave it out")
