"""Beam shift and defocus as they are applied: set where it is worth a command, and read back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...drivers.base import Beam, DeviceRefused
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.tracking import Row, ShiftSet

# A change smaller than this is not worth a command.
_NEAR_NM = 0.05
# A shift that reads back further from where it was set has moved by itself.
_KEPT_NM = 5.0


@dataclass(frozen=True)
class MovedByItself:
    """A beam shift that has not stayed; `times` running."""

    text: str
    times: int


class AppliedShift:
    """The shift and defocus of one beam; zero at first.

    Parameters
    ----------
    beam : Beam
        Connected and prepared.
    clock : ExperimentClock
        Time of what needs no command.

    Attributes
    ----------
    shift_nm : tuple of float
        (y, x) of the image.
    defocus_nm : float
        Height in focus, over the first.
    """

    def __init__(self, beam: Beam, clock: ExperimentClock) -> None:
        self._beam, self._clock = beam, clock
        self.shift_nm, self.defocus_nm = (0.0, 0.0), 0.0
        self._times = 0

    def message(self, t_ns: int) -> ShiftSet:
        """What the tracker is told of it."""
        return ShiftSet(t_ns=t_ns, shift_nm=self.shift_nm, defocus_nm=self.defocus_nm)

    @property
    def readings(self) -> dict[str, float]:
        """Channels of the telemetry."""
        y, x = self.shift_nm
        return {"shift_y_nm": y, "shift_x_nm": x, "defocus_nm": self.defocus_nm}

    def header(self, row: Row | None) -> dict[str, Any]:
        """What the header of a frame says of its shift, and of the row by which it was set."""
        known: dict[str, Any] = {}
        if row is not None:
            known = {
                "shift_predicted_nm": list(row.shift_nm),
                "shift_sd_nm": list(row.shift_sd_nm),
                "defocus_sd_nm": row.defocus_sd_nm,
                "drift_nm_per_s": row.drift_nm_per_s,
            }
        return {"shift_nm": list(self.shift_nm), "defocus_nm": self.defocus_nm, **known}

    async def set(
        self, shift_nm: tuple[float, float], defocus_nm: float, *, even_if_near: bool = False
    ) -> int:
        """Set both; returns when the column confirmed, in ns.

        Raises
        ------
        OutOfRange
            If one is beyond the rig's limit.
        DeviceRefused
            If the column reads back something else.
        """
        t_ns = self._clock.now_ns()
        away = math.hypot(*(a - b for a, b in zip(shift_nm, self.shift_nm, strict=True)))
        if even_if_near or away > _NEAR_NM:
            t_ns = await self._beam.deflect(shift_nm)
            self.shift_nm = shift_nm
        if abs(defocus_nm - self.defocus_nm) > _NEAR_NM:
            t_ns = await self._beam.focus(defocus_nm)
            self.defocus_nm = defocus_nm
        return t_ns

    async def read_back(self) -> int:
        """Take over what the deflectors say by a new calibration; returns when, in ns."""
        found = await self._beam.deflection()
        if found.shift_nm is not None:
            self.shift_nm = found.shift_nm
        return found.t_ns

    async def moved_by_itself(self) -> MovedByItself | None:
        """Read back whether the deflectors are still where they were set to.

        What was found counts as applied from now on, so that it is set again.

        Returns
        -------
        MovedByItself or None
            None where they are, or where the column does not tell.
        """
        try:
            found = (await self._beam.deflection()).shift_nm
        except DeviceRefused:
            return None
        if found is None:
            return None
        away = math.hypot(*(a - b for a, b in zip(found, self.shift_nm, strict=True)))
        if away <= _KEPT_NM:
            self._times = 0
            return None
        was, self.shift_nm = self.shift_nm, found
        self._times += 1
        text = (
            f"the beam shift was set to ({was[0]:.0f}, {was[1]:.0f}) nm (y, x) and is "
            f"({found[0]:.0f}, {found[1]:.0f}) nm now: the latest frame is up to {away:.0f} nm off"
        )
        return MovedByItself(text, self._times)
