"""One physical world behind all wires: chip, goniometer, column and specimen at one moment.

Time enters as nanoseconds of the experiment clock with every call; the world integrates up to
there and never looks at a clock itself, so that tests step it by hand. A call with a moment
already past acts now. All methods may be called from several threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.faults import FaultName
from ...protocols.config.rig import CuSintering, SimulatorRig
from ...protocols.core.units import fluence_e_per_nm2
from .chip import (
    ALL_IT_CAN_C_PER_S,
    AMBIENT_C,
    RUNAWAY_C_PER_S,
    Chip,
    HeaterReading,
    resistance_ohm,
)
from .column import Column, Dose
from .copper import Sintering, Truth
from .goniometer import Goniometer
from .haadf import draw_counts, thickness_nm
from .replay import Recording
from .truth_log import Journal

_DENSE_NS = 250_000_000
# How fast the power of a controller out of order rises, by fault, as the temperature it would hold.
ASTRAY: dict[FaultName, float] = {
    "runaway": RUNAWAY_C_PER_S,
    "stuck": 0.0,
    "sensor-off": ALL_IT_CAN_C_PER_S,
}
SENSOR_FALLS_S = 1.0
_FRAME_STREAM, _STAGE_STREAM, _NOISE_STREAM = 1, 2, 3


@dataclass(frozen=True)
class Scene:
    """What the beam sees at one moment."""

    t_ns: int
    tilt_deg: float
    shift_nm: tuple[float, float]
    temperature_c: float
    equivalent_s: float
    field_nm: float
    electrons_per_s: float


@dataclass(frozen=True)
class Exposure:
    """A scan from start to end; `index` counts the exposures of this world from 0."""

    index: int
    start_ns: int
    end_ns: int
    shape: tuple[int, int]

    @property
    def middle_ns(self) -> int:
        """Mid-exposure."""
        return (self.start_ns + self.end_ns) // 2


class World:
    """The simulated microscope.

    Parameters
    ----------
    config : SimulatorRig
        What the rig says about the simulation.
    t_ns : int
        Moment of the beginning: chip at 25 degC, stage at zero, beam blanked at 2 pA.
    journal : Journal, optional
        Where to record what truly happens.

    Raises
    ------
    BadInput
        If a recording to replay cannot be read.
    """

    def __init__(self, config: SimulatorRig, t_ns: int, journal: Journal | None = None) -> None:
        self.config = config
        self.journal = journal or Journal()
        self._lock = threading.RLock()
        self._noise = np.random.default_rng([config.seed, _NOISE_STREAM])
        stage_rng = np.random.default_rng([config.seed, _STAGE_STREAM])
        self._chip = Chip(config.chip, t_ns)
        self._stage = Goniometer(config.goniometer, t_ns, stage_rng)
        self._column = Column(config.column, t_ns)
        specimen = config.specimen
        self.sintering: Sintering | None = None
        self.recording: Recording | None = None
        if isinstance(specimen, CuSintering):
            self.sintering = Sintering(specimen.particles, config.seed)
        else:
            self.recording = Recording(
                Path(specimen.stack), Path(specimen.tilts), specimen.value_offset
            )
        self.t_ns = t_ns
        self._exposures = 0
        self._dense_until_ns = self._dense_from_ns = t_ns
        self._arrival_ns: int | None = None
        self._wrong: frozenset[FaultName] = frozenset()
        self._sensor_off_ns: int | None = None
        self._sensor_off_c = AMBIENT_C
        self._frozen: HeaterReading | None = None
        self._undriven = True

    def advance_to(self, t_ns: int) -> int:
        """Let time pass up to a moment; returns the present, which may be later."""
        with self._lock:
            if t_ns > self.t_ns:
                self._chip.advance_to(t_ns)
                self._column.advance_to(t_ns)
                self.t_ns = t_ns
                if self._arrival_ns is not None and self._arrival_ns <= t_ns:
                    self._journal_stage(self._arrival_ns, "arrived")
                    self._arrival_ns = None
            return self.t_ns

    def heat_to(self, t_ns: int, temperature_c: float, ramp_s: float = 0.0) -> None:
        """Heater command: step or ramp; ValueError if the chip cannot go there."""
        with self._lock:
            now_ns = self.advance_to(t_ns)
            self._chip.go_to(temperature_c, ramp_s)
            self._journal_heater(now_ns, "ramp", ramp_s)

    def hold_heat(self, t_ns: int) -> None:
        """Heater command: stop a ramp where it is."""
        with self._lock:
            now_ns = self.advance_to(t_ns)
            self._chip.hold_here()
            self._journal_heater(now_ns, "hold", 0.0)

    def drive_heater(self, t_ns: int, current_a: float, limit_v: float) -> None:
        """Source-measure unit: drive a current, less where its voltage would pass a limit.

        A current of 0 leaves the chip unheated; `heat_to` gives it back to the controller.
        """
        with self._lock:
            now_ns = self.advance_to(t_ns)
            if (current_a == 0.0) != self._undriven:
                self._undriven = current_a == 0.0
                self.journal.write(now_ns, "drive", on=not self._undriven)
            self._chip.drive(current_a, limit_v)

    def heater_resistance(self, t_ns: int) -> float:
        """Source-measure unit: true resistance of the heater, now or a short while ago."""
        with self._lock:
            now_ns = self.advance_to(t_ns)
            resistance = self._chip.resistance_at(t_ns)
            if self.journal.active:
                self._journal_temperature(now_ns)
            return resistance

    def disturb(self, t_ns: int, of: frozenset[FaultName], on: frozenset[FaultName]) -> None:
        """Let go wrong what is told, and be in order what else one wire is in charge of.

        Parameters
        ----------
        t_ns : int
            Now.
        of, on : frozenset of str
            Faults that are decided upon, and those of them that are to be; see `FAULTS`.
        """
        with self._lock:
            now_ns = self.advance_to(t_ns)
            for name in sorted(of):
                if (name in on) != (name in self._wrong):
                    self._wrong ^= frozenset[FaultName]({name})
                    self._goes_wrong(now_ns, name, name in on)
                    self.journal.write(now_ns, "fault", name=name, on=name in on)

    def _goes_wrong(self, t_ns: int, name: FaultName, on: bool) -> None:
        if name in ASTRAY:
            if on:
                self._chip.go_astray(ASTRAY[name])
            elif not self._wrong & ASTRAY.keys():
                self._chip.come_back()
            self._sensor_off_ns = t_ns if "sensor-off" in self._wrong else None
            self._sensor_off_c = self._chip.temperature_c
        elif name == "drift":
            self._stage.creep(t_ns, on)
        elif name == "unblank" and on:
            self.set_blanked(t_ns, False)
        elif name == "valves":
            self._column.valves_open = not on
        elif name == "vacuum":
            self._column.vacuum_ok = not on
        elif name == "freeze":
            self._frozen = self._chip.reading(self._noise) if on else None

    def _as_read(self, reading: HeaterReading) -> HeaterReading:
        """What is read where the electronics are out of order."""
        if self._frozen is not None:
            return replace(self._frozen, t_ns=reading.t_ns)
        if self._sensor_off_ns is not None:
            fallen = math.exp(-(reading.t_ns - self._sensor_off_ns) * 1e-9 / SENSOR_FALLS_S)
            read_c = AMBIENT_C + (self._sensor_off_c - AMBIENT_C) * fallen
            read_c += reading.temperature_c - self._chip.temperature_c  # the noise
            reading = replace(reading, temperature_c=read_c, resistance_ohm=resistance_ohm(read_c))
        if "implausible" in self._wrong:
            reading = replace(reading, resistance_ohm=1.5 * reading.resistance_ohm)
        return reading

    def age_heater(self, t_ns: int, factor: float) -> None:
        """Let the heater's resistance drift to so many times what its calibration says."""
        with self._lock:
            self.advance_to(t_ns)
            self._chip.age(factor)

    def break_heater(self, t_ns: int) -> None:
        """Let the heater's wire break, for good."""
        with self._lock:
            self.advance_to(t_ns)
            self._chip.break_heater()

    def heater_course(self, since_ns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """True temperature since a moment of the last half minute: times in ns, values in degC."""
        with self._lock:
            times, values = self._chip.trace(since_ns)
            return times.copy(), values[:, 0].copy()

    def heater_reading(self, t_ns: int) -> HeaterReading:
        """What the heater's electronics measure."""
        with self._lock:
            now_ns = self.advance_to(t_ns)
            reading = self._chip.reading(self._noise)
            if self._wrong:
                reading = self._as_read(reading)
            if self.journal.active:
                self._journal_temperature(now_ns)
            return reading

    def heater_busy(self, t_ns: int) -> bool:
        """Whether the chip is still on its way to the target."""
        with self._lock:
            return self.advance_to(t_ns) < self._chip.busy_until_ns

    def temperature_at(self, t_ns: int) -> float:
        """True temperature, now or at a moment of the last half minute."""
        with self._lock:
            self.advance_to(t_ns)
            return self._chip.at(t_ns)[0]

    def equivalent_s(self, t_ns: int) -> float:
        """Equivalent time at 350 degC up to a moment, as the specimen's growth counts it."""
        with self._lock:
            self.advance_to(t_ns)
            return self._chip.at(t_ns)[1]

    def truth_at(self, t_ns: int) -> Truth:
        """Geometry of the sintering specimen; ValueError if the specimen is a recording."""
        if self.sintering is None:
            raise ValueError("a recording has no known geometry")
        return self.sintering.truth(self.equivalent_s(t_ns))

    def move_stage(
        self,
        t_ns: int,
        targets: dict[str, float],
        speed: float = 1.0,
        method: Literal["GO", "MOVE"] = "GO",
    ) -> None:
        """Start towards targets; see `Goniometer.move`."""
        with self._lock:
            now_ns = self.advance_to(t_ns)
            self._stage.move(now_ns, targets, speed, method)
            if targets:
                self._journal_stage(now_ns, "start")
                self._arrival_ns = self._stage.arrival_ns()

    def stage_readback(self, t_ns: int) -> dict[str, float]:
        """Axes as the stage reports them, in the units of their names."""
        with self._lock:
            return self._stage.readback(self.advance_to(t_ns), self._noise)

    def stage_moving(self, t_ns: int) -> bool:
        """Whether the stage is under way."""
        with self._lock:
            return self._stage.moving(self.advance_to(t_ns))

    def stage_limits(self) -> dict[str, tuple[float, float]]:
        """Limits of all axes, in the units of their names."""
        with self._lock:
            return self._stage.limits_of_all()

    def true_tilt_deg(self, t_ns: int) -> float:
        """Tilt of the specimen itself."""
        with self._lock:
            self.advance_to(t_ns)
            return self._stage.true_tilt_deg(t_ns)

    def set_blanked(self, t_ns: int, blanked: bool) -> None:
        """Blank or unblank the beam."""
        with self._lock:
            now_ns = self.advance_to(t_ns)
            self._column.set_blanked(blanked)
            self._journal_beam(now_ns)

    def set_probe(
        self,
        t_ns: int,
        spot_size_index: int | None = None,
        intensity: float | None = None,
        magnification: float | None = None,
    ) -> None:
        """Change what is given; ValueError if the column cannot."""
        with self._lock:
            now_ns = self.advance_to(t_ns)
            if spot_size_index is not None:
                self._column.set_spot_size(spot_size_index)
            if intensity is not None:
                self._column.set_intensity(intensity)
            if magnification is not None:
                self._column.set_magnification(magnification)
            self._journal_beam(now_ns)

    def column(self, t_ns: int) -> Column:
        """The column at a moment, to be read only."""
        with self._lock:
            self.advance_to(t_ns)
            return self._column

    def dose(self, t_ns: int) -> Dose:
        """Electrons truly delivered so far."""
        with self._lock:
            self.advance_to(t_ns)
            return replace(self._column.dose)

    def begin_exposure(self, t_ns: int, exposure_s: float, shape: tuple[int, int]) -> Exposure:
        """Start a scan of so many rows and columns over the field."""
        return next(self.begin_exposures(t_ns, exposure_s, exposure_s, shape, 1))

    def begin_exposures(
        self, t_ns: int, exposure_s: float, period_s: float, shape: tuple[int, int], frames: int
    ) -> Iterator[Exposure]:
        """Start scans that follow each other, each a period after the one before.

        All are settled now: whoever looks at one late sees what it was.
        """
        with self._lock:
            start_ns = self.advance_to(t_ns)
            exposure_ns = max(1, round(exposure_s * 1e9))
            period_ns = max(exposure_ns, round(period_s * 1e9))
            first = self._exposures
            self._exposures += frames
            end_ns = start_ns + (frames - 1) * period_ns + exposure_ns
            self._column.begin_scan(end_ns, shape[0] / shape[1])
        starts = (start_ns + k * period_ns for k in range(frames))
        return (
            Exposure(first + k, begin_ns, begin_ns + exposure_ns, shape)
            for k, begin_ns in enumerate(starts)
        )

    def scene(self, t_ns: int) -> Scene:
        """What the beam sees, now or a short while ago."""
        with self._lock:
            self.advance_to(t_ns)
            temperature_c, equivalent_s, holder_c = self._chip.at(t_ns)
            return Scene(
                t_ns,
                self._stage.true_tilt_deg(t_ns),
                self._stage.shift_nm(t_ns, holder_c),
                temperature_c,
                equivalent_s,
                self._column.field_nm,
                self._column.electrons_per_s,
            )

    def beam_on(self, exposure: Exposure) -> NDArray[np.float32]:
        """For each row of a scan the fraction of its time with the beam on, as far as known now."""
        with self._lock:
            return self._column.beam_on(exposure.start_ns, exposure.end_ns, exposure.shape[0])

    def end_exposure(self, exposure: Exposure, scene: Scene) -> NDArray[np.float32]:
        """Account for a scan that is over; returns its rows as :meth:`beam_on` does."""
        with self._lock:
            self.advance_to(exposure.end_ns)
            on = self.beam_on(exposure)
            rows, columns = exposure.shape
            fraction = float(on.mean())
            duration_s = (exposure.end_ns - exposure.start_ns) * 1e-9
            area_nm2 = scene.field_nm**2 * rows / columns
            self.journal.write(
                exposure.end_ns,
                "exposure",
                index=exposure.index,
                start_ns=exposure.start_ns,
                end_ns=exposure.end_ns,
                shape=list(exposure.shape),
                tilt_deg=scene.tilt_deg,
                temperature_c=scene.temperature_c,
                dose_e_per_nm2=fluence_e_per_nm2(
                    self._column.current_pa, duration_s * fraction, area_nm2
                ),
                beam_on=fraction,
            )
            return on

    def abandon_exposure(self, t_ns: int) -> None:
        """End the scan under way without a frame."""
        with self._lock:
            self.advance_to(t_ns)
            self._column.end_scan()

    def frame(
        self,
        exposure: Exposure,
        scene: Scene,
        on: NDArray[np.float32],
        dtype: type[np.unsignedinteger[Any]] = np.uint16,
    ) -> NDArray[np.unsignedinteger[Any]]:
        """Counts of a scan; takes no lock, and numba releases Python's while it computes.

        Parameters
        ----------
        exposure, scene : Exposure, Scene
            The scan, and the world at its middle.
        on : ndarray of float32, shape (rows,)
            Fraction of each row's time with the beam on.
        dtype : type
            Unsigned integers, in whose range the counts are clipped.

        Returns
        -------
        ndarray of `dtype`, shape (rows, columns)
        """
        rows, columns = exposure.shape
        if self.sintering is None:
            return self._replayed(scene, on, dtype)
        pixel_nm = scene.field_nm / columns
        truth = self.sintering.truth(scene.equivalent_s)
        thickness = thickness_nm(truth, exposure.shape, pixel_nm, scene.tilt_deg, scene.shift_nm)
        dwell_s = (exposure.end_ns - exposure.start_ns) * 1e-9 / (rows * columns)
        rng = np.random.default_rng([self.config.seed, _FRAME_STREAM, exposure.index])
        electrons = (scene.electrons_per_s * dwell_s * on).astype(np.float32)
        return draw_counts(thickness, electrons, rng, dtype)

    def _replayed(
        self,
        scene: Scene,
        on: NDArray[np.float32],
        dtype: type[np.unsignedinteger[Any]],
    ) -> NDArray[np.unsignedinteger[Any]]:
        recording = self.recording
        if recording is None:
            raise ValueError("this world has no recording")
        frame = recording.frame(scene.tilt_deg)
        dark = min(max(recording.value_offset, 0), 65_535)
        frame[on <= 0.5] = dark
        return np.minimum(frame, np.iinfo(dtype).max).astype(dtype)

    def close(self) -> None:
        """Finish the record."""
        with self._lock:
            self.journal.write(self.t_ns, "dose", **asdict(self._column.dose))
            self.journal.close()

    def _journal_heater(self, t_ns: int, action: str, ramp_s: float) -> None:
        self.journal.write(
            t_ns,
            "heater",
            action=action,
            target_c=self._chip.target_c,
            ramp_s=ramp_s,
            setpoint_c=self._chip.setpoint_c,
        )
        self._dense_from_ns = max(t_ns, self._dense_from_ns)
        self._dense_until_ns = t_ns + _DENSE_NS

    def _journal_temperature(self, t_ns: int) -> None:
        setpoint_c = self._chip.setpoint_c
        if self._dense_from_ns < self._dense_until_ns:
            times, values = self._chip.trace(self._dense_from_ns)
            for t, row in zip(times.tolist(), values.tolist(), strict=True):
                if self._dense_from_ns < t <= self._dense_until_ns and t < t_ns:
                    self.journal.write(
                        t, "temperature", temperature_c=row[0], setpoint_c=setpoint_c
                    )
            self._dense_from_ns = t_ns
        self.journal.write(
            t_ns, "temperature", temperature_c=self._chip.temperature_c, setpoint_c=setpoint_c
        )

    def _journal_beam(self, t_ns: int) -> None:
        self.journal.write(
            t_ns,
            "beam",
            blanked=self._column.blanked,
            current_pa=self._column.current_pa,
            field_nm=self._column.field_nm,
        )

    def _journal_stage(self, t_ns: int, action: str) -> None:
        self.journal.write(
            t_ns,
            "stage",
            action=action,
            tilt_deg=self._stage.true_tilt_deg(t_ns),
            target_deg=self._stage.target_deg(),
        )
