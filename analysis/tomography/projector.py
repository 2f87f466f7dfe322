"""Parallel-beam projector and its exact adjoint for single-axis tomography, many slices at once.

The tilt axis is parallel to image axis 0, so that every image row y is an independent slice and
all slices share one geometry. With (z, x) counted from the centre of the slice, a voxel projects to

    x' = x cos(tilt) + z sin(tilt)

counted from the centre of the detector; the centre of n pixels is (n - 1) / 2. A ray is sampled
where it crosses the pixel rows (or columns, beyond 45 deg), with linear interpolation (Joseph,
IEEE Trans. Med. Imaging 1, 192, 1982). A projection is the line integral in units of a voxel side.

The speed comes from the layout: `LANES` slices lie innermost, so that one weight serves a
contiguous run of numbers, which stays in vector registers while the taps of a ray (or of a voxel)
are summed. Projector and adjoint both gather, never scatter, in tiles that fit the L2 cache.
"""
# Neither numba nor llvmlite is typed.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..core.arrays import Floats, in_threads, zeros

LANES = 32
# Tiles of the projector (planes, voxels along them) and of its adjoint (voxels along z and x).
_PLANES = 24
_CHUNK = 8
_TILE_Z = 16
_TILE_X = 32


@intrinsic
def _add_taps(
    typingctx: Any,
    source: Any,
    rows: Any,
    weights: Any,
    taps: Any,
    target: Any,
    gain: Any,
    floor: Any,
) -> Any:
    """Do ``target[:] = max(floor, target + gain * sum_k weights[k] * source[rows[k]])``.

    `source`, `rows`, `weights` and `target` are addresses. A row is `LANES` float32; `rows` are
    int32 and their number `taps` is even. Written as LLVM code because numba does not keep arrays
    in registers. Example with two taps, ``rows = [3, 4]`` and ``weights = [0.75, 0.25]``: each
    lane of `target` grows by ``gain * (0.75 * source[3] + 0.25 * source[4])``.
    """
    signature = types.void(
        types.intp, types.intp, types.intp, types.intp, types.intp, types.float32, types.float32
    )

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        f32, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
        width = 16
        vector = ir.VectorType(f32, width)
        parts = LANES // width
        source_, rows_, weights_, taps_, target_, gain_, floor_ = args

        def at(address: Any, byte_offset: Any) -> Any:
            return builder.inttoptr(builder.add(address, byte_offset), ir.PointerType())

        def load(address: Any, byte_offset: Any, kind: Any) -> Any:
            return builder.load(at(address, byte_offset), typ=kind, align=4)

        def spread(number: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, i32(0))
            mask = ir.Constant(ir.VectorType(i32, width), [0] * width)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)

        def fused(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))

        before = builder.block
        loop = builder.append_basic_block("taps")
        after = builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(i64, "k")
        k.add_incoming(i64(0), before)
        # Two taps per iteration with separate accumulators hide the latency of the additions.
        sums = [builder.phi(vector) for _ in range(2 * parts)]
        for total in sums:
            total.add_incoming(ir.Constant(vector, [0.0] * width), before)
        totals = []
        for tap in range(2):
            here = builder.shl(builder.add(k, i64(tap)), i64(2))
            weight = spread(load(weights_, here, f32))
            row = builder.mul(builder.sext(load(rows_, here, i32), i64), i64(4 * LANES))
            for part in range(parts):
                value = load(source_, builder.add(row, i64(4 * width * part)), vector)
                totals.append(fused(weight, value, sums[tap * parts + part]))
        following = builder.add(k, i64(2))
        k.add_incoming(following, loop)
        for total, value in zip(sums, totals, strict=True):
            total.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, taps_), loop, after)

        builder.position_at_end(after)
        gains, floors = spread(gain_), spread(floor_)
        for part in range(parts):
            address = at(target_, i64(4 * width * part))
            total = builder.fadd(totals[part], totals[parts + part])
            value = fused(gains, total, builder.load(address, typ=vector, align=4))
            above = builder.fcmp_ordered(">", value, floors)
            builder.store(builder.select(above, value, floors), address, align=4)
        return context.get_dummy_value()

    return signature, codegen


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _project(volume, picks, major, minor, gain, sinogram):
    """Add ``gain`` times the projections of one block to ``sinogram[picks]``.

    ``volume`` is (marched, interpolated, lanes): rays cross its first axis plane by plane and are
    interpolated along the second, so |major| >= |minor| in u = i * major + m * minor.
    """
    planes, length, _ = volume.shape
    detector = sinogram.shape[1]
    centre_m, centre_i, centre_u = (planes - 1) / 2, (length - 1) / 2, (detector - 1) / 2
    rows = np.empty(2 * _PLANES, np.int32)
    weights = np.empty(2 * _PLANES, np.float32)
    minus_infinity = np.float32(-np.inf)
    zero, one_i, last_i = np.int32(0), np.int32(1), np.int32(length - 1)
    zero_f, one_f = np.float32(0), np.float32(1)
    # Beyond this a ray misses all planes of a tile, whatever its slope (at most 1).
    margin = _PLANES + 2
    for first in range(0, planes, _PLANES):
        count = min(_PLANES, planes - first)
        for chunk in range(-margin, length + margin, _CHUNK):
            # The rays that are within the chunk at the first plane of the tile; a chunk stays in
            # the first-level cache for all angles.
            for pick in range(picks.size):
                step = 1.0 / major[pick]
                scale = np.float32(abs(step))
                slope = minor[pick] * step
                slope32 = np.float32(slope)
                start = centre_i - (first - centre_m) * slope
                one = math.ceil(centre_u + (chunk - start) * major[pick])
                other = math.ceil(centre_u + (chunk + _CHUNK - start) * major[pick])
                line = sinogram.ctypes.data + picks[pick] * detector * (LANES * 4)
                for u in range(max(0, min(one, other)), min(detector, max(one, other))):
                    # The whole part is separate, so that float32 suffices and vectors are long.
                    position = start + (u - centre_u) * step
                    whole = np.int32(math.floor(position))
                    part = np.float32(position - whole)
                    for k in range(count):
                        offset = part - np.float32(k) * slope32
                        lower = np.floor(offset)
                        fraction = offset - lower
                        i = whole + np.int32(lower)
                        base = np.int32(first + k) * last_i + np.int32(first + k)
                        rows[k] = base + min(max(i, zero), last_i)
                        rows[count + k] = base + min(max(i + one_i, zero), last_i)
                        low = (one_f - fraction) * scale
                        high = fraction * scale
                        weights[k] = low if (i >= zero) & (i <= last_i) else zero_f
                        weights[count + k] = high if (i >= -one_i) & (i < last_i) else zero_f
                    _add_taps(
                        volume.ctypes.data,
                        rows.ctypes.data,
                        weights.ctypes.data,
                        2 * count,
                        line + u * (LANES * 4),
                        gain,
                        minus_infinity,
                    )


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _backproject(sinogram, cosines, sines, gains, floor, volume):
    """Do ``volume = max(floor, volume + gains * P^T sinogram)`` for one block.

    ``volume`` is (z, x, lanes), ``sinogram`` (angles, detector, lanes), ``gains`` (z, x).
    """
    height, width, _ = volume.shape
    angles, detector, _ = sinogram.shape
    centre_z, centre_x, centre_u = (height - 1) / 2, (width - 1) / 2, (detector - 1) / 2
    rows = np.empty(2 * angles, np.int32)
    weights = np.empty(2 * angles, np.float32)
    spans = np.empty(angles, np.float32)
    scales = np.empty(angles, np.float32)
    steps = np.empty(angles, np.float32)
    wholes = np.empty(angles, np.int32)
    parts = np.empty(angles, np.float32)
    for angle in range(angles):
        span = max(abs(cosines[angle]), abs(sines[angle]))
        spans[angle], scales[angle], steps[angle] = span, 1 / (span * span), cosines[angle]
    zero, one_i, last_u = np.int32(0), np.int32(1), np.int32(detector - 1)
    zero_f, one_f = np.float32(0), np.float32(1)
    for first_z in range(0, height, _TILE_Z):
        for first_x in range(0, width, _TILE_X):
            for z in range(first_z, min(first_z + _TILE_Z, height)):
                for angle in range(angles):
                    position = centre_u + (z - centre_z) * sines[angle]
                    position += (first_x - centre_x) * cosines[angle]
                    wholes[angle] = math.floor(position)
                    parts[angle] = position - wholes[angle]
                for x in range(first_x, min(first_x + _TILE_X, width)):
                    along = np.float32(x - first_x)
                    for angle in range(angles):
                        offset = parts[angle] + along * steps[angle]
                        lower = np.floor(offset)
                        fraction = offset - lower
                        u = wholes[angle] + np.int32(lower)
                        base = np.int32(angle) * last_u + np.int32(angle)
                        rows[angle] = base + min(max(u, zero), last_u)
                        rows[angles + angle] = base + min(max(u + one_i, zero), last_u)
                        low = max(zero_f, spans[angle] - fraction) * scales[angle]
                        high = max(zero_f, spans[angle] - (one_f - fraction)) * scales[angle]
                        weights[angle] = low if (u >= zero) & (u <= last_u) else zero_f
                        weights[angles + angle] = high if (u >= -one_i) & (u < last_u) else zero_f
                    _add_taps(
                        sinogram.ctypes.data,
                        rows.ctypes.data,
                        weights.ctypes.data,
                        2 * angles,
                        volume.ctypes.data + (z * width + x) * (LANES * 4),
                        gains[z, x],
                        floor,
                    )


@dataclass(frozen=True)
class Geometry:
    """Geometry of one tilt series, the same for all slices.

    Parameters
    ----------
    tilt_deg : ndarray
        Angles in degrees, shape (angles,), in any order and spacing.
    detector : int
        Pixels of an image row.
    height, width : int
        Voxels of a slice along z and x.

    Raises
    ------
    ValueError
        If there is no angle, or one is not finite, or a size is not positive.
    """

    tilt_deg: NDArray[np.float64]
    detector: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.tilt_deg.ndim != 1 or self.tilt_deg.size == 0:
            raise ValueError(f"tilt angles of shape {self.tilt_deg.shape}; a list is needed")
        if not np.isfinite(self.tilt_deg).all():
            raise ValueError("a tilt angle is not a finite number; leave that image out")
        if min(self.detector, self.height, self.width) < 1:
            raise ValueError(
                f"the detector has {self.detector} pixels and a slice {self.height} x {self.width} "
                "voxels; each needs at least 1"
            )

    @property
    def angles(self) -> int:
        """Number of angles."""
        return self.tilt_deg.size

    def project(self, volume: Floats, sinogram: Floats, gain: float = 1.0) -> None:
        """Add `gain` times the projections of one block to its sinogram.

        Parameters
        ----------
        volume : ndarray
            Float32, shape (z, x, LANES), contiguous.
        sinogram : ndarray
            Float32, shape (angles, detector, LANES), contiguous; changed in place.
        gain : float
            Factor.
        """
        tilt_rad = np.deg2rad(self.tilt_deg)
        cosines, sines = np.cos(tilt_rad), np.sin(tilt_rad)
        flat = np.abs(cosines) >= np.abs(sines)
        factor = np.float32(gain)
        if flat.any():
            picks = np.flatnonzero(flat)
            _project(volume, picks, cosines[picks], sines[picks], factor, sinogram)
        if not flat.all():
            picks = np.flatnonzero(~flat)
            turned = zeros((self.width, self.height, LANES))
            turned[:] = volume.transpose(1, 0, 2)
            _project(turned, picks, sines[picks], cosines[picks], factor, sinogram)

    def backproject(
        self,
        sinogram: Floats,
        volume: Floats,
        gains: Floats | None = None,
        floor: float = -np.inf,
    ) -> None:
        """Add the adjoint of :meth:`project` to a block, times `gains`, and raise it to `floor`.

        Parameters
        ----------
        sinogram : ndarray
            Float32, shape (angles, detector, LANES), contiguous.
        volume : ndarray
            Float32, shape (z, x, LANES), contiguous; changed in place.
        gains : ndarray, optional
            Float32 factor of every voxel, shape (z, x); 1 without it.
        floor : float
            No voxel is left below this.
        """
        tilt_rad = np.deg2rad(self.tilt_deg)
        if gains is None:
            gains = np.ones((self.height, self.width), np.float32)
        _backproject(sinogram, np.cos(tilt_rad), np.sin(tilt_rad), gains, np.float32(floor), volume)


def blocks_of(stack: NDArray[Any]) -> Floats:
    """Move slices innermost in groups of `LANES`; the last group is padded with zeros.

    Parameters
    ----------
    stack : ndarray
        Shape (slices, a, b).

    Returns
    -------
    ndarray
        Float32, shape (blocks, a, b, LANES), contiguous.
    """
    slices, first, second = stack.shape
    blocks = zeros((-(-slices // LANES), first, second, LANES))
    for number, block in enumerate(blocks):
        part = stack[number * LANES : (number + 1) * LANES]
        block[:, :, : len(part)] = part.transpose(1, 2, 0)
    return blocks


def slices_of(blocks: Floats, slices: int) -> Floats:
    """Undo :func:`blocks_of`; returns a contiguous array of shape (slices, a, b)."""
    _, first, second, _ = blocks.shape
    stack = np.empty((slices, first, second), np.float32)
    for number, block in enumerate(blocks):
        part = stack[number * LANES : (number + 1) * LANES]
        part[:] = block[:, :, : len(part)].transpose(2, 0, 1)
    return stack


def project(volume: NDArray[Any], tilt_deg: NDArray[Any], detector: int | None = None) -> Floats:
    """Project a volume along the beam for a series of tilts.

    Joseph, IEEE Trans. Med. Imaging 1, 192, 1982.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x); the tilt axis runs along y through the centre.
    tilt_deg : ndarray
        Angles in degrees, shape (angles,).
    detector : int, optional
        Pixels of an image row; by default the number of voxels along x.

    Returns
    -------
    ndarray
        Float32 images, shape (angles, y, x'), in voxel sides times the unit of the volume.

    Raises
    ------
    ValueError
        If there is no angle or an angle is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.zeros((1, 5, 5))
    >>> volume[0, 1:4, 2] = 1.0
    >>> project(volume, np.array([0.0]))[0, 0].tolist()
    [0.0, 0.0, 3.0, 0.0, 0.0]
    """
    slices, height, width = volume.shape
    tilts = np.asarray(tilt_deg, np.float64)
    geometry = Geometry(tilts, detector or width, height, width)
    blocks = blocks_of(volume)
    sinograms = zeros((len(blocks), geometry.angles, geometry.detector, LANES))
    in_threads(lambda b: geometry.project(blocks[b], sinograms[b]), range(len(blocks)))
    return np.ascontiguousarray(slices_of(sinograms, slices).transpose(1, 0, 2))


def backproject(
    images: NDArray[Any], tilt_deg: NDArray[Any], slice_shape: tuple[int, int] | None = None
) -> Floats:
    """Back-project images without a filter; the exact adjoint of :func:`project`.

    Parameters
    ----------
    images : ndarray
        Shape (angles, y, x').
    tilt_deg : ndarray
        Angles in degrees, shape (angles,).
    slice_shape : tuple of int, optional
        Voxels along (z, x); by default a square as wide as the images.

    Returns
    -------
    ndarray
        Float32, shape (y, z, x), in the unit of the images times voxel sides.

    Raises
    ------
    ValueError
        If images and angles differ in number.

    Examples
    --------
    >>> import numpy as np
    >>> backproject(np.ones((2, 1, 3)), np.array([0.0, 90.0]))[0, 1].tolist()
    [2.0, 2.0, 2.0]
    """
    angles, slices, detector = images.shape
    tilts = np.asarray(tilt_deg, np.float64)
    if angles != tilts.size:
        raise ValueError(f"{angles} images but {tilts.size} tilt angles; each image needs its own")
    height, width = slice_shape or (detector, detector)
    geometry = Geometry(tilts, detector, height, width)
    sinograms = blocks_of(images.transpose(1, 0, 2))
    blocks = zeros((len(sinograms), height, width, LANES))
    in_threads(lambda b: geometry.backproject(sinograms[b], blocks[b]), range(len(blocks)))
    return slices_of(blocks, slices)
