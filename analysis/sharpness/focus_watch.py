"""The focus of a run: what its frames show of it, and what its focus series find."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.tracking import BlurSeen, FocusPicture, FrameTaken
from .focus_fit import FocusFit, FocusView, best_focus
from .spectrum import Spectrum, fine_counts, spectrum_of
from .watch import SharpnessWatch, WatchState


class FocusWatch:
    """Watches the sharpness of frames, and evaluates focus series.

    Parameters
    ----------
    convergence_mrad, depth_nm : float, optional
        Half angle of the probe, and the defocus that is not seen; without them blur is told, and
        not what defocus makes it.
    state : WatchState, optional
        To go on from.
    """

    def __init__(
        self,
        convergence_mrad: float | None = None,
        depth_nm: float | None = None,
        state: WatchState | None = None,
    ) -> None:
        self._slope = None if convergence_mrad is None else convergence_mrad * 1e-3
        unseen_nm = None
        if self._slope is not None and depth_nm is not None:
            unseen_nm = self._slope * depth_nm
        self._watch = SharpnessWatch(unseen_nm, state)
        self._pictures: list[tuple[Spectrum | None, float]] = []

    def state(self) -> WatchState:
        """What a later watch goes on from."""
        return self._watch.state()

    def look(self, header: FrameTaken, counts: NDArray[Any], pitch_nm: float) -> BlurSeen | None:
        """How much a frame is blurred; None where that is not known.

        Parameters
        ----------
        header : FrameTaken
            Of the frame.
        counts : ndarray
            Its counts, shape (rows, columns), not larger than `fine_counts` makes them.
        pitch_nm : float
            Distance of its pixels.
        """
        spectrum, found = spectrum_of(counts, pitch_nm), None
        if spectrum is not None:
            found = self._watch.look(spectrum, header.series, header.tilt_deg)
        if found is None:
            return None
        return BlurSeen(
            blur_nm=2.0 * found.radius_nm,
            sd_nm=2.0 * found.radius_sd_nm,
            out_of_focus_nm=None if self._slope is None else found.radius_nm / self._slope,
            begins=found.begins,
            blurred=found.blurred,
            stays=found.stays,
        )

    def picture(
        self, header: FocusPicture, pixels: NDArray[np.unsignedinteger[Any]]
    ) -> FocusFit | None:
        """Take in a picture of a focus series; after the last one, where the focus is.

        Raises
        ------
        ValueError
            If a picture of the series is missing, or the convergence is not known.
        """
        counts, binning = fine_counts(pixels)
        spectrum = spectrum_of(counts, header.field_nm / pixels.shape[1] * binning)
        if header.number == 0:
            self._pictures = []
        self._pictures.append((spectrum, header.defocus_nm))
        if header.number < header.of - 1:
            return None
        if len(self._pictures) != header.of or self._slope is None:
            raise ValueError("a picture of the focus series, or the convergence, is missing")
        views = [FocusView(one, at_nm) for one, at_nm in self._pictures if one is not None]
        if len(views) < header.of:
            return FocusFit(header.defocus_nm, math.inf, 0.0, 0.0, "no-contrast")
        found = best_focus(views, self._slope * 1e3)
        if not found.doubt:
            self._watch.focused()
        return found
