"""HTTP servers: one handler for every request, on an endpoint of the rig."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from .sockets import address, listen


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
