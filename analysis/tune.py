"""Choose the denoiser's settings from frames of one view, as the paper does.

One frame is denoised and compared with the average of all the others; the noise type and the
variance of the highest PSNR win.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..protocols.pipeline import NoiseType
from .denoise import FULL_SCALE, denoise_frame, scale_of

# White noise under one of its three names, and the coloured kinds.
KINDS: tuple[NoiseType, ...] = ("white", "g1", "g2", "g3", "g4")
# Factors on the variance that is measured, tried before the best of them is refined.
_FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
_GOLDEN = (5**0.5 - 1) / 2
_REFINEMENTS = 4
# Noise types that are worse than the best by this are not refined.
_HOPELESS_DB = 1.0


@dataclass(frozen=True)
class Trial:
    """One setting that was tried; `variance` is on the scale of 255."""

    noise: NoiseType
    variance: float | Literal["auto"]
    psnr_db: float


@dataclass(frozen=True)
class Choice:
    """The best setting, and the whole curve.

    Attributes
    ----------
    noise, variance
        The settings for a recipe; `variance` on the scale of 255, or "auto".
    psnr_db, noisy_psnr_db : float
        PSNR against the reference of the frame so denoised, and of the frame as it is; the peak
        is 255 on the scale where the frame's maximum is 255.
    trials : tuple of Trial
        Everything that was tried, by noise type in the order given, then by variance.
    """

    noise: NoiseType
    variance: float | Literal["auto"]
    psnr_db: float
    noisy_psnr_db: float
    trials: tuple[Trial, ...]


def tune(
    frames: NDArray[Any],
    kinds: Sequence[NoiseType] = KINDS,
    method: Literal["fast", "bm3d"] = "fast",
    index: int = 0,
) -> Choice:
    """Choose noise type and variance for frames like these.

    For every noise type the variance is tried at five values around the one measured, two octaves
    apart; noise types within 1 dB of the best are then refined by golden section to within a
    quarter of an octave. White noise is also tried with variance "auto". That makes some 40 frames
    denoised: at 256 x 256 seconds with method `fast`; cut larger frames.

    Parameters
    ----------
    frames : ndarray
        Shape (frames, rows, columns), at least 3 exposures of one unchanged view.
    kinds : sequence of str
        Noise types to try.
    method : str
        Denoiser.
    index : int
        The frame that is denoised.

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        If there are too few frames, or they are all alike, or cannot be denoised.
    """
    if frames.ndim != 3 or len(frames) < 3:
        raise ValueError(
            f"reference frames of shape {frames.shape}; at least 3 frames of rows and columns are "
            "needed to tune the denoiser"
        )
    if not kinds:
        raise ValueError("no noise type to try; name one or more of " + ", ".join(KINDS))
    frame = np.asarray(frames[index], np.float64)
    others = np.asarray(frames, np.float64).sum(axis=0) - frame
    reference = others / (len(frames) - 1)
    factor = scale_of(frame)[1]
    # The reference brings a share of noise of its own.
    error = float(np.mean((frame - reference) ** 2)) * factor**2
    measured = error * (1 - 1 / len(frames))
    if not measured > 0:
        raise ValueError(
            f"{len(frames)} reference frames without any difference, or not finite; are they "
            "exposures of their own, with the beam on?"
        )

    def psnr_db(image: NDArray[Any]) -> float:
        gap = (np.asarray(image, np.float64) - reference) * factor
        return float(10 * np.log10(FULL_SCALE**2 / max(np.mean(gap**2), 1e-12)))

    def attempt(noise: NoiseType, variance: float | Literal["auto"]) -> Trial:
        cleaned, _ = denoise_frame(frame, method, noise, variance)
        return Trial(noise, variance, psnr_db(cleaned))

    coarse: dict[NoiseType, dict[float, Trial]] = {
        noise: {step: attempt(noise, measured * step) for step in _FACTORS} for noise in kinds
    }
    best_db = max(trial.psnr_db for tried in coarse.values() for trial in tried.values())
    trials: list[Trial] = []
    for noise, tried in coarse.items():
        found = list(tried.values())
        best = max(tried, key=lambda f, tried=tried: tried[f].psnr_db)
        if tried[best].psnr_db > best_db - _HOPELESS_DB:
            middle = np.log(measured * best)
            found += _refined(attempt, noise, middle - np.log(4), middle + np.log(4))
        trials += sorted(found, key=lambda trial: cast("float", trial.variance))
        if noise == "white":
            trials.append(attempt(noise, "auto"))
    winner = max(trials, key=lambda trial: trial.psnr_db)
    return Choice(winner.noise, winner.variance, winner.psnr_db, psnr_db(frame), tuple(trials))


def _refined(
    attempt: Callable[[NoiseType, float], Trial], noise: NoiseType, low: float, high: float
) -> list[Trial]:
    """Golden section between two logarithms of variance: all that it tries."""
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    ends = [attempt(noise, float(np.exp(x))) for x in inner]
    found = list(ends)
    for _ in range(_REFINEMENTS):
        if ends[0].psnr_db >= ends[1].psnr_db:
            high = inner[1]
            inner = [high - _GOLDEN * (high - low), inner[0]]
            found.append(attempt(noise, float(np.exp(inner[0]))))
            ends = [found[-1], ends[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + _GOLDEN * (high - low)]
            found.append(attempt(noise, float(np.exp(inner[1]))))
            ends = [ends[1], found[-1]]
    return found
