"""What servers share: sockets that listen, HTTP, and tasks that end with their server."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import zmq
import zmq.asyncio
from aiohttp import web

from ...protocols.core.errors import BadInput


def listen(endpoint: str, scheme: str, where: str) -> socket.socket:
    """Socket that listens on an endpoint.

    Parameters
    ----------
    endpoint : str
        Such as ``tcp://127.0.0.1:6341``; port 0 lets the system choose.
    scheme : str
        What the endpoint has to begin with.
    where : str
        Path inside the rig, for messages.

    Raises
    ------
    BadInput
        If the endpoint has another form, or cannot be bound.
    """
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
        right = parts.scheme == scheme
    except ValueError:
        host, port, right = None, None, False
    if not right or host is None or port is None:
        raise BadInput(where, f"'{endpoint}' should read as {scheme}://127.0.0.1:PORT")
    try:
        return socket.create_server((host, port))
    except OSError as error:
        problem = error.strerror or str(error)
        raise BadInput(where, f"cannot listen on {endpoint}: {problem}") from None


def bind(link: zmq.asyncio.Socket, endpoint: str, where: str) -> str:
    """Bind a ZeroMQ socket; port 0 lets the system choose.

    Returns
    -------
    str
        The endpoint, with the port in use.

    Raises
    ------
    BadInput
        If it cannot be bound; `where` is its path inside the rig.
    """
    try:
        link.bind(endpoint.removesuffix(":0") + ":*" if endpoint.endswith(":0") else endpoint)
    except zmq.ZMQError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else str(error)
        raise BadInput(where, f"cannot listen on {endpoint}: {reason}") from None
    return bytes(link.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()  # pyright: ignore[reportArgumentType]


def address(listener: socket.socket, scheme: str) -> str:
    """The endpoint that a socket listens on, with its port."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{host}:{port}"


@asynccontextmanager
async def serve_http(
    endpoint: str,
    where: str,
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]],
    body_bytes: int,
) -> AsyncIterator[str]:
    """Serve until the context ends.

    Parameters
    ----------
    endpoint : str
        Such as ``http://127.0.0.1:8080``; port 0 lets the system choose.
    where : str
        Path of the endpoint inside the rig, for messages.
    handle : callable
        Answers one request.
    body_bytes : int
        Longest body of a request.

    Yields
    ------
    str
        The endpoint, with the port in use.

    Raises
    ------
    BadInput
        If the endpoint cannot be bound.
    """
    with listen(endpoint, "http", where) as listener:
        app = web.Application(client_max_size=body_bytes)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        try:
            await runner.setup()
            await web.SockSite(runner, listener).start()
            yield address(listener, "http")
        finally:
            await runner.cleanup()


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines that never return by themselves until the context ends.

    One that fails is reported to the event loop at once.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    for task in tasks:
        task.add_done_callback(_report)
    try:
        yield
    finally:
        await end(tasks)


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": "a simulator's task failed", "exception": error, "task": task}
        )
