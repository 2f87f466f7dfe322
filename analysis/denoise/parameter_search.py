"""Parameter search: noise type and variance of the denoiser from exposures of one view.

One exposure is denoised and compared with the mean of all others; the noise type and the variance
with the highest PSNR are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..core.noise import FEWEST_REFERENCES, Effort, NoiseType
from ..core.progress import run_to_end, scaled_progress
from .frame import FULL_SCALE, SMALLEST_SIDE, WHITE, denoise_frame, scale_of

# White noise by one of its three names, and the coloured kinds.
KINDS: tuple[NoiseType, ...] = ("white", "g1", "g2", "g3", "g4")
# Factors on the measured variance that are tried before the best of them is refined.
_FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
_GOLDEN = (5**0.5 - 1) / 2
_REFINEMENTS = 4
# Noise types that are worse than the best by this are not refined.
_REFINED_WITHIN_DB = 1.0
# Windows of largest contrast are searched at steps of this part of their side.
_WINDOW_STEP = 8
# Values are clipped to these quantiles: one hot pixel is not contrast.
_CLIP_QUANTILES = (0.001, 0.999)

Floats64 = NDArray[np.float64]
# Yields the finished fraction.
Steps = Generator[float, None, "NoiseChoice"]


@dataclass(frozen=True)
class Exposures:
    """Exposures of one unchanged view.

    Attributes
    ----------
    frame : ndarray
        One exposure, shape (rows, columns).
    reference : ndarray
        The mean of the other exposures, shape (rows, columns).
    count : int
        Total number of exposures.
    """

    frame: NDArray[Any]
    reference: NDArray[Any]
    count: int

    @classmethod
    def of(cls, frames: NDArray[Any], index: int = 0) -> Exposures:
        """Separate one frame of an image stack from the others.

        Parameters
        ----------
        frames : ndarray
            Shape (frames, rows, columns).
        index : int
            Index of the frame that is denoised.

        Returns
        -------
        Exposures
            The frame and the mean of the others.

        Raises
        ------
        ValueError
            If there are too few frames.
        """
        if frames.ndim != 3 or len(frames) < FEWEST_REFERENCES:
            raise ValueError(
                f"the reference frames have the shape {frames.shape}; the parameter search needs "
                f"at least {FEWEST_REFERENCES} frames of rows and columns"
            )
        frame = np.asarray(frames[index], np.float64)
        total = np.sum(frames, axis=0, dtype=np.float64)
        return cls(frame, (total - frame) / (len(frames) - 1), len(frames))


@dataclass(frozen=True)
class Trial:
    """One trial of the parameter search.

    Attributes
    ----------
    noise : str
        Noise type.
    variance : float or "auto"
        On the scale of 255.
    psnr_db : float
        PSNR against the reference.
    """

    noise: NoiseType
    variance: float | Literal["auto"]
    psnr_db: float


@dataclass(frozen=True)
class NoiseChoice:
    """Result of the parameter search: the best settings and all trials.

    Attributes
    ----------
    noise : str
        Noise type for a recipe.
    variance : float or "auto"
        Variance for a recipe, on the scale of 255.
    psnr_db, noisy_psnr_db : float
        PSNR of the denoised and of the noisy frame against the reference; the peak is 255 on the
        scale where the maximum of the frame is 255.
    trials : tuple of Trial
        All trials, by noise type in the order given, then by variance.
    """

    noise: NoiseType
    variance: float | Literal["auto"]
    psnr_db: float
    noisy_psnr_db: float
    trials: tuple[Trial, ...]


def curve_table(choice: NoiseChoice) -> Floats64:
    """Write the trials of a parameter search as a table of numbers.

    Parameters
    ----------
    choice : NoiseChoice
        Result of :func:`search_parameters`.

    Returns
    -------
    ndarray
        Float64, shape (trials + 1, 3): noise type as its index in `KINDS`, variance on the scale
        of 255 (NaN for "auto"), and PSNR in dB, in the order of the trials. The last row has the
        noise type -1 and the PSNR of the noisy frame.

    Examples
    --------
    >>> choice = NoiseChoice("white", 4.0, 30.0, 20.0, (Trial("white", 4.0, 30.0),))
    >>> curve_table(choice).tolist()
    [[0.0, 4.0, 30.0], [-1.0, nan, 20.0]]
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


def choice_of(table: NDArray[np.float64]) -> NoiseChoice:
    """Read the table that :func:`curve_table` writes.

    Parameters
    ----------
    table : ndarray
        Float64, shape (rows, 3); rows of NaN at the end are ignored.

    Returns
    -------
    Choice
        The best settings and all trials.

    Raises
    ------
    ValueError
        If it is not such a table.

    Examples
    --------
    >>> import numpy as np
    >>> choice_of(np.array([[0.0, 4.0, 30.0], [-1.0, np.nan, 20.0]])).variance
    4.0
    """
    rows = [row for row in table.tolist() if np.isfinite(row[0])]
    if table.shape[1:] != (3,) or not rows or rows[-1][0] != -1:
        raise ValueError(
            f"the table of shape {table.shape} does not hold the trials of a parameter search"
        )
    trials = tuple(
        Trial(KINDS[int(kind)], "auto" if np.isnan(variance) else variance, psnr_db)
        for kind, variance, psnr_db in rows[:-1]
    )
    best = max(trials, key=lambda trial: trial.psnr_db)
    return NoiseChoice(best.noise, best.variance, best.psnr_db, rows[-1][2], trials)


def contrast_window(image: NDArray[Any], largest_side: int) -> tuple[slice, slice]:
    """Find the window of an image with the highest variance.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns); a mean of frames is better than a single frame, whose noise
        contributes.
    largest_side : int
        Longest side of the window, in pixels.

    Returns
    -------
    tuple of slice
        Rows and columns. A side of the image that is not longer is kept whole. Among windows of
        equal variance the first is returned.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((32, 32))
    >>> image[20:24, 4:8] = 1
    >>> rows, columns = contrast_window(image, 8)
    >>> rows.start <= 20 and columns.start <= 4
    True
    """
    values = np.asarray(image, np.float64)
    values = np.clip(values, *np.quantile(values, _CLIP_QUANTILES)) - values.mean()
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
) -> NoiseChoice:
    """Choose noise type and variance of the denoiser from exposures of one view.

    Parameters
    ----------
    frames : ndarray
        Shape (frames, rows, columns), at least 3 exposures of one unchanged view.
    kinds, method
        See :func:`iter_search_parameters`.
    index : int
        Index of the frame that is denoised.
    largest_side
        See :func:`iter_search_parameters`.

    Returns
    -------
    Choice
        The best settings and all trials.

    Raises
    ------
    ValueError
        See :func:`iter_search_parameters`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> frames = rng.normal(100.0 * np.eye(16), 10.0, (4, 16, 16))
    >>> choice = search_parameters(frames, ["white"])
    >>> choice.noise, choice.psnr_db > choice.noisy_psnr_db
    ('white', True)
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
    """Do what :func:`search_parameters` does, one denoising at a time.

    For every noise type five variances are tried around the measured one, two octaves apart. Noise
    types within 1 dB of the best are refined by golden section to a quarter of an octave. White
    noise is also tried with variance "auto". In total about 40 frames are denoised, which takes
    seconds at 256 x 256 with the method `fast`.

    Parameters
    ----------
    exposures : Exposures
        At least 3 exposures of one unchanged view.
    kinds : sequence of str
        Noise types to try.
    method : str
        Denoiser, ``fast`` or ``bm3d``.
    largest_side : int, optional
        Longest side in pixels of the window that is denoised, the one with most contrast
        (:func:`contrast_window`); by default the whole frame. The variances hold for the whole
        frame, whose maximum is 255 on their scale.
    effort : str
        Effort of the method ``fast``, ``full`` or ``quick``.

    Yields
    ------
    float
        Finished fraction after each denoising; it never falls and ends at 1.

    Returns
    -------
    Choice
        The best settings and all trials.

    Raises
    ------
    ValueError
        By the first step, if there are too few frames, or they are all equal or cannot be
        denoised, or the window is too small.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> frames = rng.normal(100.0 * np.eye(16), 10.0, (4, 16, 16))
    >>> steps = iter_search_parameters(Exposures.of(frames), ["white"])
    >>> round(next(steps), 3)
    0.083
    """
    if not kinds:
        raise ValueError("no noise type to try; name at least one of " + ", ".join(KINDS))
    if largest_side is not None and largest_side < SMALLEST_SIDE:
        raise ValueError(
            f"a window of {largest_side} pixels is too small; BM3D needs at least {SMALLEST_SIDE}"
        )
    trials = _Trials(exposures, method, effort, largest_side)
    most = len(kinds) * (len(_FACTORS) + _REFINEMENTS + 2) + ("white" in kinds)
    coarse: dict[NoiseType, dict[float, Trial]] = {noise: {} for noise in kinds}
    done = 0
    for noise in kinds:
        for factor in _FACTORS:
            coarse[noise][factor] = trials(noise, trials.measured * factor)
            done += 1
            yield done / most
    found = yield from scaled_progress(done / most, 1.0, _iter_refine(trials, coarse))
    best = max(found, key=lambda trial: trial.psnr_db)
    return NoiseChoice(best.noise, best.variance, best.psnr_db, trials.noisy_psnr_db, tuple(found))


def _iter_refine(
    trials: _Trials, coarse: dict[NoiseType, dict[float, Trial]]
) -> Generator[float, None, list[Trial]]:
    """Refine the noise types near the best; returns all trials in their order."""
    tops = {
        noise: max(tried, key=lambda f, t=tried: t[f].psnr_db) for noise, tried in coarse.items()
    }
    best_db = max(tried[tops[noise]].psnr_db for noise, tried in coarse.items())
    refined = [n for n in coarse if coarse[n][tops[n]].psnr_db > best_db - _REFINED_WITHIN_DB]
    most, done = len(refined) * (_REFINEMENTS + 2) + ("white" in coarse), 0
    found: list[Trial] = []
    for noise, tried in coarse.items():
        of_noise = list(tried.values())
        if noise in refined:
            centre = np.log(trials.measured * tops[noise])
            for trial in _golden_section(trials, noise, centre - np.log(4), centre + np.log(4)):
                of_noise.append(trial)
                done += 1
                yield done / most
        found += sorted(of_noise, key=lambda trial: cast("float", trial.variance))
        if noise == "white":
            found.append(trials(noise, "auto"))
            done += 1
            yield done / most
    return found


class _Trials:
    """Tries settings on one frame, or a window of it, against the mean of the others."""

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
        # The window has another maximum; settings are on the scale of the whole frame.
        self._scale = scale_of(whole)[1]
        part = contrast_window(reference, largest_side or max(whole.shape))
        self._frame, self._reference = whole[part], reference[part]
        self._shrunk = (scale_of(self._frame)[1] / self._scale) ** 2
        self._method: Literal["fast", "bm3d"] = method
        self._effort: Effort = effort
        # The noise of the reference contributes.
        error = float(np.mean((self._frame - self._reference) ** 2)) * self._scale**2
        self.measured = error * (1 - 1 / exposures.count)
        if not self.measured > 0:
            raise ValueError(
                f"{exposures.count} reference frames are all equal, or not finite. Check that they "
                "are separate exposures with the beam on"
            )
        self.noisy_psnr_db = self._psnr_db(self._frame)

    def _psnr_db(self, image: NDArray[Any]) -> float:
        gap = (np.asarray(image, np.float64) - self._reference) * self._scale
        return float(10 * np.log10(FULL_SCALE**2 / max(np.mean(gap**2), 1e-12)))

    def __call__(self, noise: NoiseType, variance: float | Literal["auto"]) -> Trial:
        there = variance if variance == "auto" else variance * self._shrunk
        cleaned, _ = denoise_frame(self._frame, self._method, noise, there, self._effort)
        return Trial(noise, variance, self._psnr_db(cleaned))


def _golden_section(
    attempt: Callable[[NoiseType, float], Trial], noise: NoiseType, low: float, high: float
) -> Generator[Trial, None, None]:
    """Golden-section search between two logarithms of variance; yields every trial."""
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
