"""A link to an instrument that speaks lines: over TCP, or over a serial port.

Both are file descriptors that the event loop watches: no thread, nothing that blocks, and nothing
left behind once closed. Queries carry no tags, so what has come before a question is thrown away
when the question goes out, and an answer is taken by what it looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import serial

from ...protocols.core.errors import BadInput, BadMessage
from ...protocols.core.lines import LineDecoder
from ..base import DeviceLost
from .errors import broken, not_connected, nothing_listens, reason
from .tcp import address_of, open_tcp

BITS_PER_BYTE = 10  # 8N1
_MAX_WAITING_LINES = 1000
_WRITE_POLL_S = 0.002
# A deadline that is noticed later than this has passed while the computer was busy.
_OWN_LATENESS_S = 0.05
_Answer = TypeVar("_Answer")


class Unanswered(DeviceLost):
    """No answer within the deadline; the connection itself still stands."""


@dataclass(frozen=True)
class SerialPort:
    """A serial port, 8N1 without flow control."""

    path: str
    baud: int


Place = SerialPort | tuple[str, int]


def place_of(endpoint: str, baud: int, where: str, *, serial_port: bool) -> Place:
    """Where an endpoint leads.

    Parameters
    ----------
    endpoint : str
        ``tcp://HOST:PORT``, or ``serial:///dev/ttyUSB0`` where a serial port is possible.
    baud : int
        Of a serial port.
    where : str
        Path in the rig, for the message.
    serial_port : bool
        Whether it may be one.

    Raises
    ------
    BadInput
        If it is not of that form.
    """
    if serial_port and endpoint.startswith("serial:"):
        path = endpoint.removeprefix("serial:").removeprefix("//")
        if Path(path).is_absolute():
            return SerialPort(path, baud)
    try:
        return address_of(endpoint, "tcp", where)
    except BadInput as error:
        if not serial_port:
            raise
        raise BadInput(where, f"{error.problem} or 'serial:///dev/ttyUSB0'") from None


class LineLink:
    """Lines to and from one instrument.

    Parameters
    ----------
    device : str
        For messages.
    place : SerialPort or tuple
        The port, or host and port number.
    end : bytes
        What ends a line that goes out; lines that come in may end in CR, LF or both.

    Attributes
    ----------
    odd_line : str
        The last line that was not the answer waited for.
    arrived_ns : int
        Monotonic time at which the latest bytes came.
    """

    def __init__(self, device: str, place: Place, end: bytes) -> None:
        self._device, self._place, self._end = device, place, end
        self._fd: int | None = None
        self._owner: Any = None
        self._broken: str | None = None
        self._decoder = LineDecoder()
        self._lines: deque[str] = deque(maxlen=_MAX_WAITING_LINES)
        self._arrived = asyncio.Event()
        self.odd_line = ""
        self.arrived_ns = 0

    @property
    def endpoint(self) -> str:
        """Where the instrument is."""
        if isinstance(self._place, SerialPort):
            return f"serial://{self._place.path}"
        return f"tcp://{self._place[0]}:{self._place[1]}"

    @property
    def byte_s(self) -> float:
        """Seconds that one byte takes on the line; 0 over TCP."""
        return BITS_PER_BYTE / self._place.baud if isinstance(self._place, SerialPort) else 0.0

    @property
    def is_open(self) -> bool:
        """Whether exchanges are possible."""
        return self._fd is not None and self._broken is None

    async def open(self, request: str, timeout_s: float) -> None:
        """Connect, closing what was open before.

        Raises
        ------
        DeviceLost
            If there is no such port, or nothing listens.
        """
        self.close()
        if isinstance(self._place, SerialPort):
            self._owner = self._opened_port(self._place, request)
        else:
            self._owner = await open_tcp(self._device, request, self._place, timeout_s)
        self._fd = fd = int(self._owner.fileno())
        self._broken = None
        self._decoder = LineDecoder()
        self._lines.clear()
        self.odd_line = ""
        asyncio.get_running_loop().add_reader(fd, self._take)

    def _opened_port(self, port: SerialPort, request: str) -> Any:
        try:
            return serial.Serial(port.path, port.baud, timeout=0, write_timeout=0, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            why = os.strerror(number) if number else str(error)
            raise nothing_listens(self._device, request, self.endpoint, why) from None

    def close(self) -> None:
        """Close the connection; harmless when there is none."""
        fd, self._fd = self._fd, None
        owner, self._owner = self._owner, None
        if fd is not None:
            asyncio.get_running_loop().remove_reader(fd)
        if owner is not None:
            with contextlib.suppress(OSError, serial.SerialException):
                owner.close()
        self._arrived.set()

    def post(self, text: str) -> None:
        """Send a line at once, without waiting and without being sure that it went out.

        For the moment in which there is no time: a task that is being cancelled. An end of line
        goes before it, so that it does not become part of a line half sent.
        """
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.write(self._fd, self._end + text.encode("ascii") + self._end)

    async def send(self, text: str, request: str, timeout_s: float) -> None:
        """Send a line; raises DeviceLost if the connection is gone or accepts nothing."""
        raw = text.encode("ascii") + self._end
        deadline = time.monotonic() + timeout_s
        while raw:
            fd = self._checked(request)
            try:
                raw = raw[os.write(fd, raw) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self._unanswered(request, timeout_s) from None
                await asyncio.sleep(_WRITE_POLL_S)
            except OSError as error:
                raise self._breaks(reason(error), request) from None

    async def ask(
        self,
        text: str,
        request: str,
        answer: Callable[[str], _Answer],
        timeout_s: float,
        sent: Callable[[], None] | None = None,
    ) -> _Answer:
        """Send a line and wait for its answer.

        Parameters
        ----------
        text : str
            The line.
        request : str
            What is request, for messages.
        answer : callable
            Reads a line; one at which it raises BadMessage is thrown away.
        timeout_s : float
            Wall seconds. Where the event loop comes late to the deadline, the instrument gets
            once more as much time as that.
        sent : callable, optional
            Called when the line goes out.

        Raises
        ------
        Unanswered
            If no such line comes by the deadline.
        DeviceLost
            If the connection broke.
        """
        deadline = time.monotonic() + timeout_s
        self._lines.clear()
        self._decoder.clear()
        self.odd_line = ""
        if sent is not None:
            sent()
        await self.send(text, request, timeout_s)
        forgiven = False
        while True:
            self._checked(request)
            while self._lines:
                line = self._lines.popleft()
                try:
                    return answer(line)
                except BadMessage:
                    self.odd_line = line
            self._arrived.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._arrived.wait()
            except TimeoutError:
                if self._lines:
                    continue
                late_s = time.monotonic() - deadline
                if forgiven or late_s < _OWN_LATENESS_S:
                    raise self._unanswered(request, timeout_s) from None
                forgiven = True
                deadline = time.monotonic() + late_s

    def _take(self) -> None:
        if self._fd is None:
            return
        try:
            data = os.read(self._fd, 65_536)
        except BlockingIOError:
            return
        except OSError as error:
            data, why = b"", reason(error)
        else:
            why = "closed at the other end"
        self.arrived_ns = time.monotonic_ns()
        if data:
            self._lines.extend(self._decoder.feed(data))
        else:
            # Stays open until it is closed here: its number must not be reused.
            self._broken = why
            asyncio.get_running_loop().remove_reader(self._fd)
        self._arrived.set()

    def _checked(self, request: str) -> int:
        if self._fd is None:
            raise not_connected(self._device, request)
        if self._broken is not None:
            raise broken(self._device, request, self.endpoint, self._broken)
        return self._fd

    def _breaks(self, why: str, request: str) -> DeviceLost:
        self._broken = why
        return broken(self._device, request, self.endpoint, why)

    def _unanswered(self, request: str, timeout_s: float) -> Unanswered:
        odd = f", but {self.odd_line[:60]!r}" if self.odd_line else ""
        return Unanswered(
            self._device,
            request,
            f"no answer from {self.endpoint} within {timeout_s:.3g} s{odd}",
            "Check that the instrument is on and in remote mode, and check the rig's "
            "baud rate and endpoint",
        )
