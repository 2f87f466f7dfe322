"""Frames for monitors: raw, and as previews. Made only while a monitor subscribes to them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...drivers.readings import FrameData
from ...protocols.core.chunk import BadChunk, Chunk
from ...protocols.messages.stream import Message
from .message_stamper import MessageStamper
from .publisher import Publisher

# Frames waiting to be decompressed or shrunk; further ones are not shown.
MOST_WAITING = 16
# Longest side of a preview, in pixels.
PREVIEW_SIDE = 256
# What a preview does not take over from the header of its frame.
_OWN = {"type", "run", "seq", "t_ns", "shape", "dtype", "encoding"}


class FramePreviews:
    """Sends frames to monitors without delaying the run; call `close` at the end.

    A frame that the detector compressed is decompressed in a thread, and only for subscribers of
    full frames or previews; on its way to the file it stays compressed.

    Parameters
    ----------
    publisher : Publisher
        The monitor.
    stamper : MessageStamper
        Makes the messages of previews.
    preview_topic : str
        Where previews go.
    on_problem : callable
        Called with a text about a frame that cannot be shown.
    """

    def __init__(
        self,
        publisher: Publisher,
        stamper: MessageStamper,
        preview_topic: str,
        on_problem: Callable[[str], None],
    ) -> None:
        self._publisher, self._stamper = publisher, stamper
        self._preview_topic, self._on_problem = preview_topic, on_problem
        self._waiting: deque[tuple[Message, FrameData | None, bool]] = deque()
        self._work: asyncio.Task[None] | None = None
        self.not_shown = 0

    def show(self, message: Message, data: FrameData | None) -> None:
        """Show a stamped frame; `data` is None for a lost frame."""
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
                    self._on_problem(f"{name} cannot be shown: {error}")
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
            message = self._stamper.stamp(self._preview_topic, "preview", body, (preview,), t_ns)
            self._publisher.send(message)

    async def close(self) -> None:
        """Show the frames that still wait, then end."""
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)


def _views(
    data: FrameData, preview_wanted: bool
) -> tuple[NDArray[Any], NDArray[np.uint8] | None, dict[str, float]]:
    frame = data.decompress() if isinstance(data, Chunk) else data
    if not preview_wanted:
        return frame, None, {}
    return frame, *make_preview(frame)


def make_preview(frame: NDArray[Any]) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """Bin a frame to at most `PREVIEW_SIDE` pixels a side and scale it to 8 bits.

    A frame much longer than wide keeps more pixels along it, for the binning is the same in both
    directions and leaves one pixel across at least.

    Returns
    -------
    preview : ndarray of uint8
        (rows // b, columns // b), with b the binning.
    scale : dict
        ``binning``, and the mean counts that black and white stand for (``low``, ``high``).
    """
    binning = max(1, min(-(-max(frame.shape) // PREVIEW_SIDE), *frame.shape))
    rows, columns = (side // binning for side in frame.shape)
    # Sums of strided slices: an order of magnitude quicker than reducing over two axes at once.
    blocks = frame[: rows * binning, : columns * binning].reshape(rows, binning, -1)
    total = blocks[:, 0].astype(np.uint32 if frame.itemsize <= 2 else np.uint64)
    for row in range(1, binning):
        total += blocks[:, row]
    total = total.reshape(rows, columns, binning)
    binned = total[..., 0].astype(np.float32)
    for column in range(1, binning):
        binned += total[..., column]
    binned /= binning**2
    low, high = float(binned.min()), float(binned.max())
    span = high - low or 1.0
    preview = np.clip((binned - low) * (255.0 / span), 0, 255).astype(np.uint8)
    return preview, {"binning": float(binning), "low": low, "high": high}
