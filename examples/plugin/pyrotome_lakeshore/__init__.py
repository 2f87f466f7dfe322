"""Heater: a Lake Shore 335 or 336 temperature controller, which speaks lines of text over TCP.

It answers queries only and passes over what it does not take: every setting is read back. On
the wire temperatures are kelvin, ramps kelvin per minute.
"""
# ruff: noqa: D102 what each method has to do stands in pyrotome.drivers.base

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pyrotome.drivers import base
from pyrotome.drivers.base import GRACE_S, DeviceError, DeviceRefused, HeaterSample, OutOfRange
from pyrotome.drivers.links import lines
from pyrotome.protocols.wires.scpi import BadMessage

ZERO_C_IN_K, FASTEST_K_PER_MIN = 273.15, 100.0


class LakeShoreOptions(BaseModel):
    """Thermometer input, heater output, and experiment seconds between readings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    input: str = Field(default="A", pattern="^[A-D]$")
    output: int = Field(default=1, ge=1, le=4)
    every_s: float = Field(default=0.1, gt=0)


class LakeShoreHeater(base.Heater):
    """The controller follows its setpoint by itself; this sets it and watches."""

    summary = "Lake Shore 335 or 336 temperature controller"
    Options = LakeShoreOptions
    endpoints: ClassVar = {"endpoint": ("tcp://HOST:7777",)}
    channels: ClassVar = {"temperature_c": "degC", "setpoint_c": "degC"}

    def __init__(self, name: str, rig: Any, clock: Any) -> None:
        super().__init__(name, rig, clock)
        self.options = LakeShoreOptions.model_validate(rig.options)
        place = lines.place_of(rig.endpoint, 57_600, "heater.endpoint", serial_port=False)
        self._link, self._lock = lines.LineLink(name, place, b"\n"), asyncio.Lock()

    async def connect(self, timeout_s: float = GRACE_S) -> base.Identity:
        await self._link.open("connect", timeout_s)
        vendor, *rest = await self._ask("*IDN?", lambda line: line.split(","), timeout_s)
        if vendor != "LSCI" or len(rest) != 3:
            await self.disconnect()
            raise DeviceRefused(self.name, "connect", f"{vendor!r} answers", "Check the endpoint")
        return base.Identity("Lake Shore", *rest)

    async def disconnect(self) -> None:
        self._link.close()

    async def make_safe(self) -> None:
        with contextlib.suppress(DeviceError):  # tried again over a new connection
            return await self._set(self.rig.limits.safe_c, 0.0)
        await self.connect()
        return await self._set(self.rig.limits.safe_c, 0.0)

    async def set_temperature(self, temperature_c: float) -> int:
        return await self._go(temperature_c, self.rig.limits.rate_c_per_s or 0.0)

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        distance_c = abs(temperature_c - (await self._read()).setpoint_c)
        return await self._go(temperature_c, distance_c / max(duration_s, 1e-9))

    async def hold_here(self) -> None:
        await self._set((await self._read()).setpoint_c, 0.0)

    async def samples(self) -> AsyncIterator[HeaterSample]:
        while self._link.is_open:
            yield await self._read()
            await self.clock.sleep(self.options.every_s)

    async def _go(self, temperature_c: float, c_per_s: float) -> int:
        sent_ns, highest_c = self.clock.now_ns(), self.rig.limits.temperature_c
        if not -ZERO_C_IN_K <= temperature_c <= highest_c or c_per_s * 60 > FASTEST_K_PER_MIN:
            answer = f"limits are {highest_c:g} degC and {FASTEST_K_PER_MIN:g} K/min"
            raise OutOfRange(self.name, f"go to {temperature_c:g} degC", answer, "Nothing was sent")
        await self._set(temperature_c, c_per_s * 60)
        return sent_ns

    async def _set(self, temperature_c: float, k_per_min: float) -> None:
        out, kelvin, ramps = self.options.output, temperature_c + ZERO_C_IN_K, int(k_per_min > 0)
        setting = f"RAMP {out},{ramps},{max(k_per_min, 0.1):.2f};SETP {out},{kelvin:.3f}"
        (now,) = await self._ask(f"{setting};SETP? {out}", partial(_kelvins, 1))
        if not ramps and abs(now - kelvin) > 0.01:
            answer = f"its setpoint stays at {now:g} K"
            raise DeviceRefused(
                self.name, f"go to {temperature_c:g} degC", answer, "Set it to remote"
            )

    async def _read(self) -> HeaterSample:
        sent_ns, options = self.clock.now_ns(), self.options
        query = f"KRDG? {options.input};SETP? {options.output}"
        kelvin, setpoint = await self._ask(query, partial(_kelvins, 2))
        t_ns = (sent_ns + self.clock.now_ns()) // 2
        return HeaterSample(t_ns, kelvin - ZERO_C_IN_K, setpoint - ZERO_C_IN_K)

    async def _ask(self, query: str, parse: Any, timeout_s: float = GRACE_S) -> Any:
        async with self._lock:
            try:
                return await self._link.ask(query, f"send {query}", parse, timeout_s)
            except BaseException:  # being cancelled, too: a late answer would be the next one's
                self._link.close()
                raise


def _kelvins(count: int, line: str) -> list[float]:
    with contextlib.suppress(ValueError):
        values = [float(text) for text in line.split(";")]
        if len(values) == count and all(map(math.isfinite, values)):
            return values
    raise BadMessage(line)
