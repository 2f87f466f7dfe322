"""The regulation loop: reads the chip and sets the next current, cycle after cycle, in a task.

Anything wrong ends the loop with the output off: an instrument that refuses or falls silent, two
implausible readings in a row, or power that does not belong to the temperature.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from ...protocols.config.calibration import ChipCalibration, Verdict
from ...protocols.core.clock import ExperimentClock
from ..base import DeviceError, DeviceLost, DeviceRefused, HeaterSample
from ..common.tasks import end_task
from .control_law import ChipReading, Regulator, RegulatorSettings
from .options import KeithleyOptions, probe_current_a
from .plausibility import ImplausibleReading, PlausibilityMonitor, ReadingCheck
from .setpoint import SetpointProfile
from .source_unit import SourceReading, SourceUnit

_log = logging.getLogger(__name__)

MAX_CYCLES_PER_WALL_S = 250.0
OFF_POLL_S = 0.2  # experiment seconds between looks at an output that is off
IMPLAUSIBLE_IN_A_ROW = 2


class RegulationLoop:
    """Regulates one chip.

    Parameters
    ----------
    device : str
        For messages.
    unit : SourceUnit
        The instrument.
    calibration : ChipCalibration
        Of the chip.
    options : KeithleyOptions
        Rate, response and headroom.
    highest_c : float
        The rig's limit of the temperature.
    clock : ExperimentClock
        Of the samples and of the setpoint.
    on_sample : callable
        Called with each sample.
    on_end : callable
        Called with the error that ends the loop.

    Attributes
    ----------
    probe_a : float
        Current in A that measures the chip and does not heat it.
    failure : DeviceError or None
        What ended the loop, until it starts again.
    implausible_readings : int
        Readings that were not used.
    """

    def __init__(
        self,
        device: str,
        unit: SourceUnit,
        calibration: ChipCalibration,
        options: KeithleyOptions,
        highest_c: float,
        clock: ExperimentClock,
        on_sample: Callable[[HeaterSample], None],
        on_end: Callable[[DeviceError], None],
    ) -> None:
        self._device, self._unit, self._calibration = device, unit, calibration
        self._options, self._clock = options, clock
        self._on_sample, self._on_end = on_sample, on_end
        self.check = ReadingCheck(calibration, unit.limits, highest_c)
        self.probe_a = probe_current_a(calibration, unit.limits)
        self.failure: DeviceError | None = None
        self.implausible_readings = 0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._first_current: asyncio.Future[int] | None = None
        self._cycle_s = self.expected_cycle_s
        self.reset()

    def reset(self) -> None:
        """Forget the setpoint and what was learned of the chip."""
        options, limits = self._options, self._unit.limits
        settings = RegulatorSettings(
            self.probe_a,
            limits.current_a,
            response_s=options.response_s,
            headroom_c=options.headroom_c,
        )
        lead_s = 0.5 * self._unit.integration_s
        self._regulator = Regulator(self._calibration, settings, self.expected_cycle_s, lead_s)
        self.profile: SetpointProfile | None = None
        self.temperature_c = self._calibration.ambient_c

    @property
    def expected_cycle_s(self) -> float:
        """Experiment seconds of one cycle, as the line and the options allow it."""
        return max(self._unit.cycle_s, 1.0 / self._options.rate_hz)

    @property
    def is_running(self) -> bool:
        """Whether readings are taken."""
        return self._task is not None and not self._task.done()

    @property
    def setpoint_c(self) -> float:
        """Where the setpoint is now; the latest temperature where there is none."""
        return self.temperature_c if self.profile is None else self.profile.at(self._clock.now_s())

    def start(self) -> None:
        """Begin to regulate, or to watch an output that is off."""
        self.failure = None
        self._changed.clear()
        self._task = asyncio.create_task(self._run(), name=f"{self._device} regulation")

    async def stop(self, error: DeviceError | None = None) -> None:
        """End the task; the output stays as it is. A command that waits fails with `error`."""
        task, self._task = self._task, None
        await end_task(task, self._device, "regulating")
        if error is not None:
            self._fail_command(error)

    async def follow(self, temperature_c: float, duration_s: float = 0.0) -> int:
        """Ramp the setpoint from where it is.

        Parameters
        ----------
        temperature_c : float
            Its end, in degC.
        duration_s : float
            Experiment seconds.

        Returns
        -------
        int
            Moment at which the first current for it went out.
        """
        profile = SetpointProfile(temperature_c, self.setpoint_c, self._clock.now_s(), duration_s)
        self._first_current = asyncio.get_running_loop().create_future()
        self.profile = profile
        self._changed.set()
        return await self._first_current

    async def trip(self, error: DeviceError) -> DeviceError:
        """Turn the output off and end the samples; the error with what became of the output."""
        try:
            await self._unit.output_off()
        except DeviceError as trouble:
            became = f"the output could not be confirmed off ({trouble.cause})"
            remedy = "Turn it off at its front panel"
        else:
            became, remedy = "the output is off", error.remedy
        _log.error("%s; %s", error, became)
        kind = type(error) if type(error) in {DeviceError, DeviceRefused} else DeviceLost
        tripped = kind(self._device, error.request, f"{error.cause}; {became}", remedy)
        self.failure = tripped
        self._fail_command(tripped)
        self._on_end(tripped)
        return tripped

    def _fail_command(self, error: DeviceError) -> None:
        waiting = self._first_current
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    async def _run(self) -> None:
        """Cycle after cycle, until cancelled or until something is wrong."""
        try:
            if self._unit.heating:
                await self._regulate()
            else:
                await self._watch_output()
        except DeviceError as error:
            await self.trip(error)
        except asyncio.CancelledError:
            self._unit.post_off()
            raise
        except Exception as error:
            _log.exception("%s: the regulation failed", self._device)
            cause = f"unexpected: {error!r}"
            await self.trip(DeviceError(self._device, "regulate", cause, "See the log"))

    async def _regulate(self) -> None:
        monitor = PlausibilityMonitor(self._calibration)
        current_a, implausible = self.probe_a, 0
        shortest_s = max(
            self._clock.wall_s(1.0 / self._options.rate_hz), 1.0 / MAX_CYCLES_PER_WALL_S
        )
        self._cycle_s = self.expected_cycle_s
        last_ns: int | None = None
        followed: SetpointProfile | None = None
        while True:
            started = time.monotonic()
            waiting = self._first_current if followed is self.profile else None
            followed = None
            reading = await self._unit.read(current_a, waiting)
            if last_ns is not None:
                self._cycle_s += 0.1 * ((reading.t_ns - last_ns) * 1e-9 - self._cycle_s)
            last_ns = reading.t_ns
            profile = self.profile
            try:
                temperature_c = self.check.temperature_c(reading, current_a)
            except ImplausibleReading as why:
                implausible += 1
                current_a = self._without_reading(why, implausible, current_a, profile)
                monitor.restart()
                continue
            implausible = 0
            t_s = (reading.t_ns - self._clock.epoch_utc_ns) * 1e-9
            self.temperature_c = temperature_c
            setpoint_c = self._calibration.ambient_c if profile is None else profile.at(t_s)
            self._on_sample(_sample(reading, temperature_c, setpoint_c, self._cycle_s))
            verdict = monitor.record(t_s, temperature_c, reading.resistance_ohm, reading.power_w)
            if verdict is not None:
                raise _implausible_power(self._device, verdict)
            self._regulator.record(
                ChipReading(t_s, temperature_c, reading.current_a, reading.is_timed)
            )
            await self._wait_for_next(started + shortest_s)
            followed = self.profile
            current_a = self.probe_a
            if followed is not None:
                earliest_s = self._clock.now_s() + self._unit.command_s
                current_a = self._regulator.next_current_a(followed.at, earliest_s)

    def _without_reading(
        self,
        why: ImplausibleReading,
        in_a_row: int,
        current_a: float,
        profile: SetpointProfile | None,
    ) -> float:
        """Current after a reading that was not used; DeviceError after too many."""
        self.implausible_readings += 1
        if in_a_row >= IMPLAUSIBLE_IN_A_ROW:
            raise DeviceError(
                self._device,
                "regulate",
                str(why),
                "Check the chip, its contacts, and that the calibration is for this chip",
            ) from None
        regulator = self._regulator
        regulator.forget_reading()
        held_c = self._calibration.ambient_c if profile is None else profile.target_c
        held_a = regulator.model.holding_current_a(held_c, regulator.learned)
        return max(min(current_a, held_a), self.probe_a)

    async def _wait_for_next(self, until: float) -> None:
        """Keep to the highest rate, unless the setpoint has changed."""
        remaining_s = until - time.monotonic()
        if remaining_s > 0 and not self._changed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining_s):
                    await self._changed.wait()
        self._changed.clear()

    async def _watch_output(self) -> None:
        """Read back again and again that the output is off."""
        await self._clock.sleep(10.0 * self._calibration.time_constant_s)
        ambient_c = self._calibration.ambient_c
        while True:
            await self._unit.see_that_off()
            values = {"power_w": 0.0, "current_a": 0.0}
            self._on_sample(HeaterSample(self._clock.now_ns(), ambient_c, ambient_c, values))
            await asyncio.sleep(max(self._clock.wall_s(OFF_POLL_S), 0.01))


def _implausible_power(device: str, verdict: Verdict) -> DeviceError:
    return DeviceError(
        device,
        "regulate",
        verdict.reason,
        "Load this chip's calibration file; for work in gas, a calibration in that gas",
    )


def _sample(
    reading: SourceReading, temperature_c: float, setpoint_c: float, cycle_s: float
) -> HeaterSample:
    values = {
        "power_w": reading.power_w,
        "current_a": reading.current_a,
        "voltage_v": reading.voltage_v,
        "resistance_ohm": reading.resistance_ohm,
        "loop_rate_hz": 1.0 / max(cycle_s, 1e-6),
    }
    return HeaterSample(reading.t_ns, temperature_c, setpoint_c, values)
