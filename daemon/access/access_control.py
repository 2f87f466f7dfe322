"""Access control: who may connect to the daemon, with which key, and who is rejected.

Without ``security`` in the rig, control and monitor listen on this machine alone and everybody is
the local user, an admin. With it, every connection needs a CURVE key that is filed in its folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from ...protocols.config.rig import Rig
from .connections import MOST_ACTIVE, MOST_SILENT, ClientConnection, Connections
from .keys import KeyPair, KeyRing, load_server
from .lease import DEFAULT_S, Lease
from .people import LOCAL, Person
from .rate_limits import TokenBucket
from .tcp_info import raise_descriptor_limit
from .zap import DOMAIN, ZapHandler

# Events about rejected connections: so many at once, so many a second; the rest is counted.
EVENTS_AT_ONCE, EVENTS_PER_S = 5.0, 2.0

Tell = Callable[..., None]


class AccessControl:
    """Protects the public sockets of a daemon.

    Parameters
    ----------
    rig : Rig
        With or without ``security``.
    context : zmq.asyncio.Context
        Of the public sockets alone: a thread of its own serves what comes in there.
    notify : callable
        ``notify(level, source, message, **more)`` publishes an event.

    Attributes
    ----------
    lease : Lease
        The control lease.

    Raises
    ------
    BadInput
        If the rig's keys are absent, or others could read or add some.
    """

    def __init__(self, rig: Rig, context: zmq.asyncio.Context, notify: Tell) -> None:
        self.context, self.notify = context, notify
        self._event_rate = TokenBucket(EVENTS_PER_S, EVENTS_AT_ONCE)
        self._unreported = 0
        self._pair: KeyPair | None = None
        self._ring: KeyRing | None = None
        self._zap: ZapHandler | None = None
        self._protected: list[Connections] = []
        self._descriptors = raise_descriptor_limit()
        security = rig.security
        self.lease = Lease(security.lease_s if security is not None else DEFAULT_S)
        if security is not None:
            folder = Path(security.keys)
            self._pair = load_server(folder)
            self._ring = KeyRing(folder / "clients", lambda text: notify("warning", "keys", text))
            self._ring.refresh()

    def open(self) -> None:
        """Begin to check keys; until then, every connection waits."""
        known = self._known if self._ring is not None else None
        self._zap = ZapHandler(self.context, known, self._rejected_on("a connection"))

    @property
    def keyed(self) -> bool:
        """Whether keys are required."""
        return self._ring is not None

    def _known(self, public: bytes) -> str | None:
        person = self._ring.person(public) if self._ring is not None else None
        return person.name if person is not None else None

    def person(self, name: str) -> Person | None:
        """The person whose key has the name; None if the key was revoked since."""
        if self._ring is None:
            return Person(LOCAL, "admin")
        return self._ring.named(name)

    def protect(
        self,
        socket: zmq.Socket[Any],
        what: str,
        on_gone: Callable[[ClientConnection], None] | None = None,
    ) -> Connections:
        """Require keys on a socket, and keep account of its connections.

        Parameters
        ----------
        socket : zmq.Socket
            Not bound yet.
        what : str
            What it is, for events.
        on_gone : callable, optional
            Called with each connection that is closed.
        """
        if self._pair is not None:
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_PUBLICKEY, self._pair.public)
            socket.set(zmq.CURVE_SECRETKEY, self._pair.secret)
        # Also without keys: libzmq then rejects peers that speak ZMTP 1 or 2. Any bytes that do not
        # begin as ZMTP 3 does count as those, and libzmq has aborted on such bytes.
        socket.set(zmq.ZAP_DOMAIN, DOMAIN)
        share = self._descriptors // 8
        connections = Connections(
            socket,
            self._rejected_on(what),
            on_gone,
            min(MOST_SILENT, share),
            min(MOST_ACTIVE, share),
        )
        self._protected.append(connections)
        return connections

    def _rejected_on(self, what: str) -> Callable[[str, str], None]:
        return lambda address, why: self.rejected(f"{what} from {address}", why)

    def rejected(self, who: str, why: str) -> None:
        """Publish an event about a rejection, or count it where there are too many."""
        if not self._event_rate.take(time.monotonic()):
            self._unreported += 1
            return
        more: dict[str, Any] = {}
        text = f"{who} was rejected: {why}"
        if self._unreported:
            more["untold"] = self._unreported
            text += f" ({self._unreported} more were rejected without an event of their own)"
            self._unreported = 0
        self.notify("warning", "security", text, who=who, why=why, **more)

    def look(self, now_s: float) -> None:
        """Disconnect revoked keys and silent peers; to be called now and then."""
        ring = self._ring
        if ring is not None and ring.refresh():
            for connections in self._protected:
                for connection in connections.all():
                    if connection.name and ring.named(connection.name) is None:
                        why = f"the key of '{connection.name}' was revoked"
                        connections.disconnect(connection, why)
        for connections in self._protected:
            connections.sweep(now_s)
        if self._unreported and self._event_rate.take(now_s):
            count, self._unreported = self._unreported, 0
            text = f"{count} more connections or requests were rejected"
            self.notify("warning", "security", text, untold=count)

    async def close(self) -> None:
        """Accept no more connections."""
        if self._zap is not None:
            await self._zap.close()
