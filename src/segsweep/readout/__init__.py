"""How class scores are read off a model that has seen no label."""

from segsweep.readout.readout import ClusterReadout

__all__ = ["ClusterReadout"]
