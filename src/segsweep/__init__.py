"""segsweep: which segmenter is better for my images, by how much, and at what cost?"""

from pathlib import Path

__version__ = "0.1.0"

_PACKAGE = Path(__file__).parent
# All defaults: in a wheel the YAML lies inside the package, in a checkout beside src/.
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
