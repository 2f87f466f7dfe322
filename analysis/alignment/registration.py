"""Registration of two images: phase correlation, mutual information, common line, centre of mass.

All functions take images of one shape and return the displacement (y, x') of the specimen in the
second image against the first, in pixels, positive towards higher rows and columns.
"""
# SimpleITK and scipy are untyped here.
# scipy.fft declares its results as dispatchables.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import math
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.fft import irfft, irfft2, next_fast_len, rfft, rfft2
from scipy.ndimage import gaussian_filter1d
from scipy.signal.windows import tukey

from ..core.offsets import Offset

Floats64 = NDArray[np.float64]

_WINDOW_TAPER = 0.5
# Spatial frequencies (cycles per pixel, standard deviation) that phase correlation uses.
_BAND = 0.12
# Part of the largest cross power below which a frequency counts less.
_NOISE_FLOOR = 1e-2
# Part of the largest overlap of measured pixels below which a displacement is not considered.
_MIN_OVERLAP = 0.4
_HISTOGRAM_BINS = 32
_EVOLUTION_ROUNDS = 60
_SMALLEST_SIDE = 64
_SEED = 2023
# Part of the pixels, on a regular grid, that the mutual information is computed from.
_SAMPLED = 0.25


def phase_correlation(
    first: NDArray[Any], second: NDArray[Any], near: Offset | None = None
) -> Floats64:
    """Displacement from the peak of the cross correlation of whitened spectra.

    Kuglin and Hines, Proc. IEEE Conf. Cybernetics and Society, 163 (1975). A window follows the
    shift. The maximum is interpolated between the pixels by parabolas. Shifts of up to a third
    of the image are found.

    Parameters
    ----------
    first, second : ndarray
        Shape (rows, columns) both.
    near : Offset, optional
        Displacement to look at, in pixels, and how far from it (``sd``) to look. The displacement
        may then be larger. By default the whole image is searched.

    Returns
    -------
    ndarray
        Shape (2,): (y, x') in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((48, 48))
    >>> image[16:28, 12:30] = 1
    >>> shift = phase_correlation(image, np.roll(image, 4, axis=0))
    >>> [round(float(part)) for part in shift]
    [4, 0]
    """
    shift = np.zeros(2) if near is None else np.array(near.place)
    for _ in range(3):
        # The window covers the same part of the specimen in both images.
        whole = np.round(shift).astype(int)
        one, other = _overlap(first, second, whole)
        if min(one.shape) < 4:
            break
        found = whole + _correlation_peak(_windowed(one), _windowed(other), near, whole)
        if np.array_equal(np.round(found), np.round(shift)):
            return found
        shift = found
    return shift


def _overlap(
    first: NDArray[Any], second: NDArray[Any], shift: NDArray[np.int_]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The overlapping parts of two images, the second displaced by whole pixels."""
    rows, columns = first.shape
    y, x = (int(v) for v in shift)
    one = first[max(0, -y) : rows - max(0, y), max(0, -x) : columns - max(0, x)]
    other = second[max(0, y) : rows + min(0, y), max(0, x) : columns + min(0, x)]
    return one, other


def _windowed(image: NDArray[Any]) -> Floats64:
    window = tukey(image.shape[0], _WINDOW_TAPER)[:, None] * tukey(image.shape[1], _WINDOW_TAPER)
    mean = (image * window).sum() / window.sum()
    return (image - mean) * window


def _correlation_peak(
    one: Floats64, other: Floats64, near: Offset | None, whole: NDArray[np.int_]
) -> Floats64:
    rows, columns = (next_fast_len(2 * side, real=True) for side in one.shape)
    cross = rfft2(other, (rows, columns)) * np.conj(rfft2(one, (rows, columns)))
    power = np.abs(cross)
    down = np.fft.fftfreq(rows)[:, None]
    along = np.fft.rfftfreq(columns)[None, :]
    band = np.exp(-(down**2 + along**2) / (2 * _BAND**2))
    floor = _NOISE_FLOOR * power.max()
    correlation = irfft2(cross / (power + floor + 1e-30) * band, (rows, columns))
    return _peak(correlation, near, whole)


def _peak(
    correlation: Floats64, near: Offset | None, whole: NDArray[np.int_] | None = None
) -> Floats64:
    """Interpolated position of the maximum; a shift is less than half of the doubled frame.

    With `near` the maximum is searched about that displacement, less the `whole` pixels by which
    the images have been moved already.
    """
    rows, columns = correlation.shape
    searched = correlation
    if near is not None:
        moved = np.zeros(2) if whole is None else whole
        away = [
            np.abs((np.arange(side) - place + moved_px + side / 2) % side - side / 2)
            for side, place, moved_px in zip((rows, columns), near.place, moved, strict=True)
        ]
        inside = (away[0] <= near.sd[0])[:, None] & (away[1] <= near.sd[1])
        searched = np.where(inside, correlation, -np.inf)
    peak = np.unravel_index(int(np.argmax(searched)), correlation.shape)
    found = np.empty(2)
    for axis, (index, side) in enumerate(zip(peak, (rows, columns), strict=True)):
        line = np.moveaxis(correlation, axis, 0)[:, peak[1 - axis]]
        found[axis] = _parabola_peak(line, int(index))
        if found[axis] > side / 2:
            found[axis] -= side
    return found


def _parabola_peak(line: Floats64, index: int) -> float:
    """Vertex of the parabola through a maximum and its neighbours, on a circle."""
    before, here, after = line[index - 1], line[index], line[(index + 1) % len(line)]
    curvature = before - 2 * here + after
    return index + (0.5 * (before - after) / curvature if curvature < 0 else 0.0)


def masked_correlation(
    first: NDArray[Any],
    second: NDArray[Any],
    first_measured: NDArray[np.bool_],
    second_measured: NDArray[np.bool_],
    near: Offset | None = None,
) -> Floats64:
    """Displacement from the peak of the normalised correlation of the measured pixels.

    Padfield, IEEE Trans. Image Process. 21, 2706 (2012): at each displacement, the correlation
    coefficient of the pixels that both images have measured. Gaps of the detector, which stay in
    place while the specimen moves, do not pull the result to zero, as they would if filled.

    Parameters
    ----------
    first, second : ndarray
        Shape (rows, columns) both.
    first_measured, second_measured : ndarray of bool
        Same shape: the pixels to use.
    near : Offset, optional
        As for :func:`phase_correlation`.

    Returns
    -------
    ndarray
        Shape (2,): (y, x') in pixels; zeros if no pixel was measured.

    Examples
    --------
    >>> import numpy as np
    >>> image, measured = np.zeros((48, 48)), np.ones((48, 48), bool)
    >>> image[16:28, 12:30] = 1
    >>> measured[20] = False
    >>> shift = masked_correlation(image, np.roll(image, 4, axis=0), measured, measured)
    >>> [abs(round(float(part))) for part in shift]
    [4, 0]
    """
    if not (first_measured.any() and second_measured.any()):
        return np.zeros(2)
    shape = tuple(next_fast_len(2 * side, real=True) for side in first.shape)
    spectra: list[list[Any]] = []
    for image, measured in ((first, first_measured), (second, second_measured)):
        level = np.where(measured, image - image[measured].mean(dtype=np.float64), 0.0)
        spectra.append([rfft2(part, shape) for part in (measured.astype(float), level, level**2)])
    (shown, levels, squares), (other_shown, other_levels, other_squares) = spectra

    def summed(one: Any, other: Any) -> Floats64:
        return np.asarray(irfft2(other * np.conj(one), shape))

    overlap = np.maximum(summed(shown, other_shown), 1.0)
    sums, other_sums = summed(levels, other_shown), summed(shown, other_levels)
    common = summed(levels, other_levels) - sums * other_sums / overlap
    spread = summed(squares, other_shown) - sums**2 / overlap
    other_spread = summed(shown, other_squares) - other_sums**2 / overlap
    product = np.maximum(spread, 0) * np.maximum(other_spread, 0)
    usable = (overlap > _MIN_OVERLAP * overlap.max()) & (product > 1e-12 * product.max())
    correlation = np.zeros(shape)
    np.divide(common, np.sqrt(product), out=correlation, where=usable)
    return _peak(correlation, near)


def mutual_information(
    first: NDArray[Any],
    second: NDArray[Any],
    start_px: NDArray[Any],
    measured: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> tuple[Floats64, float]:
    """Largest Mattes mutual information, searched by a (1+1) evolution strategy.

    Mattes et al., IEEE Trans. Med. Imaging 22, 120 (2003); Styner et al., ibid. 19, 153 (2000).
    From coarse to fine; every random number is seeded.

    Parameters
    ----------
    first, second : ndarray
        Float32, shape (rows, columns).
    start_px : ndarray
        Start of the search, shape (2,), (y, x') in pixels.
    measured : tuple of ndarray of bool, optional
        Pixels of both images that enter the histogram; by default all.

    Returns
    -------
    shift : ndarray
        Shape (2,): (y, x') in pixels.
    information : float
        Mutual information reached, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((48, 48), np.float32)
    >>> image[16:28, 12:30] = 1
    >>> shift, _ = mutual_information(image, np.roll(image, 2, axis=0), np.array([1.0, 0.0]))
    >>> round(float(shift[0]))
    2
    """
    fixed, moving = (sitk.GetImageFromArray(np.asarray(i, np.float32)) for i in (first, second))
    levels = max(0, min(2, int(math.log2(max(1.0, min(first.shape) / _SMALLEST_SIDE)))))
    factors = [2**k for k in range(levels, -1, -1)] or [1]
    # ITK counts x before y.
    transform = sitk.TranslationTransform(2, (float(start_px[1]), float(start_px[0])))
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_HISTOGRAM_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(_SAMPLED, _SEED)
    if measured is not None:
        fixed_mask, moving_mask = (sitk.GetImageFromArray(m.astype(np.uint8)) for m in measured)
        method.SetMetricFixedMask(fixed_mask)
        method.SetMetricMovingMask(moving_mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsOnePlusOneEvolutionary(
        numberOfIterations=_EVOLUTION_ROUNDS, epsilon=1e-3, initialRadius=1.0, seed=_SEED
    )
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([0.5 * f if f > 1 else 0.0 for f in factors])
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    x, y = transform.GetParameters()
    return np.array([y, x]), -float(method.GetMetricValue())


def centre_of_mass(image: NDArray[Any]) -> float:
    """Mean column weighted by the intensity above the background.

    The background is the mean below Otsu's threshold (IEEE Trans. Syst. Man Cybern. 9, 62, 1979).
    It is subtracted from the weights, so that its noise does not pull the result to the centre.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns).

    Returns
    -------
    float
        In pixels from the centre of the columns; 0 for an image without contrast.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((8, 9))
    >>> image[2:6, 6] = 1
    >>> centre_of_mass(image)
    2.0
    """
    threshold = _otsu(image)
    low = image[image <= threshold]
    background = float(low.mean()) if low.size else 0.0
    weight = np.where(image > threshold, image - background, 0.0).sum(axis=0, dtype=np.float64)
    total = weight.sum()
    columns = np.arange(image.shape[1]) - (image.shape[1] - 1) / 2
    return float((weight * columns).sum() / total) if total > 0 else 0.0


def _otsu(image: NDArray[Any]) -> float:
    counts, edges = np.histogram(image, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[int(np.argmax(np.nan_to_num(between)))])


def common_line(image: NDArray[Any]) -> Floats64:
    """Sum the intensity across the tilt axis.

    The result is a function of y that all tilts of a series share, up to a shift.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns).

    Returns
    -------
    ndarray
        Float64, shape (rows,).

    Examples
    --------
    >>> import numpy as np
    >>> common_line(np.ones((2, 3)))
    array([3., 3.])
    """
    return np.asarray(image, np.float64).sum(axis=1)


def line_shift(first: Floats64, second: Floats64) -> float:
    """Displacement of the second profile against the first, from their cross correlation.

    Parameters
    ----------
    first, second : ndarray
        Profiles along y, shape (rows,).

    Returns
    -------
    float
        In pixels.

    Examples
    --------
    >>> import numpy as np
    >>> line = np.zeros(64)
    >>> line[20:36] = 1
    >>> round(line_shift(line, np.roll(line, 5)))
    5
    """
    size = next_fast_len(2 * len(first), real=True)
    # Slopes, not levels: a specimen cut off by the border must not make a peak at zero.
    window = tukey(len(first), 0.2)
    one, other = (
        gaussian_filter1d(p, 1.0, order=1, mode="nearest") * window for p in (first, second)
    )
    correlation = irfft(rfft(other, size) * np.conj(rfft(one, size)), size)
    found = _parabola_peak(correlation, int(np.argmax(correlation)))
    return found - size if found > size / 2 else found
