"""``hydra/sweeper=optuna``: a search for the best point of a space, which survives whatever happens to its trials.

Light to import: Hydra imports every sweeper at each start. Optuna is imported when a search begins.
"""

from segsweep.search.sweeper import OptunaSweeper

__all__ = ["OptunaSweeper"]
