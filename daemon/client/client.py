"""A client of the daemon: request, or subscribe, with a key where the daemon requires one."""

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


# A busy daemon may close a connection now and then; so many failures mean that it always will.
_HOPELESS_FAILURES = 30


class NoDaemon(Exception):
    """No daemon answered on the endpoint."""


def read_key(path: Path | None) -> ClientKey | None:
    """The key in a file, or None without a file; BadInput if it is not a key."""
    return load_client(path) if path is not None else None


class Client:
    """A connection to a daemon, which knows why it fails.

    Parameters
    ----------
    context : zmq.Context
        Of this program.
    kind : int
        ``zmq.REQ`` or ``zmq.SUB``.
    endpoint : str
        Of the daemon.
    key : ClientKey or None
        For a daemon that requires one.

    Raises
    ------
    BadInput
        If the endpoint is not a ZeroMQ address.
    """

    def __init__(
        self, context: zmq.Context[Any], kind: int, endpoint: str, key: ClientKey | None
    ) -> None:
        self.endpoint, self._key = endpoint, key
        self.socket: zmq.Socket[bytes] = zmq.Socket(context, kind)
        self.socket.set(zmq.LINGER, 0)
        # The kernel retries less and less often: an emergency stop must not wait for that.
        self.socket.set(zmq.CONNECT_TIMEOUT, 1000)
        if "[" in endpoint:
            self.socket.set(zmq.IPV6, 1)
        if key is not None:
            self.socket.set(zmq.CURVE_PUBLICKEY, key.public)
            self.socket.set(zmq.CURVE_SECRETKEY, key.secret)
            self.socket.set(zmq.CURVE_SERVERKEY, key.server)
        where = f"inproc://client-{id(self)}"
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
                f"is not a ZeroMQ address ({zmq.strerror(error.errno or 0)}); "
                "write it as tcp://127.0.0.1:5570",
            ) from None

    def poll(self, timeout_s: float) -> bool:
        """Wait for a message.

        Raises
        ------
        BadInput
            If the daemon refuses the key, or requires one and there is none.
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
                "the daemon does not know this key, or it was revoked; the operator of the "
                "daemon makes another with `pyrotome keys add`",
            )
        mismatch = value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
        if number == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and mismatch:
            raise BadInput(
                self.endpoint,
                "the daemon requires a key: pass --key FILE or set PYROTOME_KEY"
                if self._key is None
                else "the daemon uses no keys; leave --key and PYROTOME_KEY out",
            )
        # A peer that closes the connection early gives no reason.
        self._failures += 1
        if self._failures >= _HOPELESS_FAILURES:
            raise BadInput(self.endpoint, self.hint.removeprefix("; "))

    @property
    def hint(self) -> str:
        """What may be wrong if the daemon is there and no connection succeeds; else empty."""
        if not self._failures:
            return ""
        if self._key is None:
            return (
                "; the daemon closed the connection. It may require a key: pass --key FILE or set "
                "PYROTOME_KEY"
            )
        return "; the daemon closed the connection: this key is not for that daemon"

    def close(self) -> None:
        """Close the connection."""
        self.socket.disable_monitor()
        self._events.close()
        self.socket.close()


def send_request(
    endpoint: str, request: Request, timeout_s: float = 10.0, key: ClientKey | None = None
) -> Reply:
    """Send one request and wait for the reply.

    Parameters
    ----------
    endpoint : str
        Control endpoint of the daemon.
    request : Request
        What is requested; its id and time are filled in.
    timeout_s : float
        Wall seconds to wait.
    key : ClientKey or None
        For a daemon that requires one.

    Raises
    ------
    BadInput
        If the endpoint is not a ZeroMQ address, or the daemon refuses the key.
    NoDaemon
        If no reply comes in time.
    """
    request = request.model_copy(update={"id": uuid.uuid4().hex, "sent_ns": time.time_ns()})
    with zmq.Context() as context:
        client = Client(context, zmq.REQ, endpoint, key)
        try:
            client.socket.send(encode(request))
            if not client.poll(timeout_s):
                raise NoDaemon(
                    f"no daemon answered on {endpoint} within {timeout_s:g} s{client.hint}; "
                    "start one with `pyrotome serve --rig RIG`, or name another --endpoint"
                )
            reply = parse_reply(client.socket.recv())
        finally:
            client.close()
    if reply.id not in ("", request.id):
        raise NoDaemon(
            f"{endpoint} answered another request; check that a pyrotome daemon listens there"
        )
    return reply
