"""Bind a public ZeroMQ socket."""

from __future__ import annotations

from typing import Any, cast

import zmq

from ...protocols.core.errors import BadInput


def bind(socket: zmq.Socket[Any], endpoint: str, what: str, fall_back: bool) -> str:
    """Bind a socket and return the endpoint in use.

    Parameters
    ----------
    socket : zmq.Socket
        The socket.
    endpoint : str
        Where to listen.
    what : str
        Its key in the rig, for messages.
    fall_back : bool
        Take any free port if that of `endpoint` is in use.

    Raises
    ------
    BadInput
        If the endpoint cannot be bound.
    """
    if "[" in endpoint:
        socket.set(zmq.IPV6, 1)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        # The event for the socket's monitor may overwrite libzmq's error number.
        number = zmq.EADDRINUSE if error.errno == zmq.EAGAIN else error.errno
        if not (fall_back and number == zmq.EADDRINUSE):
            raise BadInput(
                f"rig: {what}",
                f"cannot listen on {endpoint}: {zmq.strerror(number or 0)}. Name another port in "
                "the rig, or stop the program that uses it",
            ) from None
        socket.bind(endpoint.rsplit(":", 1)[0] + ":*")
    where = cast(bytes, socket.get(zmq.LAST_ENDPOINT))
    return where.decode().rstrip("\0")
