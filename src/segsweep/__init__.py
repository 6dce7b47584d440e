"""segsweep: which segmenter is better for my images, by how much, and at what cost?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from segsweep.predict.predictor import Predictor

__version__ = "0.1.0"

_PACKAGE = Path(__file__).parent
# All defaults: in a wheel the YAML lies inside the package, in a checkout beside src/.
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


def load(run: str | os.PathLike[str], trust: Sequence[str] = (), **options: Any) -> Predictor:
    """Opens a finished run to predict images with; executes nothing from its folder.

    >>> prediction = segsweep.load("outputs/runs/mine").predict("photo.jpg")  # doctest: +SKIP
    >>> prediction.classes.shape, prediction.shares()["background"]           # doctest: +SKIP
    ((480, 640), 0.83)
    >>> prediction.save("photo.png")                                          # doctest: +SKIP

    Args:
        run: folder of the run.
        trust: exact names of model classes outside of segsweep that may be built, e.g. ``("my_pkg.MyNet",)``.
        options: as in ``segsweep.predict.predictor.Predictor``: ``others`` (an ensemble), ``tta``,
            ``flips``, ``tile``, ``overlap``, ``device``, ``scale``, ``alpha``, ``exif``, ``max_pixels``.

    Returns:
        ``Predictor``, whose ``predict`` takes a path, an array (H, W) or (H, W, 3) or a Pillow image and returns a
        ``Prediction``: ``classes`` (H, W) uint8, ``probabilities()``, ``entropy()``, ``overlay()``, ``save(path)``.

    Raises:
        segsweep.run.ConfigError: the folder is no finished run, or an option has a value that it cannot have; what to
            do about it stands in the message.
    """
    from segsweep.predict.predictor import Predictor  # here: importing segsweep stays light

    return Predictor(run, trust, **options)
