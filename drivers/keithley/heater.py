"""Heater: a MEMS chip on a Keithley source-measure unit, regulated from here.

The instrument sources a current and measures the voltage with four wires. The chip's temperature
comes from R = V/I and its calibration file, the next current from `regulation.py`, once per
reading: as often as the line allows, told as the channel ``loop_rate_hz``. Compliance voltage and
source range are set in the instrument and read back before its output goes on, and the chip must
read the ambient temperature before it is heated.

Whatever is not as it should be ends with the output off: a resistance outside the calibration,
power that does not belong to the temperature, compliance, over-temperature, an instrument that
refuses or falls silent. Then `samples` and every command raise what happened, until `make_safe` or
`connect`. Disconnecting turns the output off as well; a process that is killed leaves the last
current on, which holds the chip at most ``headroom_c`` above its setpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...protocols.config.calibration import ChipCalibration, OutOfCalibration, load_calibration
from ...protocols.config.rig import HeaterRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ..base import (
    GRACE_S,
    DeviceError,
    DeviceLost,
    DeviceRefused,
    Heater,
    HeaterSample,
    Identity,
    OutOfRange,
)
from ..common.heater_ramp import refuse_too_fast, shortest_time_s
from ..common.sample_fanout import Fanout
from ..links.errors import not_connected
from ..links.lines import place_of
from .control_law import (
    UNKNOWN_CONDUCTANCE_W_PER_K,
    ChipModel,
    Course,
    Measured,
    PlausibilityMonitor,
    Regulator,
    Tuning,
)
from .dialect import Limits
from .source_unit import Family, Reading, SourceUnit

_log = logging.getLogger(__name__)

MAX_CYCLES_PER_WALL_S = 250.0
OFF_POLL_S = 0.2  # experiment seconds between looks at an output that is off
# Self-heating by the current that keeps the resistance measurable.
PROBE_RISE_C = 1.0
LIMIT_MARGIN = 1.2
OVER_TEMPERATURE_C = 25.0
ODD_IN_A_ROW = 2
COLD_READINGS, COLD_TIMEOUT_S = 8, 3.0


class KeithleyOptions(BaseModel):
    """The chip's calibration, hard limits, and how fast to read.

    `max_current_a` and `compliance_v` default to a fifth more than what the rig's highest
    temperature takes by the calibration.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    calibration_file: Path
    max_current_a: float | None = Field(default=None, gt=0, le=1.05)
    compliance_v: float | None = Field(default=None, gt=0, le=210)
    nplc: float = Field(default=0.1, ge=0.01, le=10)
    rate_hz: float = Field(default=100.0, gt=0, le=1000)
    response_s: float = Field(default=0.02, gt=0, le=100)
    headroom_c: float = Field(default=10.0, gt=0, le=200)


class Keithley2400Options(KeithleyOptions):
    """Those of every unit, and the serial port's speed as set in the instrument."""

    baud: Literal[300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600] = 9600


class _Odd(Exception):
    """A reading that cannot be taken for what the chip does."""


class KeithleyHeater(Heater):
    """What both instruments have in common.

    Attributes
    ----------
    lost_readings, odd_readings : int
        Readings that did not arrive, and readings that were not believed, since `connect`.
    """

    Options: ClassVar[type[BaseModel]] = KeithleyOptions
    family: ClassVar[Family]
    serial_port: ClassVar[bool] = False
    channels: ClassVar[Mapping[str, str]] = {
        "temperature_c": "degC",
        "setpoint_c": "degC",
        "power_w": "W",
        "current_a": "A",
        "voltage_v": "V",
        "resistance_ohm": "ohm",
        "loop_rate_hz": "Hz",
    }

    def __init__(self, name: str, rig: HeaterRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        baud = rig.options.get("baud", 9600)
        place = place_of(rig.endpoint, int(baud), "heater.endpoint", serial_port=self.serial_port)
        options = self.Options.model_validate(rig.options)
        assert isinstance(options, KeithleyOptions)
        self.options = options
        self.calibration = _calibration(options)
        self._model = ChipModel(self.calibration)
        self._unit = SourceUnit(name, place, self.family, self._instrument_limits(), clock)
        self._probe_a = min(self._probe_current_a(), self._unit.limits.current_a)
        self._fanout = Fanout()
        self._task: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        self._failure: DeviceError | None = None
        self._course: Course | None = None
        self._set_out: asyncio.Future[int] | None = None
        self._changed = asyncio.Event()
        self._regulator = self._new_regulator()
        self._latest_c = self.calibration.ambient_c
        self._cycle_s = self.expected_cycle_s
        self.odd_readings = 0

    # Limits and times, known from the rig alone

    def _instrument_limits(self) -> Limits:
        options, calibration = self.options, self.calibration
        highest_c = min(self.rig.limits.temperature_c, calibration.range_c[1])
        current_a, compliance_v = options.max_current_a, options.compliance_v
        if current_a is None:
            if calibration.power is None:
                raise BadInput(
                    "heater.options.max_current_a",
                    f"is needed: the calibration of chip {calibration.chip} holds no power from "
                    "which to tell the highest current",
                )
            current_a = LIMIT_MARGIN * self._model.holding_current_a(highest_c)
        if compliance_v is None:
            highest_ohm = calibration.resistance.value(highest_c)
            compliance_v = min(210.0, LIMIT_MARGIN * current_a * highest_ohm)
        return Limits(current_a, compliance_v, options.nplc)

    def _probe_current_a(self) -> float:
        calibration = self.calibration
        conductance = UNKNOWN_CONDUCTANCE_W_PER_K
        if calibration.power is not None:
            conductance = calibration.power.slope(calibration.ambient_c, calibration.ambient_c)
        cold_ohm = calibration.resistance.value(calibration.ambient_c)
        return math.sqrt(conductance * PROBE_RISE_C / cold_ohm)

    @property
    def expected_cycle_s(self) -> float:
        """Experiment seconds of one cycle, as the line and the options allow it."""
        return max(self._unit.cycle_s, 1.0 / self.options.rate_hz)

    @property
    def lost_readings(self) -> int:
        """Readings that did not arrive."""
        return self._unit.lost_readings

    def _new_regulator(self) -> Regulator:
        options = self.options
        tuning = Tuning(
            self._probe_a,
            self._unit.limits.current_a,
            response_s=options.response_s,
            headroom_c=options.headroom_c,
        )
        lead_s = 0.5 * self._unit.integration_s
        return Regulator(self.calibration, tuning, self.expected_cycle_s, lead_s)

    # Connecting

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Identify, turn the output off, set up, check the chip cold, and begin to read.

        Raises
        ------
        DeviceRefused
            If it is another instrument, does not take a setting, or if the chip does not read
            the ambient temperature.
        """
        await self.disconnect()
        async with self._busy:
            try:
                identity = await self._unit.open(timeout_s)
                await self._switch_on()
            except BaseException:
                await self._leave()
                raise
            self._begin()
        return identity

    async def _switch_on(self) -> None:
        """Output on with a current that does not heat, and see that the chip is cold."""
        self._regulator = self._new_regulator()
        self._course = None
        await self._unit.output_on()
        await self._check_cold()

    async def _check_cold(self) -> None:
        """Read the chip until it stands still, which one that was hot takes a while for."""
        tau_s = self.calibration.time_constant_s
        started = self.clock.now_s()
        recent: deque[Reading] = deque(maxlen=COLD_READINGS)
        while True:
            reading = await self._unit.read(self._probe_a)
            settled = self.clock.now_s() - started
            if settled < 5.0 * tau_s:
                continue
            recent.append(reading)
            if len(recent) < COLD_READINGS:
                continue
            rows = list(recent)
            half = COLD_READINGS // 2
            earlier, later = (_mean(rows[:half]), _mean(rows[half:]))
            half_kelvin_ohm = 0.5 * self.calibration.resistance.slope(self.calibration.ambient_c)
            moved_ohm = abs(earlier.resistance_ohm - later.resistance_ohm)
            if moved_ohm < half_kelvin_ohm or settled > COLD_TIMEOUT_S:
                break
        mean = _mean(rows)
        verdict = self.calibration.check_cold(mean.resistance_ohm, mean.power_w)
        if not verdict.plausible:
            await self._unit.output_off()
            raise DeviceRefused(
                self.name,
                "heat",
                f"{verdict.reason}; the output is off",
                "Load this chip's calibration file, or check contacts and ambient temperature",
            )
        self._latest_c = self.calibration.temperature_c(mean.resistance_ohm)

    def _begin(self) -> None:
        self._failure = None
        self._changed.clear()
        self._task = asyncio.create_task(self._run(), name=f"{self.name} regulation")

    async def disconnect(self) -> None:
        """Turn the output off and close the connection; iterators of samples end."""
        self._unit.post_off()  # at once, should this be cancelled while it waits
        await self._stop_task()
        self._fail_waiting(not_connected(self.name, "heat"))
        await self._leave()
        self._fanout.end()
        self._failure = None

    async def _leave(self) -> None:
        """Close the link, with the output off if that can be had."""
        try:
            if self._unit.heating:
                await self._unit.output_off()
        except DeviceError as error:
            _log.error("%s", error)
        finally:
            self._unit.close()

    async def _stop_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("%s: the regulation had ended", self.name, exc_info=error)

    async def make_safe(self) -> None:
        """Current to zero and output off, read back; from any state.

        Where the rig names a rate and the regulation works, the chip is first brought down at
        that rate. A line that is broken is opened anew.
        """
        await self._go_down_slowly()
        await self._stop_task()
        self._fail_waiting(DeviceError(self.name, "heat", "the heater is being made safe"))
        async with self._busy:
            self.safe_sent_ns = self.clock.now_ns()
            await self._unit.output_off()
            self._course = self._failure = None
            if self._unit.is_set_up:
                self._begin()

    async def _go_down_slowly(self) -> None:
        if self.rig.limits.rate_c_per_s is None or self._task is None or self._course is None:
            return
        ambient_c = self.calibration.ambient_c
        with contextlib.suppress(DeviceError):
            async with self._busy:
                self._usable("cool")
                duration_s = self._ramp_time_s(ambient_c)
                await self._follow(self._course_to(ambient_c, duration_s))
            end = time.monotonic() + self.clock.wall_s(duration_s)
            while time.monotonic() < end and self._failure is None:
                await asyncio.sleep(min(0.05, max(0.0, end - time.monotonic())))

    # Commands

    async def set_temperature(self, temperature_c: float) -> int:
        """Go there at once, or at the rig's rate where it names one."""
        request = f"go to {temperature_c:g} degC"
        self._refuse_beyond_limits(temperature_c, request)
        async with self._busy:
            await self._ready(request)
            duration_s = self._ramp_time_s(temperature_c)
            return await self._follow(self._course_to(temperature_c, duration_s))

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        """Go there linearly in a given time.

        Raises
        ------
        OutOfRange
            If that is hotter or faster than the rig allows; nothing is sent.
        """
        request = f"ramp to {temperature_c:g} degC in {duration_s:g} s"
        self._refuse_beyond_limits(temperature_c, request)
        async with self._busy:
            await self._ready(request)
            refuse_too_fast(self.name, request, duration_s, self._ramp_time_s(temperature_c))
            return await self._follow(self._course_to(temperature_c, duration_s))

    async def hold_here(self) -> None:
        """Stop a ramp and stay at the temperature that it has reached."""
        async with self._busy:
            self._usable("hold the temperature")
            if self._course is not None:
                await self._follow(Course(self._course.at(self._now_s())))

    async def samples(self) -> AsyncIterator[HeaterSample]:
        """One sample per cycle of the regulation, until it disconnects.

        With the output off nothing is measured but that it is off: the temperature is then the
        ambient temperature of the calibration, and the channels of the reading are absent.
        """
        self._usable("read samples")
        with self._fanout.reader() as inbox:
            while (sample := await inbox.next()) is not None:
                yield sample

    def _usable(self, request: str) -> None:
        if self._failure is not None:
            raise self._failure
        if self._task is None or self._task.done():
            raise not_connected(self.name, request)

    async def _ready(self, request: str) -> None:
        """Output on, from wherever; the chip is checked cold again when it was off."""
        self._usable(request)
        if self._unit.heating:
            return
        await self._stop_task()
        try:
            await self._switch_on()
        except DeviceError as error:
            tripped = await self._trip(error)
            self._give_up(tripped)
            raise tripped from None
        finally:
            if self._failure is None:
                self._begin()

    async def _follow(self, course: Course) -> int:
        """Take up a course; the moment at which the first current for it went out."""
        self._set_out = asyncio.get_running_loop().create_future()
        self._course = course
        self._changed.set()
        return await self._set_out

    def _course_to(self, temperature_c: float, duration_s: float) -> Course:
        now_s = self._now_s()
        from_c = self._latest_c if self._course is None else self._course.at(now_s)
        return Course(temperature_c, from_c, now_s, duration_s)

    def _now_s(self) -> float:
        return self.clock.now_s()

    def _ramp_time_s(self, temperature_c: float) -> float:
        """Shortest time to a temperature that the rig's rate allows; 0 without one."""
        from_c = self._latest_c if self._course is None else self._course.at(self._now_s())
        return shortest_time_s(self.rig.limits, abs(temperature_c - from_c))

    def _refuse_beyond_limits(self, temperature_c: float, request: str) -> None:
        calibration = self.calibration
        lowest_c = calibration.ambient_c - calibration.ambient_tolerance_c
        highest_c = min(self.rig.limits.temperature_c, calibration.range_c[1])
        if lowest_c <= temperature_c <= highest_c:
            return
        remedy = "Lower the recipe's temperature, or raise the rig's limits.temperature"
        limit = f"the rig's limit is {self.rig.limits.temperature_c:g} degC"
        if temperature_c < lowest_c:
            remedy = "A heater does not cool; request the ambient temperature or more"
            limit = f"the ambient temperature is {calibration.ambient_c:g} degC"
        elif calibration.range_c[1] < self.rig.limits.temperature_c:
            remedy = "Lower the recipe's temperature, or calibrate the chip that far"
            limit = f"the calibration of chip {calibration.chip} ends at {highest_c:g} degC"
        raise OutOfRange(self.name, request, f"{limit}; nothing was sent", remedy)

    # Regulation

    async def _run(self) -> None:
        """Cycle after cycle, until cancelled or until something is wrong."""
        try:
            if self._unit.heating:
                await self._regulate()
            else:
                await self._stay_off()
        except DeviceError as error:
            self._give_up(await self._trip(error))
        except asyncio.CancelledError:
            self._unit.post_off()
            raise
        except Exception as error:
            _log.exception("%s: the regulation failed", self.name)
            trouble = DeviceError(self.name, "regulate", f"unexpected: {error!r}", "See the log")
            self._give_up(await self._trip(trouble))

    def _give_up(self, error: DeviceError) -> None:
        self._failure = error
        self._fail_waiting(error)
        self._fanout.end(error)

    async def _regulate(self) -> None:
        monitor = PlausibilityMonitor(self.calibration)
        regulator = self._regulator
        current_a = self._probe_a
        odd = 0
        shortest_s = max(self.clock.wall_s(1.0 / self.options.rate_hz), 1.0 / MAX_CYCLES_PER_WALL_S)
        self._cycle_s = self.expected_cycle_s
        last_ns: int | None = None
        heard_of: Course | None = None
        while True:
            started = time.monotonic()
            waiting, heard_of = (self._set_out if heard_of is self._course else None), None
            reading = await self._unit.read(current_a, waiting)
            if last_ns is not None:
                self._cycle_s += 0.1 * ((reading.t_ns - last_ns) * 1e-9 - self._cycle_s)
            last_ns = reading.t_ns
            course = self._course
            try:
                temperature_c = self._believed_c(reading, current_a)
            except _Odd as why:
                self.odd_readings += 1
                odd += 1
                if odd >= ODD_IN_A_ROW:
                    raise DeviceError(
                        self.name,
                        "regulate",
                        str(why),
                        "Check the chip, its contacts, and that the calibration is for this chip",
                    ) from None
                regulator.forget_reading()
                monitor.restart()
                held_c = self.calibration.ambient_c if course is None else course.target_c
                current_a = min(current_a, self._model.holding_current_a(held_c, regulator.learned))
                current_a = max(current_a, self._probe_a)
                continue
            odd = 0
            t_s = (reading.t_ns - self.clock.epoch_utc_ns) * 1e-9
            self._latest_c = temperature_c
            self._hand_out(reading, temperature_c, course, t_s)
            verdict = monitor.take(t_s, temperature_c, reading.resistance_ohm, reading.power_w)
            if verdict is not None:
                raise DeviceError(
                    self.name,
                    "regulate",
                    verdict.reason,
                    "Load this chip's calibration file; for work in gas, a calibration in that gas",
                )
            regulator.take(Measured(t_s, temperature_c, reading.current_a))
            await self._wait_for_next(started + shortest_s)
            heard_of = self._course
            current_a = self._probe_a
            if heard_of is not None:
                current_a = regulator.next_current_a(heard_of.at)

    async def _wait_for_next(self, until: float) -> None:
        """Keep to the highest rate, unless there is somewhere new to go."""
        left_s = until - time.monotonic()
        if left_s > 0 and not self._changed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
        self._changed.clear()

    def _believed_c(self, reading: Reading, set_a: float) -> float:
        """Temperature of a reading; raises _Odd where it cannot be one."""
        limits = self._unit.limits
        voltage_v, current_a = reading.voltage_v, reading.current_a
        if not (math.isfinite(voltage_v) and math.isfinite(current_a)):
            raise _Odd(f"the reading overflows ({voltage_v:g} V, {current_a:g} A)")
        if current_a < 0.97 * set_a or voltage_v > 0.995 * limits.compliance_v:
            raise _Odd(
                f"the unit is in compliance: {current_a * 1e3:.4g} mA of {set_a * 1e3:.4g} mA at "
                f"{voltage_v:.4g} V of {limits.compliance_v:.4g} V"
            )
        if current_a > 1.03 * set_a:
            raise _Odd(f"the current is {current_a * 1e3:.4g} mA, {set_a * 1e3:.4g} mA were set")
        try:
            temperature_c = self.calibration.temperature_c(reading.resistance_ohm)
        except OutOfCalibration as error:
            raise _Odd(str(error)) from None
        if temperature_c > self.rig.limits.temperature_c + OVER_TEMPERATURE_C:
            raise _Odd(
                f"the chip reads {temperature_c:.1f} degC, above the rig's limit of "
                f"{self.rig.limits.temperature_c:g} degC"
            )
        return temperature_c

    def _hand_out(
        self, reading: Reading, temperature_c: float, course: Course | None, t_s: float
    ) -> None:
        setpoint_c = self.calibration.ambient_c if course is None else course.at(t_s)
        values = {
            "power_w": reading.power_w,
            "current_a": reading.current_a,
            "voltage_v": reading.voltage_v,
            "resistance_ohm": reading.resistance_ohm,
            "loop_rate_hz": 1.0 / max(self._cycle_s, 1e-6),
        }
        self._fanout.put(HeaterSample(reading.t_ns, temperature_c, setpoint_c, values))

    async def _stay_off(self) -> None:
        """See again and again that the output is off."""
        await self.clock.sleep(10.0 * self.calibration.time_constant_s)
        ambient_c = self.calibration.ambient_c
        while True:
            await self._unit.see_that_off()
            values = {"power_w": 0.0, "current_a": 0.0}
            self._fanout.put(HeaterSample(self.clock.now_ns(), ambient_c, ambient_c, values))
            await asyncio.sleep(max(self.clock.wall_s(OFF_POLL_S), 0.01))

    async def _trip(self, error: DeviceError) -> DeviceError:
        """Output off; the error with what became of it, of the same kind."""
        try:
            await self._unit.output_off()
        except DeviceError as trouble:
            became = f"the output could not be confirmed off ({trouble.cause})"
            remedy = "Turn it off at its front panel"
        else:
            became, remedy = "the output is off", error.remedy
        _log.error("%s; %s", error, became)
        kind = type(error) if type(error) in {DeviceError, DeviceRefused} else DeviceLost
        return kind(self.name, error.request, f"{error.cause}; {became}", remedy)

    def _fail_waiting(self, error: DeviceError) -> None:
        waiting = self._set_out
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)


class Keithley2400Heater(KeithleyHeater):
    """A 2400, on a serial port or behind a serial server."""

    summary: ClassVar[str] = "MEMS heater on a Keithley 2400 SourceMeter (RS-232)"
    Options: ClassVar[type[BaseModel]] = Keithley2400Options
    family: ClassVar[Family] = Family(
        ("2400", "2400-LV", "2400-C", "2401", "2410", "2420", "2425", "2430", "2440"), b"\r"
    )
    serial_port: ClassVar[bool] = True


class Keithley2450Heater(KeithleyHeater):
    """A 2450 on its raw socket (port 5025)."""

    summary: ClassVar[str] = "MEMS heater on a Keithley 2450 SourceMeter (TCP)"
    family: ClassVar[Family] = Family(("2450", "2460", "2461", "2470"), b"\n", has_languages=True)


def _calibration(options: KeithleyOptions) -> ChipCalibration:
    try:
        return load_calibration(options.calibration_file)
    except BadInput as error:
        raise BadInput("heater.options.calibration_file", str(error)) from None


def _mean(readings: list[Reading]) -> Reading:
    count = len(readings)
    return Reading(
        readings[-1].t_ns,
        sum(r.voltage_v for r in readings) / count,
        sum(r.current_a for r in readings) / count,
    )
