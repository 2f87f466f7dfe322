"""Choose the denoiser's settings from frames of one view, as the paper does.

One frame is denoised and compared with the average of all the others; the noise type and the
variance of the highest PSNR win.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..core.noise import FEWEST_REFERENCES, Effort, NoiseType
from ..core.progress import run_to_end
from .frame import FULL_SCALE, SMALLEST_SIDE, WHITE, denoise_frame, scale_of

# White noise under one of its three names, and the coloured kinds.
KINDS: tuple[NoiseType, ...] = ("white", "g1", "g2", "g3", "g4")
# Factors on the variance that is measured, tried before the best of them is refined.
_FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
_GOLDEN = (5**0.5 - 1) / 2
_REFINEMENTS = 4
# Noise types that are worse than the best by this are not refined.
_HOPELESS_DB = 1.0
# Windows of largest contrast are looked for at places this part of their side apart.
_WINDOW_STEP = 8
# Brighter and darker pixels than these parts of all count no further: one hot pixel is no contrast.
_USUAL = (0.001, 0.999)

Floats64 = NDArray[np.float64]
# Yields the part of the work that is done, from 0 to 1.
Steps = Generator[float, None, "Choice"]


@dataclass(frozen=True)
class Exposures:
    """Exposures of one unchanged view: one of them, and the mean of the others.

    Attributes
    ----------
    frame, reference : ndarray
        Shape (rows, columns).
    count : int
        How many there are in all.
    """

    frame: NDArray[Any]
    reference: NDArray[Any]
    count: int

    @classmethod
    def of(cls, frames: NDArray[Any], index: int = 0) -> Exposures:
        """Sort out a stack of frames, shape (frames, rows, columns).

        Raises
        ------
        ValueError
            If there are too few.
        """
        if frames.ndim != 3 or len(frames) < FEWEST_REFERENCES:
            raise ValueError(
                f"reference frames of shape {frames.shape}; at least {FEWEST_REFERENCES} frames "
                "of rows and columns are needed to tune the denoiser"
            )
        frame = np.asarray(frames[index], np.float64)
        total = np.sum(frames, axis=0, dtype=np.float64)
        return cls(frame, (total - frame) / (len(frames) - 1), len(frames))


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


def curve_table(choice: Choice) -> Floats64:
    """Everything that was tried, as numbers for a file.

    Returns
    -------
    ndarray
        Float64, shape (trials, 3): noise type as its place in :data:`KINDS`, variance on the
        scale of 255 (NaN for "auto"), and PSNR in dB; in the order of the trials. A last row of
        noise type -1 holds the PSNR of the frame as it is.
    """
    rows = [
        (
            float(KINDS.index("white" if trial.noise in WHITE else trial.noise)),
            np.nan if trial.variance == "auto" else trial.variance,
            trial.psnr_db,
        )
        for trial in choice.trials
    ]
    return np.array([*rows, (-1.0, np.nan, choice.noisy_psnr_db)], np.float64)


def choice_of(table: NDArray[np.float64]) -> Choice:
    """Read what :func:`curve_table` has written, rows of NaN at its end left out.

    Raises
    ------
    ValueError
        If it is no such table.
    """
    rows = [row for row in table.tolist() if np.isfinite(row[0])]
    if table.shape[1:] != (3,) or not rows or rows[-1][0] != -1:
        raise ValueError(f"a table of shape {table.shape} that holds no curve of a denoiser")
    trials = tuple(
        Trial(KINDS[int(kind)], "auto" if np.isnan(variance) else variance, psnr_db)
        for kind, variance, psnr_db in rows[:-1]
    )
    best = max(trials, key=lambda trial: trial.psnr_db)
    return Choice(best.noise, best.variance, best.psnr_db, rows[-1][2], trials)


def contrast_window(image: NDArray[Any], largest_side: int) -> tuple[slice, slice]:
    """Where in an image to tune the denoiser: the window of the highest variance.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns); better an average than a single frame, whose noise varies too.
    largest_side : int
        Longest side of the window, in pixels.

    Returns
    -------
    tuple of slice
        Rows and columns; a side of the image that is not longer is kept whole. Among windows of
        equal variance it is the first.
    """
    values = np.asarray(image, np.float64)
    values = np.clip(values, *np.quantile(values, _USUAL)) - values.mean()
    tall, wide = (min(side, largest_side) for side in values.shape)
    step = max(1, min(tall, wide) // _WINDOW_STEP)
    tops, lefts = (
        np.unique([*range(0, whole - part, step), whole - part])
        for whole, part in zip(values.shape, (tall, wide), strict=True)
    )

    def means(field: Floats64) -> Floats64:
        sums = np.pad(field.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        rows = sums[tops + tall] - sums[tops]
        return (rows[:, lefts + wide] - rows[:, lefts]) / (tall * wide)

    variances = means(values**2) - means(values) ** 2
    down, along = np.unravel_index(np.argmax(variances), variances.shape)
    top, left = int(tops[down]), int(lefts[along])
    return slice(top, top + tall), slice(left, left + wide)


def search_parameters(
    frames: NDArray[Any],
    kinds: Sequence[NoiseType] = KINDS,
    method: Literal["fast", "bm3d"] = "fast",
    index: int = 0,
    largest_side: int | None = None,
) -> Choice:
    """Choose noise type and variance for frames like these; see :func:`iter_search_parameters`.

    Parameters
    ----------
    frames : ndarray
        Shape (frames, rows, columns), at least 3 exposures of one unchanged view.
    index : int
        The frame that is denoised.
    kinds, method, largest_side
        See :func:`iter_search_parameters`.
    """
    return run_to_end(
        iter_search_parameters(Exposures.of(frames, index), kinds, method, largest_side)
    )


def iter_search_parameters(
    exposures: Exposures,
    kinds: Sequence[NoiseType] = KINDS,
    method: Literal["fast", "bm3d"] = "fast",
    largest_side: int | None = None,
    effort: Effort = "full",
) -> Steps:
    """Choose noise type and variance for frames like these, one denoising at a time.

    For every noise type the variance is tried at five values around the one measured, two octaves
    apart; noise types within 1 dB of the best are then refined by golden section to within a
    quarter of an octave. White noise is also tried with variance "auto". That makes some 40 frames
    denoised: at 256 x 256 seconds with method `fast`.

    Parameters
    ----------
    exposures : Exposures
        At least 3, of one unchanged view.
    kinds : sequence of str
        Noise types to try.
    method, effort : str
        Denoiser.
    largest_side : int, optional
        Longest side of the part that is denoised, which is where the view has most contrast
        (:func:`contrast_window`); the whole frame without it. The variances that are found hold
        for the whole frame: its maximum is what 255 means.

    Yields
    ------
    float
        After each denoising, the part of all of them that is done, never less than before; how
        many noise types will be refined is known only after the coarse search. 1 at the last.

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        If there are too few frames, or they are all alike, or cannot be denoised, or the part is
        too small: at the first step.
    """
    if not kinds:
        raise ValueError("no noise type to try; name one or more of " + ", ".join(KINDS))
    if largest_side is not None and largest_side < SMALLEST_SIDE:
        raise ValueError(
            f"a part of {largest_side} pixels to tune in; BM3D needs at least {SMALLEST_SIDE}"
        )
    trial_of = _Trials(exposures, method, effort, largest_side)
    measured = trial_of.measured
    most = len(kinds) * (len(_FACTORS) + _REFINEMENTS + 2) + ("white" in kinds)
    done = 0
    coarse: dict[NoiseType, dict[float, Trial]] = {}
    for noise in kinds:
        coarse[noise] = {}
        for factor in _FACTORS:
            coarse[noise][factor] = trial_of(noise, measured * factor)
            done += 1
            yield done / most
    tops = {
        noise: max(tried, key=lambda f, t=tried: t[f].psnr_db) for noise, tried in coarse.items()
    }
    best_db = max(tried[tops[noise]].psnr_db for noise, tried in coarse.items())
    hopeful = [n for n in kinds if coarse[n][tops[n]].psnr_db > best_db - _HOPELESS_DB]
    most, before = len(hopeful) * (_REFINEMENTS + 2) + ("white" in kinds), done / most
    done = 0
    trials: list[Trial] = []
    for noise, tried in coarse.items():
        found = list(tried.values())
        if noise in hopeful:
            middle = np.log(measured * tops[noise])
            search = _refined(trial_of, noise, middle - np.log(4), middle + np.log(4))
            for trial in search:
                found.append(trial)
                done += 1
                yield before + (1 - before) * done / most
        trials += sorted(found, key=lambda trial: cast("float", trial.variance))
        if noise == "white":
            trials.append(trial_of(noise, "auto"))
            done += 1
            yield before + (1 - before) * done / most
    winner = max(trials, key=lambda trial: trial.psnr_db)
    return Choice(
        winner.noise, winner.variance, winner.psnr_db, trial_of.noisy_psnr_db, tuple(trials)
    )


class _Trials:
    """One frame, or a part of it, and the average of the others: tries settings on them."""

    def __init__(
        self,
        exposures: Exposures,
        method: Literal["fast", "bm3d"],
        effort: Effort,
        largest_side: int | None,
    ) -> None:
        whole, reference = (
            np.asarray(image, np.float64) for image in (exposures.frame, exposures.reference)
        )
        # The part has a maximum of its own; settings are for the scale of the whole frame.
        self._scale = scale_of(whole)[1]
        part = contrast_window(reference, largest_side or max(whole.shape))
        self._frame, self._reference = whole[part], reference[part]
        self._shrunk = (scale_of(self._frame)[1] / self._scale) ** 2
        self._method: Literal["fast", "bm3d"] = method
        self._effort: Effort = effort
        # The reference brings a share of noise of its own.
        error = float(np.mean((self._frame - self._reference) ** 2)) * self._scale**2
        self.measured = error * (1 - 1 / exposures.count)
        if not self.measured > 0:
            raise ValueError(
                f"{exposures.count} reference frames without any difference, or not finite; are "
                "they exposures of their own, with the beam on?"
            )
        self.noisy_psnr_db = self._psnr_db(self._frame)

    def _psnr_db(self, image: NDArray[Any]) -> float:
        gap = (np.asarray(image, np.float64) - self._reference) * self._scale
        return float(10 * np.log10(FULL_SCALE**2 / max(np.mean(gap**2), 1e-12)))

    def __call__(self, noise: NoiseType, variance: float | Literal["auto"]) -> Trial:
        there = variance if variance == "auto" else variance * self._shrunk
        cleaned, _ = denoise_frame(self._frame, self._method, noise, there, self._effort)
        return Trial(noise, variance, self._psnr_db(cleaned))


def _refined(
    attempt: Callable[[NoiseType, float], Trial], noise: NoiseType, low: float, high: float
) -> Generator[Trial, None, None]:
    """Golden section between two logarithms of variance: all that it tries."""
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    ends: list[Trial] = []
    for x in inner:
        ends.append(attempt(noise, float(np.exp(x))))
        yield ends[-1]
    for _ in range(_REFINEMENTS):
        if ends[0].psnr_db >= ends[1].psnr_db:
            high = inner[1]
            inner = [high - _GOLDEN * (high - low), inner[0]]
            ends = [attempt(noise, float(np.exp(inner[0]))), ends[0]]
            yield ends[0]
        else:
            low = inner[0]
            inner = [inner[1], low + _GOLDEN * (high - low)]
            ends = [ends[1], attempt(noise, float(np.exp(inner[1])))]
            yield ends[1]
