"""The clients' side: ask a daemon, or subscribe to it, with a key where it demands one."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from ...protocols.core.errors import BadInput
from ...protocols.messages.control import Reply, Request, encode, parse_reply
from ..access.keys import ClientKey, load_client

_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


# A daemon that is stormed may hang up now and then; one that does it so often will do so for ever.
_HOPELESS_FAILURES = 30


class NoDaemon(Exception):
    """Nobody answered on the endpoint."""


def read_key(path: Path | None) -> ClientKey | None:
    """The key in a file; None where none is named. BadInput if it is no key."""
    return load_client(path) if path is not None else None


class Caller:
    """A socket that connects to a daemon, and knows why it does not get through.

    Parameters
    ----------
    context : zmq.Context
        Of the caller.
    kind : int
        ``zmq.REQ`` or ``zmq.SUB``.
    endpoint : str
        Of the daemon.
    key : ClientKey or None
        For a daemon that demands one.

    Raises
    ------
    BadInput
        If the endpoint is no ZeroMQ address.
    """

    def __init__(
        self, context: zmq.Context[Any], kind: int, endpoint: str, key: ClientKey | None
    ) -> None:
        self.endpoint, self._key = endpoint, key
        self.socket: zmq.Socket[bytes] = zmq.Socket(context, kind)
        self.socket.set(zmq.LINGER, 0)
        # The kernel tries ever more seldom where nobody answers: an emergency stop must not wait.
        self.socket.set(zmq.CONNECT_TIMEOUT, 1000)
        if "[" in endpoint:
            self.socket.set(zmq.IPV6, 1)
        if key is not None:
            self.socket.set(zmq.CURVE_PUBLICKEY, key.public)
            self.socket.set(zmq.CURVE_SECRETKEY, key.secret)
            self.socket.set(zmq.CURVE_SERVERKEY, key.server)
        where = f"inproc://caller-{id(self)}"
        self.socket.monitor(where, _FAILED)
        self._events: zmq.Socket[bytes] = zmq.Socket(context, zmq.PAIR)
        self._events.set(zmq.LINGER, 0)
        self._events.connect(where)
        self._failures = 0
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise BadInput(
                endpoint,
                f"is no ZeroMQ address ({zmq.strerror(error.errno or 0)}); "
                "write it as tcp://127.0.0.1:5570",
            ) from None

    def poll(self, timeout_s: float) -> bool:
        """Wait for a message.

        Raises
        ------
        BadInput
            If the daemon refuses the key, or there is none and it demands one.
        """
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self._events, zmq.POLLIN)
        end = time.monotonic() + timeout_s
        while (left_s := end - time.monotonic()) > 0:
            ready = dict(poller.poll(int(left_s * 1000) + 1))
            if self.socket in ready:
                return True
            if self._events in ready:
                self._failed(parse_monitor_message(self._events.recv_multipart()))
        return False

    def _failed(self, event: Any) -> None:
        number, value = int(event["event"]), int(event["value"])
        if number == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise BadInput(
                self.endpoint,
                "the daemon does not know this key, or it was revoked; ask for another "
                "where it runs (`pyrotome keys add`)",
            )
        mismatch = value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
        if number == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and mismatch:
            raise BadInput(
                self.endpoint,
                "the daemon demands a key: name it with --key FILE, or in PYROTOME_KEY"
                if self._key is None
                else "the daemon takes no keys; leave --key and PYROTOME_KEY out",
            )
        # Who hangs up before the other has read why is not told the reason.
        self._failures += 1
        if self._failures >= _HOPELESS_FAILURES:
            raise BadInput(self.endpoint, self.hint.removeprefix("; "))

    @property
    def hint(self) -> str:
        """What may be wrong if somebody is there and no connection comes about."""
        if not self._failures:
            return ""
        if self._key is None:
            return (
                "; who listens there hangs up: a daemon that demands a key? Name it with "
                "--key FILE, or in PYROTOME_KEY"
            )
        return "; who listens there hangs up: this key is not for that daemon"

    def close(self) -> None:
        """Close the connection."""
        self.socket.disable_monitor()
        self._events.close()
        self.socket.close()


def send_request(
    endpoint: str, request: Request, timeout_s: float = 10.0, key: ClientKey | None = None
) -> Reply:
    """Send one request and wait for its answer.

    Raises
    ------
    BadInput
        If the endpoint is no ZeroMQ address, or the daemon refuses the key.
    NoDaemon
        If no answer comes in time.
    """
    request = request.model_copy(update={"id": uuid.uuid4().hex, "sent_ns": time.time_ns()})
    with zmq.Context() as context:
        caller = Caller(context, zmq.REQ, endpoint, key)
        try:
            caller.socket.send(encode(request))
            if not caller.poll(timeout_s):
                raise NoDaemon(
                    f"no daemon answered on {endpoint} within {timeout_s:g} s{caller.hint}; "
                    "start one with `pyrotome serve --rig RIG`, or name another --endpoint"
                )
            reply = parse_reply(caller.socket.recv())
        finally:
            caller.close()
    if reply.id not in ("", request.id):
        raise NoDaemon(f"{endpoint} answered another request; is that a pyrotome daemon?")
    return reply
