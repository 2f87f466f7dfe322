"""Heater: a DENSsolutions chip behind the Impulse software (ZeroMQ and JSON)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import zmq
import zmq.asyncio
from pydantic import BaseModel, ConfigDict, Field

from ..protocols import impulse
from ..protocols.impulse import BadMessage, Reply, Request, UnitConversion
from ..protocols.rig import HeaterRig
from ..protocols.timebase import ExperimentClock
from .base import (
    GRACE_S,
    DeviceError,
    DeviceLost,
    DeviceRefused,
    Heater,
    HeaterSample,
    Identity,
    OutOfRange,
)
from .links import RequestLink, address_of, end_tcp, not_connected, open_tcp
from .stamps import InstrumentTime

_log = logging.getLogger(__name__)

ABSOLUTE_ZERO_C = -273.15
STATUS_POLL_S = 0.2  # wall seconds
SETPOINT_TOLERANCE_C = 0.5
RATE_TOLERANCE = 1.02
MAX_WAITING_SAMPLES = 20_000
STALE_GRACE_S = 1.0  # wall seconds


class ImpulseOptions(BaseModel):
    """Where the samples come from, and for how long they may stay away (experiment seconds)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    data_endpoint: str = "tcp://127.0.0.1:5556"
    stale_s: float = Field(default=2.0, gt=0)


class _Inbox:
    """Samples on their way to one reader."""

    def __init__(self) -> None:
        self.samples: deque[HeaterSample] = deque(maxlen=MAX_WAITING_SAMPLES)
        self.arrived = asyncio.Event()
        self.ended = False


class ImpulseHeater(Heater):
    """Commands over REQ, samples over SUB.

    Attributes
    ----------
    lost_samples : int
        Samples that the instrument numbered and that did not arrive, since `connect`.
    """

    summary: ClassVar[str] = "DENSsolutions heating holder through the Impulse software"
    Options: ClassVar[type[BaseModel]] = ImpulseOptions
    channels: ClassVar[Mapping[str, str]] = {
        "temperature_c": "degC",
        "setpoint_c": "degC",
        "power_w": "W",
        "current_a": "A",
        "voltage_v": "V",
        "resistance_ohm": "ohm",
    }

    def __init__(self, name: str, rig: HeaterRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self.options = ImpulseOptions.model_validate(rig.options)
        self._addresses = (
            address_of(rig.endpoint, "tcp", "heater.endpoint"),
            address_of(self.options.data_endpoint, "tcp", "heater.options.data_endpoint"),
        )
        self.lost_samples = 0
        self._context: zmq.asyncio.Context | None = None
        self._link: RequestLink | None = None
        self._reader: asyncio.Task[None] | None = None
        self._inboxes: set[_Inbox] = set()
        self._units: dict[str, UnitConversion] = {}
        self._latest: HeaterSample | None = None

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Wait for control, read the units, and see the first sample arrive.

        Raises
        ------
        DeviceRefused
            If Impulse keeps control to itself, has no heating channel, or advertises units
            that are not known.
        """
        deadline = time.monotonic() + timeout_s
        await self._take_control(deadline)
        try:
            await self._subscribe(deadline)
        except BaseException:
            await self.disconnect()
            raise
        return Identity("DENSsolutions", "Impulse")

    async def disconnect(self) -> None:
        """Close both sockets; iterators of samples end. The heater goes on as it is."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled() and (error := reader.exception()) is not None:
                _log.error("%s: reading samples had ended", self.name, exc_info=error)
        for inbox in self._inboxes:
            inbox.ended = True
            inbox.arrived.set()
        link, self._link = self._link, None
        if link is not None:
            link.close()
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)
        self._latest = None

    async def make_safe(self) -> None:
        """Go to the rig's safe temperature at the rig's rate; returns when the samples say so.

        A command whose reply was lost is repeated once, over a new socket.
        """
        limits = self.rig.limits
        if self._link is None:
            # Samples are only needed to confirm: the command goes out even if none come.
            await self._take_control(time.monotonic() + GRACE_S)
        asked = f"to go to the safe temperature of {limits.safe_c:g} degC"
        duration_s = self._ramp_time_s(limits.safe_c)
        try:
            await self._ramp(limits.safe_c, duration_s, asked)
        except DeviceLost:
            await self._ramp(limits.safe_c, duration_s, asked)
        if self._reader is None:
            await self._subscribe(time.monotonic() + GRACE_S)
        deadline = time.monotonic() + self.clock.wall_s(duration_s) + GRACE_S
        with contextlib.closing(_Subscription(self)) as subscription:
            latest: HeaterSample | None = None
            while (left_s := deadline - time.monotonic()) > 0:
                latest = await subscription.next(asked, left_s)
                if latest is None:
                    raise not_connected(self.name, asked)
                if abs(latest.setpoint_c - limits.safe_c) <= SETPOINT_TOLERANCE_C:
                    return
        seen = "no sample" if latest is None else f"a setpoint of {latest.setpoint_c:.1f} degC"
        raise DeviceRefused(
            self.name,
            asked,
            f"it answered ok and still sends {seen}",
            "Turn the heater off at its controller",
        )

    async def set_temperature(self, temperature_c: float) -> int:
        """Go there at once, or at the rig's rate where it names one."""
        self._refuse_beyond_limits(temperature_c)
        asked = f"to go to {temperature_c:g} degC"
        return await self._ramp(temperature_c, self._ramp_time_s(temperature_c), asked)

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        """Go there linearly in a given time.

        Raises
        ------
        OutOfRange
            If that is hotter or faster than the rig allows; nothing is sent.
        """
        self._refuse_beyond_limits(temperature_c)
        asked = f"to ramp to {temperature_c:g} degC in {duration_s:g} s"
        shortest_s = self._ramp_time_s(temperature_c) / RATE_TOLERANCE
        if not (math.isfinite(duration_s) and duration_s >= shortest_s):
            raise OutOfRange(
                self.name,
                asked,
                f"at the rig's rate it takes {shortest_s:g} s at least; nothing was sent",
                "Ramp slower, or raise the rig's limits.rate",
            )
        return await self._ramp(temperature_c, duration_s, asked)

    async def hold_here(self) -> None:
        """Stop a ramp and stay at the temperature that it has reached."""
        await self._command(Request(impulse.STOP_RAMP), "to hold the temperature")

    async def samples(self) -> AsyncIterator[HeaterSample]:
        """Readings as the instrument sends them, until it disconnects.

        Each reader gets every sample from its first step on. They are stamped with the
        instrument's own time mapped on the experiment clock.
        """
        asked = "for samples"
        if self._reader is None:
            raise not_connected(self.name, asked)
        with contextlib.closing(_Subscription(self)) as subscription:
            while (sample := await subscription.next(asked)) is not None:
                yield sample

    # Commands

    def _refuse_beyond_limits(self, temperature_c: float) -> None:
        highest_c = self.rig.limits.temperature_c
        if not ABSOLUTE_ZERO_C <= temperature_c <= highest_c:
            raise OutOfRange(
                self.name,
                f"to go to {temperature_c:g} degC",
                f"the rig's limit is {highest_c:g} degC; nothing was sent",
                "Lower the recipe's temperature, or raise the rig's limits.temperature",
            )

    def _ramp_time_s(self, temperature_c: float) -> float:
        """Shortest time to a temperature that the rig's rate allows; 0 without one."""
        rate_c_per_s = self.rig.limits.rate_c_per_s
        if rate_c_per_s is None:
            return 0.0
        if self._latest is None:  # the longest way there is
            limits = self.rig.limits
            distance_c = max(abs(temperature_c - t) for t in (limits.safe_c, limits.temperature_c))
        else:
            distance_c = max(
                abs(temperature_c - self._latest.temperature_c),
                abs(temperature_c - self._latest.setpoint_c),
            )
        return distance_c / rate_c_per_s

    async def _ramp(self, temperature_c: float, duration_s: float, asked: str) -> int:
        setpoint = self._units.get("temperatureSetpoint", UnitConversion())
        request = impulse.start_ramp(setpoint.outward(temperature_c), duration_s)
        return await self._command(request, asked)

    async def _command(self, request: Request, asked: str) -> int:
        """Send a command that must be answered by ok; moment at which it went out."""
        sent_ns = self.clock.now_ns()

        def went_out() -> None:
            nonlocal sent_ns
            sent_ns = self.clock.now_ns()

        await self._ask(request, asked, GRACE_S, went_out)
        return sent_ns

    async def _ask(
        self, request: Request, asked: str, timeout_s: float = GRACE_S, sent: Any = None
    ) -> Reply:
        if self._link is None:
            raise not_connected(self.name, asked)
        raw = await self._link.exchange(impulse.encode_request(request), asked, timeout_s, sent)
        try:
            reply = impulse.parse_reply(raw)
        except BadMessage as error:
            raise self._not_impulse(asked, error) from None
        if not reply.ok:
            raise DeviceRefused(
                self.name,
                asked,
                f"Impulse at {self.rig.endpoint} answered {reply.describe()}",
                "See the Impulse window",
            )
        return reply

    def _not_impulse(self, asked: str, why: object) -> DeviceRefused:
        return DeviceRefused(
            self.name,
            asked,
            f"{self.rig.endpoint} answered what Impulse would not: {why}",
            "Does the rig's endpoint name Impulse's control port (5557)?",
        )

    # Connecting

    async def _take_control(self, deadline: float) -> None:
        """Connect the control socket, wait for control and read the units."""
        await self.disconnect()
        await self._somebody_listens(self._addresses[0], deadline)
        self._context = zmq.asyncio.Context()
        self._link = RequestLink(self.name, self.rig.endpoint, self._context)
        try:
            await self._wait_for_control(deadline)
            await self._read_units(deadline)
        except BaseException:
            await self.disconnect()
            raise

    async def _somebody_listens(self, address: tuple[str, int], deadline: float) -> None:
        """Tell at once that nobody does; ZeroMQ would wait for somebody, silently."""
        sock = await open_tcp(self.name, "to connect", address, _left_s(deadline))
        end_tcp(sock)
        sock.close()

    async def _wait_for_control(self, deadline: float) -> None:
        asked = "for its status"
        while True:
            reply = await self._ask(Request(impulse.GET_STATUS), asked, _left_s(deadline))
            status = reply.data.get("status")
            if status == impulse.STATUS_CONTROL:
                return
            if time.monotonic() + STATUS_POLL_S > deadline:
                raise DeviceRefused(
                    self.name,
                    "for control",
                    f"Impulse is in the state {status!r}",
                    "Give control to the API in the Impulse window",
                )
            await asyncio.sleep(STATUS_POLL_S)

    async def _read_units(self, deadline: float) -> None:
        asked = "for its data channels"
        reply = await self._ask(Request(impulse.GET_CHANNELS), asked, _left_s(deadline))
        channels = reply.data.get("activeChannels")
        if not isinstance(channels, list) or "heat" not in channels:
            raise DeviceRefused(
                self.name,
                asked,
                f"Impulse has {channels!r} and no 'heat'",
                "Is a heating holder connected and its chip loaded?",
            )
        asked = "for the properties of its samples"
        request = Request(impulse.GET_PROPERTIES, {"channelName": "heat"})
        reply = await self._ask(request, asked, _left_s(deadline))
        names: Any = reply.data.get("properties")
        present = [name for name in impulse.QUANTITIES if isinstance(names, list) and name in names]
        missing = [name for name in impulse.REQUIRED if name not in present]
        # Attested in every sample, not in every list of properties.
        if [name for name in missing if name != "experimentDuration"]:
            raise self._not_impulse(asked, f"no {', '.join(missing)} among {names!r}")
        units: dict[str, UnitConversion] = {}
        for name in present:
            asked = f"for the unit of {name}"
            request = impulse.property_information(name)
            reply = await self._ask(request, asked, _left_s(deadline))
            try:
                unit = impulse.PropertyInformation.parse(reply.data).unit
                units[name] = impulse.unit_conversion(name, unit)
            except BadMessage as error:
                raise self._not_impulse(asked, error) from None
        self._units = units

    async def _subscribe(self, deadline: float) -> None:
        if self._context is None:
            raise not_connected(self.name, "for samples")
        await self._somebody_listens(self._addresses[1], deadline)
        data = self._context.socket(zmq.SUB)
        data.setsockopt(zmq.LINGER, 0)
        data.setsockopt(zmq.RCVHWM, MAX_WAITING_SAMPLES)
        data.setsockopt(zmq.MAXMSGSIZE, impulse.MAX_MESSAGE_BYTES)
        data.subscribe(impulse.HEAT_TOPIC)
        data.subscribe(impulse.EVENTS_TOPIC)
        data.connect(self.options.data_endpoint)
        self.lost_samples = 0
        self._reader = asyncio.create_task(self._read(data), name=f"{self.name} samples")
        with contextlib.closing(_Subscription(self)) as subscription:
            await subscription.next("for a first sample", _left_s(deadline))

    # Samples

    async def _read(self, data: zmq.asyncio.Socket) -> None:
        """Hand every sample to every reader."""
        time_of = InstrumentTime()
        expected: int | None = None
        try:
            while True:
                parts = await data.recv_multipart()
                received_ns = self.clock.now_ns()
                if parts[0] == impulse.EVENTS_TOPIC:
                    await self._on_event(parts)
                    continue
                try:
                    topic, raw = impulse.split_message(parts)
                    if topic != impulse.HEAT_TOPIC:
                        continue
                    read = impulse.parse_heat_sample(raw, self._units)
                except BadMessage:
                    continue  # leaves a gap in the numbers, which is counted
                if expected is not None and read.sequence_number > expected:
                    self.lost_samples += read.sequence_number - expected
                expected = read.sequence_number + 1
                t_ns = time_of.stamp_ns(read.experiment_duration_s, received_ns)
                self._hand_out(_sample(t_ns, read))
        finally:
            data.close(linger=0)

    async def _on_event(self, parts: list[bytes]) -> None:
        """Read the units again when Impulse gets control anew, as its own client does."""
        try:
            event = impulse.parse_event(impulse.split_message(parts)[1])
        except BadMessage:
            return
        if event.fields.get("newState") == impulse.STATUS_CONTROL:
            with contextlib.suppress(DeviceError):  # the next command meets it too, and says so
                await self._read_units(time.monotonic() + GRACE_S)

    def _hand_out(self, sample: HeaterSample) -> None:
        self._latest = sample
        for inbox in self._inboxes:
            if len(inbox.samples) == MAX_WAITING_SAMPLES:
                self.lost_samples += 1
            inbox.samples.append(sample)
            inbox.arrived.set()

    @property
    def stale_wall_s(self) -> float:
        """Wall seconds without a sample after which the heater counts as lost."""
        return self.clock.wall_s(self.options.stale_s) + STALE_GRACE_S

    def inbox(self) -> _Inbox:
        """Open an inbox that gets every sample from now on."""
        inbox = _Inbox()
        self._inboxes.add(inbox)
        return inbox

    def forget(self, inbox: _Inbox) -> None:
        """Give an inbox no more samples."""
        self._inboxes.discard(inbox)


class _Subscription:
    """One reader's view of the samples."""

    def __init__(self, heater: ImpulseHeater) -> None:
        self._heater = heater
        self._inbox = heater.inbox()

    def close(self) -> None:
        self._heater.forget(self._inbox)

    async def next(self, asked: str, timeout_s: float | None = None) -> HeaterSample | None:
        """Wait for the next sample, None after disconnecting, DeviceLost when none comes."""
        inbox = self._inbox
        wait_s = self._heater.stale_wall_s if timeout_s is None else timeout_s
        while not inbox.samples:
            if inbox.ended:
                return None
            inbox.arrived.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await inbox.arrived.wait()
            except TimeoutError:
                # After a stall of the event loop samples may wait in the socket, yet unread.
                await asyncio.sleep(0.05)
                if not inbox.samples and not inbox.ended:
                    raise DeviceLost(
                        self._heater.name,
                        asked,
                        f"{self._heater.options.data_endpoint} sent none for {wait_s:.3g} s",
                        "Is Impulse running, and an experiment started in it?",
                    ) from None
        return inbox.samples.popleft()


def _left_s(deadline: float) -> float:
    return max(0.05, deadline - time.monotonic())


def _sample(t_ns: int, read: impulse.HeatSample) -> HeaterSample:
    values = {
        "power_w": read.power_w,
        "current_a": read.current_a,
        "voltage_v": read.voltage_v,
        "resistance_ohm": read.resistance_ohm,
    }
    return HeaterSample(
        t_ns,
        read.temperature_c,
        read.setpoint_c,
        {channel: value for channel, value in values.items() if value is not None},
    )
