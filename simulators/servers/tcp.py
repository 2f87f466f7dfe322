"""TCP servers: each connection gets a task of its own, and faults spoil what it sends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from .sockets import address, background, end, listen
from .wire_faults import WireFaults


@asynccontextmanager
async def serve_tcp(
    endpoint: str,
    where: str,
    converse: Callable[[socket.socket], Awaitable[None]],
    *work: Coroutine[Any, Any, None],
) -> AsyncIterator[str]:
    """Serve until the context ends.

    Parameters
    ----------
    endpoint : str
        Such as ``tcp://127.0.0.1:8088``; port 0 lets the system choose.
    where : str
        Path of the endpoint inside the rig, for messages.
    converse : callable
        Talks to one client until it leaves.
    *work : coroutine
        Runs beside the connections.

    Yields
    ------
    str
        The endpoint, with the port in use.

    Raises
    ------
    BadInput
        If the endpoint cannot be bound.
    """
    try:
        listener = listen(endpoint, "tcp", where)
    except BaseException:
        for coroutine in work:
            coroutine.close()
        raise
    with listener:
        async with background(accept_all(listener, converse), *work):
            yield address(listener, "tcp")


async def accept_all(
    listener: socket.socket, converse: Callable[[socket.socket], Awaitable[None]]
) -> None:
    """Give each connection a task of its own; they end with this one.

    Parameters
    ----------
    listener : socket.socket
        Bound and listening.
    converse : callable
        Talks to one client until it leaves; closing the socket is left to this function.
    """
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    serving: set[asyncio.Task[None]] = set()

    async def serve_one(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client may go away at any time
            await converse(connection)

    try:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(serve_one(connection))
            serving.add(task)
            task.add_done_callback(serving.discard)
    finally:
        await end(list(serving))


async def send_answer(
    connection: socket.socket, raw: bytes, faults: WireFaults, late: bool = True
) -> bool:
    """Send an answer as the faults of the wire have it.

    Parameters
    ----------
    connection : socket.socket
        Non-blocking.
    raw : bytes
        The answer as it should be.
    faults : WireFaults
        ``hang`` and ``slow`` delay it, ``garbage`` goes before it, ``short-frame`` takes its end,
        ``disconnect`` cuts it in two.
    late : bool
        Whether it is one of those that ``hang`` and ``slow`` delay.

    Returns
    -------
    bool
        Whether the connection is to go on.
    """
    loop = asyncio.get_running_loop()
    if late:
        await faults.delay()
    if faults.strikes("disconnect"):
        await loop.sock_sendall(connection, raw[: len(raw) // 2])
        return False
    raw = faults.spoil(raw)
    if faults.strikes("short-frame"):
        raw = raw[: -max(1, len(raw) // 4)]
    await loop.sock_sendall(connection, raw)
    return True
