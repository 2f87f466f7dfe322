"""Watch a daemon's monitor stream from a terminal, or as JSON lines for another program."""

from __future__ import annotations

import json
import sys
import time

import zmq
from rich.console import Console

from ...protocols.messages.stream import BadMessage, Message, parse
from ..access.keys import ClientKey
from ..client.client import Client
from ..streaming.last_values import LAST
from .progress import ProgressView

_TOPICS = ("state", "event", "telemetry/", "preview/", "result/")
_SILENCE_S = 5.0


def watch_endpoint(
    endpoint: str,
    as_json: bool,
    seconds: float | None,
    out: Console,
    err: Console,
    key: ClientKey | None = None,
) -> None:
    """Show what a monitor endpoint publishes until interrupted, or for so many seconds.

    The last message of every topic comes first. With `as_json`, each message's header becomes one
    line, with its topic, and ``"last": true`` where it was there before; pixels are left out.

    Raises
    ------
    BadInput
        If the endpoint is not a ZeroMQ address, or the daemon refuses the key.
    """
    with zmq.Context() as context:
        client = Client(context, zmq.SUB, endpoint, key)
        try:
            for topic in _TOPICS:
                client.socket.subscribe(topic.encode())
            for topic in _TOPICS:
                client.socket.subscribe((LAST + topic).encode())
            with ProgressView(out, 1.0) as view:
                _follow(client, view, as_json, seconds, err)
        finally:
            client.close()


def _follow(
    client: Client, view: ProgressView, as_json: bool, seconds: float | None, err: Console
) -> None:
    endpoint = client.endpoint
    end = time.monotonic() + seconds if seconds is not None else None
    seen: dict[str, int] = {}
    heard = time.monotonic()
    silence_reported = False
    while end is None or time.monotonic() < end:
        if not client.poll(0.2):
            if not silence_reported and time.monotonic() - heard > _SILENCE_S:
                silence_reported = True
                text = f"nothing received from {endpoint} yet{client.hint}; still listening"
                err.print(text, highlight=False, soft_wrap=True)
            continue
        heard, silence_reported = time.monotonic(), False
        try:
            message = parse(client.socket.recv_multipart())
        except BadMessage as error:
            err.print(f"{endpoint}: {error}", highlight=False)
            continue
        late = message.topic.startswith(LAST)
        topic, header = message.topic.removeprefix(LAST), message.header
        seq = int(header.get("seq", 0))
        before = seen.get(topic)
        if late and before is not None:
            continue  # another subscriber's, or overtaken by a newer message
        if before is not None and before + 1 < seq:
            err.print(f"{topic}: {seq - before - 1} messages lost on the way here", highlight=False)
        seen[topic] = seq
        _show(Message(topic, header), late, view, as_json)


def _show(message: Message, late: bool, view: ProgressView, as_json: bool) -> None:
    if as_json:
        line = {"topic": message.topic, **message.header, **({"last": True} if late else {})}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    elif message.topic == "state":
        view.show(message.header)
    elif message.topic == "event":
        view.event(message.header)
