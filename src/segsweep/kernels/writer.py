"""LLVM's language, as far as loops over maps need it.

bf16 is the upper half of a float32: it is widened by a shift, and made by rounding to the nearest, ties to even.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from segsweep.kernels.machine import NUM_THREADS, THREAD_NUMBER

LANES = 32  # values at once: two registers of AVX-512, and a cache line of bf16

_FUSED = ("contract",)  # a product and a sum may round once


class Lanes:
    """``LANES`` float32 values of a loop that is being written; operators write their sum, difference, product."""

    def __init__(self, writer: Writer, value: Any) -> None:
        self.writer = writer
        self.value = value

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._with(other, "fadd")

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._with(other, "fsub")

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._with(other, "fmul")

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self._with(other, "fdiv")

    def _with(self, other: Lanes | float, operation: str) -> Lanes:
        value = other.value if isinstance(other, Lanes) else self.writer.constant(other)
        return Lanes(self.writer, getattr(self.writer.builder, operation)(self.value, value, flags=_FUSED))


class Turn:
    """A turn of a loop: its number, and the values that it takes over from the one before and hands to the next."""

    def __init__(self, number: Any, carried: list[Any]) -> None:
        self.number = number
        self.carried = carried


class Writer:
    """A function ``void(int64 *)`` that is being written, and that every thread of a team will run.

    Args:
        name: of the function.
    """

    def __init__(self, name: str) -> None:
        from llvmlite import ir

        self.ir = ir
        self.module = ir.Module(name)
        self.byte, self.half, self.int32, self.int64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
        self.float32, self.float64 = ir.FloatType(), ir.DoubleType()
        signature = ir.FunctionType(ir.VoidType(), [self.int64.as_pointer()])
        self.function = ir.Function(self.module, signature, name)
        self.builder: Any = ir.IRBuilder(self.function.append_basic_block())
        self._read = 0

    def finish(self) -> str:
        """The module in LLVM's language."""
        self.builder.ret_void()
        return str(self.module)

    def argument(self) -> Any:
        """The next of the arguments, an int64."""
        place = self.builder.gep(self.function.args[0], [self.int64(self._read)])
        self._read += 1
        return self.builder.load(place)

    def pointer(self, kind: Any) -> Any:
        """The next of the arguments, the address of such values."""
        return self.builder.inttoptr(self.argument(), kind.as_pointer())

    def kind(self, dtype: torch.dtype) -> Any:
        """The type of a value of a map."""
        return {torch.bfloat16: self.half, torch.float32: self.float32}[dtype]

    def vector(self, kind: Any) -> Any:
        """The type of ``LANES`` such values."""
        return self.ir.VectorType(kind, LANES)

    def constant(self, value: float, kind: Any = None) -> Any:
        """``LANES`` times a value, of float32 if nothing else is said."""
        return self.ir.Constant(self.vector(kind or self.float32), [value] * LANES)

    def share(self, number: Any) -> tuple[Any, Any, Any]:
        """The number of the thread, and where its share of so many turns begins and ends."""
        build, ask = self.builder, self.ir.FunctionType(self.int32, [])
        thread, threads = (
            build.sext(build.call(self.ir.Function(self.module, ask, name), []), self.int64)
            for name in (THREAD_NUMBER, NUM_THREADS)
        )
        next_one = build.add(thread, self.int64(1))
        start, end = (build.sdiv(build.mul(number, of), threads) for of in (thread, next_one))
        return thread, start, end

    @contextmanager
    def loop(self, start: Any, end: Any, step: Any, carried: Sequence[Any] = ()) -> Iterator[Turn]:
        """What is written within is done for ``start``, ``start + step``, ... below ``end``.

        The turn's ``carried`` are to be set within to what the next turn gets; after the loop they are the last ones.
        """
        build = self.builder
        before = build.block
        head, body, after = (self.function.append_basic_block() for _ in range(3))
        build.branch(head)
        build.position_at_end(head)
        number, *handed = (build.phi(value.type) for value in (start, *carried))
        for phi, value in zip((number, *handed), (start, *carried), strict=True):
            phi.add_incoming(value, before)
        build.cbranch(build.icmp_signed("<", number, end), body, after)
        build.position_at_end(body)
        turn = Turn(number, list(handed))
        yield turn
        following = build.add(number, step)
        for phi, value in zip((number, *handed), (following, *turn.carried), strict=True):
            phi.add_incoming(value, build.block)
        build.branch(head)
        build.position_at_end(after)
        turn.carried = handed

    def intrinsic(self, name: str, x: Lanes) -> Lanes:
        """A function of one value that LLVM knows."""
        kind, full = self.vector(self.float32), f"llvm.{name}.v{LANES}f32"
        function = self.module.globals.get(full)
        if function is None:
            function = self.ir.Function(self.module, self.ir.FunctionType(kind, [kind]), full)
        return Lanes(self, self.builder.call(function, [x.value]))

    def gathered(self, addresses: Any) -> Any:
        """The int32 at each address, which need not be a multiple of 4."""
        kind, pointers = self.vector(self.int32), self.vector(self.int32.as_pointer())
        bits = self.vector(self.ir.IntType(1))
        full = f"llvm.masked.gather.v{LANES}i32.v{LANES}p0"
        function = self.module.globals.get(full)
        if function is None:
            signature = self.ir.FunctionType(kind, [pointers, self.int32, bits, kind])
            function = self.ir.Function(self.module, signature, full)
        all_of_them = self.ir.Constant(bits, [1] * LANES)
        where = self.builder.inttoptr(addresses, pointers)
        return self.builder.call(function, [where, self.int32(1), all_of_them, self.constant(0, self.int32)])

    def number(self, value: float) -> Lanes:
        """A constant."""
        return Lanes(self, self.constant(value))

    def is_less(self, one: Lanes, other: Lanes) -> Any:
        """Whether each value is smaller than the other's."""
        return self.builder.fcmp_ordered("<", one.value, other.value)

    def whole(self, x: Lanes) -> Any:
        """Whole numbers as int32."""
        return self.builder.fptosi(x.value, self.vector(self.int32))

    def of_byte(self, words: Any) -> Lanes:
        """The lowest byte of each int32."""
        lowest = self.builder.and_(words, self.constant(255, self.int32))
        return Lanes(self, self.builder.sitofp(lowest, self.vector(self.float32)))

    def widest(self, values: Any) -> Any:
        """int32 as int64."""
        return self.builder.sext(values, self.vector(self.int64))

    def counted(self, kind: Any) -> Any:
        """0, 1, ... ``LANES`` - 1, of such a type."""
        return self.ir.Constant(self.vector(kind), list(range(LANES)))

    def spread(self, value: Any) -> Any:
        """``LANES`` times a value that is not known before the loop runs."""
        build, kind = self.builder, self.vector(value.type)
        first = build.insert_element(self.ir.Constant(kind, self.ir.Undefined), value, self.int32(0))
        everywhere = self.ir.Constant(self.vector(self.int32), [0] * LANES)
        return build.shuffle_vector(first, self.ir.Constant(kind, self.ir.Undefined), everywhere)

    def least(self, one: Any, other: Any) -> Any:
        """The smaller of two integers."""
        return self.builder.select(self.builder.icmp_signed("<", one, other), one, other)

    def where(self, condition: Any, then: Lanes, otherwise: Lanes) -> Lanes:
        """Values of the one or the other."""
        return Lanes(self, self.builder.select(condition, then.value, otherwise.value))

    def any(self, condition: Any) -> Any:
        """Whether a condition holds anywhere."""
        bits = self.builder.bitcast(condition, self.ir.IntType(LANES))
        return self.builder.icmp_unsigned("!=", bits, self.ir.Constant(bits.type, 0))

    def note(self, condition: Any, flags: Any, at: Any) -> None:
        """Sets an integer of an array to 1 if a condition holds anywhere."""
        build = self.builder
        place = build.gep(flags, [at])
        build.store(build.or_(build.load(place), build.zext(self.any(condition), self.int64)), place)

    def count(self, cells: Any, counts: Any, at: Any, amounts: Any = None) -> None:
        """Adds 1, or of int64 amounts each its own, to cells of an int64 array that begin at a place."""
        build = self.builder
        for lane in range(LANES):  # no loop: it would take twice the time
            cell = build.sext(build.extract_element(cells, self.int32(lane)), self.int64)
            amount = self.int64(1) if amounts is None else build.extract_element(amounts, self.int32(lane))
            place = build.gep(counts, [build.add(at, cell)])
            build.store(build.add(build.load(place), amount), place)

    def read(self, values: Any, at: Any) -> Lanes:
        """``LANES`` values of an array of bf16 or float32, from a place on."""
        loaded = self.load(values, at)
        return self.widened(loaded) if values.type.pointee == self.half else Lanes(self, loaded)

    def write(self, x: Lanes, values: Any, at: Any) -> None:
        """Puts ``LANES`` values into such an array, from a place on."""
        self.store(self.narrowed(x) if values.type.pointee == self.half else x.value, values, at)

    def load(self, values: Any, at: Any) -> Any:
        """``LANES`` values of an array, from a place on."""
        kind = values.type.pointee
        place = self.builder.bitcast(self.builder.gep(values, [at]), self.vector(kind).as_pointer())
        return self.builder.load(place, align=self._size(kind))

    def store(self, vector: Any, values: Any, at: Any) -> None:
        """Puts a vector's values into an array, from a place on."""
        place = self.builder.bitcast(self.builder.gep(values, [at]), vector.type.as_pointer())
        self.builder.store(vector, place, align=self._size(values.type.pointee))

    def interleaved(self, vectors: Sequence[Any]) -> Any:
        """The first values of three vectors, their second ones, and so on: three times ``LANES`` values."""
        one, other, third = vectors
        build, size = self.builder, 2 * LANES
        nothing = self.ir.Constant(one.type, self.ir.Undefined)
        halves = [build.shuffle_vector(*pair, self._numbers(range(size))) for pair in ((one, other), (third, nothing))]
        return build.shuffle_vector(*halves, self._numbers(k * LANES + i for i in range(LANES) for k in range(3)))

    def _numbers(self, values: Iterable[int]) -> Any:
        values = list(values)
        return self.ir.Constant(self.ir.VectorType(self.int32, len(values)), values)

    def _size(self, kind: Any) -> int:
        return {self.half: 2, self.int32: 4, self.float32: 4, self.float64: 8, self.int64: 8}[kind]

    def widened(self, halves: Any) -> Lanes:
        """bf16 as float32."""
        build = self.builder
        bits = build.shl(build.zext(halves, self.vector(self.int32)), self.constant(16, self.int32))
        return Lanes(self, build.bitcast(bits, self.vector(self.float32)))

    def narrowed(self, x: Lanes) -> Any:
        """float32 as bf16."""
        build = self.builder
        bits, sixteen = build.bitcast(x.value, self.vector(self.int32)), self.constant(16, self.int32)
        is_odd = build.and_(build.lshr(bits, sixteen), self.constant(1, self.int32))
        rounded = build.add(build.add(bits, self.constant(0x7FFF, self.int32)), is_odd)
        halves = build.trunc(build.lshr(rounded, sixteen), self.vector(self.half))
        is_nan = build.fcmp_unordered("uno", x.value, x.value)  # which rounding could turn into 0
        return build.select(is_nan, self.constant(0x7FC0, self.half), halves)
