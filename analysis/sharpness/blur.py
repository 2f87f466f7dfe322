"""Blur of a frame beside sharper ones: what the power of its spectrum has lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .spectrum import Spectrum, disc_contrast

Floats64 = NDArray[np.float64]

# Radii that are tried, in pixels: so many steps up to the largest.
_STEPS, _LARGEST_PIXELS = 96, 12.0
# By how much the power in a ring changes besides, because other parts of the specimen are seen.
_CONTENT = 0.05
# No measurement is better than this, in pixels^2: the spectrum itself is not quite the same.
_LEAST_SD_PIXELS2 = 0.02


@dataclass(frozen=True)
class Blur:
    """By how much one frame is more blurred than another.

    Attributes
    ----------
    square_nm2 : float
        Square of the disc's radius, less that of the other frame; negative for a sharper frame.
    sd_nm2 : float
        Its standard deviation.
    misfit : float
        Chi^2 a degree of freedom: about 1 where the two differ by blur and noise alone.
    """

    square_nm2: float
    sd_nm2: float
    misfit: float

    @property
    def radius_nm(self) -> float:
        """Radius of the disc; 0 for a frame that is not more blurred."""
        return math.sqrt(max(self.square_nm2, 0.0))

    @property
    def radius_sd_nm(self) -> float:
        """By how much the radius may be larger, one sd."""
        return math.sqrt(max(self.square_nm2, 0.0) + self.sd_nm2) - self.radius_nm


def blur_between(reference: Spectrum, spectrum: Spectrum, content: float = _CONTENT) -> Blur:
    """Measure how much more a frame is blurred than a reference.

    Parameters
    ----------
    reference, spectrum : Spectrum
        Of the reference and the frame; both have the same rings.
    content : float
        Relative change of the power in a ring that is not blur, one sd.

    Returns
    -------
    Blur
        Square of the radius of the disc, with its uncertainty.

    Raises
    ------
    ValueError
        If the rings differ.

    Notes
    -----
    The disc of geometrical optics, radius = convergence half angle times defocus, leaves
    (2 J1(x) / x)^2 of the power, x = 2 pi radius times frequency. How much there is of the
    specimen in the field is a free factor. Each radius is tried; mean and standard deviation are
    those of the likelihood over the square of the radius.

    Examples
    --------
    >>> import numpy as np
    >>> per_nm = np.linspace(0.005, 0.1, 23)
    >>> sharp = Spectrum(per_nm**-2, 1.0, np.full(23, 500.0), per_nm, 4.0)
    >>> power = sharp.power * disc_contrast(2 * np.pi * 5.0 * per_nm) ** 2
    >>> found = blur_between(sharp, Spectrum(power, 1.0, sharp.modes, per_nm, 4.0))
    >>> round(found.radius_nm), found.sd_nm2 < 2
    (5, True)
    """
    if not reference.is_like(spectrum):
        raise ValueError("the rings of the two spectra differ; both need one pixel size and shape")
    squares, kept = _tried(spectrum.per_nm.tobytes(), spectrum.pitch_nm)
    ratio = _ratio(reference, spectrum)
    shown, own = reference.power * ratio, spectrum.power
    variance = spectrum.variance + ratio**2 * reference.variance
    variance = variance + (content * np.maximum(np.maximum(own, shown), 0.0)) ** 2
    # The blurred one of the two is the frame, or else the reference.
    misfits = np.concatenate(
        [_misfit(own, shown, kept, variance)[:0:-1], _misfit(shown, own, kept, variance)]
    )
    squares = np.concatenate([-squares[:0:-1], squares])
    freedom = max(1, len(own) - 2)
    misfit = float(misfits.min()) / freedom
    weights = np.exp(-0.5 * (misfits - misfits.min()) / max(1.0, misfit))
    weights *= np.gradient(squares)
    weights /= weights.sum()
    mean = float(weights @ squares)
    least = _LEAST_SD_PIXELS2 * spectrum.pitch_nm**2
    sd = math.hypot(math.sqrt(float(weights @ (squares - mean) ** 2)), least)
    return Blur(mean, sd, misfit)


def _misfit(sharp: Floats64, blurred: Floats64, kept: Floats64, variance: Floats64) -> Floats64:
    """Chi^2 of `blurred` being `sharp` times what each radius keeps, with a free factor."""
    model = kept * sharp
    least = (blurred * blurred / variance).sum()
    cross = (model * blurred / variance).sum(axis=1)
    square = (model * model / variance).sum(axis=1)
    return least - np.maximum(cross, 0.0) ** 2 / np.maximum(square, 1e-30)


def _ratio(reference: Spectrum, spectrum: Spectrum) -> float:
    """Power of the frame in that of the reference, where blur does not matter."""
    low = len(spectrum.power) // 4
    total = float((reference.power * reference.modes)[:low].sum())
    own = float((spectrum.power * spectrum.modes)[:low].sum())
    return max(own, 1e-12) / max(total, 1e-12)


@lru_cache(maxsize=8)
def _tried(per_nm: bytes, pitch_nm: float) -> tuple[Floats64, Floats64]:
    """Squares of the radii that are tried, and what each keeps of the power in each ring."""
    radii = np.linspace(0.0, _LARGEST_PIXELS * pitch_nm, _STEPS + 1)
    frequencies = np.frombuffer(per_nm, np.float64)
    kept = disc_contrast(2.0 * np.pi * radii[:, None] * frequencies[None, :]) ** 2
    return radii**2, kept
