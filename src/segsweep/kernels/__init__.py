"""Loops over maps that torch has no operation for, compiled for the CPU at hand when they are first needed.

Between its convolutions a network reads and writes maps again and again, and on a CPU that takes as long as the memory
does. torch reads a map once for each of its operations; here an operation is an expression of Python, and a loop around
it reads each map once:

    machine.py      an expression's loop to machine code (LLVM), run by the threads that torch's own operations run in
    writer.py       loops, loads and stores in LLVM's language; values of several pixels with Python's operators
    functions.py    of such values: exponentials, logarithms and the like
    channels.py     ``ChannelPass``: maps that lie channels last, with what belongs to a channel beside them
    tiles.py        maps of logits that lie class by class, and the true class of each pixel
    classes.py      their softmax, summed over the pixels of each class
    confusion.py    counts of pairs of true and best class
    scores.py       the same image by image, with counts by confidence: what is scored
    boundaries.py   boundary pixels of two maps of classes, and those near one of the other map
    resample.py     images and masks of bytes at other positions
    standardise.py  images from channel by channel to pixel by pixel

Linux alone: elsewhere, and without llvmlite, ``is_available`` says so, and whoever asks goes torch's way.
"""

from segsweep.kernels.channels import ChannelPass, channel_pass
from segsweep.kernels.functions import where_positive
from segsweep.kernels.machine import is_available
from segsweep.kernels.writer import Lanes

__all__ = ["ChannelPass", "Lanes", "channel_pass", "is_available", "where_positive"]
