"""Endpoints of a rig, and TCP sockets to them; each connection with a deadline.

A link never repeats a command by itself: only the driver knows whether it may be sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

from ...protocols.config.endpoints import split_endpoint
from ...protocols.core.errors import BadInput
from .errors import nothing_listens, reason


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
    found = split_endpoint(endpoint, scheme)
    if found is None:
        raise BadInput(where, f"'{endpoint}' should be written as '{scheme}://HOST:PORT'")
    return found


def left_s(deadline: float) -> float:
    """Wall seconds until a moment of ``time.monotonic``, enough for a try at least."""
    return max(0.05, deadline - time.monotonic())


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
        raise nothing_listens(
            device, request, endpoint, f"no connection within {timeout_s:.3g} s"
        ) from None
    except OSError as error:
        sock.close()
        raise nothing_listens(device, request, endpoint, reason(error)) from None
    except BaseException:
        sock.close()
        raise
    return sock


async def check_listens(
    device: str, request: str, address: tuple[str, int], timeout_s: float
) -> None:
    """Raise DeviceLost at once where nothing listens; ZeroMQ would wait, silently."""
    sock = await open_tcp(device, request, address, timeout_s)
    end_tcp(sock)
    sock.close()


def end_tcp(sock: Any) -> None:
    """Wake tasks that wait on a socket with an end of file; the caller closes it afterwards."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
