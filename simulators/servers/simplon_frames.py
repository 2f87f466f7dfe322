"""The frames of a simulated DECTRIS detector: compressed, queued, and pushed in order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import zmq
import zmq.asyncio
from numpy.typing import NDArray

from ...protocols.core import lz4
from ...protocols.core.bitshuffle import Bitshuffle
from ...protocols.wires import simplon_stream as stream
from .frame_source import Counts, Shot
from .simplon_settings import Configuration
from .wire_faults import WireFaults

_BACKLOG = 4
_RECHECK_MS = 50
_CHANNEL = "threshold_1"


@dataclass(frozen=True)
class Drawn:
    """Pixels and their hash."""

    pixels: stream.Pixels
    md5: str


@dataclass(frozen=True)
class OutgoingFrames:
    """A message of a series, or the shot that one is made of."""

    series: int
    parts: list[stream.Buffer]
    shot: Shot[Drawn] | None = None


@dataclass(frozen=True)
class FrameEncoder:
    """Compresses frames; runs in a thread.

    Attributes
    ----------
    compressor : Bitshuffle
        Of ``bslz4``.
    compression : str
        As on the wire.
    cbor : bool
        Whether the stream has the newer format.
    masked : ndarray of bool or None
        Pixels that get the highest number, as ``pixel_mask_applied`` has it.
    """

    compressor: Bitshuffle
    compression: str
    cbor: bool
    masked: NDArray[np.bool_] | None = None

    def encode(self, counts: Counts) -> Drawn:
        """Compress a frame of shape (rows, columns), and hash it where the format says so."""
        raw: bytes
        compression: stream.Compression
        if self.masked is not None:
            counts = np.where(self.masked, np.iinfo(counts.dtype).max, counts).astype(counts.dtype)
        if self.compression == "bslz4":
            chunk = self.compressor.compress(counts)
            raw, compression = chunk.tobytes(), "bslz4"
            self.compressor.release(chunk)
        elif self.compression == "none":
            raw, compression = counts.tobytes(), "none"
        elif self.cbor:
            raw, compression = lz4.compress_hdf5(counts.tobytes()), "lz4-hdf5"
        else:
            raw, compression = lz4.compress_block(counts.tobytes()), "lz4"
        rows, columns = counts.shape
        pixels = stream.Pixels((rows, columns), counts.dtype.name, compression, raw)
        return Drawn(pixels, "" if self.cbor else stream.md5_of(raw))


class FrameStream:
    """The stream of one detector.

    Parameters
    ----------
    push : zmq.asyncio.Socket
        Bound; stays the caller's.
    configuration : Configuration
        Of the detector.
    faults : WireFaults
        Switches of its faults.
    header_apart, ends_itself : bool
        As of `simplon.serve`.

    Attributes
    ----------
    series : int
        Number of the present series.
    """

    def __init__(
        self,
        push: zmq.asyncio.Socket,
        configuration: Configuration,
        faults: WireFaults,
        *,
        header_apart: bool = False,
        ends_itself: bool = False,
    ) -> None:
        self._push, self._configuration, self._faults = push, configuration, faults
        # The same socket without an event loop, for when there is room in it.
        self._push_now = zmq.Socket.shadow(push.underlying)
        self.header_apart, self.ends_itself = header_apart, ends_itself
        self._queue: asyncio.Queue[OutgoingFrames] = asyncio.Queue()
        self._room = asyncio.Semaphore(_BACKLOG)  # for images in the queue
        self.series = 0
        self._discarded = 0  # series whose images are no longer sent

    def begin(self) -> None:
        """Queue the start of the present series, if the stream is on."""
        if self._configuration.series().streaming:
            for parts in self._start():
                self._queue.put_nowait(OutgoingFrames(self.series, parts))

    def discard(self) -> None:
        """Send no more images of the present series."""
        self._discarded = self.series

    def end(self, *, abandoned: bool) -> None:
        """Queue the end of the present series, unless it ended itself with its last image."""
        if self._configuration.series().streaming and not (self.ends_itself and not abandoned):
            # Images that are no longer wanted are passed over on the way out.
            self._queue.put_nowait(OutgoingFrames(self.series, self._end()))

    async def send_all(self) -> None:
        """Send what is queued, in order, to the client that pulls."""
        while True:
            item = await self._queue.get()
            drawn = None if item.shot is None else await item.shot.drawn
            await self._faults.delay()
            if item.shot is None or drawn is None:
                await self._send(item, item.parts)
                continue
            if self._wanted(item):
                if self._faults.strikes("garbage"):
                    await self._send(item, [self._faults.noise()])
                await self._send(item, self._image(item.shot, drawn))
                if self.ends_itself and item.shot.number == self._configuration.series().frames:
                    await self._send(item, self._end())
            self._room.release()

    async def _send(self, item: OutgoingFrames, parts: list[stream.Buffer]) -> None:
        while self._wanted(item):
            with suppress(zmq.Again):
                self._push_now.send_multipart(parts, flags=zmq.NOBLOCK, copy=False)
                return
            await self._push.poll(_RECHECK_MS, zmq.POLLOUT)  # pyright: ignore[reportCallIssue]

    def _wanted(self, item: OutgoingFrames) -> bool:
        """Not what is old, when another series has begun or its images have been abandoned."""
        return item.series == self.series and (item.shot is None or item.series != self._discarded)

    async def deliver(self, shot: Shot[Drawn]) -> None:
        """Queue an image, waiting for room."""
        if self._configuration.series().streaming:
            await self._room.acquire()
            self._queue.put_nowait(OutgoingFrames(self.series, [], shot))

    @property
    def _unique_id(self) -> str:
        return f"pyrotome-{self.series:08d}"

    def _start(self) -> list[list[stream.Buffer]]:
        settings = self._configuration.series()
        if settings.cbor:
            config = self._configuration.described_v2(_CHANNEL)
            return [stream.encode_start_v2(self.series, self._unique_id, config)]
        config = self._configuration.described_v1() if settings.header_detail != "none" else None
        return stream.encode_start_v1(
            self.series,
            config,
            apart=self.header_apart,
            appendix=settings.header_appendix,
        )

    def _image(self, shot: Shot[Drawn], drawn: Drawn) -> list[stream.Buffer]:
        settings, pixels = self._configuration.series(), drawn.pixels
        if self._faults.strikes("wrong-length"):
            pixels = replace(pixels, shape=(2 * pixels.shape[0], pixels.shape[1]))
        if self._faults.strikes("short-frame"):
            pixels = replace(pixels, raw=pixels.raw[: len(pixels.raw) // 2])
        image = stream.Image(
            self.series,
            shot.number - 1,
            {_CHANNEL: pixels},
            shot.start_ns,
            shot.end_ns,
            int(settings.count_time_s * 1e9),
            drawn.md5,
        )
        if settings.cbor:
            return stream.encode_image_v2(image, self._unique_id)
        return stream.encode_image_v1(image, settings.image_appendix)

    def _end(self) -> list[stream.Buffer]:
        if self._configuration.series().cbor:
            return stream.encode_end_v2(self.series, self._unique_id)
        return stream.encode_end_v1(self.series)
