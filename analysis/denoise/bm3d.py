"""BM3D of our own, fast enough to keep up with the microscope, and free of others' licences.

Written from the papers: Dabov, Foi, Katkovnik, Egiazarian, IEEE Trans. Image Process. 16, 2080
(2007) for the method, Makinen, Azzari, Foi, ibid. 29, 8339 (2020) for noise that is correlated.
Two passes: blocks alike are stacked, transformed, and small coefficients cut off; then the same
with stacks found in the first result, and with its Wiener gains. Where the two differ from the
papers: the third transform is Walsh and Hadamard's, with which the exact variance of every
coefficient of a stack is cheap (:mod:`.block_kernels`). It is used for white noise too, whose
stacked blocks overlap; on smooth specimens that is worth some tenths of a dB.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import FAR, Workspace, filter_tile
from .simd import BLOCK, COEFFICIENTS, PITCH, PIXELS, PLACES, RADIUS, REFS, ROWS, STEP

Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]

_QUICK_RADIUS = 12
_QUICK_SPARSE = (1.0, 4.0)
_NO_IMAGE = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Noise:
    """What is known of the noise; make one with :meth:`white` or :meth:`coloured`.

    Attributes
    ----------
    sigma : float
        Standard deviation of a pixel.
    threshold : float
        Cut of the first pass in standard deviations of a coefficient.
    caution : float
        Factor on the variance in the second pass.
    radius : int
        How far off blocks are looked for, in pixels.
    nearness : tuple of float
        Largest mean squared distance of a block that is admitted to a stack, in noise variances:
        between noisy blocks in the first pass, between basic estimates in the second.
    window : float
        Steepness of the Kaiser window under which blocks are put back.
    transforms : tuple of ndarray
        Float64 (8, 8), [coefficient, pixel], rows of norm 1: of the first pass and of the second.
    covariances : tuple of ndarray
        For each of them, covariances of the coefficients of two blocks by displacement, for noise
        of variance 1: float32, (1 + (2 reach + 1)^2, 64), first zeros for displacements of more
        than `reach` along an axis, then the others row by row.
    stacks : tuple of int
        Most blocks of a stack, a power of two: in the first pass (up to 16) and in the second (32).
    every : int
        Stacks are made for the reference blocks of every so many rows, 1 or 2.
    sparse : tuple of float
        Where blocks are looked for: further off than the first only at every second displacement
        (the white squares of a chess board), further off than the second only at every fourth, and
        then in a circle of `radius` instead of a square. Faster, and on the whole better: stacks of
        blocks that overlap less hold more independent noise.
    """

    sigma: float
    threshold: float
    caution: float
    radius: int
    nearness: tuple[float, float]
    window: float
    transforms: tuple[Floats64, Floats64]
    covariances: tuple[Floats, Floats]
    stacks: tuple[int, int] = (16, 32)
    every: int = 1
    sparse: tuple[float, float] = (math.inf, math.inf)

    def quick(self) -> Noise:
        """The same noise, to be taken off in less than half the time and not quite as well.

        There are half as many stacks, and blocks for them are looked for at fewer places and less
        far off, which repeating structures (lattices) suffer from most.
        """
        radius = min(_QUICK_RADIUS, self.radius)
        return replace(self, radius=radius, sparse=_QUICK_SPARSE, stacks=(16, 16), every=2)

    @classmethod
    def white(cls, sigma: float) -> Noise:
        """Noise without correlation, of standard deviation `sigma`."""
        return replace(_unit_white(), sigma=float(sigma))

    @classmethod
    def coloured(cls, spectrum: NDArray[Any]) -> Noise:
        """Noise of a power spectrum: the mean squared modulus of its unnormalised DFT.

        Raises
        ------
        ValueError
            If the spectrum is not finite, negative somewhere or zero everywhere.
        """
        power = np.asarray(spectrum, np.float64)
        if power.ndim != 2 or not np.isfinite(power).all() or power.min() < 0 or power.max() == 0:
            raise ValueError(
                f"noise spectrum of shape {power.shape}; rows and columns of finite numbers are "
                "needed, none negative and not all zero"
            )
        variance = power.mean() / power.size
        correlation = np.fft.ifft2(power / power.mean()).real
        transform = cosine_transform()
        radius = 12
        covariances = _covariances(correlation, transform, 2 * radius)
        # Correlated noise makes blocks look alike: a higher cut and a nearer look are better. How
        # far blocks of equal signal then lie apart depends on the noise: no limit at first.
        return cls(
            sigma=float(np.sqrt(variance)),
            threshold=3.4,
            caution=1.5,
            radius=radius,
            nearness=(float(FAR) / COEFFICIENTS, 2.0),
            window=1.0,
            transforms=(transform, transform),
            covariances=(covariances, covariances),
        )


@cache
def _unit_white() -> Noise:
    side = 4 * PLACES
    correlation = np.zeros((side, side))
    correlation[0, 0] = 1
    # Wavelets keep edges better where the cut is hard; ripples of correlated noise they smear.
    transforms = (spline_transform(), cosine_transform())
    first, second = (_covariances(correlation, transform, BLOCK - 1) for transform in transforms)
    return Noise(
        sigma=1.0,
        threshold=2.65,
        caution=1.0,
        radius=RADIUS,
        nearness=(10.0, 3.0),
        window=2.0,
        transforms=transforms,
        covariances=(first, second),
        sparse=(6.0, math.inf),
    )


def cosine_transform() -> Floats64:
    """Orthonormal discrete cosine transform of 8 points, [frequency, pixel]."""
    k = np.arange(BLOCK)
    matrix = np.cos(np.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


def spline_transform() -> Floats64:
    """Biorthogonal spline wavelets 1.5 of 8 points, periodic, [coefficient, pixel], rows of norm 1.

    Cohen, Daubechies, Feauveau, Commun. Pure Appl. Math. 45, 485 (1992), table 6.1: details are
    Haar's, means are taken over ten points. Not orthogonal: the way back is the matrix's inverse.
    """
    means = np.array([3, -3, -22, 22, 128, 128, 22, -22, -3, 3]) / (128 * np.sqrt(2))
    matrix = np.eye(BLOCK)
    length = BLOCK
    while length > 1:
        level = np.eye(BLOCK)
        level[:length, :length] = 0
        for i in range(length // 2):
            np.add.at(level[i], (2 * i - 4 + np.arange(means.size)) % length, means)
            level[length // 2 + i, 2 * i : 2 * i + 2] = np.sqrt(0.5), -np.sqrt(0.5)
        matrix = level @ matrix
        length //= 2
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def _covariances(correlation: Floats64, transform: Floats64, reach: int) -> Floats:
    """Covariance of each coefficient between two blocks, for every displacement in reach.

    Parameters
    ----------
    correlation : ndarray
        Periodic autocorrelation of the noise, displacement 0 at [0, 0].
    transform : ndarray
        The transform along a side of a block.
    reach : int
        Largest displacement along each axis.

    Returns
    -------
    ndarray
        Float32, (1 + (2 reach + 1)^2, 64): zeros, then displacements row by row.
    """
    width = reach + BLOCK - 1
    rows, columns = correlation.shape
    lags = np.arange(-width, width + 1)
    around = correlation[np.ix_(lags % rows, lags % columns)]
    spread = np.zeros((BLOCK, 2 * reach + 1, lags.size))
    for row, into in zip(transform, spread, strict=True):
        for lag in range(2 * reach + 1):
            into[lag, lag : lag + 2 * BLOCK - 1] = np.correlate(row, row, "full")
    half = np.tensordot(spread, around, axes=1)
    by_lag = np.tensordot(half, spread, axes=(2, 2)).transpose(1, 3, 0, 2)
    table = by_lag.reshape(-1, COEFFICIENTS)
    return np.concatenate([np.zeros((1, COEFFICIENTS)), table]).astype(np.float32)


@cache
def _displacements(radius: int, sparse: tuple[float, float]) -> NDArray[np.int64]:
    """Displacements at which blocks are looked for, nearest first; see :class:`Noise`."""
    line = range(-radius, radius + 1)
    order = sorted((y * y + x * x, y, x) for y in line for x in line)
    # Half a pixel more makes circles rounder.
    second, fourth, end = ((distance + 0.5) ** 2 for distance in (*sparse, radius))
    if second < end:
        order = [
            (square, y, x)
            for square, y, x in order
            if square <= second
            or (square <= end and (y + x) % 2 == 0 and (square <= fourth or y % 2 == 0))
        ]
    return np.array(order, np.int64)[:, 1:].copy()


def _tiles(places: int, step: int = STEP, most: int = REFS) -> list[tuple[int, int]]:
    """First place and number of the reference blocks of each tile along one axis.

    They are `step` apart, less before the last tile, so that the last block touches the border.
    """
    last = places - 1
    total = -(-last // step) + 1
    count = -(-total // most)
    if count == 1 and last % step:
        return [(0, total - 1), (last, 1)]
    ends = [number * total // count for number in range(count + 1)]
    tiles = [(step * a, b - a) for a, b in pairwise(ends)]
    tiles[-1] = (last - step * (tiles[-1][1] - 1), tiles[-1][1])
    return tiles


Tile = tuple[int, int, int, int]
Sums = tuple[Floats, Floats]


class _Crew:
    """Threads and their memory, for the tiles of one frame."""

    def __init__(self, shape: tuple[int, ...], noise: Noise, threads: int | None) -> None:
        # A multiple of STEP, for the planes of the guide image.
        self.margin = -(-noise.radius // STEP) * STEP
        self._step = noise.every * STEP
        most = min(ROWS, (PLACES - 1 - 2 * self.margin) // self._step + 1)
        rows = _tiles(shape[0] - BLOCK + 1, self._step, most)
        columns = _tiles(shape[1] - BLOCK + 1)
        self.tiles = [(y, x, ny, nx) for y, ny in rows for x, nx in columns]
        self.threads = min(threads or len(os.sched_getaffinity(0)), len(self.tiles))
        self._shape = shape
        self._free: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(self.threads):
            self._free.put(Workspace())

    def average(self, work: Callable[[Tile, Workspace, Sums], None]) -> Floats:
        """Weighted mean of what the tiles yield, added up in the order of the tiles."""
        rows, columns = self._shape
        margin = self.margin
        padded = (rows + 2 * margin, columns + 2 * margin)
        totals = np.zeros(padded, np.float32), np.zeros(padded, np.float32)

        def one(tile: Tile) -> Sums:
            sums = np.empty((PIXELS, PITCH), np.float32), np.empty((PIXELS, PITCH), np.float32)
            space = self._free.get()
            try:
                work(tile, space, sums)
            finally:
                self._free.put(space)
            return sums

        def merge(tile: Tile, made: Sums) -> None:
            y, x, down, along = tile
            tall = self._step * (down - 1) + 2 * margin + BLOCK
            wide = STEP * (along - 1) + 2 * margin + BLOCK
            for total, part in zip(totals, made, strict=True):
                total[y : y + tall, x : x + wide] += part[:tall, :wide]

        if self.threads == 1:
            for tile in self.tiles:
                merge(tile, one(tile))
        else:
            with ThreadPoolExecutor(self.threads, thread_name_prefix="bm3d") as pool:
                for tile, made in zip(self.tiles, pool.map(one, self.tiles), strict=True):
                    merge(tile, made)
        inside = slice(margin, margin + rows), slice(margin, margin + columns)
        return totals[0][inside] / totals[1][inside]


def _pass(crew: _Crew, image: Floats, basic: Floats | None, noise: Noise) -> Floats:
    """One pass over an image whose noise has variance 1; the second has a `basic` estimate."""
    number = 0 if basic is None else 1
    transform = noise.transforms[number]
    window = np.kaiser(BLOCK, noise.window)
    forward = np.ascontiguousarray(transform.T, np.float32)
    inverse = np.ascontiguousarray(np.linalg.inv(transform).T * window, np.float32)
    # Two rows, for the first coefficient along the stack and for the others. The stack's mean is
    # never filtered, so that an offset of the image is the same offset of the result.
    limit = noise.threshold**2 if basic is None else noise.caution
    limits = np.full((2, COEFFICIENTS), limit, np.float32)
    limits[0, 0] = 0
    reach = math.isqrt(len(noise.covariances[number])) // 2

    def work(tile: Tile, space: Workspace, sums: Sums) -> None:
        filter_tile(
            image,
            image if basic is None else basic,
            _NO_IMAGE if basic is None else basic,
            *tile,
            crew.margin,
            noise.every,
            _displacements(noise.radius, noise.sparse),
            noise.stacks[number],
            np.float32(noise.nearness[number] * COEFFICIENTS),
            forward.ravel(),
            inverse.ravel(),
            window.astype(np.float32),
            limits.ravel(),
            noise.covariances[number].ravel(),
            reach,
            *space.arrays,
            *(part.ravel() for part in sums),
        )

    return crew.average(work)


def fast_bm3d(
    frame: NDArray[Any], noise: float | NDArray[Any] | Noise, threads: int | None = None
) -> Floats:
    """One frame without its noise.

    Takes about 14 MB for each thread and six times the frame (as float32) beside.

    Parameters
    ----------
    frame : ndarray
        Shape (rows, columns), both at least 8.
    noise : float, ndarray or Noise
        Standard deviation of white noise; or the power spectrum of stationary noise, in the
        frame's shape (:func:`.denoise.noise_spectrum`); or either as `Noise`, which is worth
        keeping for many frames of one shape.
    threads : int, optional
        As many as cores without it. The result does not depend on it.

    Returns
    -------
    ndarray
        Float32, in the frame's shape and unit. Without noise, the frame itself.

    Raises
    ------
    ValueError
        If the frame is too small or holds NaN or infinity, or the noise is none.
    """
    if frame.ndim != 2 or min(frame.shape) < BLOCK:
        raise ValueError(
            f"frame of shape {frame.shape}; BM3D needs at least {BLOCK} rows and columns"
        )
    values = np.asarray(frame, np.float64)
    if not np.isfinite(values).all():
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise ValueError(f"{count} pixels of the frame are not finite numbers")
    if isinstance(noise, np.ndarray):
        if noise.shape != frame.shape:
            raise ValueError(
                f"noise spectrum of shape {noise.shape} for a frame of shape {frame.shape}; "
                "they must agree"
            )
        model = Noise.coloured(noise)
    else:
        model = noise if isinstance(noise, Noise) else Noise.white(noise)
    if not model.sigma >= 0:
        raise ValueError(f"noise of standard deviation {model.sigma:g}; it cannot be negative")
    if model.sigma == 0:
        return np.asarray(frame, np.float32)
    # Float32 is exact enough on the scale of the noise, about the mean.
    mean = values.mean()
    scaled = ((values - mean) / model.sigma).astype(np.float32)
    crew = _Crew(frame.shape, model, threads)
    basic = _pass(crew, scaled, None, model)
    return (_pass(crew, scaled, basic, model) * model.sigma + mean).astype(np.float32)
