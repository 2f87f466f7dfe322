"""Server of the DENS Impulse wire (ZeroMQ and JSON) in front of the simulated chip.

Invalid requests get an error answer; none ends the server. Samples carry the
moment at which they were taken, in seconds of the experiment clock since the server's start.

Faults: ``disconnect`` closes both sockets in the middle of an exchange and starts again, as
Impulse does when it is restarted: sample numbers and the experiment's duration begin anew.
While ``garbage`` or ``short-frame`` is on, samples are as bad as answers; only answers are
counted. ``error`` refuses what would change something, and shows it in a popup.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import zmq
import zmq.asyncio

from ...protocols.config.faults import FaultName
from ...protocols.core.clock import ExperimentClock, iso_utc
from ...protocols.core.errors import BadInput, BadMessage
from ...protocols.wires import impulse as wire
from ..world.chip import HeaterReading
from ..world.microscope import World
from .sockets import background, bind
from .wire_faults import WireFaults

# More messages than this in a wall second, when time runs faster, would only be noise.
MAX_MESSAGES_PER_S = 500.0
FAULTS: frozenset[FaultName] = frozenset(
    {
        "hang", "disconnect", "garbage", "short-frame", "slow", "error",
        "runaway", "stuck", "sensor-off", "implausible", "freeze", "silent", "bulge-jumps",
    }
)  # fmt: skip
_REBIND_S = 5.0  # wall seconds that ZeroMQ may take to let go of a port
_NO_UNITS: Mapping[str, str] = {}


@asynccontextmanager
async def serve(
    world: World,
    clock: ExperimentClock,
    control: str,
    data: str,
    sample_every_s: float,
    faults: WireFaults | None = None,
    units: Mapping[str, str] = _NO_UNITS,
) -> AsyncIterator[tuple[str, str]]:
    """Serve until the context ends.

    Parameters
    ----------
    world : World
        The world whose chip to serve.
    clock : ExperimentClock
        Time of samples and commands.
    control, data : str
        Endpoints such as ``tcp://127.0.0.1:5557``; port 0 lets the system choose.
    sample_every_s : float
        Experiment seconds between samples.
    faults : WireFaults, optional
        Switches of its faults.
    units : mapping of str to str, optional
        Property of the wire to the unit that it is sent in and advertised with, such as
        ``{"temperatureMeasured": "K"}``; what is absent has the unit of `wire.QUANTITIES`.

    Yields
    ------
    tuple of str
        The endpoints, with the ports in use.

    Raises
    ------
    BadInput
        If an endpoint cannot be bound.
    """
    sockets = _Sockets(control, data)
    try:
        sockets.open()
        properties = wire.advertised(units)
        server = _ImpulseServer(world, clock, sockets, sample_every_s, faults, properties)
        async with background(server.answer_all(), server.publish_all()):
            yield sockets.endpoints
    finally:
        sockets.context.destroy(linger=0)


class _Sockets:
    """Both sockets, which a restart closes and opens again on the same ports."""

    def __init__(self, control: str, data: str) -> None:
        self.context = zmq.asyncio.Context()
        # From the first connection on: set at the end, it can hang libzmq (its issue 3252).
        self.context.setsockopt(zmq.LINGER, 0)
        self.endpoints = control, data
        # Held while something is sent or received: a socket must not be closed under it.
        self.sending = asyncio.Lock()

    def open(self) -> None:
        """Bind both; raises BadInput where a port is in use."""
        self.replies, self.samples = self.context.socket(zmq.REP), self.context.socket(zmq.PUB)
        self.replies.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        try:
            control, data = self.endpoints
            self.endpoints = (
                bind(self.replies, control, "heater.endpoint"),
                bind(self.samples, data, "heater.endpoint"),
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close both; what was not sent yet is lost."""
        self.replies.close(linger=0)
        self.samples.close(linger=0)

    async def restart(self) -> None:
        """Close both and open them again."""
        async with self.sending:
            self.close()
            end = asyncio.get_running_loop().time() + _REBIND_S
            while True:
                try:
                    self.open()
                except BadInput:
                    if asyncio.get_running_loop().time() > end:
                        raise
                    await asyncio.sleep(0.01)
                else:
                    return

    async def publish(self, parts: list[bytes]) -> None:
        """Send a message to all subscribers."""
        async with self.sending:
            await self.samples.send_multipart(parts)


class _ImpulseServer:
    def __init__(
        self,
        world: World,
        clock: ExperimentClock,
        sockets: _Sockets,
        sample_every_s: float,
        faults: WireFaults | None,
        properties: tuple[wire.PropertyInformation, ...],
    ) -> None:
        self._world, self._clock, self._sockets = world, clock, sockets
        self._faults = WireFaults(FAULTS) if faults is None else faults
        self._properties = properties
        self._units = {p.name: wire.unit_conversion(p.name, p.unit) for p in properties}
        self._period_ns = max(1, int(max(sample_every_s, clock.speed / MAX_MESSAGES_PER_S) * 1e9))
        self._started_ns = clock.epoch_utc_ns
        self._number = 0
        self._busy = False

    async def answer_all(self) -> None:
        while True:
            replies = self._sockets.replies
            parts = await replies.recv_multipart()
            try:
                if len(parts) != 1:
                    raise BadMessage(f"{len(parts)} parts; a command has one")
                reply = await self._carry_out(wire.parse_request(bytes(parts[0])))
            except BadMessage as error:
                reply = wire.Reply("badRequest", message=str(error))
            await self._faults.delay()
            if self._faults.strikes("disconnect"):
                await self._restart()
                continue
            raw = wire.encode_reply(reply)
            if self._faults.strikes("short-frame"):
                raw = raw[: len(raw) // 2]
            await replies.send(self._faults.spoil(raw))

    async def publish_all(self) -> None:
        next_ns = self._clock.now_ns()
        while True:
            await self._clock.sleep_until_ns(next_ns)
            t_ns = self._clock.now_ns()
            reading = self._world.heater.reading(t_ns)
            self._number += 1
            if not (self._faults.is_on("hang") or self._faults.is_on("silent")):
                await self._publish(wire.encode_heat_sample(self._sample(reading), self._units))
                if self._busy and not self._world.heater.is_busy(t_ns):
                    self._busy = False
                    finished = wire.heat_finished(self._duration_s(t_ns))
                    await self._publish(wire.encode_event(finished))
            next_ns += self._period_ns * max(1, -(-(t_ns - next_ns) // self._period_ns))

    async def _publish(self, parts: list[bytes]) -> None:
        topic, raw = parts
        if self._faults.is_on("garbage"):
            raw = self._faults.noise() + raw
        if self._faults.is_on("short-frame"):
            raw = raw[: len(raw) // 2]
        await self._sockets.publish([topic, raw])

    async def _restart(self) -> None:
        await self._sockets.restart()
        self._number, self._started_ns, self._busy = 0, self._clock.now_ns(), False
        await self._publish(wire.encode_event(wire.control_given()))

    async def _carry_out(self, request: wire.Request) -> wire.Reply:
        if request.type in {wire.START_RAMP, wire.STOP_RAMP} and self._faults.strikes("error"):
            problem = "the heating controller reports a fault"
            await self._publish(wire.encode_event(wire.popup(problem)))
            return wire.Reply("invalidOperation", message=problem)
        return self._answer(request)

    def _sample(self, reading: HeaterReading) -> wire.HeatSample:
        return wire.HeatSample(
            sequence_number=self._number,
            experiment_duration_s=self._duration_s(reading.t_ns),
            time_stamp=iso_utc(reading.t_ns),
            temperature_c=reading.temperature_c,
            setpoint_c=reading.setpoint_c,
            power_w=reading.power_w,
            current_a=reading.current_a,
            voltage_v=reading.voltage_v,
            resistance_ohm=reading.resistance_ohm,
        )

    def _duration_s(self, t_ns: int) -> float:
        return (t_ns - self._started_ns) * 1e-9

    def _answer(self, request: wire.Request) -> wire.Reply:
        kind, parameters = request.type, request.parameters
        if kind == wire.GET_STATUS:
            return wire.Reply(data={"status": wire.STATUS_CONTROL})
        if kind == wire.GET_CHANNELS:
            return wire.Reply(data={"activeChannels": ["heat"]})
        if kind == wire.GET_PROPERTIES:
            if parameters.get("channelName") != "heat":
                return _invalid("channelName", "the only channel is 'heat'")
            return wire.Reply(data={"properties": [p.name for p in self._properties]})
        if kind == wire.GET_PROPERTY_INFORMATION:
            if parameters.get("channelName") != "heat":
                return _invalid("channelName", "the only channel is 'heat'")
            name = parameters.get("propertyName")
            found = next((p for p in self._properties if p.name == name), None)
            if found is None:
                return _invalid("propertyName", f"{name!r} is not a property of 'heat'")
            return wire.Reply(data=found.data())
        if kind == wire.START_RAMP:
            return self._start_ramp(parameters.get("temperature"), parameters.get("rampTime"))
        if kind == wire.STOP_RAMP:
            self._world.heater.hold(self._clock.now_ns())
            self._busy = False
            return wire.Reply()
        if kind.startswith("control."):
            return wire.Reply("invalidOperation", message=f"'{kind}' is not available here")
        return wire.Reply("badRequest", message=f"unknown command '{kind[:100]}'")

    def _start_ramp(self, temperature: Any, ramp_s: Any) -> wire.Reply:
        numbers: list[float] = []
        for name, value in (("temperature", temperature), ("rampTime", ramp_s)):
            number = wire.finite_number(value)
            if number is None:
                return _invalid(name, f"{str(value)[:60]!r} is not a finite number")
            numbers.append(number)
        temperature_c = self._units["temperatureSetpoint"].inward(numbers[0])
        try:
            self._world.heater.go_to(self._clock.now_ns(), temperature_c, numbers[1])
        except ValueError as error:
            return _invalid(
                "temperature" if "temperature" in str(error) else "rampTime", str(error)
            )
        self._busy = True
        return wire.Reply()


def _invalid(parameter: str, description: str) -> wire.Reply:
    error = wire.InputError("error.validation.invalidValue", parameter, description)
    return wire.Reply("invalidInput", message="invalid input", errors=(error,))
