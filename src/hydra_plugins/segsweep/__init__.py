"""Where Hydra looks for launchers and sweepers; what they do is written in ``segsweep``."""

from segsweep.launcher import LocalLauncher as _LocalLauncher


class LocalLauncher(_LocalLauncher):
    """``hydra/launcher=local``."""
