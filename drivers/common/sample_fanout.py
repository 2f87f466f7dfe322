"""Hand every sample of a heater to every reader, and tell all of them why samples end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator

from ..base import DeviceError, HeaterSample

MAX_WAITING_SAMPLES = 20_000


class Inbox:
    """Samples on their way to one reader; the oldest go when too many wait."""

    def __init__(self) -> None:
        self._samples: deque[HeaterSample] = deque(maxlen=MAX_WAITING_SAMPLES)
        self._arrived = asyncio.Event()
        self._ended = False
        self._why: DeviceError | None = None

    def put(self, sample: HeaterSample) -> None:
        """Add a sample."""
        self._samples.append(sample)
        self._arrived.set()

    def end(self, why: DeviceError | None) -> None:
        """Let the reader come to its end after what waits, with an error if there is one.

        The first end is the one that counts.
        """
        if not self._ended:
            self._ended, self._why = True, why
            self._arrived.set()

    async def next(self, timeout_s: float | None = None) -> HeaterSample | None:
        """Wait for the next sample; None after the end.

        Raises
        ------
        TimeoutError
            If none comes within so many wall seconds.
        DeviceError
            The one with which the samples ended.
        """
        while not self._samples:
            if self._why is not None:
                raise self._why
            if self._ended:
                return None
            self._arrived.clear()
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        return self._samples.popleft()


class Fanout:
    """The readers of one heater's samples."""

    def __init__(self) -> None:
        self._inboxes: set[Inbox] = set()

    @contextlib.contextmanager
    def reader(self) -> Iterator[Inbox]:
        """Open an inbox that gets every sample from now on."""
        inbox = Inbox()
        self._inboxes.add(inbox)
        try:
            yield inbox
        finally:
            self._inboxes.discard(inbox)

    def put(self, sample: HeaterSample) -> None:
        """Give a sample to everyone."""
        for inbox in self._inboxes:
            inbox.put(sample)

    def end(self, why: DeviceError | None = None) -> None:
        """Tell everyone that no more will come."""
        for inbox in self._inboxes:
            inbox.end(why)
