"""Reference frames of a run: collect them and choose the settings of the denoiser by them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import numpy as np

from ...protocols.steps.tables import MAX_TRIALS
from ..core.arrays import Floats
from ..core.noise import FEWEST_REFERENCES, Effort, NoiseType
from ..core.outputs import Notice, Output, Parameters, Result, with_progress
from .parameter_search import Exposures, NoiseChoice, curve_table, iter_search_parameters

# Longest side of the window that is searched: the search delays the next frames.
_LARGEST_SIDE = 256
Settings = tuple[NoiseType, float | Literal["auto"]]


def denoising_settings(
    noise: NoiseType | Literal["auto"],
    variance: float | Literal["auto"],
    choice: NoiseChoice | None,
) -> Settings:
    """Noise type and variance for the next frames.

    Parameters
    ----------
    noise : str
        Noise type of the recipe, or "auto".
    variance : float or "auto"
        Variance of the recipe, on the scale of 255.
    choice : NoiseChoice or None
        Result of the parameter search; None before the first reference frames.

    Returns
    -------
    noise : str
        Noise type of the recipe; if it is "auto", that of `choice`, or white.
    variance : float or "auto"
        Variance of the recipe or of `choice`; "auto" estimates it from each frame.

    Examples
    --------
    >>> denoising_settings("auto", "auto", None)
    ('white', 'auto')
    """
    if noise != "auto":
        return noise, variance
    if choice is None:
        return "white", "auto"
    return choice.noise, choice.variance


class ReferenceFrames:
    """Reference frames of a run, kept as the first frame and the sum of the others.

    Parameters
    ----------
    method : str
        Method of the denoiser, ``fast`` or ``bm3d``.
    effort : str
        Effort of the method ``fast``, ``full`` or ``quick``.

    Examples
    --------
    >>> references = ReferenceFrames("fast", "quick")
    >>> [output.level for output in references.finish("reference_001")]
    ['warning']
    """

    def __init__(self, method: Literal["bm3d", "fast"], effort: Effort) -> None:
        self._method: Literal["bm3d", "fast"] = method
        self._effort: Effort = effort
        self._first: Floats | None = None
        self._others: Floats | None = None
        self._count = 0

    def add_frame(self, frame: Floats) -> None:
        """Add a frame of shape (rows, columns)."""
        self._count += 1
        if self._first is None:
            self._first = frame.copy()
        elif self._others is None:
            self._others = frame.copy()
        else:
            self._others += frame

    def finish(self, stack: str) -> Generator[Output, None, NoiseChoice | None]:
        """Choose the settings by the frames added; the memory of the frames is freed.

        Parameters
        ----------
        stack : str
            Name of the image stack.

        Yields
        ------
        Notice, Progress or Result
            The result holds the table of trials.

        Returns
        -------
        Choice or None
            None if the search is not possible.
        """
        first, others, count = self._first, self._others, self._count
        self._first = self._others = None
        if first is None or others is None or count < FEWEST_REFERENCES:
            yield Notice(
                "warning",
                f"{stack}: {count} usable frames are too few to choose the settings of the "
                f"denoiser ({FEWEST_REFERENCES} are needed); white noise is assumed and its "
                "variance estimated from each frame",
            )
            return None
        exposures = Exposures(first, others / np.float32(count - 1), count)
        search = iter_search_parameters(
            exposures, method=self._method, largest_side=_LARGEST_SIDE, effort=self._effort
        )
        try:
            choice = yield from with_progress("searching the denoiser's parameters", search)
        except ValueError as error:
            yield Notice(
                "warning", f"{stack}: the settings of the denoiser cannot be chosen: {error}"
            )
            return None
        parameters: Parameters = {
            "noise_chosen": choice.noise,
            "variance_chosen": choice.variance,
            "psnr_db": choice.psnr_db,
            "noisy_psnr_db": choice.noisy_psnr_db,
            "frames": count,
        }
        yield Notice(
            "info",
            f"{stack}: the denoiser uses noise {choice.noise}, variance "
            f"{choice.variance if choice.variance == 'auto' else round(choice.variance, 2)} "
            f"({choice.psnr_db:.1f} dB against the mean of {count - 1} frames)",
        )
        yield Result("tuning", stack, curve_table(choice)[:MAX_TRIALS], parameters=parameters)
        return choice
