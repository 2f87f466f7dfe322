"""The denoiser's settings from the reference frames of a run: gathered, chosen, recorded."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import numpy as np

from ...protocols.steps.tables import MAX_TRIALS
from ..core.arrays import Floats
from ..core.noise import FEWEST_REFERENCES, Effort, NoiseType
from ..core.outputs import Notice, Output, Parameters, Result, with_progress
from .parameter_search import Choice, Exposures, curve_table, iter_search_parameters

# Tuning is done where there is most to see, in a part of this side: it holds up the next frames.
_LARGEST_SIDE = 256
Settings = tuple[NoiseType, float | Literal["auto"]]


def denoising_settings(
    noise: NoiseType | Literal["auto"],
    variance: float | Literal["auto"],
    choice: Choice | None,
) -> Settings:
    """Noise type and variance to denoise with.

    With noise "auto" they are what the reference frames gave; before there are any, white noise of
    the variance that each frame shows.
    """
    if noise != "auto":
        return noise, variance
    if choice is None:
        return "white", "auto"
    return choice.noise, choice.variance


class ReferenceFrames:
    """Reference frames as they come: the first one, and the sum of the others.

    Parameters
    ----------
    method, effort : str
        Settings of the denoiser that are given; noise and variance are sought.
    """

    def __init__(self, method: Literal["bm3d", "fast"], effort: Effort) -> None:
        self._method: Literal["bm3d", "fast"] = method
        self._effort: Effort = effort
        self._first: Floats | None = None
        self._others: Floats | None = None
        self._count = 0

    def add_frame(self, frame: Floats) -> None:
        """Take in a frame, shape (rows, columns)."""
        self._count += 1
        if self._first is None:
            self._first = frame.copy()
        elif self._others is None:
            self._others = frame.copy()
        else:
            self._others += frame

    def finish(self, stack: str) -> Generator[Output, None, Choice | None]:
        """Choose by what has come; the frames are given back."""
        first, others, count = self._first, self._others, self._count
        self._first = self._others = None
        if first is None or others is None or count < FEWEST_REFERENCES:
            yield Notice(
                "warning",
                f"{stack}: {count} usable frames are too few to tune the denoiser "
                f"({FEWEST_REFERENCES} are needed); frames are denoised as white noise of "
                "their own variance",
            )
            return None
        exposures = Exposures(first, others / np.float32(count - 1), count)
        trying = iter_search_parameters(
            exposures, method=self._method, largest_side=_LARGEST_SIDE, effort=self._effort
        )
        try:
            choice = yield from with_progress("tuning the denoiser", trying)
        except ValueError as error:
            yield Notice("warning", f"{stack}: the denoiser cannot be tuned: {error}")
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
            f"{stack}: the denoiser is tuned to noise {choice.noise}, variance "
            f"{choice.variance if choice.variance == 'auto' else round(choice.variance, 2)} "
            f"({choice.psnr_db:.1f} dB against the mean of {count - 1} frames)",
        )
        yield Result("tuning", stack, curve_table(choice)[:MAX_TRIALS], parameters=parameters)
        return choice
