"""The command ``segsweep``: answers ``--help`` at once and leaves everything else to the Hydra app."""

import sys

from segsweep import CONF_DIR
from segsweep.startup import importing

_HELP = """\
segsweep compares image segmenters: one command is one run, -m is a sweep.

  segsweep model=reseg optimizer.lr=1e-3                       one run
  segsweep -m model=unet,reseg,conv_autoencoder seed=0,1       a sweep; the same command continues it
  segsweep-report outputs/sweeps/NAME                          who wins
  tensorboard --logdir outputs                                 curves and pictures

Choices (group=option):

{choices}

Override any key: key=value, nested key.key=value. Add -m to try several: key=a,b,c
  --cfg job          print the config and stop           --info            where each part of it comes from
  experiment=debug   two batches of everything           -sc install=bash  prints the tab completion to eval
  --hydra-help       Hydra's own flags"""


def main() -> None:
    """Runs the command line."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(_HELP.format(choices=_choices()))  # Hydra would take half a second to say the same
        return
    with importing():
        from segsweep.train import main as run

    run()


def _choices() -> str:
    groups = sorted(folder for folder in CONF_DIR.iterdir() if folder.is_dir() and folder.name != "hydra")
    options = {group.name: ", ".join(sorted(file.stem for file in group.glob("*.yaml"))) for group in groups}
    return "\n".join(f"  {name:<12} {listed}" for name, listed in options.items())


if __name__ == "__main__":
    main()
