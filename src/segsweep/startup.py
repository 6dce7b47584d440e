"""What makes the start of a command quick."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Within it Python does not look for what could be thrown away; nor later among all that there is at its end.

    torch, Lightning and what they import are half a million objects. Looking through all of them whenever there are a
    quarter more takes a fifth of the time of importing them, and again and again afterwards. What nobody refers to is
    freed as ever, but for cycles that are there at the end; so nothing is set aside if nothing was imported.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    num_modules = len(sys.modules)
    try:
        yield
    finally:
        if len(sys.modules) > num_modules:
            gc.freeze()
            atexit.unregister(gc.unfreeze)
            atexit.register(gc.unfreeze)  # libraries complain at exit about what was never collected
        gc.enable()
