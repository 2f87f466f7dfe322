"""Heater: a DENSsolutions chip behind the Impulse software (ZeroMQ and JSON)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import ClassVar

import zmq
import zmq.asyncio
from pydantic import BaseModel, ConfigDict, Field

from ...protocols.config.rig import HeaterRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.wires import impulse
from ...protocols.wires.impulse import BadMessage, Request, UnitConversion
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
from ..common.instrument_time import InstrumentTime
from ..common.sample_fanout import MAX_WAITING_SAMPLES, Fanout, Inbox
from ..links.errors import not_connected
from ..links.tcp import address_of, end_tcp, left_s, open_tcp
from .control import ImpulseControl

_log = logging.getLogger(__name__)

ABSOLUTE_ZERO_C = -273.15
SETPOINT_TOLERANCE_C = 0.5
STALE_GRACE_S = 1.0  # wall seconds
MAX_SHOWN = 5


class ImpulseOptions(BaseModel):
    """Where the samples come from, and for how long they may stay away (experiment seconds)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    data_endpoint: str = "tcp://127.0.0.1:5556"
    stale_s: float = Field(default=2.0, gt=0)


class ImpulseHeater(Heater):
    """Commands over REQ, samples and events over SUB.

    An Impulse that was restarted is a loss, told by the numbers of its samples that begin anew:
    its heater stands where it stood at the restart, and its units may be others. Commands are
    refused until `connect` has gone through the handshake again.

    Attributes
    ----------
    lost_samples : int
        Samples that the instrument numbered and that did not arrive, since `connect`.
    shown : deque of str
        What Impulse has shown its operator in popups and notifications, the latest last; they
        are logged as they come, and stand in the errors of what fails afterwards.
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
        self._control = ImpulseControl(name, rig.endpoint, self._shown)
        self._reader: asyncio.Task[None] | None = None
        self._fanout = Fanout()
        self._latest: HeaterSample | None = None
        self._restarted = ""
        self._ramp_ended = asyncio.Event()
        self._ramp_ended.set()
        self.shown: deque[str] = deque(maxlen=MAX_SHOWN)

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
        self._fanout.end()
        self._control.close()
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)
        self._latest = None
        self._restarted = ""
        self._ramp_ended.set()
        self.shown.clear()

    async def make_safe(self) -> None:
        """Go to the rig's safe temperature at the rig's rate; returns when the samples say so.

        A command that came to nothing is repeated once, over a new socket, and after a new
        handshake where Impulse was restarted.
        """
        if not self._control.is_open or self._restarted:
            # Samples are only needed to confirm: the command goes out even if none come.
            await self._take_control(time.monotonic() + GRACE_S)
        try:
            await self._ramp_to_safe()
        except DeviceError:
            if self._restarted:
                await self._take_control(time.monotonic() + GRACE_S)
            await self._ramp_to_safe()
        try:
            await self._see_safe()
        except DeviceLost:
            if not self._restarted:
                raise
            await self._take_control(time.monotonic() + GRACE_S)
            await self._ramp_to_safe()
            await self._see_safe()

    async def _ramp_to_safe(self) -> None:
        safe_c = self.rig.limits.safe_c
        self.safe_sent_ns = await self._ramp(safe_c, self._ramp_time_s(safe_c), self._safe_request)

    @property
    def _safe_request(self) -> str:
        return f"go to the safe temperature of {self.rig.limits.safe_c:g} degC"

    async def _see_safe(self) -> None:
        """Wait until a sample has the safe setpoint."""
        request, safe_c = self._safe_request, self.rig.limits.safe_c
        if self._reader is None:
            await self._subscribe(time.monotonic() + GRACE_S)
        deadline = time.monotonic() + self.clock.wall_s(self._ramp_time_s(safe_c)) + GRACE_S
        with self._fanout.reader() as inbox:
            latest: HeaterSample | None = None
            while (left_s := deadline - time.monotonic()) > 0:
                latest = await self._next(inbox, request, left_s)
                if latest is None:
                    raise not_connected(self.name, request)
                if abs(latest.setpoint_c - safe_c) <= SETPOINT_TOLERANCE_C:
                    return
        seen = "no sample" if latest is None else f"a setpoint of {latest.setpoint_c:.1f} degC"
        raise DeviceRefused(
            self.name,
            request,
            f"it accepted the command and still sends {seen}{self._shown()}",
            "Turn the heater off at its controller",
        )

    async def set_temperature(self, temperature_c: float) -> int:
        """Go there at once, or at the rig's rate where it names one."""
        self._refuse_beyond_limits(temperature_c)
        request = f"go to {temperature_c:g} degC"
        return await self._ramp(temperature_c, self._ramp_time_s(temperature_c), request)

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        """Go there linearly in a given time.

        Raises
        ------
        OutOfRange
            If that is hotter or faster than the rig allows; nothing is sent.
        """
        self._refuse_beyond_limits(temperature_c)
        request = f"ramp to {temperature_c:g} degC in {duration_s:g} s"
        refuse_too_fast(self.name, request, duration_s, self._ramp_time_s(temperature_c))
        return await self._ramp(temperature_c, duration_s, request)

    async def hold_here(self) -> None:
        """Stop a ramp and stay at the temperature that it has reached."""
        await self._command(Request(impulse.STOP_RAMP), "hold the temperature")
        self._ramp_ended.set()  # Impulse tells of no end of a ramp that it was told to stop

    @property
    def ramping(self) -> bool:
        """Whether Impulse has still to say that it has done what it was told last."""
        return not self._ramp_ended.is_set()

    async def ramp_ended(self, timeout_s: float) -> None:
        """Wait until Impulse says that the ramp under way has ended, or it was stopped.

        Parameters
        ----------
        timeout_s : float
            Wall seconds.

        Raises
        ------
        DeviceLost
            If it does not say so in time, or was restarted meanwhile.
        """
        request = "wait for the end of the ramp"
        if not self._control.is_open:
            raise not_connected(self.name, request)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ramp_ended.wait()
        except TimeoutError:
            raise DeviceLost(
                self.name,
                request,
                f"{self.options.data_endpoint} did not report it within {timeout_s:.3g} s"
                + self._shown(),
                "See the Impulse window",
            ) from None
        if self._restarted:
            raise self._was_restarted(request)

    async def samples(self) -> AsyncIterator[HeaterSample]:
        """Readings as the instrument sends them, until it disconnects.

        Each reader gets every sample from its first step on. They are stamped with the
        instrument's own time mapped on the experiment clock.

        Raises
        ------
        DeviceLost
            If they cease, or begin anew because Impulse was restarted.
        """
        request = "read samples"
        if self._restarted:
            raise self._was_restarted(request)
        if self._reader is None:
            raise not_connected(self.name, request)
        with self._fanout.reader() as inbox:
            while (sample := await self._next(inbox, request, self.stale_wall_s)) is not None:
                yield sample

    # Commands

    def _refuse_beyond_limits(self, temperature_c: float) -> None:
        highest_c = self.rig.limits.temperature_c
        if not ABSOLUTE_ZERO_C <= temperature_c <= highest_c:
            raise OutOfRange(
                self.name,
                f"go to {temperature_c:g} degC",
                f"the rig's limit is {highest_c:g} degC; nothing was sent",
                "Lower the recipe's temperature, or raise the rig's limits.temperature",
            )

    def _ramp_time_s(self, temperature_c: float) -> float:
        """Shortest time to a temperature that the rig's rate allows; 0 without one."""
        if self._latest is None:  # the longest way there is
            limits = self.rig.limits
            distance_c = max(abs(temperature_c - t) for t in (limits.safe_c, limits.temperature_c))
        else:
            distance_c = max(
                abs(temperature_c - self._latest.temperature_c),
                abs(temperature_c - self._latest.setpoint_c),
            )
        return shortest_time_s(self.rig.limits, distance_c)

    async def _ramp(self, temperature_c: float, duration_s: float, request: str) -> int:
        setpoint = self._control.units.get("temperatureSetpoint", UnitConversion())
        command = impulse.start_ramp(setpoint.outward(temperature_c), duration_s)
        was_ramping = self.ramping
        try:
            # The end of a short ramp may be told before the reply comes.
            return await self._command(command, request, self._ramp_ended.clear)
        except DeviceRefused:
            if not was_ramping:
                self._ramp_ended.set()
            raise

    async def _command(
        self, command: Request, request: str, going_out: Callable[[], None] | None = None
    ) -> int:
        """Send a command that must be answered by ok; moment at which it went out."""
        sent_ns = self.clock.now_ns()

        def went_out() -> None:
            nonlocal sent_ns
            sent_ns = self.clock.now_ns()
            if going_out is not None:
                going_out()

        await self._ask(command, request, GRACE_S, went_out)
        return sent_ns

    async def _ask(
        self, command: Request, request: str, timeout_s: float, sent: Callable[[], None]
    ) -> None:
        if self._restarted:
            raise self._was_restarted(request)
        await self._control.ask(command, request, timeout_s, sent)

    def _shown(self) -> str:
        return f"; it shows '{self.shown[-1]}'" if self.shown else ""

    def _was_restarted(self, request: str) -> DeviceLost:
        return DeviceLost(
            self.name, request, self._restarted, "Connect again, and check the heater"
        )

    # Connecting

    async def _take_control(self, deadline: float) -> None:
        """Connect the control socket, wait for control and read the units."""
        await self.disconnect()
        await self._somebody_listens(self._addresses[0], deadline)
        self._context = zmq.asyncio.Context()
        self._control.open(self._context)
        try:
            await self._control.wait_for_control(deadline)
            await self._control.read_units(deadline)
        except BaseException:
            await self.disconnect()
            raise

    async def _somebody_listens(self, address: tuple[str, int], deadline: float) -> None:
        """Tell at once that nobody does; ZeroMQ would wait for somebody, silently."""
        sock = await open_tcp(self.name, "connect", address, left_s(deadline))
        end_tcp(sock)
        sock.close()

    async def _subscribe(self, deadline: float) -> None:
        if self._context is None:
            raise not_connected(self.name, "read samples")
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
        with self._fanout.reader() as inbox:
            await self._next(inbox, "read a first sample", left_s(deadline))

    # Samples

    async def _read(self, data: zmq.asyncio.Socket) -> None:
        """Hand every sample to every reader."""
        time_of = InstrumentTime()
        last: impulse.HeatSample | None = None
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
                    read = impulse.parse_heat_sample(raw, self._control.units)
                except BadMessage:
                    continue  # leaves a gap in the numbers, which is counted
                if last is not None:
                    if read.sequence_number == last.sequence_number:
                        continue
                    if (
                        read.sequence_number < last.sequence_number
                        or read.experiment_duration_s < last.experiment_duration_s
                    ):
                        self._on_restart(last, read)
                        return
                    self.lost_samples += read.sequence_number - last.sequence_number - 1
                last = read
                t_ns = time_of.stamp_ns(read.experiment_duration_s, received_ns)
                self._latest = _sample(t_ns, read)
                self._fanout.put(self._latest)
        finally:
            data.close(linger=0)

    def _on_restart(self, last: impulse.HeatSample, read: impulse.HeatSample) -> None:
        self._restarted = (
            f"Impulse at {self.rig.endpoint} was restarted: sample {read.sequence_number} at "
            f"{read.experiment_duration_s:.3f} s of its experiment came after sample "
            f"{last.sequence_number} at {last.experiment_duration_s:.3f} s"
        )
        _log.warning("%s: %s", self.name, self._restarted)
        self._fanout.end(self._was_restarted("read samples"))
        self._ramp_ended.set()

    async def _on_event(self, parts: list[bytes]) -> None:
        """Note the end of a ramp and what the operator is shown.

        The units are read again when Impulse gets control anew, as its own client does.
        """
        try:
            event = impulse.parse_event(impulse.split_message(parts)[1])
        except BadMessage:
            return
        if impulse.is_heat_finished(event):
            self._ramp_ended.set()
        if (text := impulse.message_shown(event)) is not None:
            self.shown.append(text)
            _log.warning("%s: Impulse shows '%s'", self.name, text)
        if event.fields.get("newState") == impulse.STATUS_CONTROL:
            with contextlib.suppress(DeviceError):  # the next command meets it too, and says so
                await self._control.read_units(time.monotonic() + GRACE_S)

    @property
    def stale_wall_s(self) -> float:
        """Wall seconds without a sample after which the heater counts as lost."""
        return self.clock.wall_s(self.options.stale_s) + STALE_GRACE_S

    async def _next(self, inbox: Inbox, request: str, timeout_s: float) -> HeaterSample | None:
        """Wait for the next sample, None after disconnecting, DeviceLost when none comes."""
        try:
            return await inbox.next(timeout_s)
        except TimeoutError:
            pass
        try:
            # After a stall of the event loop samples may wait in the socket, yet unread.
            return await inbox.next(0.05)
        except TimeoutError:
            raise DeviceLost(
                self.name,
                request,
                f"no sample came from {self.options.data_endpoint} within {timeout_s:.3g} s"
                + self._shown(),
                "Check that Impulse is running and that an experiment is started in it",
            ) from None


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
