"""Heater: a MEMS chip on a Keithley source-measure unit, regulated from here.

The instrument sources a current and measures the voltage with four wires. The chip's temperature
comes from R = V/I and its calibration file, the next current from `control_law.py`, once per
reading: as often as the line allows (channel ``loop_rate_hz``). Compliance voltage and
source range are set in the instrument and read back before its output goes on, and the chip must
read the ambient temperature before it is heated.

Any fault ends with the output off: a resistance outside the calibration,
power that does not belong to the temperature, compliance, over-temperature, an instrument that
refuses or falls silent. Then `samples` and every command raise the error, until `make_safe` or
`connect`. Disconnecting turns the output off as well; a process that is killed leaves the last
current on, which is never one that would drive the chip far beyond its setpoint: see the bounds in
`control_law.py`. The chip stays within them too where the computer is late with the next current.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel

from ...protocols.config.rig import HeaterRig
from ...protocols.core.clock import ExperimentClock
from ..base import GRACE_S, DeviceError, Endpoints, Identity
from ..common.sampled_heater import ABSOLUTE_ZERO_C, SampledHeater, TemperatureRange
from ..links.errors import not_connected
from ..links.lines import place_of
from .cold_check import check_cold
from .options import Keithley2400Options, KeithleyOptions, chip_calibration, source_limits
from .regulation_loop import RegulationLoop
from .source_unit import Family, SourceUnit

_log = logging.getLogger(__name__)


class KeithleyHeater(SampledHeater):
    """What both instruments have in common.

    With the output off nothing is measured but that it is off: the temperature of a sample is
    then the ambient temperature of the calibration, and the channels of the reading are absent.

    Attributes
    ----------
    calibration : ChipCalibration
        Of the chip.
    unit : SourceUnit
        The instrument; counts lost readings.
    loop : RegulationLoop
        Sets the current; counts implausible readings.
    """

    Options: ClassVar[type[BaseModel]] = KeithleyOptions
    endpoints: ClassVar[Endpoints] = {"endpoint": ("tcp://HOST:5025",)}
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
        self.calibration = calibration = chip_calibration(options)
        highest_c = rig.limits.temperature_c
        limits = source_limits(options, calibration, highest_c)
        self.unit = SourceUnit(name, place, self.family, limits, clock)
        self.loop = RegulationLoop(
            name,
            self.unit,
            calibration,
            options,
            highest_c,
            clock,
            self._publish,
            self._end_samples,
        )
        self._busy = asyncio.Lock()

    @classmethod
    def check_rig(cls, rig: HeaterRig) -> None:
        """See that the calibration can be read and that the hard limits follow from it."""
        options = cls.Options.model_validate(rig.options)
        assert isinstance(options, KeithleyOptions)
        source_limits(options, chip_calibration(options), rig.limits.temperature_c)

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
                identity = await self.unit.open(timeout_s)
                await self._switch_on()
            except BaseException:
                await self._leave()
                raise
            self.loop.start()
        return identity

    async def _switch_on(self) -> None:
        """Output on with a current that does not heat, and check that the chip is cold."""
        self.loop.reset()
        await self.unit.output_on()
        self.loop.temperature_c = await check_cold(
            self.name, self.unit, self.calibration, self.loop.probe_a, self.clock
        )

    async def disconnect(self) -> None:
        """Turn the output off and close the connection; iterators of samples end."""
        self.unit.post_off()  # at once, should this be cancelled while it waits
        await self.loop.stop(not_connected(self.name, "heat"))
        await self._leave()
        self._end_samples()
        self.loop.failure = None

    async def _leave(self) -> None:
        """Close the link, with the output off where that is possible."""
        try:
            if self.unit.heating:
                await self.unit.output_off()
        except DeviceError as error:
            _log.error("%s", error)
        finally:
            self.unit.close()

    async def make_safe(self) -> None:
        """Current to zero and output off, read back; from any state.

        Where the rig names a rate and the regulation works, the chip is first brought down at
        that rate. A line that is broken is opened anew.
        """
        await self._ramp_down()
        await self.loop.stop(DeviceError(self.name, "heat", "the heater is being made safe"))
        async with self._busy:
            self.safe_sent_ns = self.clock.now_ns()
            await self.unit.output_off()
            self.loop.profile = self.loop.failure = None
            if self.unit.is_set_up:
                self.loop.start()

    async def _ramp_down(self) -> None:
        """Go to ambient temperature at the rig's rate, where it names one."""
        loop = self.loop
        if self.rig.limits.rate_c_per_s is None or not loop.is_running or loop.profile is None:
            return
        ambient_c = self.calibration.ambient_c
        with contextlib.suppress(DeviceError):
            async with self._busy:
                self._check_usable("cool")
                duration_s = self._shortest_time_s(ambient_c)
                await loop.follow(ambient_c, duration_s)
            end = time.monotonic() + self.clock.wall_s(duration_s)
            while time.monotonic() < end and loop.failure is None:
                await asyncio.sleep(min(0.05, max(0.0, end - time.monotonic())))

    # Commands

    async def set_temperature(self, temperature_c: float) -> int:
        """Go there at once, or at the rig's rate where it names one."""
        request = f"go to {temperature_c:g} degC"
        self._refuse_beyond_limits(temperature_c, request)
        async with self._busy:
            await self._get_ready(request)
            return await self.loop.follow(temperature_c, self._shortest_time_s(temperature_c))

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
            await self._get_ready(request)
            self._refuse_too_fast(temperature_c, duration_s, request)
            return await self.loop.follow(temperature_c, duration_s)

    async def hold_here(self) -> None:
        """Stop a ramp and stay at the temperature that it has reached."""
        async with self._busy:
            self._check_usable("hold the temperature")
            if self.loop.profile is not None:
                await self.loop.follow(self.loop.setpoint_c)

    async def _get_ready(self, request: str) -> None:
        """Output on; the chip is checked cold again when it was off."""
        self._check_usable(request)
        if self.unit.heating:
            return
        await self.loop.stop()
        try:
            await self._switch_on()
        except DeviceError as error:
            raise await self.loop.trip(error) from None
        finally:
            if self.loop.failure is None:
                self.loop.start()

    # What the base needs.

    def _check_usable(self, request: str) -> None:
        if self.loop.failure is not None:
            raise self.loop.failure
        if not self.loop.is_running:
            raise not_connected(self.name, request)

    def _sample_source(self) -> tuple[str, str, str]:
        return self.rig.endpoint, "", "Check the instrument"

    def _ranges_c(self) -> Sequence[TemperatureRange]:
        calibration, highest_c = self.calibration, self.rig.limits.temperature_c
        lowest_c = calibration.ambient_c - calibration.ambient_tolerance_c
        return [
            TemperatureRange(
                "the rig",
                ABSOLUTE_ZERO_C,
                highest_c,
                "Lower the recipe's temperature, or raise the rig's limits.temperature",
            ),
            TemperatureRange(
                f"chip {calibration.chip} by its calibration",
                lowest_c,
                calibration.range_c[1],
                "Choose a temperature above ambient, or calibrate the chip further",
            ),
        ]

    def _distance_c(self, temperature_c: float) -> float:
        return abs(temperature_c - self.loop.setpoint_c)


class Keithley2400Heater(KeithleyHeater):
    """A 2400, on a serial port or behind a serial server."""

    summary: ClassVar[str] = "MEMS heater on a Keithley 2400 SourceMeter (RS-232)"
    Options: ClassVar[type[BaseModel]] = Keithley2400Options
    family: ClassVar[Family] = Family(
        ("2400", "2400-LV", "2400-C", "2401", "2410", "2420", "2425", "2430", "2440"), b"\r"
    )
    endpoints: ClassVar[Endpoints] = {"endpoint": ("serial:///dev/ttyUSB0", "tcp://HOST:PORT")}
    serial_port: ClassVar[bool] = True


class Keithley2450Heater(KeithleyHeater):
    """A 2450 on its raw socket (port 5025)."""

    summary: ClassVar[str] = "MEMS heater on a Keithley 2450 SourceMeter (TCP)"
    family: ClassVar[Family] = Family(("2450", "2460", "2461", "2470"), b"\n", has_languages=True)
