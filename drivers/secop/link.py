"""One connection to a SECoP node: requests and their answers, and updates in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ...protocols.core.errors import BadMessage
from ...protocols.core.lines import StrictLineDecoder
from ...protocols.wires import secop
from ...protocols.wires.secop import Description, SecopMessage
from ..base import GRACE_S, DeviceLost, DeviceRefused
from ..links.errors import broken, no_answer, not_connected, reason
from ..links.tcp import end_tcp, open_tcp

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 65_536
_WRONG = "Check that the rig's endpoint names a SECoP node"


class SecopLink:
    """A TCP connection whose lines are read by a task of its own.

    Parameters
    ----------
    device : str
        For messages.
    address : tuple of str and int
        Host and port.
    on_message : callable
        Called with every update and every answer as it arrives.
    """

    def __init__(
        self, device: str, address: tuple[str, int], on_message: Callable[[SecopMessage], None]
    ) -> None:
        self._device, self._address, self._on_message = device, address, on_message
        self.endpoint = f"tcp://{address[0]}:{address[1]}"
        self._socket: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._ended = ""
        self._sending = asyncio.Lock()
        # Answers come in the order of the requests with the same action and specifier.
        self._due: dict[tuple[str, str], deque[asyncio.Future[SecopMessage]]] = {}
        self._nonces = itertools.count(1)

    @property
    def is_open(self) -> bool:
        """Whether requests are possible."""
        return self._socket is not None and not self._ended

    async def open(self, timeout_s: float) -> str:
        """Connect and identify; returns the version of the protocol.

        Raises
        ------
        DeviceLost
            If no answer comes by the deadline.
        DeviceRefused
            If the other end does not speak SECoP.
        """
        await self.close()
        deadline = time.monotonic() + timeout_s
        sock = await open_tcp(self._device, "connect", self._address, timeout_s)
        self._socket, self._ended, self._due = sock, "", {}
        decoder = StrictLineDecoder(secop.MAX_LINE_BYTES)
        request = "identify the node"
        left_s = max(0.05, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left_s):
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, secop.IDENTIFY.encode() + b"\n")
                lines: list[bytes] = []
                while not lines:
                    received = await loop.sock_recv(sock, _RECEIVE_BYTES)
                    if not received:
                        raise ConnectionResetError("the server closed it")
                    lines = decoder.feed(received)
                version = secop.parse_identity(lines[0])
        except TimeoutError:
            await self.close()
            raise no_answer(self._device, request, self.endpoint, timeout_s) from None
        except OSError as error:
            await self.close()
            raise broken(self._device, request, self.endpoint, reason(error)) from None
        except BadMessage as error:
            await self.close()
            answered = f"{self.endpoint} is not a SECoP node: {error}"
            raise DeviceRefused(self._device, request, answered, _WRONG) from None
        except BaseException:
            await self.close()
            raise
        name = f"{self._device} messages"
        self._reader = asyncio.create_task(self._read_all(decoder, lines[1:]), name=name)
        return version

    async def close(self) -> None:
        """Close the connection; requests under way fail as lost."""
        sock, self._socket = self._socket, None
        if sock is not None:
            end_tcp(sock)
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled() and (error := reader.exception()) is not None:
                _log.error("%s: reading had ended", self._device, exc_info=error)
        if sock is not None:
            sock.close()

    async def describe(self, timeout_s: float) -> Description:
        """Read the description of the node; DeviceRefused if it cannot be read."""
        request = "read the description"
        answer = await self.request("describe", "", None, request, timeout_s)
        try:
            return secop.parse_description(answer.data)
        except BadMessage as error:
            answered = f"{self.endpoint} sent an invalid description: {error}"
            raise DeviceRefused(self._device, request, answered, _WRONG) from None

    async def answers_ping(self, timeout_s: float) -> bool:
        """Whether the node answers at all."""
        try:
            await self.request("ping", f"{next(self._nonces)}", None, "ping the node", timeout_s)
        except (DeviceLost, DeviceRefused):
            return False
        return True

    async def request(
        self,
        action: str,
        specifier: str,
        data: Any,
        request: str,
        timeout_s: float = GRACE_S,
        sent: Callable[[], None] | None = None,
    ) -> SecopMessage:
        """Send a request and wait for its answer.

        Parameters
        ----------
        action, specifier, data
            The request.
        request : str
            What is request, for messages.
        timeout_s : float
            Wall seconds for the exchange.
        sent : callable, optional
            Called without arguments when the request goes out.

        Raises
        ------
        DeviceRefused
            If the answer is an error report.
        DeviceLost
            If none comes by the deadline, or the connection breaks; a command without an answer
            ends the connection, so that a late answer cannot be taken for another.
        """
        key = action, specifier
        answered: asyncio.Future[SecopMessage] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                async with self._sending:
                    if not self.is_open:
                        raise self._gone(request)
                    self._due.setdefault(key, deque()).append(answered)
                    if sent is not None:
                        sent()
                    line = secop.encode_message(SecopMessage(action, specifier, data))
                    await asyncio.get_running_loop().sock_sendall(self._socket, line)
                answer = await answered
        except TimeoutError:
            if action in _COMMANDS and self._socket is not None:
                self._ended = self._ended or f"given up: no answer to: {request}"
                end_tcp(self._socket)
            raise no_answer(self._device, request, self.endpoint, timeout_s) from None
        except OSError as error:
            raise broken(self._device, request, self.endpoint, reason(error)) from None
        except asyncio.CancelledError:
            if answered.cancelled() and not _is_being_cancelled():
                raise self._gone(request) from None
            raise
        finally:
            # The answer to a command is still owed.
            if action not in _COMMANDS and answered in self._due.get(key, ()):
                self._due[key].remove(answered)
        self._refuse_error(answer, request)
        return answer

    def _refuse_error(self, answer: SecopMessage, request: str) -> None:
        """Raise DeviceRefused for an answer that is an error report."""
        if answer.action.startswith(secop.ERROR_PREFIX):
            report = secop.parse_error(answer.data)
            raise DeviceRefused(
                self._device,
                request,
                f"{self.endpoint} answered {report}",
                "See the log of the SECoP node",
            )

    def _gone(self, request: str) -> DeviceLost:
        if self._socket is not None and self._ended:
            return broken(self._device, request, self.endpoint, self._ended)
        return not_connected(self._device, request)

    async def _read_all(self, decoder: StrictLineDecoder, lines: list[bytes]) -> None:
        """Give each answer to its request, and each message to `on_message`."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                for line in lines:
                    # Noise answers nothing; a request without an answer fails by its deadline.
                    with contextlib.suppress(BadMessage):
                        self._dispatch(secop.parse_message(line))
                received = await loop.sock_recv(self._socket, _RECEIVE_BYTES)
                if not received:
                    raise ConnectionResetError("the server closed it")
                with contextlib.suppress(BadMessage):
                    lines = []
                    lines = decoder.feed(received)
        except OSError as error:
            self._ended = self._ended or reason(error)
        finally:
            self._ended = self._ended or "closed here"
            for waiting in self._due.values():
                for answered in waiting:
                    answered.cancel()
            self._on_message(SecopMessage(""))

    def _dispatch(self, message: SecopMessage) -> None:
        action = message.action.removeprefix(secop.ERROR_PREFIX)
        request = _REQUESTS.get(message.action, action)
        waiting = self._due.get((request, message.specifier))
        if request == "describe" and waiting is None:
            waiting = self._due.get((request, ""))  # it is answered with the specifier "."
        if waiting:
            answered = waiting.popleft()
            if not answered.done():
                answered.set_result(message)
        self._on_message(message)


_COMMANDS = frozenset({"change", "do"})
_REQUESTS = {answer: request for request, answer in secop.ANSWERS.items()}


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
