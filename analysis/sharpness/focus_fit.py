"""The best focus from pictures of one field at known defocus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.tracking import FocusDoubt
from .spectrum import Spectrum, disc_contrast

Floats64 = NDArray[np.float64]

_STEPS = 401
# A focus that is known worse than so, as a part of the step between the pictures, is none; nor is
# one that explains them worse than no blur at all.
_MOST_SD = 0.25
# Chi^2 a degree of freedom beyond which the pictures do not show one thing at several heights.
_MOST_MISFIT = 6.0
# Pictures of one field show the same; only their borders differ.
_CONTENT = 0.02


@dataclass(frozen=True)
class FocusView:
    """A picture of a focus series.

    Attributes
    ----------
    spectrum : Spectrum
        Of the picture.
    defocus_nm : float
        That was applied.
    """

    spectrum: Spectrum
    defocus_nm: float


@dataclass(frozen=True)
class FocusFit:
    """Where the specimen is in focus.

    Attributes
    ----------
    defocus_nm, sd_nm : float
        Defocus to apply, and its standard deviation.
    gain : float
        Chi^2 by which this explains the pictures better than no blur at all.
    misfit : float
        Chi^2 a degree of freedom.
    doubt : str
        Why it is not to be used; empty if it is.
    """

    defocus_nm: float
    sd_nm: float
    gain: float
    misfit: float
    doubt: FocusDoubt


def best_focus(views: Sequence[FocusView], convergence_mrad: float) -> FocusFit:
    """Find the defocus at which pictures of one field are sharpest.

    Parameters
    ----------
    views : sequence of FocusView
        At least three, with the same rings, at different defocus.
    convergence_mrad : float
        Half angle of the probe.

    Returns
    -------
    FocusFit
        With a doubt where it should not be used.

    Raises
    ------
    ValueError
        For fewer than three views, or rings that differ.

    Notes
    -----
    Of the power in a ring, a disc of radius a |z - z'| leaves (2 J1(x) / x)^2. For each height z'
    the power of the specimen itself is fitted in each ring, over all pictures; the likelihood over
    z' gives mean and standard deviation. Unlike a parabola through three figures of sharpness
    (Rudnaya et al., Ultramicroscopy 115, 2012) it weighs every frequency by its own noise.

    Examples
    --------
    >>> import numpy as np
    >>> per_nm = np.linspace(0.005, 0.1, 23)
    >>> def view(z):
    ...     kept = disc_contrast(2 * np.pi * 1.2e-3 * abs(z - 1000.0) * per_nm) ** 2
    ...     return FocusView(Spectrum(kept * per_nm**-2, 1.0, np.full(23, 2e3), per_nm, 4.0), z)
    >>> found = best_focus([view(z) for z in (0.0, -5000.0, 5000.0)], 1.2)
    >>> found.doubt, abs(found.defocus_nm - 1000.0) < found.sd_nm < 50.0
    ('', True)
    """
    if len(views) < 3:
        raise ValueError(f"{len(views)} pictures of a focus series; three are needed")
    first = views[0].spectrum
    if not all(first.is_like(view.spectrum) for view in views):
        raise ValueError("the pictures of a focus series differ in size")
    applied = np.array([view.defocus_nm for view in views])
    low, high = float(applied.min()), float(applied.max())
    tried = np.linspace(low - (high - low), high + (high - low), _STEPS)
    power = np.stack([view.spectrum.power for view in views])
    noise = np.array([view.spectrum.noise for view in views])[:, None]
    # Of the signal, the mean of the pictures: that of one alone would favour its own noise.
    mean = np.maximum(power.mean(axis=0), 0.0)
    variance = (noise**2 + 2.0 * noise * mean) / first.modes + (_CONTENT * mean) ** 2
    radii = convergence_mrad * 1e-3 * np.abs(tried[:, None] - applied[None, :])
    kept = disc_contrast(2.0 * np.pi * radii[:, :, None] * first.per_nm) ** 2
    misfits = _misfit(power, kept, variance)
    flat = float(_misfit(power, np.ones((1, *power.shape)), variance)[0])
    freedom = max(1, power.size - power.shape[1] - 1)
    best = float(misfits.min())
    misfit = best / freedom
    scale = max(1.0, misfit)
    weights = np.exp(-0.5 * (misfits - best) / scale)
    weights /= weights.sum()
    mean_nm = float(weights @ tried)
    step_nm = float(tried[1] - tried[0])
    sd_nm = math.hypot(math.sqrt(float(weights @ (tried - mean_nm) ** 2)), step_nm / 2)
    gain = (flat - best) / scale
    doubt: FocusDoubt = ""
    if misfit > _MOST_MISFIT:
        doubt = "different"
    elif gain < 0.0 or sd_nm > _MOST_SD * 0.5 * (high - low):
        doubt = "no-contrast"
    elif not low <= mean_nm <= high:
        doubt = "outside"
    return FocusFit(mean_nm, sd_nm, gain, misfit, doubt)


def _misfit(power: Floats64, kept: Floats64, variance: Floats64) -> Floats64:
    """Chi^2 for each height, with the specimen's own power fitted in each ring."""
    cross = (kept * (power / variance)).sum(axis=1)
    square = (kept**2 / variance).sum(axis=1)
    own = np.maximum(cross, 0.0) / np.maximum(square, 1e-30)
    left = power - kept * own[:, None, :]
    return (left**2 / variance).sum(axis=(1, 2))
