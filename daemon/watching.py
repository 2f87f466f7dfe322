"""Watch a daemon's monitor stream from a terminal, or as JSON lines for another program."""

from __future__ import annotations

import json
import sys
import time

import zmq
from rich.console import Console

from ..protocols.loading import BadInput
from ..protocols.messages import BadMessage, parse
from .progress import ProgressView

_TOPICS = ("state", "event", "telemetry/", "preview/", "result/")
_SILENCE_S = 5.0


def watch_endpoint(
    endpoint: str, as_json: bool, seconds: float | None, out: Console, err: Console
) -> None:
    """Show what a monitor endpoint publishes until interrupted, or for so many seconds.

    With `as_json`, each message's header becomes one line, with its topic; pixels are left out.

    Raises
    ------
    BadInput
        If the endpoint is no ZeroMQ address.
    """
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise BadInput(
                endpoint,
                f"is no ZeroMQ address ({zmq.strerror(error.errno or 0)}); "
                "write it as tcp://127.0.0.1:5571",
            ) from None
        for topic in _TOPICS:
            socket.subscribe(topic.encode())
        with ProgressView(out, 1.0) as view:
            _follow(socket, endpoint, view, as_json, seconds, err)


def _follow(
    socket: zmq.Socket[bytes],
    endpoint: str,
    view: ProgressView,
    as_json: bool,
    seconds: float | None,
    err: Console,
) -> None:
    end = time.monotonic() + seconds if seconds is not None else None
    seen: dict[str, int] = {}
    heard = time.monotonic()
    told = False
    while end is None or time.monotonic() < end:
        if not socket.poll(200):
            if not told and time.monotonic() - heard > _SILENCE_S:
                told = True
                err.print(f"nothing heard from {endpoint} yet; still listening", highlight=False)
            continue
        heard, told = time.monotonic(), False
        try:
            message = parse(socket.recv_multipart())
        except BadMessage as error:
            err.print(f"{endpoint}: {error}", highlight=False)
            continue
        header = message.header
        seq = int(header.get("seq", 0))
        before = seen.get(message.topic)
        if before is not None and before + 1 < seq:
            err.print(
                f"{message.topic}: {seq - before - 1} messages lost on the way here",
                highlight=False,
            )
        seen[message.topic] = seq
        if as_json:
            sys.stdout.write(json.dumps({"topic": message.topic, **header}) + "\n")
            sys.stdout.flush()
        elif message.topic == "state":
            view.show(header)
        elif message.topic == "event":
            view.event(header)
