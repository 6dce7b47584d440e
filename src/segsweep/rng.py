"""Randomness as a pure function of (seed, epoch, index), never of how many numbers were drawn before.

A run can therefore be stopped and continued, or its batches computed in another order, without any draw changing.
"""

import hashlib

import torch
from torch import Tensor

_LOW32 = 0xFFFFFFFF


def mix(*keys: int | str) -> int:
    """Hashes keys to one seed in ``0 .. 2**63 - 1``, equal on every machine.

    >>> mix(0, "shuffle", 3) == mix(0, "shuffle", 3), mix(0, "shuffle", 3) == mix(0, "shuffle", 4)
    (True, False)
    """
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def permutation(num: int, *keys: int | str) -> Tensor:
    """A random order of ``0..num-1`` that depends on the keys alone: (num,) int64, on the CPU."""
    return torch.randperm(num, generator=torch.Generator().manual_seed(mix(*keys)))


def uniform(key: int, index_N: Tensor, num: int) -> Tensor:
    """Draws ``num`` uniform numbers for each index.

    Args:
        key: a seed, as ``mix`` returns it.
        index_N: (N,) int64, on any device.
        num: numbers for each index.

    Returns:
        (N, num) float32 in [0, 1), on the device of ``index_N``. Row i depends on ``key`` and ``index_N[i]`` only.

    Reference:
        The 32-bit finaliser "lowbias32" of C. Wellons' hash-prospector, in wrapping int64 arithmetic because torch has
        no uint32 multiply on every device.
    """
    base_N = _hash32(_hash32(index_N & _LOW32) ^ (key & _LOW32)) ^ (key >> 32)
    draw = torch.arange(1, num + 1, device=index_N.device) * 0x9E3779B9
    bits = _hash32((base_N[:, None] + draw) & _LOW32)
    return (bits >> 8).to(torch.float32) * 2.0**-24


def _hash32(x: Tensor) -> Tensor:
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _LOW32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _LOW32
    return x ^ (x >> 16)
