"""Whether the focus is measured before the next frame, and what is told of blurred frames."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from ...protocols.config.rig import FocusRig
from ...protocols.config.tracking import Focus
from ...protocols.messages.tracking import BlurSeen, FocusMeasured, OffsetMeasured, Row
from ...protocols.messages.tracking_rules import TrackingLimits, needs_focus_series
from ..schedule.focus_scans import focus_within_nm, no_focus_series

WORDS = {
    "no-contrast": "its pictures do not differ: too few counts, or nothing sharp in their field",
    "outside": "the focus lies beyond the heights that were tried",
    "different": "its pictures differ by more than focus",
}


class FocusNeeds:
    """What recipe, rig and the latest frames say of the focus of one run.

    Parameters
    ----------
    focus : Focus
        Of the recipe.
    rig : FocusRig or None
        How the focus is changed.
    event : callable
        Takes level, source and message.

    Attributes
    ----------
    out_of_focus_nm : float
        By how much the latest frames were, where that is not answered yet.
    """

    def __init__(
        self, focus: Focus, rig: FocusRig | None, event: Callable[[str, str, str], None]
    ) -> None:
        self._focus, self._rig, self._event = focus, rig, event
        self._blurred, self._begun = False, False
        self.out_of_focus_nm = 0.0
        # What a focus series of this tilt series has told; infinite where it told nothing.
        self._told_sd_nm = 0.0
        self._answer: asyncio.Future[FocusMeasured] | None = None

    @property
    def convergence_mrad(self) -> float | None:
        """Half angle of the probe, where the rig tells it."""
        return None if self._rig is None else self._rig.convergence_mrad

    @property
    def dose_e_per_nm2(self) -> float:
        """Most fluence of the focus series of a tilt series."""
        return self._focus.dose_e_per_nm2

    @property
    def impossible(self) -> str:
        """Why a focus series cannot be taken; empty if it can."""
        if self._focus.by == "none":
            return "the recipe leaves the focus as it is (focus: none)"
        if not self._focus.dose_e_per_nm2:
            return "the recipe allows no dose for it (focus.dose)"
        return no_focus_series(self._rig)

    def due(self, row: Row | None, placed: bool, voltage_kv: float) -> str:
        """Why a focus series comes before the next frame; empty if none does.

        Parameters
        ----------
        row : Row or None
            Of its angle in the newest table.
        placed : bool
            Whether a picture has defined where the specimen belongs, and that it is in focus.
        voltage_kv : float
            High tension.
        """
        if self._focus.by == "series" and not self._begun:
            return "the recipe asks for one before the first frame"
        if self.out_of_focus_nm:
            return f"the latest frames are {self.out_of_focus_nm * 1e-3:.1f} um out of focus"
        if row is None or not placed:
            return ""
        if row.defocus_sd_nm <= self._told_sd_nm:
            return ""  # another one would tell less than is known
        within_nm = focus_within_nm(self._focus, voltage_kv, self.convergence_mrad)
        return needs_focus_series([row], TrackingLimits(focus_within_nm=within_nm))

    def series_begins(self) -> None:
        """A tilt series begins: what did not work in the one before may be tried again."""
        self._told_sd_nm = 0.0

    def answered(self, found: FocusMeasured | None = None) -> None:
        """A focus series was taken, or cannot be: the blur that was seen calls for no other.

        Parameters
        ----------
        found : FocusMeasured, optional
            What it has told; None: nothing.
        """
        self._begun, self.out_of_focus_nm = True, 0.0
        self._told_sd_nm = math.inf if found is None or found.doubt else found.sd_nm

    # --- what the tracker answers -----------------------------------------------------------------

    def note_frame(self, found: OffsetMeasured) -> None:
        """Take in how much a frame was blurred, and tell what follows from it."""
        blur = found.blur
        if blur is None:
            return
        where = f"{found.series} frame {found.index} at {found.tilt_deg:g} deg"
        if blur.begins:
            self.out_of_focus_nm = blur.out_of_focus_nm or 0.0
            self._event("warning", "tracker", f"{where}: {self._words(blur)}")
        elif blur.stays:
            self.out_of_focus_nm = 0.0
            text = (
                "the frames are still blurred after the focus was measured: it is not the focus. "
                "Look at astigmatism, vibration and contamination; blur is told from here on "
                "against these frames"
            )
            self._event("warning", "tracker", f"{where}: {text}")
        elif self._blurred and not blur.blurred:
            self.out_of_focus_nm = 0.0
            self._event("info", "tracker", f"{where}: the frames are sharp again")
        self._blurred = blur.blurred

    def _words(self, blur: BlurSeen) -> str:
        out_nm = blur.out_of_focus_nm
        away = "" if out_nm is None else f", as {out_nm * 1e-3:.1f} um out of focus"
        why = self.impossible
        then = (
            "a focus series follows before the next frame, where the dose allows it"
            if not why
            else f"focus at the microscope, for no focus series is taken: {why}"
        )
        return (
            f"blurred by {blur.blur_nm:.1f} \u00b1 {blur.sd_nm:.1f} nm beside the sharp frames "
            f"near it{away}: the focus has jumped, or the specimen stands elsewhere than the model "
            f"says; {then}"
        )

    def expect(self, answer: asyncio.Future[FocusMeasured] | None) -> None:
        """What is to get the result of the focus series under way; None: nobody waits."""
        self._answer = answer

    def note_focus(self, found: FocusMeasured) -> None:
        """Take in the result of a focus series; one that nobody waits for any more is dropped."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(found)
