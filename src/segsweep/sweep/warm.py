"""Imported last by the server that jobs are forked from.

What may be broken, facts and code that are the same for all jobs, a heap to share, and a silent end.
"""

import atexit
import contextlib
import gc
import os
import sys

if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):  # nowhere else
    with contextlib.suppress(Exception):  # broken, it is the matter of the jobs that need it
        import segmentation_models_pytorch as smp  # noqa: F401

    with contextlib.suppress(Exception):  # git may be missing
        from segsweep.origin import is_checkout, versions

        versions()
        is_checkout()
    with contextlib.suppress(Exception):
        from segsweep.sweep.child import thread_pools

        thread_pools()

    with contextlib.suppress(Exception):
        from segsweep.counting import NUM_BINS
        from segsweep.hardware import pick_precision
        from segsweep.kernels import boundaries, classes, confusion, is_available, resample, scores, standardise
        from segsweep.models.normalisation import compile_passes

        if pick_precision("cpu") == "bf16-mixed" and is_available():
            for module in (boundaries, classes, confusion, resample, standardise):
                module.compile_functions()
            scores.compile_functions(NUM_BINS)
            compile_passes()

    gc.collect()
    # A collection in a child would touch, and so copy, every page of the shared heap: 1.3 s instead of 0.2 s.
    gc.freeze()
    gc.enable()
    # Nothing is left to do when the sweep has ended; libraries would print what they leak.
    atexit.register(os._exit, 0)
