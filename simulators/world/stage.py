"""The stage of the world: commands to the goniometer, its read-back, and its faults."""

from __future__ import annotations

from typing import Literal

from ...protocols.config.faults import FaultName
from .present import Present


class Stage:
    """Moves of the goniometer; safe to call from several threads.

    Parameters
    ----------
    present : Present
        Whose goniometer it moves.
    """

    def __init__(self, present: Present) -> None:
        self._present, self._goniometer = present, present.stage

    def move(
        self,
        t_ns: int,
        targets: dict[str, float],
        speed: float = 1.0,
        method: Literal["GO", "MOVE"] = "GO",
    ) -> None:
        """Start towards targets; see `Goniometer.move`."""
        with self._present.at(t_ns) as now_ns:
            self._goniometer.move(now_ns, targets, speed, method)
            if targets:
                self._present.stage_started(now_ns)

    def readback(self, t_ns: int) -> dict[str, float]:
        """Axes as the stage reports them, in the units of their names."""
        with self._present.at(t_ns) as now_ns:
            return self._goniometer.readback(now_ns, self._present.noise)

    def is_moving(self, t_ns: int) -> bool:
        """Whether the stage is under way."""
        with self._present.at(t_ns) as now_ns:
            return self._goniometer.moving(now_ns)

    def limits(self) -> dict[str, tuple[float, float]]:
        """Limits of all axes, in the units of their names."""
        with self._present.lock:
            return self._goniometer.limits_of_all()

    def true_tilt_deg(self, t_ns: int) -> float:
        """Tilt of the specimen itself."""
        with self._present.at(t_ns):
            return self._goniometer.true_tilt_deg(t_ns)

    def inject_fault(self, now_ns: int, name: FaultName, size: float | None) -> None:
        """Switch a fault on, with its size, or off (None); the caller holds the lock."""
        goniometer, on = self._goniometer, size is not None
        if name == "drift":
            goniometer.creep(now_ns, on)
        elif name == "slip":
            goniometer.errors.slip_next(size)
        elif name == "drift-fast":
            goniometer.errors.drift(now_ns, size)
        elif name == "z-sticks":
            goniometer.stick_z(now_ns, on)
        elif name == "xy-ignored":
            goniometer.xy_ignored = on
