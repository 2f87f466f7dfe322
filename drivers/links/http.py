"""Exchanges over HTTP, each with a deadline and with device errors for its failures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from ..base import DeviceRefused
from .errors import broken, no_answer, nothing_listens, reason


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
    """Bound an HTTP exchange, and raise its failures as device errors.

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
        If the deadline passes, nothing listens, or the connection breaks.
    DeviceRefused
        What `not_theirs` makes.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise no_answer(device, request, endpoint, timeout_s) from None
    except aiohttp.ClientConnectorError as error:
        raise nothing_listens(device, request, endpoint, reason(error.os_error)) from None
    except aiohttp.ClientResponseError as error:
        raise not_theirs(request, f"not an HTTP answer: {_first_line(error.message)}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise broken(device, request, endpoint, reason(error)) from None
    except RuntimeError:
        # aiohttp says so of a session that was closed meanwhile.
        if not session.closed:
            raise
        raise broken(device, request, endpoint, "closed here") from None


def _first_line(text: str) -> str:
    """What aiohttp says before it shows the bytes."""
    return (text.strip().splitlines() or ["it cannot be read"])[0].rstrip(":")


async def http_body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """Body of an answer; None if it is longer than it may be."""
    raw = bytearray()
    async for piece in response.content.iter_chunked(65_536):
        raw += piece
        if len(raw) > most_bytes:
            return None
    return bytes(raw)


class HttpClient:
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
