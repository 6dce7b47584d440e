"""Imported first by the server that jobs are forked from: it looks for nothing to throw away until all is imported."""

import gc
import sys

if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):  # nowhere else
    gc.disable()
