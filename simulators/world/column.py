"""The column: high tension, probe current, blanker, scanned field; the electrons delivered.

What spot size, intensity and magnification mean is the convention of
``protocols/wires/temscript.py``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.simulated import SimulatedColumn
from ...protocols.core.units import ELEMENTARY_CHARGE_C, fluence_e_per_nm2
from ...protocols.wires.temscript import (
    SPOT_CURRENTS_PA,
    field_of_view_nm,
    magnification_for,
    probe_current_pa,
)
from .image.deflectors import Deflectors

START_FIELD_NM = 1064.96


@dataclass
class Dose:
    """What the specimen has truly received. `unblanked_s` lies inside or outside exposures."""

    total_e_per_nm2: float = 0.0
    exposed_e_per_nm2: float = 0.0
    unblanked_in_exposures_s: float = 0.0
    unblanked_outside_s: float = 0.0


class ElectronColumn:
    """The column, from one moment on, blanked, with a probe of 2 pA."""

    def __init__(self, config: SimulatedColumn, t_ns: int) -> None:
        self.config = config
        self.voltage_kv = config.voltage_kv
        self.t_ns = t_ns
        self.spot_size_index = 6
        self.intensity = 1.0
        self.magnification = magnification_for(START_FIELD_NM)
        self.blanked = True
        self.valves_open = True
        self.vacuum_ok = True
        self.optics = Deflectors(config, t_ns)
        self.rows_per_column = 1.0
        self._scan_end_ns = t_ns
        self.dose = Dose()
        self._switched: deque[tuple[int, bool]] = deque([(t_ns, True)], maxlen=10_000)

    @property
    def current_pa(self) -> float:
        """Probe current."""
        return probe_current_pa(self.spot_size_index, self.intensity)

    @property
    def field_nm(self) -> float:
        """Width of the scanned field."""
        return field_of_view_nm(self.magnification)

    @property
    def electrons_per_s(self) -> float:
        """Electrons that arrive while the beam is not blanked; none through closed valves."""
        return self.valves_open * self.current_pa * 1e-12 / ELEMENTARY_CHARGE_C

    def begin_scan(self, end_ns: int, rows_per_column: float) -> None:
        """Count what is delivered up to a moment as exposure of a frame of that form."""
        self.rows_per_column = rows_per_column
        self._scan_end_ns = end_ns

    def end_scan(self) -> None:
        """End the scan under way now."""
        self._scan_end_ns = min(self._scan_end_ns, self.t_ns)

    def advance_to(self, t_ns: int) -> None:
        """Account for the electrons delivered up to a moment."""
        for until_ns in (min(t_ns, self._scan_end_ns), t_ns):
            if until_ns <= self.t_ns:
                continue
            if not self.blanked and self.valves_open:
                seconds = (until_ns - self.t_ns) * 1e-9
                area_nm2 = self.field_nm**2 * self.rows_per_column
                fluence = fluence_e_per_nm2(self.current_pa, seconds, area_nm2)
                self.dose.total_e_per_nm2 += fluence
                if until_ns <= self._scan_end_ns:
                    self.dose.exposed_e_per_nm2 += fluence
                    self.dose.unblanked_in_exposures_s += seconds
                else:
                    self.dose.unblanked_outside_s += seconds
            self.t_ns = until_ns

    def set_blanked(self, blanked: bool) -> None:
        """Switch the blanker at the moment to which the column has been advanced."""
        if blanked != self.blanked:
            self._switched.append((self.t_ns, blanked))
        self.blanked = blanked

    def set_spot_size(self, index: int) -> None:
        """Choose the probe current's coarse step; ValueError for one that the column lacks."""
        if index not in SPOT_CURRENTS_PA:
            raise ValueError(f"spot size index {index} is not one of {list(SPOT_CURRENTS_PA)}")
        self.spot_size_index = index

    def set_intensity(self, intensity: float) -> None:
        """Choose the probe current's fine adjustment; ValueError outside 0 to 1."""
        if not 0.0 < intensity <= 1.0:
            raise ValueError(f"intensity {intensity:g} is not within 0 to 1")
        self.intensity = intensity

    def set_magnification(self, magnification: float) -> None:
        """Choose the scanned field; ValueError outside 1e2 to 1e9."""
        if not 1e2 <= magnification <= 1e9:
            raise ValueError(f"magnification {magnification:g} is not within 1e2 to 1e9")
        self.magnification = magnification

    def beam_on(self, start_ns: int, end_ns: int, rows: int) -> NDArray[np.float32]:
        """For each row of a scan from start to end, the fraction of its time with the beam on.

        Returns
        -------
        ndarray of float32, shape (rows,)
            A blanker that switches in mid-scan leaves the rows before or after it dark.
        """
        switched = list(self._switched)
        blanked = switched[0][1]
        edges: list[tuple[float, float]] = []
        span = max(1, end_ns - start_ns)
        for k, (t_ns, value) in enumerate(switched):
            blanked = value
            until = switched[k + 1][0] if k + 1 < len(switched) else end_ns
            low, high = max(t_ns, start_ns), min(until, end_ns)
            if not blanked and high > low:
                edges.append(((low - start_ns) / span * rows, (high - start_ns) / span * rows))
        on = np.zeros(rows, np.float64)
        index = np.arange(rows)
        for low, high in edges:
            on += np.clip(np.minimum(high, index + 1) - np.maximum(low, index), 0.0, 1.0)
        return np.minimum(on, 1.0).astype(np.float32)
