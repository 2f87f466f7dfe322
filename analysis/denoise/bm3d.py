"""Fast BM3D: block matching and collaborative filtering in numba and LLVM code.

Written from the papers: Dabov, Foi, Katkovnik, Egiazarian, IEEE Trans. Image Process. 16, 2080
(2007) for the method; Makinen, Azzari, Foi, ibid. 29, 8339 (2020) for correlated noise. The first
pass groups similar blocks, transforms each group, and sets small coefficients to zero. The second
pass finds the groups in the first result and applies its Wiener gains. One thing differs from the
papers: the transform along the group is the Walsh-Hadamard transform, for which the exact variance
of every coefficient is cheap (:mod:`.kernels`). It is used for white noise too, because the blocks
of a group overlap; on smooth specimens that gains some tenths of a dB.
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

from .kernels import FAR, Filter, Images, Search, Tile, Workspace, filter_tile
from .simd import BLOCK, COEFFICIENTS, PITCH, PIXELS, PLACES, RADIUS, REFS, ROWS, STEP

Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]

_QUICK_RADIUS = 12
_QUICK_SPARSE = (1.0, 4.0)
_NO_IMAGE = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Noise:
    """Noise model and settings of BM3D; make one with :meth:`white` or :meth:`coloured`.

    Attributes
    ----------
    sigma : float
        Standard deviation of a pixel.
    threshold : float
        Hard threshold of the first pass, in standard deviations of a coefficient.
    caution : float
        Factor on the variance in the second pass.
    radius : int
        Search radius in pixels.
    nearness : tuple of float
        Largest mean squared distance at which a block joins a group, in noise variances: between
        noisy blocks in the first pass, between basic estimates in the second.
    window : float
        Beta of the Kaiser window that weights the pixels of a block.
    transforms : tuple of ndarray
        Of the first and of the second pass: float64, (8, 8), [coefficient, pixel], rows of norm 1.
    covariances : tuple of ndarray
        For each transform, covariances of the coefficients of two blocks by displacement, for
        noise of variance 1: float32, (1 + (2 reach + 1)^2, 64). The first row is zero and serves
        displacements of more than `reach` along an axis; the others follow row by row.
    stacks : tuple of int
        Most blocks of a group, a power of two: in the first pass (up to 16) and in the second (32).
    every : int
        Groups are formed for the reference blocks of every row (1) or of every second row (2).
    sparse : tuple of float
        Search pattern: beyond the first distance only every second displacement is searched (the
        white squares of a chess board), beyond the second only every fourth, and then in a circle
        of `radius` instead of a square. That is faster and mostly better, because blocks that
        overlap less hold more independent noise.
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
        """The same noise with settings that need less than half the time.

        Half as many groups are formed, and their blocks are searched at fewer displacements and
        within a smaller radius. Repeating structures (lattices) lose most.
        """
        radius = min(_QUICK_RADIUS, self.radius)
        return replace(self, radius=radius, sparse=_QUICK_SPARSE, stacks=(16, 16), every=2)

    @classmethod
    def white(cls, sigma: float) -> Noise:
        """White noise of standard deviation `sigma`, in the unit of the frame."""
        return replace(_unit_white(), sigma=float(sigma))

    @classmethod
    def coloured(cls, spectrum: NDArray[Any]) -> Noise:
        """Stationary noise of a power spectrum.

        Parameters
        ----------
        spectrum : ndarray
            Mean squared modulus of the unnormalised DFT of the noise, shape (rows, columns).

        Returns
        -------
        Noise
            For frames of the shape of the spectrum.

        Raises
        ------
        ValueError
            If the spectrum holds NaN, infinity or a negative value, or is zero everywhere.
        """
        power = np.asarray(spectrum, np.float64)
        if power.ndim != 2 or not np.isfinite(power).all() or power.min() < 0 or power.max() == 0:
            raise ValueError(
                f"the noise spectrum has the shape {power.shape}; it must be rows and columns of "
                "finite numbers, none negative and not all zero"
            )
        variance = power.mean() / power.size
        correlation = np.fft.ifft2(power / power.mean()).real
        transform = cosine_transform()
        radius = 12
        covariances = _covariances(correlation, transform, 2 * radius)
        # Correlated noise makes blocks look similar: a higher threshold and a smaller radius are
        # better. The distance of blocks of equal signal depends on the noise: no limit at first.
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
    # Wavelets keep edges better with a hard threshold, but smear ripples of correlated noise.
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
    those of Haar, means are taken over ten points. Not orthogonal: the matrix is inverted.
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
    """Covariance of each coefficient between two blocks, for displacements up to `reach`.

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
        Float32, (1 + (2 reach + 1)^2, 64): a row of zeros, then displacements row by row.
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
    """Displacements at which blocks are searched, nearest first; see :class:`Noise`."""
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
    """First position and number of the reference blocks of each tile along one axis.

    Blocks are `step` apart, less before the last tile, so that the last block touches the border.
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


Sums = tuple[Floats, Floats]


class _TileThreads:
    """Threads with their memory for the tiles of one frame."""

    def __init__(self, shape: tuple[int, ...], noise: Noise, threads: int | None) -> None:
        # A multiple of STEP, for the planes of the guide image.
        self.margin = -(-noise.radius // STEP) * STEP
        self._step = noise.every * STEP
        most = min(ROWS, (PLACES - 1 - 2 * self.margin) // self._step + 1)
        rows = _tiles(shape[0] - BLOCK + 1, self._step, most)
        columns = _tiles(shape[1] - BLOCK + 1)
        self.tiles = [Tile(y, x, ny, nx) for y, ny in rows for x, nx in columns]
        self.threads = min(threads or len(os.sched_getaffinity(0)), len(self.tiles))
        self._shape = shape
        self._free: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(self.threads):
            self._free.put(Workspace.allocate())

    def average(self, work: Callable[[Tile, Workspace, Sums], None]) -> Floats:
        """Weighted mean of the filtered tiles, summed in the order of the tiles."""
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


def _pass(threads: _TileThreads, image: Floats, basic: Floats | None, noise: Noise) -> Floats:
    """One pass over an image with noise of variance 1; the second pass has a `basic` estimate."""
    number = 0 if basic is None else 1
    transform = noise.transforms[number]
    window = np.kaiser(BLOCK, noise.window)
    forward = np.ascontiguousarray(transform.T, np.float32)
    inverse = np.ascontiguousarray(np.linalg.inv(transform).T * window, np.float32)
    # Two rows, for the first coefficient along the group and for the others. The mean of the group
    # is never filtered, so that an offset of the image is the same offset of the result.
    limit = noise.threshold**2 if basic is None else noise.caution
    limits = np.full((2, COEFFICIENTS), limit, np.float32)
    limits[0, 0] = 0
    covariances = noise.covariances[number]
    images = Images(image, image if basic is None else basic, _NO_IMAGE if basic is None else basic)
    search = Search(
        threads.margin,
        noise.every,
        _displacements(noise.radius, noise.sparse),
        noise.stacks[number],
        np.float32(noise.nearness[number] * COEFFICIENTS),
    )
    filters = Filter(
        forward.ravel(),
        inverse.ravel(),
        window.astype(np.float32),
        limits.ravel(),
        covariances.ravel(),
        math.isqrt(len(covariances)) // 2,
    )

    def work(tile: Tile, space: Workspace, sums: Sums) -> None:
        numerator, denominator = (part.ravel() for part in sums)
        filter_tile(images, tile, search, filters, space, numerator, denominator)

    return threads.average(work)


def fast_bm3d(
    frame: NDArray[Any], noise: float | NDArray[Any] | Noise, threads: int | None = None
) -> Floats:
    """Denoise one frame by BM3D.

    Dabov et al., IEEE Trans. Image Process. 16, 2080 (2007); Makinen et al., ibid. 29, 8339
    (2020). Needs about 14 MB per thread and six times the memory of the frame as float32.

    Parameters
    ----------
    frame : ndarray
        Shape (rows, columns), both at least 8.
    noise : float, ndarray or Noise
        Standard deviation of white noise, in the unit of the frame; or the power spectrum of
        stationary noise, in the shape of the frame (:func:`.frame.noise_spectrum`); or a `Noise`,
        which can be reused for frames of the same shape.
    threads : int, optional
        Number of threads; by default one per core. The result does not depend on it.

    Returns
    -------
    ndarray
        Float32, in the shape and unit of the frame; the frame itself if the noise is 0.

    Raises
    ------
    ValueError
        If the frame is too small or holds NaN or infinity, or the noise is negative or does not
        fit the frame.

    Examples
    --------
    >>> import numpy as np
    >>> frame = 5 + np.random.default_rng(0).normal(size=(32, 32))
    >>> cleaned = fast_bm3d(frame, 1.0)
    >>> bool(cleaned.std() < 0.3 * frame.std())
    True
    """
    if frame.ndim != 2 or min(frame.shape) < BLOCK:
        raise ValueError(
            f"the frame has the shape {frame.shape}; BM3D needs at least {BLOCK} rows and columns"
        )
    values = np.asarray(frame, np.float64)
    if not np.isfinite(values).all():
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise ValueError(f"{count} pixels of the frame are not finite numbers")
    if isinstance(noise, np.ndarray):
        if noise.shape != frame.shape:
            raise ValueError(
                f"the noise spectrum has the shape {noise.shape}, the frame {frame.shape}; "
                "they must agree"
            )
        model = Noise.coloured(noise)
    else:
        model = noise if isinstance(noise, Noise) else Noise.white(noise)
    if not model.sigma >= 0:
        raise ValueError(
            f"the noise has the standard deviation {model.sigma:g}; it cannot be negative"
        )
    if model.sigma == 0:
        return np.asarray(frame, np.float32)
    # Float32 suffices on the scale of the noise, about the mean.
    mean = values.mean()
    scaled = ((values - mean) / model.sigma).astype(np.float32)
    workers = _TileThreads(frame.shape, model, threads)
    basic = _pass(workers, scaled, None, model)
    return (_pass(workers, scaled, basic, model) * model.sigma + mean).astype(np.float32)
