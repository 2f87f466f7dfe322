"""Vector code of the fast BM3D as LLVM code: numba does not keep arrays in registers.

:mod:`.kernels` calls it and explains the arrangement of the data. Each `intrinsic` here is a Python
function that runs once, at compile time, and emits LLVM instructions; at run time only these
instructions remain. Example: with an emitter ``e`` and two addresses ``a`` and ``b``, ::

    e.store(e.fused(e.load(a), e.spread(weight), e.load(b)), b)

emits, for `LANES` = 16 float32 at once, ::

    %x = load <16 x float>, ptr %a                      ; e.load(a)
    %w = shufflevector <16 x float> %weight, zeros      ; e.spread(weight): one number in all lanes
    %y = load <16 x float>, ptr %b                      ; e.load(b)
    %p = fmul contract <16 x float> %x, %w              ; e.fused: multiply and add, which LLVM
    %s = fadd contract <16 x float> %p, %y              ;   joins to one fused instruction
    store <16 x float> %s, ptr %b                       ; e.store(..., b)

that is ``b[:16] += weight * a[:16]``. A Python loop around such calls is unrolled code; a loop at
run time is written ``with e.counting(n) as i:``. Numba's cache does not watch this file: after a
change here, touch ``kernels.py`` too.
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
RADIUS = 20
# Reference blocks of a tile along each side: two vectors of columns, less the width of a block.
REFS = 30
LANES = 16
ROW_REFS = 2 * LANES
# Pixels around the reference blocks: RADIUS, or more, to be a multiple of STEP.
MARGIN = 21
# Rows of reference blocks of a tile, where the margin leaves room for so many.
ROWS = 36
# Positions of blocks, and pixels, along a side of a tile.
PLACES = STEP * (REFS - 1) + 1 + 2 * MARGIN
PIXELS = PLACES + BLOCK - 1
# Numbers between rows of pixels; rows of a column plane; rows and planes of the guide image.
PITCH = 144
PLANE = 48
GUIDE_PITCH = STEP * PLANE
COEFFICIENTS = BLOCK * BLOCK
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class _Emit:
    """Emits vector instructions; addresses are integers, offsets are bytes."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def at(self, address: Any, offset: Any = 0) -> Any:
        """Pointer to an address plus an offset."""
        if isinstance(offset, int):
            offset = _I64(offset)
        return self.builder.inttoptr(self.builder.add(address, offset), ir.PointerType())

    def load(self, address: Any, offset: Any = 0, lanes: int = LANES, kind: Any = _F32) -> Any:
        """Load a vector of `lanes` numbers, or one number."""
        wanted = ir.VectorType(kind, lanes) if lanes > 1 else kind
        return self.builder.load(self.at(address, offset), typ=wanted, align=4)

    def store(self, value: Any, address: Any, offset: Any = 0) -> None:
        """Store a vector or a number."""
        self.builder.store(value, self.at(address, offset), align=4)

    def spread(self, number: Any, lanes: int = LANES) -> Any:
        """Vector with the same number in all lanes."""
        kind = ir.VectorType(number.type, lanes)
        blank = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(blank, number, _I32(0))
        mask = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
        return self.builder.shuffle_vector(one, blank, mask)

    def constant(self, number: float, lanes: int = LANES) -> Any:
        """Vector with the same constant in all lanes."""
        return ir.Constant(ir.VectorType(_F32, lanes), [number] * lanes)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=("contract",))

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=("contract",))

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("contract",))

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """Vector a * b + c."""
        return self.add(self.mul(a, b), c)

    def shifted(self, low: Any, high: Any, places: int) -> Any:
        """The lanes from number `places` on of `low` followed by `high`."""
        lanes = low.type.count
        order = ir.Constant(ir.VectorType(_I32, lanes), [lane + places for lane in range(lanes)])
        return self.builder.shuffle_vector(low, high, order)

    def offset(self, index: Any, size: int) -> Any:
        """Offset in bytes of item `index` of items of `size` bytes."""
        return self.builder.mul(index, _I64(size))

    @contextmanager
    def counting(self, count: Any) -> Iterator[Any]:
        """Loop at run time from 0 to `count`; yields the index."""
        with cgutils.for_range(self.builder, count) as loop:
            yield loop.index

    def walsh(self, values: list[Any]) -> list[Any]:
        """Unnormalised Walsh-Hadamard transform over a list of vectors."""
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
        """Sum of the lanes, pairwise by halves."""
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
def transform_rows(
    typingctx: Any, pixels: Any, matrix: Any, half: Any, down: Any, along: Any
) -> Any:
    """Transform the 8 pixels that start at each of `down` x `along` positions along their row.

    All arguments but the counts are addresses; `matrix` is [pixel][frequency].
    """
    signature = types.void(*[types.intp] * 5)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        pixels_, matrix_, half_, down_, along_ = arguments
        emit = _Emit(builder)
        columns = [emit.load(matrix_, c * _LINE, BLOCK) for c in range(BLOCK)]
        with emit.counting(down_) as y:
            line = builder.add(pixels_, emit.offset(y, PITCH * FLOAT))
            target = builder.add(half_, emit.offset(y, PLACES * _LINE))
            with emit.counting(along_) as x:
                pixel = builder.add(line, emit.offset(x, FLOAT))
                total = emit.constant(0, BLOCK)
                for c in range(BLOCK):
                    value = emit.spread(emit.load(pixel, c * FLOAT, 1), BLOCK)
                    total = emit.fused(value, columns[c], total)
                emit.store(total, target, emit.offset(x, _LINE))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transform_columns(
    typingctx: Any, half: Any, matrix: Any, spectra: Any, places: Any, count: Any
) -> Any:
    """Complete the transform of the blocks at the positions `places` (int32)."""
    signature = types.void(*[types.intp] * 5)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        half_, matrix_, spectra_, places_, count_ = arguments
        emit = _Emit(builder)
        with emit.counting(count_) as number:
            index = builder.zext(emit.load(places_, emit.offset(number, 4), 1, _I32), _I64)
            source = builder.add(half_, emit.offset(index, _LINE))
            place = builder.add(spectra_, emit.offset(index, SPECTRUM))
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
def add_columns(
    typingctx: Any, spectra: Any, matrix: Any, half: Any, places: Any, count: Any
) -> Any:
    """Transform the spectra at the positions `places` back along columns and add them to `half`.

    `matrix` is [frequency][pixel].
    """
    signature = types.void(*[types.intp] * 5)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        spectra_, matrix_, half_, places_, count_ = arguments
        emit = _Emit(builder)
        with emit.counting(count_) as number:
            index = builder.zext(emit.load(places_, emit.offset(number, 4), 1, _I32), _I64)
            source = builder.add(spectra_, emit.offset(index, SPECTRUM))
            place = builder.add(half_, emit.offset(index, _LINE))
            rows = [emit.load(source, u * _LINE, BLOCK) for u in range(BLOCK)]
            for r in range(BLOCK):
                total = emit.load(place, r * PLACES * _LINE, BLOCK)
                for u in range(BLOCK):
                    weight = emit.spread(emit.load(matrix_, u * _LINE + r * FLOAT, 1), BLOCK)
                    total = emit.fused(weight, rows[u], total)
                emit.store(total, place, r * PLACES * _LINE)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_rows(typingctx: Any, half: Any, matrix: Any, pixels: Any, down: Any, along: Any) -> Any:
    """Transform `down` x `along` rows of blocks back and add them up to pixels."""
    signature = types.void(*[types.intp] * 5)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        half_, matrix_, pixels_, down_, along_ = arguments
        emit = _Emit(builder)
        columns = [emit.load(matrix_, v * _LINE, BLOCK) for v in range(BLOCK)]
        zero = emit.constant(0, BLOCK)
        pending = cgutils.alloca_once_value(builder, zero)
        with emit.counting(down_) as y:
            line = builder.add(half_, emit.offset(y, PLACES * _LINE))
            target = builder.add(pixels_, emit.offset(y, PITCH * FLOAT))
            builder.store(zero, pending)
            with emit.counting(along_) as x:
                source = builder.add(line, emit.offset(x, _LINE))
                # Two sums, and the pixels to come in a register, for short chains of waiting.
                sums = [zero, zero]
                for v in range(BLOCK):
                    value = emit.spread(emit.load(source, v * FLOAT, 1), BLOCK)
                    sums[v % 2] = emit.fused(value, columns[v], sums[v % 2])
                total = emit.add(emit.add(*sums), builder.load(pending))
                done = builder.extract_element(total, _I32(0))
                emit.store(done, target, emit.offset(x, FLOAT))
                builder.store(emit.shifted(total, zero, 1), pending)
            emit.store(builder.load(pending), target, emit.offset(along_, FLOAT))
        return context.get_dummy_value()

    return signature, codegen


def _scan(every: int) -> Any:
    """Make the code of `scan` for reference blocks ``every * STEP`` rows apart; 1 or 2."""
    tall = every * STEP
    whole, rest = divmod(BLOCK, tall)

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
        """Compute the distances of all reference blocks from the blocks at one displacement.

        `here` is the first column plane of the guide image at the first reference block,
        `there_*` are the displaced planes. A block is taller than the step between rows of
        reference blocks, so that its sum of squares needs several steps: the first rows of
        `distances` (2 if `every` is 1, otherwise 1) only start the sums and are void. The others
        belong to the rows of reference blocks. Bit j of ``masks[t]`` is set if the distance of
        block j is below its limit in `far`.
        """
        signature = types.void(*[types.intp] * 8)

        def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
            here_, *there_, rows_, far_, distances_, masks_ = arguments
            emit = _Emit(builder)
            zero = emit.constant(0)
            kept = [
                [cgutils.alloca_once_value(builder, zero) for _ in range(whole)]
                for _ in range(2 * STEP)
            ]
            with emit.counting(rows_) as t:
                line = emit.offset(t, tall * GUIDE_PITCH * FLOAT)
                columns = []
                for plane in range(STEP):
                    for part in range(2):
                        a = builder.add(here_, _I64((plane * PLANE + part * LANES) * FLOAT))
                        b = builder.add(there_[plane], _I64(part * _CHUNK))
                        a, b = builder.add(a, line), builder.add(b, line)
                        sums = []
                        for r in range(tall):
                            row = r * GUIDE_PITCH * FLOAT
                            gap = emit.sub(emit.load(a, row), emit.load(b, row))
                            sums.append(emit.fused(gap, gap, sums[-1]) if r else emit.mul(gap, gap))
                        # A block is so many `whole` steps, and the first rows of another.
                        earlier = [builder.load(slot) for slot in kept[2 * plane + part]]
                        total = earlier[0]
                        for step in earlier[1:]:
                            total = emit.add(total, step)
                        columns.append(emit.add(total, sums[rest - 1]))
                        for slot, step in zip(
                            kept[2 * plane + part], [*earlier[1:], sums[-1]], strict=True
                        ):
                            builder.store(step, slot)
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

    return scan


scan_all, scan_every_second = _scan(1), _scan(2)


@intrinsic
def lowest_bit(typingctx: Any, mask: Any) -> Any:
    """Index of the lowest bit that is set."""
    signature = types.intp(types.uint32)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.zext(builder.cttz(arguments[0], ir.IntType(1)(1)), _I64)

    return signature, codegen


def _insert(parts: int) -> Any:
    """Make code that inserts a match into a sorted list of ``parts * LANES``."""

    @intrinsic
    def insert(typingctx: Any, distances: Any, places: Any, distance: Any, place: Any) -> Any:
        signature = types.void(types.intp, types.intp, types.float32, types.int32)

        def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
            distances_, places_, distance_, place_ = arguments
            emit = _Emit(builder)
            new, new_place = emit.spread(distance_), emit.spread(place_)
            before = emit.constant(-1.0)
            place_before = emit.spread(_I32(-1))
            for part in range(parts):
                at = part * _CHUNK
                old = emit.load(distances_, at)
                old_place = emit.load(places_, at, kind=_I32)
                moved = emit.shifted(before, old, LANES - 1)
                moved_place = emit.shifted(place_before, old_place, LANES - 1)
                stays = builder.fcmp_ordered("<=", old, new)
                enters = builder.fcmp_ordered("<=", moved, new)
                after = builder.select(stays, old, builder.select(enters, new, moved))
                emit.store(after, distances_, at)
                after = builder.select(enters, new_place, moved_place)
                emit.store(builder.select(stays, old_place, after), places_, at)
                before, place_before = old, old_place
            return context.get_dummy_value()

        return signature, codegen

    return insert


insert_16, insert_32 = _insert(1), _insert(2)


def _by_size(emit: _Emit, count: Any, largest: int, write: Any) -> None:
    """Branch to code that `write` emits for each group size, a power of two up to `largest`."""
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
    """Add the filtered spectra in `scratch` to the sums, weighted by the inverse variance."""
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
    typingctx: Any, covariances: Any, reach: Any, places: Any, count: Any, variances: Any
) -> Any:
    """Exact variances of a group's Walsh coefficients, from covariances by displacement.

    `covariances` are those of displacements up to `reach` along each axis, before them a spectrum
    of zeros for all that are longer; `places` are the blocks' (int32).
    """
    signature = types.void(*[types.intp] * 5)

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        covariances_, reach_, places_, count_, variances_ = arguments
        emit = _Emit(builder)
        far = builder.trunc(reach_, _I32)
        width = builder.add(builder.add(far, far), _I32(1))
        middle = builder.add(builder.add(builder.mul(far, width), far), _I32(1))
        gaps = cgutils.alloca_once(builder, ir.ArrayType(_I32, 32))
        at_gaps = builder.ptrtoint(gaps, _I64)
        single_at = builder.add(covariances_, emit.offset(builder.zext(middle, _I64), SPECTRUM))

        def number_pairs(size: int, mask: int, y: Any, x: Any, tall: Any) -> None:
            """Store the offsets of the covariances of each block i with block i xor mask."""
            order = ir.Constant(ir.VectorType(_I32, size), [i ^ mask for i in range(size)])
            dy, dx = (builder.sub(v, builder.shuffle_vector(v, v, order)) for v in (y, x))
            wide, high = emit.spread(width, size), emit.spread(far, size)
            near_y = builder.icmp_unsigned("<", builder.add(dy, high), wide)
            near_x = builder.icmp_unsigned("<", builder.add(dx, high), wide)
            index = builder.add(builder.add(builder.mul(dy, wide), dx), tall)
            none = ir.Constant(ir.VectorType(_I32, size), [0] * size)
            index = builder.select(builder.and_(near_y, near_x), index, none)
            emit.store(builder.mul(index, emit.spread(_I32(SPECTRUM), size)), at_gaps)

        def write(size: int) -> None:
            if size > 1:
                place = emit.load(places_, 0, size, _I32)
                y = builder.udiv(place, emit.spread(_I32(PLACES), size))
                x = builder.sub(place, builder.mul(y, emit.spread(_I32(PLACES), size)))
                tall = emit.spread(middle, size)
                for mask in range(1, size):
                    number_pairs(size, mask, y, x, tall)
                    totals = [emit.constant(0)] * _CHUNKS
                    for i in range(size):
                        if i < i ^ mask:
                            gap = builder.zext(emit.load(at_gaps, 4 * i, 1, _I32), _I64)
                            pair = builder.add(covariances_, gap)
                            for chunk in range(_CHUNKS):
                                value = emit.load(pair, chunk * _CHUNK)
                                totals[chunk] = emit.add(totals[chunk], value)
                    for chunk, total in enumerate(totals):
                        at = mask * SPECTRUM + chunk * _CHUNK
                        emit.store(emit.add(total, total), variances_, at)
            with emit.counting(_I64(_CHUNKS)) as chunk:
                target = builder.add(variances_, emit.offset(chunk, _CHUNK))
                single = emit.load(builder.add(single_at, emit.offset(chunk, _CHUNK)))
                sums = [emit.mul(single, emit.constant(size))]
                sums += [emit.load(target, mask * SPECTRUM) for mask in range(1, size)]
                # Rounding, and covariances that are cut off, must not make a variance vanish.
                least = emit.fused(single, emit.constant(1e-3 * size), emit.constant(1e-5 * size))
                for k, value in enumerate(emit.walsh(sums)):
                    enough = builder.fcmp_ordered(">", value, least)
                    emit.store(builder.select(enough, value, least), target, k * SPECTRUM)

        _by_size(emit, count_, 32, write)
        return context.get_dummy_value()

    return signature, codegen
