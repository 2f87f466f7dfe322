"""Server of the DENS Impulse wire (ZeroMQ and JSON) in front of the simulated chip.

Requests that are no good get an answer that says so; none ends the server. Samples carry the
moment at which they were taken, in seconds of the experiment clock since its start.
"""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import zmq
import zmq.asyncio

from ..protocols import impulse as wire
from ..protocols.loading import BadInput
from ..protocols.timebase import ExperimentClock, iso_utc
from .chip import HeaterReading
from .hosting import background
from .world import World

# More messages than this in a wall second, when time runs faster, would only be noise.
MAX_MESSAGES_PER_S = 500.0
PROPERTIES = tuple(
    wire.PropertyInformation(name, unit, 9 if unit in {"W", "A", "V"} else 4)
    for name, (_, unit) in wire.QUANTITIES.items()
)


@asynccontextmanager
async def serve(
    world: World, clock: ExperimentClock, control: str, data: str, sample_every_s: float
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

    Yields
    ------
    tuple of str
        The endpoints, with the ports in use.

    Raises
    ------
    BadInput
        If an endpoint cannot be bound.
    """
    context = zmq.asyncio.Context()
    try:
        replies, samples = context.socket(zmq.REP), context.socket(zmq.PUB)
        replies.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        endpoints = _bind(replies, control), _bind(samples, data)
        server = _Server(world, clock, samples, sample_every_s)
        async with background(server.answer_all(replies), server.publish_all()):
            yield endpoints
    finally:
        context.destroy(linger=0)


def _bind(socket: zmq.asyncio.Socket, endpoint: str) -> str:
    try:
        socket.bind(endpoint.removesuffix(":0") + ":*" if endpoint.endswith(":0") else endpoint)
    except zmq.ZMQError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else str(error)
        raise BadInput("heater.endpoint", f"cannot listen on {endpoint}: {reason}") from None
    return bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()  # pyright: ignore[reportArgumentType]


class _Server:
    def __init__(
        self,
        world: World,
        clock: ExperimentClock,
        samples: zmq.asyncio.Socket,
        sample_every_s: float,
    ) -> None:
        self._world, self._clock, self._samples = world, clock, samples
        self._period_ns = max(1, int(max(sample_every_s, clock.speed / MAX_MESSAGES_PER_S) * 1e9))
        self._busy = False

    async def answer_all(self, replies: zmq.asyncio.Socket) -> None:
        while True:
            parts = await replies.recv_multipart()
            try:
                if len(parts) != 1:
                    raise wire.BadMessage(f"{len(parts)} parts; a command has one")
                reply = self._answer(wire.parse_request(bytes(parts[0])))
            except wire.BadMessage as error:
                reply = wire.Reply("badRequest", message=str(error))
            await replies.send(wire.encode_reply(reply))

    async def publish_all(self) -> None:
        number = 0
        next_ns = self._clock.now_ns()
        while True:
            await self._clock.sleep_until_ns(next_ns)
            t_ns = self._clock.now_ns()
            reading = self._world.heater_reading(t_ns)
            number += 1
            await self._samples.send_multipart(
                wire.encode_heat_sample(self._sample(number, reading))
            )
            if self._busy and not self._world.heater_busy(t_ns):
                self._busy = False
                finished = wire.heat_finished(self._duration_s(t_ns))
                await self._samples.send_multipart(wire.encode_event(finished))
            next_ns += self._period_ns * max(1, -(-(t_ns - next_ns) // self._period_ns))

    def _sample(self, number: int, reading: HeaterReading) -> wire.HeatSample:
        return wire.HeatSample(
            sequence_number=number,
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
        return (t_ns - self._clock.epoch_utc_ns) * 1e-9

    def _answer(self, request: wire.Request) -> wire.Reply:
        kind, parameters = request.type, request.parameters
        if kind == wire.GET_STATUS:
            return wire.Reply(data={"status": wire.STATUS_CONTROL})
        if kind == wire.GET_CHANNELS:
            return wire.Reply(data={"activeChannels": ["heat"]})
        if kind == wire.GET_PROPERTIES:
            if parameters.get("channelName") != "heat":
                return _invalid("channelName", "the only channel is 'heat'")
            return wire.Reply(data={"properties": [p.name for p in PROPERTIES]})
        if kind == wire.GET_PROPERTY_INFORMATION:
            if parameters.get("channelName") != "heat":
                return _invalid("channelName", "the only channel is 'heat'")
            name = parameters.get("propertyName")
            found = next((p for p in PROPERTIES if p.name == name), None)
            if found is None:
                return _invalid("propertyName", f"{name!r} is not a property of 'heat'")
            return wire.Reply(data=found.data())
        if kind == wire.START_RAMP:
            return self._start_ramp(parameters.get("temperature"), parameters.get("rampTime"))
        if kind == wire.STOP_RAMP:
            self._world.hold_heat(self._clock.now_ns())
            self._busy = False
            return wire.Reply()
        if kind.startswith("control."):
            return wire.Reply("invalidOperation", message=f"'{kind}' is not available here")
        return wire.Reply("badRequest", message=f"unknown command '{kind[:100]}'")

    def _start_ramp(self, temperature: Any, ramp_s: Any) -> wire.Reply:
        for name, value in (("temperature", temperature), ("rampTime", ramp_s)):
            if type(value) not in (int, float) or not math.isfinite(value):
                return _invalid(name, f"{value!r} is not a finite number")
        try:
            self._world.heat_to(self._clock.now_ns(), float(temperature), float(ramp_s))
        except ValueError as error:
            return _invalid(
                "temperature" if "temperature" in str(error) else "rampTime", str(error)
            )
        self._busy = True
        return wire.Reply()


def _invalid(parameter: str, description: str) -> wire.Reply:
    error = wire.InputError("error.validation.invalidValue", parameter, description)
    return wire.Reply("invalidInput", message="invalid input", errors=(error,))
