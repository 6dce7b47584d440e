"""Imported last by the server that jobs are forked from: what may be absent or broken, and a tidy heap to share."""

import contextlib
import gc

with contextlib.suppress(Exception):  # broken, it is the matter of the jobs that need it
    import segmentation_models_pytorch as smp  # noqa: F401

gc.collect()
gc.freeze()  # a collection in a child would otherwise touch, and so copy, every page of the shared heap
