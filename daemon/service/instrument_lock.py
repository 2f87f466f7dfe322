"""One daemon per instrument: endpoints are locked as long as the daemon's process lives."""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ...drivers.base import DeviceRefused
from ...protocols.config.rig import ROLES, Rig


@contextmanager
def lock_instruments(rig: Rig) -> Iterator[None]:
    """Lock every instrument of a rig against other daemons on this machine.

    The lock is a name in Linux's abstract socket namespace: it ends with the process, is the same
    for every user, and leaves nothing on the disk. Ports that are not chosen yet are not locked.

    Raises
    ------
    DeviceRefused
        If another daemon has locked one of them.
    """
    with ExitStack() as stack:
        seen: set[str] = set()
        for role in ROLES:
            endpoint = rig.device(role).endpoint
            if endpoint in seen or endpoint.endswith((":0", ":*")):
                continue
            seen.add(endpoint)
            lock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            name = hashlib.sha256(endpoint.encode()).hexdigest()[:32]
            try:
                lock.bind(f"\0pyrotome-instrument-{name}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise DeviceRefused(
                    role,
                    f"use {endpoint}",
                    "another pyrotome daemon on this machine uses it",
                    "Stop that one first, or use it: `pyrotome status`",
                ) from None
        yield
