"""Read a Merlin's data socket: headers parsed, pixels straight into arrays."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..protocols import merlin
from ..protocols.merlin import AcquisitionHeader, FrameHeader

BUFFER_BYTES = 65_536
RECEIVE_BUFFER_BYTES = 8_388_608
MAX_ACQUISITION_HEADER_BYTES = 65_536
_IMAGE_START_BYTES = 17


@dataclass(frozen=True)
class Image:
    """One image as it came; `data` is little-endian, shape (rows, columns)."""

    header: FrameHeader
    data: NDArray[np.unsignedinteger[Any]]


class DataReader:
    """Messages of the data socket, in order; bytes that are none are skipped.

    Parameters
    ----------
    sock : socket.socket
        Connected and non-blocking; the caller closes it.
    max_pixel_bytes : int
        An image that claims more is not read.
    """

    def __init__(self, sock: Any, max_pixel_bytes: int) -> None:
        self._sock = sock
        self._max_pixel_bytes = max_pixel_bytes
        self._store = bytearray(BUFFER_BYTES)
        self._start = self._end = 0
        # A large buffer lets the kernel take a whole image between two turns of the event loop.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    async def next(self) -> AcquisitionHeader | Image:
        """Wait for the next message.

        A cancelled call may leave half a message behind: the rest is skipped as garbage.

        Raises
        ------
        ConnectionError
            If the connection ends.
        merlin.BadMessage
            If an image cannot be read, or is larger than allowed.
        """
        while True:
            body_bytes = await self._prefix()
            await self._fill(min(body_bytes, len(merlin.ACQUISITION_HEADER_MAGIC)))
            head = bytes(self._store[self._start : self._start + 4])
            if head == merlin.ACQUISITION_HEADER_MAGIC:
                if body_bytes <= MAX_ACQUISITION_HEADER_BYTES - merlin.PREFIX_BYTES:
                    await self._fill(body_bytes)
                    return merlin.parse_acquisition_header(self._take(body_bytes))
            elif head == b"MQ1,":
                return await self._image(body_bytes)
            # Anything else is skipped: the search for a prefix goes on in its body.

    async def drain(self, quiet_s: float, timeout_s: float) -> bool:
        """Throw away what comes until nothing has come for `quiet_s`.

        Returns
        -------
        bool
            False if it had not ceased within `timeout_s`.
        """
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + timeout_s
        self._start = self._end = 0
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(quiet_s):
                    if not await loop.sock_recv_into(self._sock, self._store):
                        raise ConnectionError("closed by the detector")
            except TimeoutError:
                return True
        return False

    async def _prefix(self) -> int:
        """Skip to the next prefix and take it; length of the body that follows."""
        while True:
            await self._fill(merlin.PREFIX_BYTES)
            found = self._store.find(merlin.MAGIC, self._start, self._end)
            if found < 0:
                self._start = self._end - (len(merlin.MAGIC) - 1)
                continue
            self._start = found
            await self._fill(merlin.PREFIX_BYTES)
            raw = self._store[self._start : self._start + merlin.PREFIX_BYTES]
            try:
                length = merlin.parse_prefix(raw)
            except merlin.BadMessage:
                self._start += len(merlin.MAGIC)
                continue
            self._start += merlin.PREFIX_BYTES
            return length

    async def _image(self, body_bytes: int) -> Image:
        await self._fill(_IMAGE_START_BYTES)
        start = self._store[self._start : self._start + _IMAGE_START_BYTES]
        offset = merlin.parse_data_offset(start)
        await self._fill(offset)
        header = merlin.parse_frame_header(self._take(offset))
        # One less where the end leaves the comma uncounted (wire card C2).
        if body_bytes - header.body_bytes not in (0, -1):
            raise merlin.BadMessage(
                f"an image of {body_bytes} bytes; its header says {header.body_bytes}"
            )
        if header.pixel_bytes > self._max_pixel_bytes:
            raise merlin.BadMessage(
                f"an image of {header.pixel_bytes} bytes; {self._max_pixel_bytes} were expected"
            )
        pixels = np.empty(header.pixel_bytes, np.uint8)
        await self._into(pixels.data)
        data = pixels.view(header.dtype).reshape(header.shape)
        if data.itemsize > 1:
            data = data.byteswap(inplace=True).view(header.dtype.newbyteorder("<"))
        return Image(header, data)

    async def _into(self, view: memoryview) -> None:
        """Fill a buffer from what is here and then straight from the socket."""
        here = min(len(view), self._end - self._start)
        view[:here] = memoryview(self._store)[self._start : self._start + here]
        self._start += here
        loop = asyncio.get_running_loop()
        while here < len(view):
            count = await loop.sock_recv_into(self._sock, view[here:])
            if not count:
                raise ConnectionError("closed by the detector in the middle of an image")
            here += count

    async def _fill(self, count: int) -> None:
        """Wait until `count` bytes are in the store."""
        if len(self._store) - self._start < count:
            rest = self._store[self._start : self._end]
            self._store[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        loop = asyncio.get_running_loop()
        while self._end - self._start < count:
            view = memoryview(self._store)[self._end :]
            received = await loop.sock_recv_into(self._sock, view)
            if not received:
                raise ConnectionError("closed by the detector")
            self._end += received

    def _take(self, count: int) -> bytes:
        taken = bytes(self._store[self._start : self._start + count])
        self._start += count
        return taken
