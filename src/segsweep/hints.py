"""The nearest right name, for error messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Names the nearest known word, else everything there is.

    >>> did_you_mean("unett", ["unet", "reseg"])
    "Did you mean 'unet'?"
    >>> did_you_mean("zzz", ["unet", "reseg"])
    'There is: reseg, unet'
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"There is: {', '.join(known)}"
