"""What may be asked of an ensemble, checked before anything is opened."""

from collections.abc import Sequence

from segsweep.inference.views import FLIPS
from segsweep.run import ConfigError


def check_options(
    tta: str | None, flips: Sequence[str] | None, tile: Sequence[int] | str | None, overlap: float | None
) -> None:
    """Refuses what would be ignored or cannot be.

    Args:
        tta: ``flips``, ``scales``, ``flips+scales`` or None.
        flips: of ``h``, ``v`` and ``hv``; only with flips.
        tile: (h, w) in pixels, ``"never"`` or None.
        overlap: share of a tile, or None.

    Raises:
        ConfigError: which option, and what it takes.
    """
    if tta is not None and tta not in ("flips", "scales", "flips+scales"):
        raise ConfigError(f"tta={tta} is none of flips, scales, flips+scales")
    if flips and ("flips" not in (tta or "") or not FLIPS.keys() >= set(flips)):
        raise ConfigError(f"flips={' '.join(flips)}: some of h, v and hv, together with --tta flips or flips+scales")
    if isinstance(tile, str) and tile != "never":
        raise ConfigError(f"tile={tile}: give height and width in pixels, or 'never'")
    if tile is not None and not isinstance(tile, str) and (len(tile) != 2 or min(tile) < 1):
        raise ConfigError(f"tile={tuple(tile)}: give height and width in pixels, e.g. --tile 512 512")
    if overlap is not None and not 0 <= overlap < 0.9:
        raise ConfigError(f"overlap={overlap:g} must be 0 or more and below 0.9, e.g. --overlap 0.25")
