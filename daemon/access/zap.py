"""Answer libzmq whether a key is known, for each new connection (ZAP, ZeroMQ RFC 27)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils import z85

ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
# Without a domain, libzmq accepts everybody while no handler answers.
DOMAIN = b"pyrotome"


class ZapHandler:
    """Answers libzmq's requests for all sockets of a context.

    Parameters
    ----------
    context : zmq.asyncio.Context
        Its sockets are protected; a context takes one handler.
    known : callable or None
        Takes a public key (Z85) and returns its owner's name, or None. None: no keys are required.
    rejected : callable
        Called with address and reason of each connection that is rejected.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        known: Callable[[bytes], str | None] | None,
        rejected: Callable[[str, str], None],
    ) -> None:
        self._known, self._rejected = known, rejected
        self._socket = context.socket(zmq.REP)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._task = asyncio.create_task(self._serve(), name="zap")

    async def _serve(self) -> None:
        while True:
            parts = await self._socket.recv_multipart()
            await self._socket.send_multipart(self._answer(parts))

    def _answer(self, parts: list[bytes]) -> list[bytes]:
        number = parts[1] if len(parts) > 1 else b""

        def reply(code: bytes, text: bytes, name: bytes = b"") -> list[bytes]:
            return [VERSION, number, code, text, name, b""]

        if len(parts) < 6 or parts[0] != VERSION:
            return reply(b"500", b"not ZAP 1.0")
        address = parts[3].decode(errors="replace")
        mechanism, credentials = parts[5], parts[6:]
        if self._known is None:
            return reply(b"200", b"OK")
        if mechanism != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != 32:
            self._rejected(address, "it came without a key")
            return reply(b"400", b"a CURVE key is needed")
        public = z85.encode(credentials[0])
        name = self._known(public)
        if name is None:
            self._rejected(address, f"the key {public[:8].decode()}... is not known here")
            return reply(b"400", b"this key is not known")
        return reply(b"200", b"OK", name.encode())

    async def close(self) -> None:
        """Answer no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()


def metadata(frame: Any, name: str) -> str:
    """A property of the connection that a message came by; empty where there is none."""
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


def descriptor(frame: Any) -> int:
    """Descriptor of the connection that a message came by; -1 where there is none."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1
