"""Where Hydra looks for launchers and sweepers; what they do is written in ``segsweep``."""

from segsweep.launcher import LocalLauncher as _LocalLauncher
from segsweep.search import OptunaSweeper as _OptunaSweeper
from segsweep.sweeper import GridSweeper as _GridSweeper


class LocalLauncher(_LocalLauncher):
    """``hydra/launcher=local``."""


class GridSweeper(_GridSweeper):
    """``hydra/sweeper=grid``."""


class OptunaSweeper(_OptunaSweeper):
    """``hydra/sweeper=optuna``."""
