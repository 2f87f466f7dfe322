"""instamatic's TEM server: one connection for all drivers of a process, one call at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ...protocols.core.errors import BadMessage
from ...protocols.wires import instamatic
from ...protocols.wires.instamatic import Call, Reply
from ..base import GRACE_S, DeviceLost, DeviceRefused, Identity
from ..links.errors import broken, no_answer, not_connected, reason
from ..links.tcp import address_of, end_tcp, open_tcp

T = TypeVar("T")


class Connection:
    """One TCP connection to a TEM server: one call and its answer at a time.

    The original takes answers from one common queue: with two connections at work, it gives one
    the answers of the other (observed for a fifth of them). So all drivers of this process share
    one connection, and a call that gets no answer ends it for all of them.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.endpoint = f"tcp://{address[0]}:{address[1]}"
        self.loop = asyncio.get_running_loop()
        self.users: set[object] = set()
        self._socket: Any = None
        self._decoder = instamatic.JsonDecoder(replies=True)
        self._owed = False  # the answer to a call that was cancelled
        self._lock = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether calls are possible."""
        return self._socket is not None

    async def open(self, device: str, timeout_s: float) -> None:
        """Connect, unless it is connected; DeviceLost if nothing listens."""
        async with self._lock:
            if self._socket is None:
                self._socket = await open_tcp(device, "connect", self._address, timeout_s)
                self._decoder = instamatic.JsonDecoder(replies=True)
                self._owed = False

    def drop(self) -> None:
        """Close the socket at once."""
        sock, self._socket = self._socket, None
        if sock is not None:
            end_tcp(sock)
            sock.close()

    async def close(self, user: object) -> None:
        """Leave the connection; the last one to do so closes it."""
        self.users.discard(user)
        if not self.users and self._socket is not None:
            end_tcp(self._socket)
            async with self._lock:  # calls under way have seen the end by now
                self.drop()

    async def exchange(self, device: str, call: Call, timeout_s: float) -> Reply:
        """Send a call and wait for its reply, after those of other drivers.

        Parameters
        ----------
        device : str
            For messages.
        call : Call
            What to call.
        timeout_s : float
            Wall seconds, waiting for other calls included.

        Raises
        ------
        DeviceLost
            If no reply comes by the deadline, or the connection breaks.
        DeviceRefused
            If the reply cannot be read.
        """
        request = f"call {call}"
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._lock.acquire()
        except TimeoutError:  # another driver's call has no answer yet
            raise no_answer(device, request, self.endpoint, timeout_s) from None
        try:
            async with asyncio.timeout_at(deadline):
                return await self._in_turn(device, call, request)
        except TimeoutError:
            self.drop()
            raise no_answer(device, request, self.endpoint, timeout_s) from None
        except OSError as error:
            self.drop()
            raise broken(device, request, self.endpoint, reason(error)) from None
        except BadMessage as error:
            self.drop()
            raise DeviceRefused(
                device,
                request,
                f"{self.endpoint} sent an invalid reply: {error}",
                "Write tem_communication_protocol: 'json' in the settings.yaml of the TEM server",
            ) from None
        finally:
            self._lock.release()

    async def _in_turn(self, device: str, call: Call, request: str) -> Reply:
        if self._socket is None:
            raise not_connected(device, request)
        if self._owed:
            # A second request sent before would reach the server as one with the first.
            await self._reply()
            self._owed = False
        self._owed = True
        await asyncio.get_running_loop().sock_sendall(self._socket, instamatic.encode_call(call))
        reply = await self._reply()
        self._owed = False
        return reply

    async def _reply(self) -> Reply:
        loop = asyncio.get_running_loop()
        while True:
            received = await loop.sock_recv(self._socket, 65_536)
            if not received:
                raise ConnectionResetError("the server closed it")
            if values := self._decoder.feed(received):
                # Only one answer can be due: of several, earlier ones are what noise held.
                return instamatic.parse_reply(values[-1])


# By address, for all drivers of this process.
_connections: WeakValueDictionary[tuple[str, int], Connection] = WeakValueDictionary()


def _connection_to(address: tuple[str, int]) -> Connection:
    connection = _connections.get(address)
    if connection is None or connection.loop is not asyncio.get_running_loop():
        connection = _connections[address] = Connection(address)
    return connection


class InstamaticServer:
    """What stage and beam share: calls of the microscope's functions, and values checked."""

    def __init__(self, device: str, endpoint: str, where: str) -> None:
        self.device, self.endpoint = device, endpoint
        self._address = address_of(endpoint, "tcp", where)
        self._connection: Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are possible."""
        return self._connection is not None and self._connection.is_open

    async def connect(self, timeout_s: float) -> Identity:
        """Connect and read the name of the microscope; raises DeviceLost."""
        await self.close()
        self._connection = connection = _connection_to(self._address)
        connection.users.add(self)
        deadline = time.monotonic() + timeout_s
        try:
            await connection.open(self.device, timeout_s)
            left_s = max(0.05, deadline - time.monotonic())
            name = await self.call(instamatic.NAME, timeout_s=left_s)
        except DeviceLost as error:
            await self.close()
            # A server that speaks pickle hangs up on JSON.
            raise DeviceLost(
                self.device,
                error.request,
                error.cause,
                "Check that instamatic's TEM server is running with "
                "tem_communication_protocol: 'json'",
            ) from None
        except BaseException:
            await self.close()
            raise
        return Identity("instamatic", str(name))

    async def close(self) -> None:
        """Leave the connection; harmless when there is none."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(self)

    async def call(
        self, function: str, *args: Any, timeout_s: float = GRACE_S, **kwargs: Any
    ) -> Any:
        """Value that a function of the microscope returns.

        Raises
        ------
        DeviceRefused
            If it raises, or its answer is not a reply.
        DeviceLost
            If no answer comes by the deadline.
        """
        call = Call(function, args, kwargs)
        if self._connection is None:
            raise not_connected(self.device, str(call))
        reply = await self._connection.exchange(self.device, call, timeout_s)
        if not reply.ok:
            raise DeviceRefused(
                self.device,
                str(call),
                f"{self.endpoint} answered {reply.describe()}",
                "See the window of instamatic's TEM server",
            )
        return reply.value

    async def read(self, function: str, parse: Callable[[Any, str], T]) -> T:
        """Return a value, or DeviceRefused where the function returns something else."""
        value = await self.call(function)
        try:
            return parse(value, function)
        except BadMessage as error:
            raise DeviceRefused(
                self.device,
                f"{function}()",
                f"{self.endpoint} sent an invalid value: {error}",
                "Check that the rig's endpoint names instamatic's TEM server",
            ) from None

    async def number(self, function: str) -> float:
        """Value of a function that returns a number; raises as :meth:`read`."""
        return await self.read(function, instamatic.parse_number)
