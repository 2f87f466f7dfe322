"""The illumination of the world: probe, blanker, beam shift and focus, and the dose delivered."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

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

    def deflect(self, t_ns: int, units: tuple[float, float]) -> None:
        """Set the beam deflectors, see `Deflectors.shift`."""
        with self._present.at(t_ns) as now_ns:
            self._column.optics.shift(now_ns, units)
            self._log_optics(now_ns)

    def deflection(self, t_ns: int) -> tuple[float, float]:
        """What the beam deflectors are set to."""
        with self._present.at(t_ns) as now_ns:
            return self._column.optics.read_back(now_ns)

    def set_optics(self, t_ns: int, **values: float | tuple[float, float]) -> None:
        """Set values of `Deflectors` by name: focus, image shift, rotation of the scan."""
        with self._present.at(t_ns) as now_ns:
            for name, value in values.items():
                setattr(self._column.optics, name, value)
            self._log_optics(now_ns)

    def set_objective(self, t_ns: int, lens: Literal["coarse", "fine"], steps: int) -> None:
        """Set the objective lens, in steps."""
        with self._present.at(t_ns) as now_ns:
            self._column.optics.objective[lens] = steps
            self._log_optics(now_ns)

    def inject_fault(self, now_ns: int, name: FaultName, size: float | None) -> None:
        """Switch a fault on, with its size, or off (None); the caller holds the lock."""
        on, optics = size is not None, self._column.optics
        if name == "unblank" and on:
            self.set_blanked(now_ns, False)
        elif name == "valves":
            self._column.valves_open = not on
        elif name == "vacuum":
            self._column.vacuum_ok = not on
        elif name == "shift-clips":
            optics.clip_units = size
        elif name == "shift-inverted":
            optics.inverted = on
        elif name == "shift-forgets":
            optics.forgets = on
        elif name == "focus-jumps":
            optics.focus_jump_nm = size or 0.0

    def _log_optics(self, t_ns: int) -> None:
        optics = self._column.optics
        self._present.truth_log.write(
            t_ns,
            "optics",
            units=list(optics.read_back(t_ns)),
            focus_nm=optics.focus_nm,
            rotation_deg=optics.rotation_deg,
        )

    def _log(self, t_ns: int) -> None:
        self._present.truth_log.write(
            t_ns,
            "beam",
            blanked=self._column.blanked,
            current_pa=self._column.current_pa,
            field_nm=self._column.field_nm,
        )
