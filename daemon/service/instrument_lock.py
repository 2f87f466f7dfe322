"""One daemon an instrument: its endpoints are claimed for as long as the daemon's process lives."""

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
    """Claim every instrument of a rig on this machine.

    A name in Linux's abstract socket namespace cannot outlive its process, is the same for every
    user, and leaves nothing on the disk. Ports that are yet to be chosen need no claim.

    Raises
    ------
    DeviceRefused
        If another daemon has one of them.
    """
    with ExitStack() as stack:
        seen: set[str] = set()
        for role in ROLES:
            endpoint = rig.device(role).endpoint
            if endpoint in seen or endpoint.endswith((":0", ":*")):
                continue
            seen.add(endpoint)
            claim = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            name = hashlib.sha256(endpoint.encode()).hexdigest()[:32]
            try:
                claim.bind(f"\0pyrotome-instrument-{name}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise DeviceRefused(
                    role,
                    f"use {endpoint}",
                    "another pyrotome daemon on this machine runs it",
                    "Stop that one first, or use it: `pyrotome status`",
                ) from None
        yield
