"""Vector code of the fast BM3D, written as LLVM code because numba keeps no array in registers.

All that is not obvious in it follows from :mod:`.block_kernels`, which calls it.
"""
# Neither numba nor llvmlite is typed.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 8
STEP = 3
RADIUS = 15
# Reference blocks of a tile along each side: two vectors of columns, less the width of a block.
REFS = 30
LANES = 16
ROW_REFS = 2 * LANES
# Pixels around the reference blocks, a multiple of STEP.
MARGIN = 15
# Places of blocks and pixels along a side of a tile.
PLACES = STEP * (REFS - 1) + 1 + 2 * MARGIN
PIXELS = PLACES + BLOCK - 1
# Numbers between rows of pixels; rows of a column plane; rows and planes of the guide image.
PITCH = 144
PLANE = 48
GUIDE_PITCH = STEP * PLANE
COEFFICIENTS = BLOCK * BLOCK
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class _Emit:
    """Writes vector code; addresses are integers, offsets bytes."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def at(self, address: Any, offset: Any = 0) -> Any:
        if isinstance(offset, int):
            offset = _I64(offset)
        return self.builder.inttoptr(self.builder.add(address, offset), ir.PointerType())

    def load(self, address: Any, offset: Any = 0, lanes: int = LANES, kind: Any = _F32) -> Any:
        wanted = ir.VectorType(kind, lanes) if lanes > 1 else kind
        return self.builder.load(self.at(address, offset), typ=wanted, align=4)

    def store(self, value: Any, address: Any, offset: Any = 0) -> None:
        self.builder.store(value, self.at(address, offset), align=4)

    def spread(self, number: Any, lanes: int = LANES) -> Any:
        kind = ir.VectorType(number.type, lanes)
        blank = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(blank, number, _I32(0))
        mask = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
        return self.builder.shuffle_vector(one, blank, mask)

    def constant(self, number: float, lanes: int = LANES) -> Any:
        return ir.Constant(ir.VectorType(_F32, lanes), [number] * lanes)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=("contract",))

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=("contract",))

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("contract",))

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        return self.add(self.mul(a, b), c)

    def shifted(self, low: Any, high: Any, places: int) -> Any:
        """Lanes `places` onwards of `low` followed by `high`."""
        lanes = low.type.count
        order = ir.Constant(ir.VectorType(_I32, lanes), [lane + places for lane in range(lanes)])
        return self.builder.shuffle_vector(low, high, order)

    def offset(self, index: Any, size: int) -> Any:
        return self.builder.mul(index, _I64(size))

    @contextmanager
    def counting(self, count: Any) -> Iterator[Any]:
        with cgutils.for_range(self.builder, count) as loop:
            yield loop.index

    def walsh(self, values: list[Any]) -> list[Any]:
        """Walsh-Hadamard transform over a list of vectors, without a norm."""
        values = list(values)
        half = 1
        while half < len(values):
            for first in range(0, len(values), 2 * half):
                for i in range(first, first + half):
                    a, b = values[i], values[i + half]
                    values[i], values[i + half] = self.add(a, b), self.sub(a, b)
            half *= 2
        return values

    def total(self, vector: Any) -> Any:
        """Sum of the lanes, in an order of its own."""
        lanes = vector.type.count
        while lanes > 1:
            lanes //= 2
            vector = self.add(vector, self.shifted(vector, vector, lanes))
        return self.builder.extract_element(vector, _I32(0))


FLOAT = 4
_LINE = BLOCK * FLOAT
SPECTRUM = COEFFICIENTS * FLOAT
_CHUNK = LANES * FLOAT
_CHUNKS = COEFFICIENTS // LANES


@intrinsic
def spectra_of(
    typingctx: Any, pixels: Any, matrix: Any, half: Any, spectra: Any, down: Any, along: Any
) -> Any:
    """Transform the block at each of `down` x `along` places; `matrix` is [pixel][frequency]."""
    signature = types.void(*[types.intp] * 6)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        pixels_, matrix_, half_, spectra_, down_, along_ = arguments
        emit = _Emit(builder)
        columns = [emit.load(matrix_, c * _LINE, BLOCK) for c in range(BLOCK)]
        with emit.counting(builder.add(down_, _I64(BLOCK - 1))) as y:
            line = builder.add(pixels_, emit.offset(y, PITCH * FLOAT))
            target = builder.add(half_, emit.offset(y, PLACES * _LINE))
            with emit.counting(along_) as x:
                pixel = builder.add(line, emit.offset(x, FLOAT))
                total = emit.constant(0, BLOCK)
                for c in range(BLOCK):
                    value = emit.spread(emit.load(pixel, c * FLOAT, 1), BLOCK)
                    total = emit.fused(value, columns[c], total)
                emit.store(total, target, emit.offset(x, _LINE))
        with emit.counting(down_) as y:
            line = builder.add(half_, emit.offset(y, PLACES * _LINE))
            target = builder.add(spectra_, emit.offset(y, PLACES * SPECTRUM))
            with emit.counting(along_) as x:
                source = builder.add(line, emit.offset(x, _LINE))
                place = builder.add(target, emit.offset(x, SPECTRUM))
                rows = [emit.load(source, r * PLACES * _LINE, BLOCK) for r in range(BLOCK)]
                for u in range(BLOCK):
                    total = emit.constant(0, BLOCK)
                    for r in range(BLOCK):
                        weight = emit.spread(emit.load(matrix_, r * _LINE + u * FLOAT, 1), BLOCK)
                        total = emit.fused(weight, rows[r], total)
                    emit.store(total, place, u * _LINE)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_blocks(
    typingctx: Any, spectra: Any, matrix: Any, half: Any, pixels: Any, down: Any, along: Any
) -> Any:
    """Add up the blocks of the spectra at all places; `matrix` is [frequency][pixel]."""
    signature = types.void(*[types.intp] * 6)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        spectra_, matrix_, half_, pixels_, down_, along_ = arguments
        emit = _Emit(builder)
        with emit.counting(down_) as y:
            line = builder.add(spectra_, emit.offset(y, PLACES * SPECTRUM))
            target = builder.add(half_, emit.offset(y, PLACES * _LINE))
            with emit.counting(along_) as x:
                source = builder.add(line, emit.offset(x, SPECTRUM))
                place = builder.add(target, emit.offset(x, _LINE))
                rows = [emit.load(source, u * _LINE, BLOCK) for u in range(BLOCK)]
                for r in range(BLOCK):
                    total = emit.load(place, r * PLACES * _LINE, BLOCK)
                    for u in range(BLOCK):
                        weight = emit.spread(emit.load(matrix_, u * _LINE + r * FLOAT, 1), BLOCK)
                        total = emit.fused(weight, rows[u], total)
                    emit.store(total, place, r * PLACES * _LINE)
        columns = [emit.load(matrix_, v * _LINE, BLOCK) for v in range(BLOCK)]
        with emit.counting(builder.add(down_, _I64(BLOCK - 1))) as y:
            line = builder.add(half_, emit.offset(y, PLACES * _LINE))
            target = builder.add(pixels_, emit.offset(y, PITCH * FLOAT))
            with emit.counting(along_) as x:
                source = builder.add(line, emit.offset(x, _LINE))
                place = builder.add(target, emit.offset(x, FLOAT))
                total = emit.load(place, 0, BLOCK)
                for v in range(BLOCK):
                    value = emit.spread(emit.load(source, v * FLOAT, 1), BLOCK)
                    total = emit.fused(value, columns[v], total)
                emit.store(total, place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def scan(
    typingctx: Any,
    here: Any,
    there_0: Any,
    there_1: Any,
    there_2: Any,
    rows: Any,
    far: Any,
    distances: Any,
    masks: Any,
) -> Any:
    """Distances of all reference blocks from the blocks at one displacement.

    `here` is the first column plane of the guide image at the first reference block, `there_*`
    the planes displaced. Row t of `distances` belongs to the reference blocks of row t - 2 (the
    first two are void); bit j of ``masks[t]`` tells whether block j's is below its `far`.
    """
    signature = types.void(*[types.intp] * 8)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        here_, *there_, rows_, far_, distances_, masks_ = arguments
        emit = _Emit(builder)
        zero = emit.constant(0)
        kept = [cgutils.alloca_once_value(builder, zero) for _ in range(4 * STEP)]
        with emit.counting(rows_) as t:
            line = emit.offset(t, STEP * GUIDE_PITCH * FLOAT)
            columns = []
            for plane in range(STEP):
                for part in range(2):
                    a = builder.add(here_, _I64((plane * PLANE + part * LANES) * FLOAT))
                    b = builder.add(there_[plane], _I64(part * _CHUNK))
                    a, b = builder.add(a, line), builder.add(b, line)
                    sums = []
                    for r in range(STEP):
                        row = r * GUIDE_PITCH * FLOAT
                        gap = emit.sub(emit.load(a, row), emit.load(b, row))
                        sums.append(emit.fused(gap, gap, sums[-1]) if r else emit.mul(gap, gap))
                    # A block is two triples of rows and the first two rows of a third.
                    older, old = kept[4 * plane + 2 * part : 4 * plane + 2 * part + 2]
                    previous = builder.load(old)
                    columns.append(emit.add(emit.add(builder.load(older), previous), sums[1]))
                    builder.store(previous, older)
                    builder.store(sums[2], old)
            pair = [emit.add(columns[part], columns[2 + part]) for part in range(2)]
            triple = [emit.add(pair[part], columns[4 + part]) for part in range(2)]
            bits = _I32(0)
            for part in range(2):
                following = (triple[1], pair[1]) if part == 0 else (zero, zero)
                total = emit.add(triple[part], emit.shifted(triple[part], following[0], 1))
                total = emit.add(total, emit.shifted(pair[part], following[1], 2))
                place = builder.add(emit.offset(t, ROW_REFS * FLOAT), _I64(part * _CHUNK))
                emit.store(total, distances_, place)
                near = builder.fcmp_ordered("<", total, emit.load(far_, place))
                flags = builder.zext(builder.bitcast(near, ir.IntType(LANES)), _I32)
                bits = builder.or_(bits, builder.shl(flags, _I32(part * LANES)))
            builder.store(bits, emit.at(masks_, emit.offset(t, 4)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def lowest_bit(typingctx: Any, mask: Any) -> Any:
    """Number of the lowest bit that is set."""
    signature = types.intp(types.uint32)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.zext(builder.cttz(arguments[0], ir.IntType(1)(1)), _I64)

    return signature, codegen


@intrinsic
def insert(typingctx: Any, distances: Any, places: Any, distance: Any, place: Any) -> Any:
    """Insert a match into a sorted list of 32, whose last one falls out."""
    signature = types.void(types.intp, types.intp, types.float32, types.int32)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        distances_, places_, distance_, place_ = arguments
        emit = _Emit(builder)
        new, new_place = emit.spread(distance_), emit.spread(place_)
        before = emit.constant(-1.0)
        place_before = emit.spread(_I32(-1))
        for part in range(2):
            old = emit.load(distances_, part * _CHUNK)
            old_place = emit.load(places_, part * _CHUNK, kind=_I32)
            moved = emit.shifted(before, old, LANES - 1)
            moved_place = emit.shifted(place_before, old_place, LANES - 1)
            stays = builder.fcmp_ordered("<=", old, new)
            enters = builder.fcmp_ordered("<=", moved, new)
            after = builder.select(stays, old, builder.select(enters, new, moved))
            emit.store(after, distances_, part * _CHUNK)
            after = builder.select(stays, old_place, builder.select(enters, new_place, moved_place))
            emit.store(after, places_, part * _CHUNK)
            before, place_before = old, old_place
        return context.get_dummy_value()

    return signature, codegen


def _by_size(emit: _Emit, count: Any, largest: int, write: Any) -> None:
    """Branch to code written for each group size, a power of two up to `largest`."""
    builder = emit.builder
    after = builder.append_basic_block("filtered")
    cases = []
    size = 1
    while size <= largest:
        cases.append((size, builder.append_basic_block(f"group_{size}")))
        size *= 2
    choice = builder.switch(count, cases[0][1])
    for size, block in cases:
        if size > 1:
            choice.add_case(_I64(size), block)
        builder.position_at_end(block)
        write(size)
        builder.branch(after)
    builder.position_at_end(after)


def _finish(emit: _Emit, size: int, total: Any, scratch: Any, sums: Any, offsets: Any) -> Any:
    """Add the filtered spectra in `scratch`, weighted with their variance, to the sums."""
    builder = emit.builder
    weight = builder.fdiv(_F32(size), emit.total(builder.load(total)))
    share = emit.spread(builder.fdiv(weight, _F32(size)))
    for k in range(size):
        place = builder.add(sums, offsets[k])
        for chunk in range(_CHUNKS):
            value = emit.load(scratch, k * SPECTRUM + chunk * _CHUNK)
            old = emit.load(place, chunk * _CHUNK)
            emit.store(emit.fused(value, share, old), place, chunk * _CHUNK)
    return weight


@intrinsic
def shrink(
    typingctx: Any,
    spectra: Any,
    sums: Any,
    offsets: Any,
    count: Any,
    variances: Any,
    limits: Any,
    scratch: Any,
) -> Any:
    """Filter a group by a hard threshold, add it to the sums, and return its weight.

    `offsets` are those of the blocks in bytes; `variances` of the k-th Walsh coefficients become
    squared thresholds when multiplied with ``limits[min(k, 1)]``.
    """
    signature = types.float32(*[types.intp] * 7)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        spectra_, sums_, offsets_, count_, variances_, limits_, scratch_ = arguments
        emit = _Emit(builder)
        result = cgutils.alloca_once(builder, _F32)
        kept = cgutils.alloca_once(builder, ir.VectorType(_F32, LANES))
        zero = emit.constant(0)
        builder.store(zero, kept)

        def write(size: int) -> None:
            offsets = [builder.load(emit.at(offsets_, 8 * k), typ=_I64) for k in range(size)]
            with emit.counting(_I64(_CHUNKS)) as chunk:
                here = emit.offset(chunk, _CHUNK)
                values = [emit.load(builder.add(spectra_, here), offsets[k]) for k in range(size)]
                values = emit.walsh(values)
                total = builder.load(kept)
                for k in range(size):
                    variance = emit.load(builder.add(variances_, here), k * SPECTRUM)
                    limit = emit.load(builder.add(limits_, here), min(k, 1) * SPECTRUM)
                    power = emit.mul(values[k], values[k])
                    keep = builder.fcmp_ordered(">=", power, emit.mul(limit, variance))
                    values[k] = builder.select(keep, values[k], zero)
                    total = emit.add(total, builder.select(keep, variance, zero))
                builder.store(total, kept)
                for k, value in enumerate(emit.walsh(values)):
                    emit.store(value, builder.add(scratch_, here), k * SPECTRUM)
            builder.store(_finish(emit, size, kept, scratch_, sums_, offsets), result)

        _by_size(emit, count_, 16, write)
        return builder.load(result)

    return signature, codegen


@intrinsic
def wiener_shrink(
    typingctx: Any,
    spectra: Any,
    guides: Any,
    sums: Any,
    offsets: Any,
    count: Any,
    variances: Any,
    limits: Any,
    scratch: Any,
) -> Any:
    """Filter a group with the Wiener gains of its guide, like :func:`shrink`."""
    signature = types.float32(*[types.intp] * 8)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        spectra_, guides_, sums_, offsets_, count_, variances_, limits_, scratch_ = arguments
        emit = _Emit(builder)
        result = cgutils.alloca_once(builder, _F32)
        kept = cgutils.alloca_once(builder, ir.VectorType(_F32, LANES))
        builder.store(emit.constant(0), kept)
        tiny = emit.constant(1e-20)

        def write(size: int) -> None:
            offsets = [builder.load(emit.at(offsets_, 8 * k), typ=_I64) for k in range(size)]
            with emit.counting(_I64(_CHUNKS)) as chunk:
                here = emit.offset(chunk, _CHUNK)
                guides, total = [], builder.load(kept)
                for k in range(size):
                    guides.append(emit.load(builder.add(guides_, here), offsets[k]))
                for k, guide in enumerate(emit.walsh(guides)):
                    variance = emit.load(builder.add(variances_, here), k * SPECTRUM)
                    limit = emit.load(builder.add(limits_, here), min(k, 1) * SPECTRUM)
                    power = emit.fused(guide, guide, tiny)
                    gain = builder.fdiv(power, emit.fused(limit, variance, power))
                    total = emit.fused(emit.mul(gain, gain), variance, total)
                    emit.store(gain, builder.add(scratch_, here), k * SPECTRUM)
                builder.store(total, kept)
                values = [emit.load(builder.add(spectra_, here), offsets[k]) for k in range(size)]
                values = emit.walsh(values)
                for k in range(size):
                    gain = emit.load(builder.add(scratch_, here), k * SPECTRUM)
                    values[k] = emit.mul(values[k], gain)
                for k, value in enumerate(emit.walsh(values)):
                    emit.store(value, builder.add(scratch_, here), k * SPECTRUM)
            builder.store(_finish(emit, size, kept, scratch_, sums_, offsets), result)

        _by_size(emit, count_, 32, write)
        return builder.load(result)

    return signature, codegen


@intrinsic
def group_variances(
    typingctx: Any, covariances: Any, offsets: Any, count: Any, variances: Any
) -> Any:
    """Exact variances of a group's Walsh coefficients, from covariances by displacement."""
    signature = types.void(*[types.intp] * 4)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        covariances_, offsets_, count_, variances_ = arguments
        emit = _Emit(builder)

        def write(size: int) -> None:
            offsets = [builder.load(emit.at(offsets_, 8 * k), typ=_I64) for k in range(size)]
            with emit.counting(_I64(_CHUNKS)) as chunk:
                here = builder.add(covariances_, emit.offset(chunk, _CHUNK))
                single = emit.load(here)
                sums = [emit.mul(single, emit.constant(size))]
                for mask in range(1, size):
                    total = emit.constant(0)
                    for i in range(size):
                        if i < i ^ mask:
                            gap = builder.sub(offsets[i], offsets[i ^ mask])
                            total = emit.add(total, emit.load(here, gap))
                    sums.append(emit.add(total, total))
                # Rounding, and covariances that are cut off, must not make a variance vanish.
                least = emit.fused(single, emit.constant(1e-3 * size), emit.constant(1e-5 * size))
                for k, value in enumerate(emit.walsh(sums)):
                    enough = builder.fcmp_ordered(">", value, least)
                    target = builder.add(variances_, emit.offset(chunk, _CHUNK))
                    emit.store(builder.select(enough, value, least), target, k * SPECTRUM)

        _by_size(emit, count_, 32, write)
        return context.get_dummy_value()

    return signature, codegen
