"""Readings of the SECoP module that heats: updates, answers, and requests where none come."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import secop
from ...protocols.wires.secop import SecopMessage, StampedValue
from ..base import GRACE_S, DeviceError, DeviceLost, DeviceRefused, HeaterSample
from ..common.instrument_time import InstrumentTime
from .control import ModuleControl
from .link import SecopLink
from .module import HeatingModule

MIN_POLL_S = 0.02  # wall seconds
# A reading older than the one before by less than this was overtaken on its way; by more, the
# node's clock was set back.
OVERTAKEN_S = 1.0


class ModuleReadings:
    """Makes samples of the messages of the node.

    Parameters
    ----------
    device, endpoint : str
        For messages.
    clock : ExperimentClock
        Of the samples.
    safe_c : float
        Setpoint of a sample while the module has not sent its own, in degC.
    on_sample : callable
        Called with each sample.
    on_end : callable
        Called with the error that ends the samples.

    Attributes
    ----------
    trouble : str
        Why no reading comes, as far as it is known.
    """

    def __init__(
        self,
        device: str,
        endpoint: str,
        clock: ExperimentClock,
        safe_c: float,
        on_sample: Callable[[HeaterSample], None],
        on_end: Callable[[DeviceError], None],
    ) -> None:
        self._device, self._endpoint, self._clock, self._safe_c = device, endpoint, clock, safe_c
        self._on_sample, self._on_end = on_sample, on_end
        self._control: ModuleControl | None = None
        self._time, self._last_t_s = InstrumentTime(), -math.inf
        self._count = 0
        self.trouble = ""

    def begin(self, control: ModuleControl) -> None:
        """Take messages about a module that has just been connected."""
        self._control = control
        self._time, self._last_t_s = InstrumentTime(), -math.inf
        self.trouble = ""

    async def poll(self, control: ModuleControl, link: SecopLink, every_s: float) -> None:
        """Request the temperature whenever the node has not sent it by itself.

        Parameters
        ----------
        control, link
            Of the module.
        every_s : float
            Experiment seconds.
        """
        while link.is_open:
            seen = self._count
            await asyncio.sleep(max(MIN_POLL_S, self._clock.wall_s(every_s)))
            if self._count != seen:
                continue
            try:
                await control.read_c("value", "read the temperature")
            except DeviceRefused as error:
                self.trouble = error.cause
            except DeviceLost:
                alive = await link.answers_ping(GRACE_S)
                answers = "answers pings but not for the reading" if alive else "answers nothing"
                self.trouble = f"it {answers}"

    def on_message(self, message: SecopMessage) -> None:
        """Handle a message of the node, be it an answer or an update."""
        module = None if self._control is None else self._control.module
        if module is None:
            return
        if not message.action:
            cause = f"the connection to {self._endpoint} broke"
            self._on_end(DeviceLost(self._device, "read samples", cause, "Connect again"))
            return
        of, _, name = message.specifier.partition(":")
        if of != module.name:
            return
        if message.action in {"error_update", "error_read"}:
            if name == "value":
                self.trouble = str(secop.parse_error(message.data))
            return
        if message.action not in {secop.UPDATE, "reply", "changed"}:
            return
        with contextlib.suppress(BadMessage):
            reading = secop.parse_reading(message.data)
            module.record(name, reading)
            if name == "value":
                self._on_reading(module, reading)
        if name == "status" and self._control is not None:
            try:
                self._control.refuse_fault("read samples")
            except DeviceRefused as fault:
                self._on_end(fault)

    def _on_reading(self, module: HeatingModule, reading: StampedValue) -> None:
        received_ns = self._clock.now_ns()
        temperature_c = module.to_c(reading.value)
        t_ns = received_ns
        if reading.t_s is not None:
            if self._last_t_s - OVERTAKEN_S < reading.t_s <= self._last_t_s:
                return  # the one before came twice, as update and as reply
            self._last_t_s = reading.t_s
            t_ns = self._time.stamp_ns(reading.t_s, received_ns)
        self._count += 1
        self.trouble = ""
        setpoint_c = module.setpoint_c()
        setpoint_c = self._safe_c if setpoint_c is None else setpoint_c
        self._on_sample(HeaterSample(t_ns, temperature_c, setpoint_c))
