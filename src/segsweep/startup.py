"""What makes the start of a command quick."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Whatever is made within stays for good: Python does not look for what of it could be thrown away.

    torch, Lightning and what they import are half a million objects. Looking through all of them whenever there are a
    quarter more takes a quarter of the time of importing them, and again and again afterwards.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.unregister(gc.unfreeze)
        atexit.register(gc.unfreeze)  # libraries complain at exit about what was never collected
        gc.enable()
