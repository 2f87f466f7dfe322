"""Frames as monitors see them: raw, and as previews. Made only while someone watches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...drivers.base import FrameData
from ...protocols.core.chunk import BadChunk, Chunk
from ...protocols.messages.stream import Message
from .publisher import Publisher, make_preview

# Frames waiting to be decompressed or shrunk; further ones are not shown.
MOST_WAITING = 16
# What a preview does not take over from the header of its frame.
_OWN = {"type", "run", "seq", "t_ns", "shape", "dtype", "encoding"}


class FramePreviews:
    """Shows frames on the monitor without holding up anyone; call `close` at the end.

    A frame that the detector compressed is decompressed in a thread, and only for subscribers of
    full frames or previews: on its way to the file nobody touches it.

    Parameters
    ----------
    publisher : Publisher
        The monitor.
    preview_topic : str
        Where previews go.
    problem : callable
        Told of a frame that cannot be shown.
    """

    def __init__(
        self, publisher: Publisher, preview_topic: str, problem: Callable[[str], None]
    ) -> None:
        self._publisher, self._preview_topic, self._problem = publisher, preview_topic, problem
        self._waiting: deque[tuple[Message, FrameData | None, bool]] = deque()
        self._work: asyncio.Task[None] | None = None
        self.not_shown = 0

    def show(self, message: Message, data: FrameData | None) -> None:
        """Show a frame that was stamped; None for the notice of a lost one."""
        wanted = self._publisher.watched(message.topic)
        # What is not compressed goes out at once, unless it would overtake what is.
        sent = not isinstance(data, Chunk) and not any(not done for _, _, done in self._waiting)
        if wanted and sent:
            self._publisher.send(message)
        preview = data is not None and self._publisher.watched(self._preview_topic)
        if not (preview or (wanted and not sent)):
            return
        if len(self._waiting) >= MOST_WAITING:
            self.not_shown += 1
            return
        self._waiting.append((message, data, sent))
        if self._work is None:
            self._work = asyncio.create_task(self._show_waiting(), name="frame views")

    async def _show_waiting(self) -> None:
        try:
            while self._waiting:
                message, data, sent = self._waiting[0]
                try:
                    await self._show_one(message, data, sent)
                except BadChunk as error:
                    header = message.header
                    name = f"{header.get('series')} frame {header.get('index')}"
                    self._problem(f"{name} cannot be shown: {error}")
                self._waiting.popleft()
        finally:
            self._work = None

    async def _show_one(self, message: Message, data: FrameData | None, sent: bool) -> None:
        if data is None:
            self._publisher.send(message)
            return
        preview_wanted = self._publisher.watched(self._preview_topic)
        frame, preview, scale = await asyncio.to_thread(_views, data, preview_wanted)
        if not sent:
            header = {k: v for k, v in message.header.items() if k != "encoding"}
            self._publisher.send(Message(message.topic, header, (frame,)))
        if preview is not None:
            body = {k: v for k, v in message.header.items() if k not in _OWN}
            body |= {"shape": list(preview.shape), "dtype": "uint8", "scale": scale}
            t_ns = message.header["t_ns"]
            self._publisher.publish(self._preview_topic, "preview", body, (preview,), t_ns)

    async def close(self) -> None:
        """Show what still waits, then end."""
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)


def _views(
    data: FrameData, preview_wanted: bool
) -> tuple[NDArray[Any], NDArray[np.uint8] | None, dict[str, float]]:
    frame = data.decompress() if isinstance(data, Chunk) else data
    if not preview_wanted:
        return frame, None, {}
    return frame, *make_preview(frame)
