"""Spots in the spectrum of a picture of a crystal, located by two-dimensional Gaussians."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.ndimage import maximum_filter
from scipy.optimize import least_squares

Floats = NDArray[np.float64]

# The fit takes the pixels of the spectrum within this distance of a maximum; a Hann window makes
# each spot some two pixels wide.
_REACH = 3
# Correlation of noise along an axis between pixels of the spectrum, seen along the phase of a spot:
# that of a Hann window, whose own spectrum is 1/2 beside -1/4.
_NOISE = toeplitz([1.0, 2 / 3, 1 / 6] + [0.0] * (2 * _REACH - 2))
# Nearer to the centre lies what changes slowly over the picture, in pixels of the spectrum.
_LEAST_RADIUS = 6
# A spot is so many times as strong as the spectrum around it, at least.
_LEAST_CONTRAST = 5.0
# The spread of a spot along an axis, in pixels of the spectrum, of what is sharp.
_WIDEST = 2.5


@dataclass(frozen=True)
class Spots:
    """Spots of a spectrum, one of each pair of opposite ones, the strongest first.

    Attributes
    ----------
    places : ndarray
        Shape (n, 2): (y, x) in cycles a pixel.
    sd : ndarray
        Shape (n, 2): standard deviation of each, in cycles a pixel.
    strength : ndarray
        Shape (n,): height over the spectrum around it, in units of that.
    """

    places: Floats
    sd: Floats
    strength: Floats


def find_spots(picture: NDArray[Any], most: int = 30) -> Spots:
    """Find the spots of a crystal in the spectrum of a picture.

    The picture is weighted by a Hann window. Each maximum of the amplitudes that stands out is
    fitted by a Gaussian with an axis each along y and x on a constant level.

    Parameters
    ----------
    picture : ndarray
        Counts, shape (rows, columns), 32 pixels wide at least.
    most : int
        Number of spots at most.

    Returns
    -------
    Spots
        Those that stand out; there may be none.

    Raises
    ------
    ValueError
        If the picture is too small, has another number of axes, or holds NaN or infinity.

    Examples
    --------
    >>> y, x = np.mgrid[:128, :128]
    >>> found = find_spots(10 + np.cos(2 * np.pi * (0.2 * y + 0.11 * x)))
    >>> np.abs(found.places[0]).round(4).tolist()
    [0.2, 0.11]
    """
    image = np.asarray(picture, np.float64)
    if image.ndim != 2 or min(image.shape) < 32:
        raise ValueError(f"a picture of shape {image.shape} has no spectrum to look into")
    if not np.isfinite(image).all():
        raise ValueError("the picture holds NaN or infinity")
    rows, columns = image.shape
    window = np.outer(np.hanning(rows + 1)[:-1], np.hanning(columns + 1)[:-1])
    level = float((image * window).sum() / window.sum())
    amplitude = np.abs(np.fft.fftshift(np.fft.fft2((image - level) * window)))
    return _fitted(amplitude, most)


def _fitted(amplitude: Floats, most: int) -> Spots:
    rows, columns = amplitude.shape
    centre = rows // 2, columns // 2
    y, x = np.ogrid[:rows, :columns]
    away = np.hypot(y - centre[0], x - centre[1])
    around = _level_around(amplitude, away)
    contrast = np.where(away > _LEAST_RADIUS, amplitude / around, 0.0)
    peaks = (contrast == maximum_filter(contrast, size=2 * _REACH + 1)) & (
        contrast > _LEAST_CONTRAST
    )
    # Of two opposite spots the one below the centre, or to the right of it.
    half = (y > centre[0]) | ((y == centre[0]) & (x > centre[1]))
    inside = (y >= _REACH) & (y < rows - _REACH) & (x >= _REACH) & (x < columns - _REACH)
    found = np.argwhere(peaks & half & inside)
    found = found[np.argsort(-contrast[tuple(found.T)])][:most]
    places: list[Floats] = []
    spread: list[Floats] = []
    strength: list[float] = []
    scale = np.array([rows, columns], np.float64)
    for place in found:
        fit = _gaussian(amplitude, place)
        if fit is None:
            continue
        at, sd = fit
        places.append((at - centre) / scale)
        spread.append(sd / scale)
        strength.append(float(contrast[tuple(place)]))
    return Spots(
        np.array(places).reshape(-1, 2), np.array(spread).reshape(-1, 2), np.array(strength)
    )


def _level_around(amplitude: Floats, away: Floats) -> Floats:
    """Median amplitude at each distance from the centre."""
    ring = np.minimum(away / 4, 10_000).astype(np.intp)
    order = np.argsort(ring, axis=None, kind="stable")
    values = amplitude.ravel()[order]
    edges = np.searchsorted(ring.ravel()[order], np.arange(int(ring.max()) + 2))
    medians = np.array(
        [np.median(values[a:b]) if b > a else np.inf for a, b in itertools.pairwise(edges)]
    )
    return np.maximum(medians[ring], 1e-12 * float(amplitude.max()) + 1e-300)


def _gaussian(amplitude: Floats, place: NDArray[np.intp]) -> tuple[Floats, Floats] | None:
    """Place of a spot in pixels and its standard deviation; None where no Gaussian is there."""
    steps = np.arange(-_REACH, _REACH + 1)
    around = amplitude[place[0] + steps[:, None], place[1] + steps]
    scale = float(around.max())
    y, x = np.meshgrid(steps, steps, indexing="ij")
    values = around.ravel() / scale

    def left(parameters: Floats) -> Floats:
        base, height, at_y, at_x, wide_y, wide_x = parameters
        exponent = ((y - at_y) / wide_y) ** 2 + ((x - at_x) / wide_x) ** 2
        return (base + height * np.exp(-0.5 * exponent)).ravel() - values

    low = [-0.5, 0.1, -1.5, -1.5, 0.3, 0.3]
    high = [0.9, 2.0, 1.5, 1.5, _WIDEST, _WIDEST]
    fit = least_squares(left, [0.05, 0.95, 0.0, 0.0, 0.9, 0.9], bounds=(low, high))
    if not fit.success or np.any(np.abs(fit.x[2:4]) > 1.45):
        return None
    try:
        normal = np.linalg.inv(fit.jac.T @ fit.jac)
    except np.linalg.LinAlgError:
        return None
    alike = np.kron(_NOISE, _NOISE)
    towards = normal @ fit.jac.T
    # What the fit takes up of noise that is alike in neighbours is more than its share.
    freedom = len(values) - float(np.trace(towards @ alike @ fit.jac))
    covariance = towards @ alike @ towards.T * float((fit.fun**2).sum()) / max(freedom, 1.0)
    sd = np.sqrt(np.maximum(np.diag(covariance)[2:4], 1e-12))
    return place + fit.x[2:4], sd
