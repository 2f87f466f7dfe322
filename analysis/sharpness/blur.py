"""Blur of a frame beside sharper ones: what the power of its spectrum has lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .spectrum import Spectrum, disc_contrast

Floats64 = NDArray[np.float64]

# Radii that are tried, in pixels: so many steps up to the largest; and for a frame that is sharper.
_STEPS, _LARGEST_PIXELS = 96, 12.0
_SHARPER_STEPS, _SHARPEST_PIXELS = 16, 2.0
# Beyond so much, what a disc has taken is lost in the noise.
_MOST_GAINED = 10.0
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
    specimen in the field is a free factor. Each radius is tried; the standard deviation is
    half of the range of squares in which chi^2 is larger by one at most.

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
    model = kept * (ratio * reference.power)
    signal = np.maximum(model, 0.0)
    # Of what is expected, not of what came: that would favour rings with too little.
    noise = spectrum.noise
    variance = (noise**2 + 2.0 * noise * signal) / spectrum.modes + (content * signal) ** 2
    variance += kept**2 * (ratio**2 * reference.variance)
    misfits, logs = _misfit(model, spectrum.power, variance)
    freedom = max(1, len(spectrum.power) - 2)
    judged = misfits + logs
    misfit = float(misfits.min()) / freedom
    best, sd = _best(squares, judged, max(1.0, misfit))
    least = _LEAST_SD_PIXELS2 * spectrum.pitch_nm**2
    return Blur(best, math.hypot(sd, least), misfit)


def _misfit(model: Floats64, own: Floats64, variance: Floats64) -> tuple[Floats64, Floats64]:
    """Chi^2 of `own` being each model with a free factor, and the logarithm of the variance."""
    least = (own * own / variance).sum(axis=1)
    cross = (model * own / variance).sum(axis=1)
    square = (model * model / variance).sum(axis=1)
    misfits = least - np.maximum(cross, 0.0) ** 2 / np.maximum(square, 1e-30)
    return misfits, np.log(variance).sum(axis=1)


def _best(squares: Floats64, misfits: Floats64, scale: float) -> tuple[float, float]:
    """The least misfit between the squares that were tried, and how far chi^2 rises by one."""
    at = int(np.argmin(misfits))
    inner = min(max(at, 1), len(squares) - 2)
    (left, middle, right), (low, here, high) = (
        values[inner - 1 : inner + 2].tolist() for values in (squares, misfits)
    )
    # Parabola through three points that need not be equally far from each other.
    down, up = (low - here) / (left - middle), (high - here) / (right - middle)
    bend = (up - down) / (right - left)
    best = float(squares[at])
    if bend > 0.0:
        slope = down - bend * (left - middle)
        best = min(max(middle - 0.5 * slope / bend, left), right)
    wide = np.flatnonzero(misfits <= misfits[at] + scale)
    low, high = max(int(wide[0]) - 1, 0), min(int(wide[-1]) + 1, len(squares) - 1)
    sides = [
        float(np.interp(misfits[at] + scale, *_rising(misfits[rows], squares[rows])))
        for rows in (slice(at, low - 1 if low else None, -1), slice(at, high + 1))
    ]
    return best, max(0.5 * (sides[1] - sides[0]), 1e-6)


def _rising(misfits: Floats64, squares: Floats64) -> tuple[Floats64, Floats64]:
    """Misfits that do not fall, from the least one on, with their squares."""
    return np.maximum.accumulate(misfits), squares


def _ratio(reference: Spectrum, spectrum: Spectrum) -> float:
    """Power of the frame in that of the reference, where blur does not matter."""
    low, modes = len(spectrum.power) // 4, spectrum.modes
    total = float((reference.power * modes)[:low].sum())
    own = float((spectrum.power * modes)[:low].sum())
    return max(own, 1e-12) / max(total, 1e-12)


@lru_cache(maxsize=8)
def _tried(per_nm: bytes, pitch_nm: float) -> tuple[Floats64, Floats64]:
    """Squares of the radii that are tried, and what each keeps of the power in each ring."""
    radii = np.linspace(0.0, _LARGEST_PIXELS * pitch_nm, _STEPS + 1)
    frequencies = np.frombuffer(per_nm, np.float64)
    kept = disc_contrast(2.0 * np.pi * radii[:, None] * frequencies[None, :]) ** 2
    # A sharper frame: the reference, freed of a small disc.
    sharper = np.linspace(_SHARPEST_PIXELS * pitch_nm, 0.0, _SHARPER_STEPS, endpoint=False)
    gained = np.exp((np.pi * sharper[:, None] * frequencies[None, :]) ** 2)
    return (
        np.concatenate([-(sharper**2), radii**2]),
        np.concatenate([np.minimum(gained, _MOST_GAINED), kept]),
    )
