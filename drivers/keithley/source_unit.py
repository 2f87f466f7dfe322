"""A Keithley source-measure unit as a current source that reads: exchanges, each with a deadline.

Queries have no tags. A reading that does not come is requested again only after the error queue
has answered: the instrument answers in order, so nothing is under way any more then, and the queue
says whether the reading was refused.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import scpi
from ..base import DeviceLost, DeviceRefused, Identity
from ..links.errors import not_connected
from ..links.lines import LineLink, Place, Unanswered
from ..links.tcp import left_s
from .dialect import (
    ERROR,
    OUTPUT_IS,
    OUTPUT_OFF,
    OUTPUT_ON,
    Dialect,
    Dialect2400,
    Dialect2450,
    SourceLimits,
    output_after_off,
    output_after_on,
    output_is,
)

LINE_HZ = 50.0
# Wall seconds: by which an answer may be late before the line is resynchronised, and by which it
# may be late after that, in all, before the instrument counts as lost.
LATE_S = 0.3
SILENCE_S = 3.0
ERROR_ATTEMPTS = 3
OFF_TIMEOUT_S = 1.5
LOST_IN_A_ROW = 5
LATE_ANSWER_NS = 2_000_000
# Most bytes of an exchange other than a reading, both ways.
_EXCHANGE_BYTES = 80


@dataclass(frozen=True)
class Family:
    """Instruments that are driven alike.

    `has_languages`: the instrument tells which command set it is in.
    """

    models: tuple[str, ...]
    line_end: bytes
    has_languages: bool = False


@dataclass(frozen=True)
class SourceReading:
    """Voltage and current at a moment.

    `is_timed`: whether the answer came as soon as others do, so that the moment is known well.
    """

    t_ns: int
    voltage_v: float
    current_a: float
    is_timed: bool = True

    @property
    def resistance_ohm(self) -> float:
        """Their ratio; infinite where no current flows."""
        return self.voltage_v / self.current_a if self.current_a > 0.0 else math.inf

    @property
    def power_w(self) -> float:
        """Their product."""
        return self.voltage_v * self.current_a


class ReadingTime:
    """When the voltage of a reading was measured, of which the answer itself says nothing.

    Attributes
    ----------
    is_known : bool
        Whether the latest answer came about as soon as the quickest; else the instrument may have
        been late as well as this computer.
    """

    def __init__(self) -> None:
        self._quickest_ns: int | None = None
        self.is_known = True

    def stamp_ns(
        self,
        sent_ns: int,
        took_ns: int,
        command_s: float,
        answer_s: float,
        integration_s: float,
        functions: int,
    ) -> int:
        """Moment of the voltage.

        Not before the command has arrived and half of the voltage's integration is over; not
        after the answer set out, less the current's integration and that half. Between the two
        lies the instrument's own time: the centre is wrong by half of it at most. From command to
        answer it takes as long as at the quickest: what a busy event loop adds comes after.

        Parameters
        ----------
        sent_ns, took_ns : int
            When the command went out, and the time from then to the answer.
        command_s, answer_s : float
            What command and answer take on the line.
        integration_s : float
            Of each quantity.
        functions : int
            Quantities measured one after the other, the voltage first.
        """
        if self._quickest_ns is not None:
            self.is_known = took_ns < 1.25 * self._quickest_ns + LATE_ANSWER_NS
            # Forgotten slowly, for an instrument that has become slower.
            took_ns = min(took_ns, self._quickest_ns + self._quickest_ns // 1000 + 1)
        self._quickest_ns = took_ns
        earliest_s = command_s + 0.5 * integration_s
        latest_s = took_ns * 1e-9 - answer_s - (functions - 0.5) * integration_s
        return sent_ns + int(0.5 * (earliest_s + max(earliest_s, latest_s)) * 1e9)


class SourceUnit:
    """One instrument.

    Parameters
    ----------
    name : str
        Of the device, for messages.
    place : SerialPort or tuple
        Where it is.
    family : Family
        What it may be.
    limits : SourceLimits
        What is set in it before its output goes on.
    clock : ExperimentClock
        Of the readings.

    Attributes
    ----------
    heating : bool
        Whether its output is on, as far as is known; on where it is not.
    lost_readings : int
        Readings that did not arrive.
    """

    def __init__(
        self, name: str, place: Place, family: Family, limits: SourceLimits, clock: ExperimentClock
    ) -> None:
        self._name, self._family, self._clock = name, family, clock
        self.limits = limits
        self.link = LineLink(name, place, family.line_end)
        self.heating = False
        self.lost_readings = 0
        self._dialect: Dialect | None = None
        self._time = ReadingTime()

    @property
    def is_set_up(self) -> bool:
        """Whether it has been identified and set up on this connection."""
        return self._dialect is not None

    @property
    def integration_s(self) -> float:
        """Experiment seconds for which a reading integrates one of its two quantities."""
        return self.limits.nplc / LINE_HZ

    @property
    def cycle_s(self) -> float:
        """Experiment seconds from one reading to the next: bytes over baud rate, integration."""
        dialect = self._dialect or Dialect2400()
        count = _command_bytes(dialect, self._family) + dialect.READING_BYTES
        return count * self.link.byte_s + dialect.FUNCTIONS * self.integration_s

    @property
    def command_s(self) -> float:
        """Experiment seconds from the sending of a current to its effect."""
        return _command_bytes(self._dialect or Dialect2400(), self._family) * self.link.byte_s

    def _exchange_s(self, late_s: float) -> float:
        """Wall seconds for an exchange other than a reading."""
        return self._clock.wall_s(_EXCHANGE_BYTES * self.link.byte_s) + late_s

    # Setting up

    async def open(self, timeout_s: float) -> Identity:
        """Connect and identify.

        Raises
        ------
        DeviceLost
            If no answer comes within `timeout_s` wall seconds.
        DeviceRefused
            If it is another instrument.
        """
        deadline = time.monotonic() + timeout_s
        request, link = "identify the instrument", self.link
        await link.open("connect", timeout_s)
        link.post("")  # ends a line that another program may have left half sent
        try:
            vendor, model, serial, firmware = await link.ask(
                "*IDN?", request, scpi.parse_identity, left_s(deadline)
            )
        except Unanswered:
            if link.odd_line:
                raise _wrong_instrument(self._name, link, self._family, link.odd_line) from None
            raise
        if "KEITHLEY" not in vendor.upper() or model not in self._family.models:
            raise _wrong_instrument(self._name, link, self._family, f"{vendor} {model}")
        dialect = await _choose_dialect(self._name, link, self._family, deadline)
        await self.output_off()
        await self._set_up(dialect)
        self._dialect = dialect
        return Identity("Keithley", model, serial, firmware)

    async def _set_up(self, dialect: Dialect) -> None:
        """Everything as it must be and read back, and no error left."""
        self._time = ReadingTime()
        await self.link.ask("*RST;*CLS;*OPC?", "reset", _one, self._exchange_s(SILENCE_S))
        for setting in dialect.settings(self.limits):
            request = f"set {setting.header} to {setting.value}"
            try:
                line = await self.link.ask(setting.message, request, _any, self._exchange_s(LATE_S))
            except Unanswered as error:
                raise await self.reason_for_silence(request) or error from None
            if not setting.reads_back(line):
                raise DeviceRefused(
                    self._name,
                    request,
                    f"it reads back {line[:60]!r}",
                    "Check that the command set is SCPI and that the value is within its range",
                )
        refused = await self.reason_for_silence("set up")
        if refused is not None:
            raise refused

    def close(self) -> None:
        """Close the connection; harmless when there is none."""
        self.heating = False
        self._dialect = None
        self.link.close()

    # Output

    async def output_on(self) -> None:
        """Turn the output on, at the current that was set last; raises where it stays off."""
        request = "turn the output on"
        self.heating = True
        if not await self.link.ask(OUTPUT_ON, request, output_after_on, self._exchange_s(LATE_S)):
            raise await self.reason_for_silence(request) or DeviceRefused(
                self._name, request, "the output stays off", "Check that its interlock is closed"
            )

    def post_off(self) -> None:
        """Send the output off at once, without waiting: for a task that is being cancelled."""
        if self.heating:
            self.link.post(OUTPUT_OFF)

    async def output_off(self) -> None:
        """Turn the output off and read that back; a broken or mute line is opened anew, once.

        Raises
        ------
        DeviceError
            If it cannot be confirmed.
        """
        request = "turn the output off"
        try:
            if self.link.is_open and await self._is_turned_off(request):
                return
        except DeviceLost:
            pass
        await self.link.open(request, OFF_TIMEOUT_S)
        if not await self._is_turned_off(request):
            raise DeviceRefused(
                self._name,
                request,
                "it reads back that the output is on",
                "Turn it off at its front panel",
            )

    async def _is_turned_off(self, request: str) -> bool:
        is_on = await self.link.ask(
            OUTPUT_OFF, request, output_after_off, self._exchange_s(OFF_TIMEOUT_S)
        )
        self.heating = self.heating and is_on
        return not is_on

    async def see_that_off(self) -> None:
        """Read back that the output is off; raises where it is not."""
        request = "keep the output off"
        if await self.link.ask(OUTPUT_IS, request, output_is, self._exchange_s(SILENCE_S)):
            raise DeviceRefused(
                self._name,
                request,
                "the output is on",
                "Check that no other program uses the instrument",
            )

    # Readings

    async def read(
        self, current_a: float, sent: asyncio.Future[int] | None = None
    ) -> SourceReading:
        """Set a current and read; a reading that gets lost is requested again.

        Parameters
        ----------
        current_a : float
            In ampere.
        sent : Future, optional
            Told the moment at which it went out.

        Raises
        ------
        DeviceRefused
            With what the error queue says.
        DeviceLost
            If the instrument is silent, or what it sends does not get through.
        """
        dialect, request = self._dialect, f"to set {current_a * 1e3:.4g} mA and read"
        if dialect is None:
            raise not_connected(self._name, request)
        patience_s = self._clock.wall_s(2.0 * self.cycle_s + 0.05) + LATE_S
        for _ in range(LOST_IN_A_ROW):
            sent_ns = 0

            def went_out() -> None:
                nonlocal sent_ns
                sent_ns = self._clock.now_ns()
                if sent is not None and not sent.done():
                    sent.set_result(sent_ns)

            try:
                voltage_v, drawn_a = await self.link.ask(
                    dialect.cycle(current_a), request, dialect.reading, patience_s, went_out
                )
            except Unanswered:
                self.lost_readings += 1
                refused = await self.reason_for_silence(request)
                if refused is not None:
                    raise refused from None
                continue
            t_ns = self._time.stamp_ns(
                sent_ns,
                self._clock.now_ns() - sent_ns,
                self.command_s,
                dialect.READING_BYTES * self.link.byte_s,
                self.integration_s,
                dialect.FUNCTIONS,
            )
            return SourceReading(t_ns, voltage_v, drawn_a, self._time.is_known)
        raise DeviceLost(
            self._name,
            request,
            f"{LOST_IN_A_ROW} readings in a row were lost, last line {self.link.odd_line!r}",
            "Check the cable, and that the baud rates agree",
        )

    async def reason_for_silence(self, request: str) -> DeviceRefused | None:
        """Read the error queue: what was refused, or None when an answer just got lost.

        Raises
        ------
        DeviceLost
            If there is no answer to this either.
        """
        found: list[scpi.ErrorEntry] = []
        left = ERROR_ATTEMPTS
        while len(found) < 20:
            timeout_s = self._exchange_s(SILENCE_S / ERROR_ATTEMPTS)
            try:
                entry = await self.link.ask(ERROR, request, scpi.parse_error, timeout_s)
            except Unanswered:
                left -= 1  # what spoiled a reading may spoil this answer too
                if left == 0:
                    raise
                continue
            if entry.code == scpi.NO_ERROR:
                break
            found.append(entry)
        if not found:
            return None
        entries = "; ".join(map(str, found))
        return DeviceRefused(
            self._name, request, f"it answered {entries}", "See the instrument's manual"
        )


def _any(line: str) -> str:
    return line


def _one(line: str) -> str:
    if line.strip() != "1":
        raise BadMessage(f"{line[:40]!r} is not 1")
    return line


def _wrong_instrument(device: str, link: LineLink, family: Family, answered: str) -> DeviceRefused:
    return DeviceRefused(
        device,
        "identify the instrument",
        f"{link.endpoint} answered {answered[:80]!r}; this driver supports "
        f"{', '.join(family.models)}",
        "Check that the rig's endpoint names the instrument",
    )


async def _choose_dialect(device: str, link: LineLink, family: Family, deadline: float) -> Dialect:
    if not family.has_languages:
        return Dialect2400()
    request = "read the command set"
    language = await link.ask("*LANG?", request, _any, left_s(deadline))
    if language.strip().upper() == "SCPI":
        return Dialect2450()
    if language.strip().upper() == "SCPI2400":
        return Dialect2400()
    raise DeviceRefused(
        device, request, f"it answered {language[:40]!r}", "Set it to SCPI in its menu"
    )


def _command_bytes(dialect: Dialect, family: Family) -> int:
    return len(dialect.cycle(1e-3)) + len(family.line_end)
