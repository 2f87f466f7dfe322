"""Impulse's data socket: numbered samples, and events that Impulse shows its operator."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import zmq
import zmq.asyncio

from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import impulse
from ...protocols.wires.impulse import HeatSample
from ..base import GRACE_S, DeviceError, HeaterSample
from ..common.instrument_time import InstrumentTime
from ..common.sample_fanout import MAX_WAITING_SAMPLES
from ..common.tasks import end_task
from .control import ImpulseControl

_log = logging.getLogger(__name__)


class ImpulseData:
    """Samples and events over SUB.

    Parameters
    ----------
    device, endpoint : str
        For messages, and where Impulse publishes.
    clock : ExperimentClock
        Of the samples.
    control : ImpulseControl
        Has the units of the samples; they are read again when Impulse gets control anew, as its
        own client does.
    on_sample : callable
        Called with each sample.
    on_restart : callable
        Called with a description when samples show that Impulse was restarted; none follow.

    Attributes
    ----------
    lost_samples : int
        Samples that the instrument numbered and that did not arrive, since `open`.
    """

    def __init__(
        self,
        device: str,
        endpoint: str,
        clock: ExperimentClock,
        control: ImpulseControl,
        on_sample: Callable[[HeaterSample], None],
        on_restart: Callable[[str], None],
    ) -> None:
        self._device, self._clock, self._control = device, clock, control
        self.endpoint = endpoint
        self._on_sample, self._on_restart = on_sample, on_restart
        self._task: asyncio.Task[None] | None = None
        self.lost_samples = 0

    @property
    def is_open(self) -> bool:
        """Whether samples can come, or could until Impulse was restarted."""
        return self._task is not None

    def open(self, context: zmq.asyncio.Context) -> None:
        """Subscribe; samples are handed on from now on."""
        data = context.socket(zmq.SUB)
        data.setsockopt(zmq.LINGER, 0)
        data.setsockopt(zmq.RCVHWM, MAX_WAITING_SAMPLES)
        data.setsockopt(zmq.MAXMSGSIZE, impulse.MAX_MESSAGE_BYTES)
        data.subscribe(impulse.HEAT_TOPIC)
        data.subscribe(impulse.EVENTS_TOPIC)
        data.connect(self.endpoint)
        self.lost_samples = 0
        self._task = asyncio.create_task(self._read(data), name=f"{self._device} samples")

    async def close(self) -> None:
        """End the subscription; harmless when there is none."""
        task, self._task = self._task, None
        await end_task(task, self._device, "reading samples")

    async def _read(self, data: zmq.asyncio.Socket) -> None:
        time_of = InstrumentTime()
        last: HeatSample | None = None
        try:
            while True:
                parts = await data.recv_multipart()
                received_ns = self._clock.now_ns()
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
                    if _is_older(read, last):
                        self._on_restart(_restart_text(last, read))
                        return
                    self.lost_samples += read.sequence_number - last.sequence_number - 1
                last = read
                t_ns = time_of.stamp_ns(read.experiment_duration_s, received_ns)
                self._on_sample(_sample(t_ns, read))
        finally:
            data.close(linger=0)

    async def _on_event(self, parts: list[bytes]) -> None:
        try:
            event = impulse.parse_event(impulse.split_message(parts)[1])
        except BadMessage:
            return
        if (text := impulse.message_shown(event)) is not None:
            self._control.shown.append(text)
            _log.warning("%s: Impulse shows '%s'", self._device, text)
        if event.fields.get("newState") == impulse.STATUS_CONTROL:
            with contextlib.suppress(DeviceError):  # the next command fails with it
                await self._control.read_units(time.monotonic() + GRACE_S)


def _is_older(read: HeatSample, last: HeatSample) -> bool:
    return (
        read.sequence_number < last.sequence_number
        or read.experiment_duration_s < last.experiment_duration_s
    )


def _restart_text(last: HeatSample, read: HeatSample) -> str:
    return (
        f"sample {read.sequence_number} at {read.experiment_duration_s:.3f} s of its experiment "
        f"came after sample {last.sequence_number} at {last.experiment_duration_s:.3f} s"
    )


def _sample(t_ns: int, read: HeatSample) -> HeaterSample:
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
