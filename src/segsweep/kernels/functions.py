"""Functions of ``Lanes``, within a few units in the last place of float32, and with NaN wherever NaN comes in.

The polynomials are those of Cephes (Moshier 1989, netlib.org/cephes, expf and logf).
"""

from __future__ import annotations

from collections.abc import Sequence

from segsweep.kernels.writer import Lanes

_SHIFT = 1.5 * 2**23  # added to a number of moderate size it leaves no place for what follows the point
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)


def where_positive(x: Lanes, then: Lanes) -> Lanes:
    """``then`` where a value of ``x`` is positive or NaN, 0 elsewhere: ReLU, and its gradient, as torch has them."""
    to, zero = x.writer, x.writer.number(0.0)
    return to.where(to.builder.fcmp_unordered(">", x.value, zero.value), then, zero)


def larger(x: Lanes, y: Lanes | float) -> Lanes:
    """The larger one, ``x`` where one of both is NaN."""
    to = x.writer
    other = y if isinstance(y, Lanes) else to.number(y)
    return to.where(to.is_less(x, other), other, x)


def smaller(x: Lanes, y: float) -> Lanes:
    """The smaller one, ``x`` where that is NaN."""
    to, limit = x.writer, x.writer.number(y)
    return to.where(to.is_less(limit, x), limit, x)


def floor(x: Lanes) -> Lanes:
    """The next whole number below."""
    return x.writer.intrinsic("floor", x)


def ceiling(x: Lanes) -> Lanes:
    """The next whole number above."""
    return x.writer.intrinsic("ceil", x)


def rounded(x: Lanes) -> Lanes:
    """The nearest whole number, an even one if there are two."""
    return x.writer.intrinsic("rint", x)


def absolute(x: Lanes) -> Lanes:
    """Without its sign."""
    return x.writer.intrinsic("fabs", x)


def exp(x: Lanes) -> Lanes:
    """The exponential of numbers that are not positive; below -87 that of -87, which is 1.6e-38."""
    to, build = x.writer, x.writer.builder
    x = larger(x, -87.0)
    shifted = x * 1.44269504088896341 + _SHIFT
    power = shifted - _SHIFT
    rest = x - power * _LN2_HIGH - power * _LN2_LOW
    y = _polynomial(rest, _EXP) * (rest * rest) + rest + 1.0
    # The last bits of ``shifted`` are those of the power of 2, which is added to the exponent.
    exponent = build.shl(build.bitcast(shifted.value, to.vector(to.int32)), to.constant(23, to.int32))
    bits = build.add(build.bitcast(y.value, to.vector(to.int32)), exponent)
    return Lanes(to, build.bitcast(bits, to.vector(to.float32))) + (x - x)  # the last is NaN where x is


def log(x: Lanes) -> Lanes:
    """The natural logarithm of finite numbers from 1 on."""
    to, build = x.writer, x.writer.builder
    bits = build.bitcast(x.value, to.vector(to.int32))
    # x = 2^power * y with y from sqrt(1/2) up to sqrt(2)
    above = build.sub(bits, to.constant(0x3F3504F3, to.int32))
    whole = build.ashr(above, to.constant(23, to.int32))
    power = Lanes(to, build.sitofp(whole, to.vector(to.float32)))
    of_y = build.sub(bits, build.shl(whole, to.constant(23, to.int32)))
    y = Lanes(to, build.bitcast(of_y, to.vector(to.float32))) - 1.0
    square = y * y
    series = _polynomial(y, _LOG) * (y * square) + power * _LN2_LOW - square * 0.5
    return y + series + power * _LN2_HIGH + (x - x)  # as above


def _polynomial(x: Lanes, coefficients: Sequence[float]) -> Lanes:
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value
