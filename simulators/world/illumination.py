"""The illumination of the world: probe and blanker of the column, and the dose delivered."""

from __future__ import annotations

from dataclasses import replace

from ...protocols.config.faults import FaultName
from .column import Dose, ElectronColumn
from .present import Present


class Illumination:
    """Commands to the column; safe to call from several threads.

    Parameters
    ----------
    present : Present
        Whose column it sets.
    """

    def __init__(self, present: Present) -> None:
        self._present, self._column = present, present.column

    def state(self, t_ns: int) -> ElectronColumn:
        """The column at a moment, to be read only."""
        with self._present.at(t_ns):
            return self._column

    def set_blanked(self, t_ns: int, blanked: bool) -> None:
        """Blank or unblank the beam."""
        with self._present.at(t_ns) as now_ns:
            self._column.set_blanked(blanked)
            self._log(now_ns)

    def set_probe(
        self,
        t_ns: int,
        spot_size_index: int | None = None,
        intensity: float | None = None,
        magnification: float | None = None,
    ) -> None:
        """Change what is given; ValueError if the column cannot."""
        with self._present.at(t_ns) as now_ns:
            if spot_size_index is not None:
                self._column.set_spot_size(spot_size_index)
            if intensity is not None:
                self._column.set_intensity(intensity)
            if magnification is not None:
                self._column.set_magnification(magnification)
            self._log(now_ns)

    def dose(self, t_ns: int) -> Dose:
        """Electrons truly delivered so far."""
        with self._present.at(t_ns):
            return replace(self._column.dose)

    def inject_fault(self, now_ns: int, name: FaultName, on: bool) -> None:
        """Switch a fault of the column on or off; the caller holds the lock."""
        if name == "unblank" and on:
            self.set_blanked(now_ns, False)
        elif name == "valves":
            self._column.valves_open = not on
        elif name == "vacuum":
            self._column.vacuum_ok = not on

    def _log(self, t_ns: int) -> None:
        self._present.truth_log.write(
            t_ns,
            "beam",
            blanked=self._column.blanked,
            current_pa=self._column.current_pa,
            field_nm=self._column.field_nm,
        )
