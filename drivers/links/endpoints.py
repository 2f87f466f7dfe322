"""Links to instruments: TCP, HTTP with JSON, and ZeroMQ requests, each exchange with a deadline.

A link tells apart that nobody listens, that no answer came, and that the answer was a refusal.
None retries by itself: whether a command may be sent twice is for the driver to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import zmq
import zmq.asyncio

from ...protocols.core.errors import BadInput
from ...protocols.wires import temscript
from ..base import GRACE_S, DeviceLost, DeviceRefused

MAX_REPLY_BYTES = 1_000_000


def address_of(endpoint: str, scheme: str, where: str) -> tuple[str, int]:
    """Host and port of an endpoint such as ``tcp://127.0.0.1:6341``.

    Parameters
    ----------
    endpoint : str
        From the rig.
    scheme : str
        ``tcp`` or ``http``.
    where : str
        Path in the rig, for the message.

    Raises
    ------
    BadInput
        If it is not of that form.
    """
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != scheme or not host or port is None or parts.path.strip("/"):
        raise BadInput(where, f"'{endpoint}' should be written as '{scheme}://HOST:PORT'")
    return host, port


def left_s(deadline: float) -> float:
    """Wall seconds until a moment of ``time.monotonic``, enough for a try at least."""
    return max(0.05, deadline - time.monotonic())


def not_connected(device: str, request: str) -> DeviceLost:
    """Error of a command to a device that was never connected, or was lost."""
    return DeviceLost(device, request, "it is not connected", "Connect first")


def nobody_listens(device: str, request: str, endpoint: str, why: str) -> DeviceLost:
    """Error of a connection that nobody took."""
    return DeviceLost(
        device,
        request,
        f"nothing listens at {endpoint} ({why})",
        "Check that the instrument's software is running and that the rig's endpoint is right",
    )


def no_answer(device: str, request: str, endpoint: str, timeout_s: float) -> DeviceLost:
    """Error of a deadline that passed."""
    return DeviceLost(
        device,
        request,
        f"no answer from {endpoint} within {timeout_s:.3g} s",
        "Check that the instrument's software responds and that no other client uses it",
    )


def broken(device: str, request: str, endpoint: str, why: object) -> DeviceLost:
    """Error of a connection that was closed or reset."""
    return DeviceLost(
        device, request, f"the connection to {endpoint} broke ({why})", "Connect again"
    )


def reason(error: BaseException) -> str:
    """Short text of an OS error, never empty."""
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__


async def open_tcp(device: str, request: str, address: tuple[str, int], timeout_s: float) -> Any:
    """Connect a non-blocking TCP socket.

    Returns
    -------
    socket.socket
        For ``loop.sock_*``; the caller closes it.

    Raises
    ------
    DeviceLost
        If nothing listens there, or does not answer in time.
    """
    endpoint = f"tcp://{address[0]}:{address[1]}"
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(timeout_s):
            await loop.sock_connect(sock, address)
    except TimeoutError:
        sock.close()
        raise nobody_listens(
            device, request, endpoint, f"no connection within {timeout_s:.3g} s"
        ) from None
    except OSError as error:
        sock.close()
        raise nobody_listens(device, request, endpoint, reason(error)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def end_tcp(sock: Any) -> None:
    """Wake whoever waits on a socket with an end of file; it is closed afterwards."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def http_session(**options: Any) -> aiohttp.ClientSession:
    """Session that sends a request once: aiohttp repeats GET and PUT when a connection ends.

    A trigger or a move among them; whether a connection was used before makes no difference.
    """
    session = aiohttp.ClientSession(**options)
    session._retry_connection = False  # pyright: ignore[reportPrivateUsage]
    return session


@contextlib.asynccontextmanager
async def http_deadline(
    device: str,
    request: str,
    endpoint: str,
    timeout_s: float,
    session: aiohttp.ClientSession,
    not_theirs: Callable[[str, str], DeviceRefused],
) -> AsyncIterator[None]:
    """Bound an HTTP exchange, and tell what goes wrong in it as a device's error.

    Parameters
    ----------
    device, request, endpoint : str
        For messages.
    timeout_s : float
        Wall seconds.
    session : aiohttp.ClientSession
        That of the exchange.
    not_theirs : callable
        Makes the error for an answer that is not HTTP, from the request and the reason.

    Raises
    ------
    DeviceLost
        If the deadline passes, nobody listens, or the connection breaks.
    DeviceRefused
        What `not_theirs` makes.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise no_answer(device, request, endpoint, timeout_s) from None
    except aiohttp.ClientConnectorError as error:
        raise nobody_listens(device, request, endpoint, reason(error.os_error)) from None
    except aiohttp.ClientResponseError as error:
        raise not_theirs(request, f"not an HTTP answer: {error.message}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise broken(device, request, endpoint, reason(error)) from None
    except RuntimeError:
        # aiohttp says so of a session that was closed meanwhile.
        if not session.closed:
            raise
        raise broken(device, request, endpoint, "closed here") from None


async def http_body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """Body of an answer; None if it is longer than it may be."""
    raw = bytearray()
    async for piece in response.content.iter_chunked(65_536):
        raw += piece
        if len(raw) > most_bytes:
            return None
    return bytes(raw)


class HttpEnd:
    """One server over HTTP: a session that is open between `open` and `close`.

    Parameters
    ----------
    device : str
        For messages.
    endpoint : str
        Such as ``http://127.0.0.1:8080``.
    """

    def __init__(self, device: str, endpoint: str) -> None:
        self._device = device
        self.endpoint = endpoint.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def is_open(self) -> bool:
        """Whether exchanges are possible."""
        return self._session is not None

    def open(self) -> None:
        """Allow exchanges; nothing is sent yet."""
        if self._session is None:
            self._session = self._new_session()

    def _new_session(self) -> aiohttp.ClientSession:
        raise NotImplementedError

    async def close(self) -> None:
        """Close every connection; exchanges under way fail as lost."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)  # lets the transports finish closing


class HttpLink(HttpEnd):
    """JSON over HTTP as temscript speaks it: GET answers a value, PUT takes one."""

    def _new_session(self) -> aiohttp.ClientSession:
        # One connection at a time: the original server answers one request after the other.
        return http_session(
            connector=aiohttp.TCPConnector(limit=1),
            headers={"Accept": temscript.MIME_JSON, "Accept-Encoding": "identity"},
        )

    async def get(self, name: str, timeout_s: float = GRACE_S) -> Any:
        """Value of an endpoint.

        Raises
        ------
        DeviceRefused
            If the server answers with an error or with something that is no JSON.
        DeviceLost
            If nobody answers by the deadline.
        """
        request = f"read {name}"
        raw = await self._exchange("GET", name, None, request, timeout_s)
        try:
            return temscript.parse_value(raw)
        except temscript.BadMessage as error:
            raise self._not_temscript(request, str(error)) from None

    async def put(self, name: str, value: Any, timeout_s: float = GRACE_S, query: str = "") -> None:
        """Set an endpoint; raises as :meth:`get`."""
        body = temscript.encode_value(value)
        await self._exchange("PUT", name + query, body, f"set {name} to {body.decode()}", timeout_s)

    async def _exchange(
        self, method: str, name: str, body: bytes | None, request: str, timeout_s: float
    ) -> bytes:
        if self._session is None:
            raise not_connected(self._device, request)
        headers = None if body is None else {"Content-Type": temscript.MIME_JSON}
        async with (
            http_deadline(
                self._device, request, self.endpoint, timeout_s, self._session, self._not_temscript
            ),
            self._session.request(
                method,
                self.endpoint + temscript.API + name,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response,
        ):
            return await self._read(response, request)

    async def _read(self, response: aiohttp.ClientResponse, request: str) -> bytes:
        if response.status == 204:
            return b"null"
        if response.status != 200:
            raise DeviceRefused(
                self._device,
                request,
                f"{self.endpoint} answered {response.status} {response.reason}",
                "See the log of the microscope's server",
            )
        if response.content_type != temscript.MIME_JSON:
            # Pickle among them: reading one runs whatever code it holds.
            raise self._not_temscript(request, f"it sent {response.content_type}")
        raw = await http_body(response, MAX_REPLY_BYTES)
        if raw is None:
            raise self._not_temscript(request, f"it sent more than {MAX_REPLY_BYTES} bytes")
        return raw

    def _not_temscript(self, request: str, why: str) -> DeviceRefused:
        return DeviceRefused(
            self._device,
            request,
            f"the answer of {self.endpoint} is not temscript's JSON: {why}",
            "Check that the rig's endpoint names a temscript server",
        )


class RequestLink:
    """ZeroMQ REQ that never stays stuck: a socket whose reply was lost is replaced.

    Parameters
    ----------
    device : str
        For messages.
    endpoint : str
        Such as ``tcp://127.0.0.1:5557``.
    context : zmq.asyncio.Context
        Stays the caller's.
    """

    def __init__(self, device: str, endpoint: str, context: zmq.asyncio.Context) -> None:
        self._device = device
        self.endpoint = endpoint
        self._context = context
        self._socket: zmq.asyncio.Socket | None = None
        self._lock = asyncio.Lock()

    async def exchange(
        self, raw: bytes, request: str, timeout_s: float = GRACE_S, sent: Any = None
    ) -> bytes:
        """Send one request and wait for its reply.

        Parameters
        ----------
        raw : bytes
            The request.
        request : str
            What is request, for messages.
        timeout_s : float
            Wall seconds for the exchange, waiting for an earlier one included.
        sent : callable, optional
            Called without arguments when the request goes out.

        Raises
        ------
        DeviceLost
            If no reply comes by the deadline.
        """
        try:
            async with asyncio.timeout(timeout_s), self._lock:
                try:
                    link = self._opened()
                    if sent is not None:
                        sent()
                    await link.send(raw)
                    return await link.recv()
                except BaseException:
                    self.close()  # it owes a reply, and would give it to the next request
                    raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # pyzmq cancels what waits on a socket that is closed; nobody cancelled this task.
            raise broken(self._device, request, self.endpoint, "closed here") from None
        except TimeoutError:
            raise no_answer(self._device, request, self.endpoint, timeout_s) from None
        except zmq.ZMQError as error:
            raise broken(self._device, request, self.endpoint, error) from None

    def close(self) -> None:
        """Close the socket; the next exchange opens another."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _opened(self) -> zmq.asyncio.Socket:
        if self._socket is None:
            self._socket = self._context.socket(zmq.REQ)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
            self._socket.connect(self.endpoint)
        return self._socket
