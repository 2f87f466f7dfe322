"""Hand the readings of one heater to any number of readers, and tell them why they ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from .base import DeviceError, HeaterSample

MAX_WAITING_SAMPLES = 20_000


class Readings:
    """Readings from one task to many readers, each of which gets all from its first step on."""

    def __init__(self) -> None:
        self._inboxes: set[_Inbox] = set()

    def hand_out(self, sample: HeaterSample) -> None:
        """Give a reading to every reader; the oldest goes where one does not keep up."""
        for inbox in self._inboxes:
            inbox.samples.append(sample)
            inbox.arrived.set()

    def end(self, error: DeviceError | None = None) -> None:
        """End every reader, after what still waits for it: with an error, or in peace."""
        for inbox in self._inboxes:
            if not inbox.ended:
                inbox.ended, inbox.error = True, error
                inbox.arrived.set()

    async def follow(self) -> AsyncIterator[HeaterSample]:
        """Readings from now on; raises the error with which they ended."""
        inbox = _Inbox()
        self._inboxes.add(inbox)
        try:
            while True:
                while inbox.samples:
                    yield inbox.samples.popleft()
                if inbox.ended:
                    if inbox.error is not None:
                        raise inbox.error
                    return
                inbox.arrived.clear()
                await inbox.arrived.wait()
        finally:
            self._inboxes.discard(inbox)


class _Inbox:
    def __init__(self) -> None:
        self.samples: deque[HeaterSample] = deque(maxlen=MAX_WAITING_SAMPLES)
        self.arrived = asyncio.Event()
        self.ended = False
        self.error: DeviceError | None = None
