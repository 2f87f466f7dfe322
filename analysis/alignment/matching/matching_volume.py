"""Matching volume: a thin volume that is fitted while the alignment of its series is refined.

The fit takes projected gradient steps on the residual of ramp-filtered images, with Nesterov's
momentum (Beck and Teboulle, SIAM J. Imaging Sci. 2, 183, 2009). The filter makes coarse and fine
detail converge alike, so that the residual is noise and misalignment. A few iterations of SIRT
would leave fine detail in the residual, which would bias shifts and rotation. Volume and momentum
are kept from one alignment to the next, in the layout of the projector.
"""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false, reportPrivateUsage=false

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ...core.arrays import Floats, in_threads, zeros
from ...tomography.projector import LANES, Geometry, _add_taps, blocks_of, slices_of

# The filter falls off above this frequency (cycles per pixel).
_CUT_OFF = 0.15
_POWER_ITERATIONS = 8
_SEED = 2023


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _filter_rows(matrix, weights, sinogram, out):
    """Do ``out = weights * (matrix @ (weights * sinogram))`` along the detector.

    Leaves ``weights * sinogram`` in `sinogram` and returns its product with `out`.
    The matrix has an even number of columns, at least as many as the detector has pixels.
    Written with the projector's taps: a library's matrix product would start threads of its own.
    """
    angles, detector, lanes = sinogram.shape
    taps = matrix.shape[1]
    rows = np.empty(taps, np.int32)
    for v in range(taps):
        rows[v] = min(v, detector - 1)
    total = 0.0
    for angle in range(angles):
        for u in range(detector):
            for lane in range(lanes):
                sinogram[angle, u, lane] *= weights[angle, u, lane]
                out[angle, u, lane] = 0.0
        line = sinogram.ctypes.data + angle * detector * (LANES * 4)
        target = out.ctypes.data + angle * detector * (LANES * 4)
        for u in range(detector):
            _add_taps(
                line,
                rows.ctypes.data,
                matrix.ctypes.data + u * taps * 4,
                taps,
                target + u * (LANES * 4),
                np.float32(1.0),
                np.float32(-np.inf),
            )
            for lane in range(lanes):
                out[angle, u, lane] *= weights[angle, u, lane]
                total += out[angle, u, lane] * sinogram[angle, u, lane]
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _accelerated_step(ahead, following, here, momentum_t):
    """Take the step and extrapolate with momentum; returns the next momentum parameter."""
    uphill = np.float32(0)
    for z in range(here.shape[0]):
        for x in range(here.shape[1]):
            for lane in range(here.shape[2]):
                new = following[z, x, lane]
                uphill += (ahead[z, x, lane] - new) * (new - here[z, x, lane])
    if uphill > 0:
        momentum_t = 1.0
    after = 0.5 * (1 + math.sqrt(1 + 4 * momentum_t * momentum_t))
    momentum = np.float32((momentum_t - 1) / after)
    for z in range(here.shape[0]):
        for x in range(here.shape[1]):
            for lane in range(here.shape[2]):
                new = following[z, x, lane]
                ahead[z, x, lane] = new + momentum * (new - here[z, x, lane])
                here[z, x, lane] = new
    return after


class MatchingVolume:
    """Volume of given thickness for a tilt series, slightly wider than the images.

    Parameters
    ----------
    tilt_deg : ndarray
        Angles in degrees, shape (n,).
    shape : tuple of int
        Rows and columns of the images.
    thickness : int
        Voxels along z.
    beside : int
        Voxels beside the images on each side, if more than 1/16 of their width is wanted.
    """

    def __init__(
        self,
        tilt_deg: NDArray[np.float64],
        shape: tuple[int, int],
        thickness: int,
        beside: int = 0,
    ) -> None:
        self._tall, wide = shape
        # The specimen beside the field enters it at high tilt.
        width = wide + 2 * max(beside, math.ceil(wide / 16))
        self.thickness = thickness
        self._geometry = Geometry(tilt_deg, wide, thickness, width)
        blocks = -(-self._tall // LANES)
        self._volume = zeros((blocks, thickness, width, LANES))
        self._ahead = zeros(self._volume.shape)
        self._momentum_t = np.ones(blocks)
        self._filter = _ramp(wide, thickness, math.radians(float(np.ptp(tilt_deg))))
        self._gains = np.full((thickness, width), 1.0 / self._largest(), np.float32)

    def _largest(self) -> float:
        """Largest eigenvalue of back-projection, filter and projection, by power iteration."""
        shape = self._volume.shape[1:]
        trial = zeros(shape)
        trial[:] = np.random.default_rng(_SEED).random((*shape[:2], 1), np.float32)
        largest = 1.0
        sinogram = zeros((self._geometry.angles, self._geometry.detector, LANES))
        filtered, even = zeros(sinogram.shape), np.ones_like(sinogram)
        for _ in range(_POWER_ITERATIONS):
            sinogram[:] = 0
            self._geometry.project(trial, sinogram)
            _filter_rows(self._filter, even, sinogram, filtered)
            trial[:] = 0
            self._geometry.backproject(filtered, trial)
            largest = math.sqrt(float(np.square(trial[..., 0]).sum()))
            if largest == 0.0:
                return 1.0
            trial /= np.float32(largest)
        # The power iteration ends slightly below the eigenvalue.
        return 1.1 * largest

    def fit(self, images: Floats, valid: NDArray[np.bool_], iterations: int) -> float:
        """Improve the volume.

        Parameters
        ----------
        images : ndarray
            Float32, shape (n, rows, columns), the tilt axis in the centre of the columns.
        valid : ndarray of bool
            Shape (n, rows, columns): the recorded pixels; others have no weight.
        iterations : int
            Number of iterations.

        Returns
        -------
        float
            Relative residual: filtered norm of the residual in the last iteration over the
            filtered norm of the images.
        """
        left, whole = self._fit(images, valid, iterations)
        total = float(whole.sum())
        return math.sqrt(max(0.0, float(left.sum())) / total) if total > 0 else 0.0

    def fit_blocks(
        self, images: Floats, valid: NDArray[np.bool_], iterations: int
    ) -> NDArray[np.float64]:
        """Do what :meth:`fit` does; return the residual of each block of `LANES` rows."""
        left, whole = self._fit(images, valid, iterations)
        relative = np.divide(left, whole, out=np.zeros_like(left), where=whole > 0)
        return np.sqrt(np.maximum(relative, 0.0))

    def _fit(
        self, images: Floats, valid: NDArray[np.bool_], iterations: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Improve the volume; return squared norms of residual and images by blocks."""
        measured = blocks_of(images.transpose(1, 0, 2))
        weights = blocks_of(valid.transpose(1, 0, 2))
        left, whole = np.zeros(len(measured)), np.zeros(len(measured))

        def improve(block: int) -> None:
            here, ahead = self._volume[block], self._ahead[block]
            following, residual = zeros(here.shape), zeros(measured[block].shape)
            filtered = zeros(residual.shape)
            residual[:] = measured[block]
            whole[block] = _filter_rows(self._filter, weights[block], residual, filtered)
            for _ in range(iterations):
                residual[:] = measured[block]
                self._geometry.project(ahead, residual, -1.0)
                left[block] = _filter_rows(self._filter, weights[block], residual, filtered)
                following[:] = ahead
                self._geometry.backproject(filtered, following, self._gains, 0.0)
                self._momentum_t[block] = _accelerated_step(
                    ahead, following, here, self._momentum_t[block]
                )

        in_threads(improve, range(len(measured)))
        return left, whole

    def projections(self) -> tuple[Floats, Floats, Floats]:
        """Project the volume and the derivatives of its two shears in the plane of the axis.

        Returns
        -------
        images, along, across : ndarray
            Float32, shape (n, rows, columns): projections of the volume, of its slope along y
            times x (the shear that moves along the axis), and of its slope along x times y.
        """
        _, thickness, width, _ = self._volume.shape
        tall, wide = self._tall, self._geometry.detector
        x = (np.arange(width, dtype=np.float32) - (width - 1) / 2)[None, :, None]
        blocks = len(self._volume)
        images, along, across = (
            zeros((blocks, self._geometry.angles, wide, LANES)) for _ in range(3)
        )

        def one(block: int) -> None:
            volume = self._volume[block]
            self._geometry.project(volume, images[block])
            other = zeros((thickness, width, LANES))
            np.multiply(volume, x, out=other)
            self._geometry.project(other, along[block])
            other[:, 1:-1] = 0.5 * (volume[:, 2:] - volume[:, :-2])
            other[:, 0] = other[:, -1] = 0
            self._geometry.project(other, across[block])

        in_threads(one, range(blocks))
        made, sheared_y, sheared_x = (
            np.ascontiguousarray(slices_of(part, tall).transpose(1, 0, 2))
            for part in (images, along, across)
        )
        # Slices are projected independently: slopes across them may be taken afterwards.
        sheared_y = np.gradient(sheared_y, axis=1) if tall > 1 else np.zeros_like(sheared_y)
        y = np.arange(tall, dtype=np.float32) - (tall - 1) / 2
        sheared_x *= y[None, :, None].astype(np.float32)
        return made, sheared_y, sheared_x


def _ramp(wide: int, thickness: int, span_rad: float) -> NDArray[Any]:
    """Filter of image rows as a matrix, float32, shape (wide, wide or one more to be even).

    The density of projections falls with the inverse of the frequency, down to the frequency
    where all tilts overlap in a volume of this thickness.
    """
    frequencies = np.abs(np.fft.fftfreq(2 * wide))
    floor = 1.0 / max(1.0, thickness * max(span_rad, 0.1))
    response = np.maximum(frequencies, min(floor, 0.5)) * np.exp(-((frequencies / _CUT_OFF) ** 4))
    kernel = np.fft.ifft(response).real
    pixels = np.arange(wide)
    matrix = np.zeros((wide, wide + wide % 2), np.float32)
    matrix[:, :wide] = kernel[(pixels[:, None] - pixels[None, :]) % (2 * wide)]
    return matrix
