"""The gate: who may connect to the daemon, who they are, and who was turned away.

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
from .connections import MOST_HEARD, MOST_SILENT, Connections, raise_descriptor_limit
from .keys import KeyRing, Pair, load_server
from .lease import DEFAULT_S, Lease
from .people import LOCAL, Person
from .rate_limits import TokenBucket
from .zap import DOMAIN, ZapHandler

# Events about those turned away: so many at once, so many a second; the rest is counted.
EVENTS_AT_ONCE, EVENTS_PER_S = 5.0, 2.0

Tell = Callable[..., None]


class Gate:
    """Protects the public sockets of a daemon.

    Parameters
    ----------
    rig : Rig
        With or without ``security``.
    context : zmq.asyncio.Context
        Of the public sockets alone: what comes in there is served by a thread of its own.
    tell : callable
        ``tell(level, source, message, **more)`` makes an event.

    Raises
    ------
    BadInput
        If the rig's keys are absent, or others could read or add some.
    """

    def __init__(self, rig: Rig, context: zmq.asyncio.Context, tell: Tell) -> None:
        self.context, self.tell = context, tell
        self._few = TokenBucket(EVENTS_PER_S, EVENTS_AT_ONCE)
        self._untold = 0
        self._pair: Pair | None = None
        self._ring: KeyRing | None = None
        self._zap: ZapHandler | None = None
        self.guarded: list[Connections] = []
        self._descriptors = raise_descriptor_limit()
        security = rig.security
        self.lease = Lease(security.lease_s if security is not None else DEFAULT_S)
        if security is not None:
            folder = Path(security.keys)
            self._pair = load_server(folder)
            self._ring = KeyRing(folder / "clients", lambda text: tell("warning", "keys", text))
            self._ring.refresh()

    def open(self) -> None:
        """Answer whose key it is; until then, nobody is let in."""
        known = self._known if self._ring is not None else None
        self._zap = ZapHandler(self.context, known, self.refused_on("a connection"))

    @property
    def keyed(self) -> bool:
        """Whether keys are demanded."""
        return self._ring is not None

    def _known(self, public: bytes) -> str | None:
        person = self._ring.person(public) if self._ring is not None else None
        return person.name if person is not None else None

    def person(self, name: str) -> Person | None:
        """Who has proven to be `name`; None if their key was revoked since."""
        if self._ring is None:
            return Person(LOCAL, "admin")
        return self._ring.named(name)

    def protect(self, socket: zmq.Socket[Any], what: str) -> Connections:
        """Demand keys on a socket that is not bound yet, and keep account of its connections."""
        if self._pair is not None:
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_PUBLICKEY, self._pair.public)
            socket.set(zmq.CURVE_SECRETKEY, self._pair.secret)
        # Without keys, too: libzmq then turns away whoever speaks ZMTP 1 or 2. To these any bytes
        # belong that do not begin as ZMTP 3 does, and it has aborted on such bytes.
        socket.set(zmq.ZAP_DOMAIN, DOMAIN)
        share = self._descriptors // 8
        connections = Connections(
            socket, self.refused_on(what), min(MOST_SILENT, share), min(MOST_HEARD, share)
        )
        self.guarded.append(connections)
        return connections

    def refused_on(self, what: str) -> Callable[[str, str], None]:
        """Who is told of connections to a socket that were turned away."""
        return lambda address, why: self.turned_away(f"{what} from {address}", why)

    def turned_away(self, who: str, why: str) -> None:
        """Make an event of it, or count it where there have been many."""
        if not self._few.take(time.monotonic()):
            self._untold += 1
            return
        more: dict[str, Any] = {}
        text = f"{who} was turned away: {why}"
        if self._untold:
            more["untold"] = self._untold
            text += f" ({self._untold} more were, which are not told one by one)"
            self._untold = 0
        self.tell("warning", "security", text, who=who, why=why, **more)

    def look(self, now_s: float) -> None:
        """Do what is to be done now and then: end the connections of keys that were revoked."""
        ring = self._ring
        if ring is not None and ring.refresh():
            for connections in self.guarded:
                for connection in connections.all():
                    if connection.name and ring.named(connection.name) is None:
                        connections.cut(connection, f"the key of '{connection.name}' was revoked")
        for connections in self.guarded:
            connections.sweep(now_s)
        if self._untold and self._few.take(now_s):
            untold, self._untold = self._untold, 0
            text = f"{untold} more were turned away, which were not told one by one"
            self.tell("warning", "security", text, untold=untold)

    async def close(self) -> None:
        """Let nobody in any more."""
        if self._zap is not None:
            await self._zap.close()
