"""Read a Merlin's data socket: messages told apart, damaged ones skipped, pixels into arrays."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadMessage
from ...protocols.wires import merlin
from ...protocols.wires.merlin import AcquisitionHeader, FrameHeader

STORE_BYTES = 1 << 20
RECEIVE_BUFFER_BYTES = 8_388_608
MAX_ACQUISITION_HEADER_BYTES = 65_536
SMALLEST_LIMIT_BYTES = 1 << 24
_MESSAGE_START = re.compile(rb"MPX,[0-9]{10},(?:MQ1|HDR),")
_START_BYTES = 19


@dataclass(frozen=True)
class MerlinImage:
    """One image as it came; `data` is little-endian, shape (rows, columns)."""

    header: FrameHeader
    data: NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Damaged:
    """The place of an image that could not be read, and why; `raw` if by its raw mode."""

    why: str
    raw: bool = False


class DataReader:
    """Messages of the data socket, in order; bytes that are none are skipped.

    No length is believed before what it counts agrees with it: what is wrong is passed over and
    the search for the next message goes on right behind its first letters, so that a lie costs
    that message and none after it. A call that waits may be cancelled; the next one continues
    where it was.

    Parameters
    ----------
    sock : socket.socket
        Connected and non-blocking; the caller closes it.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._largest = SMALLEST_LIMIT_BYTES
        self._store = bytearray(STORE_BYTES)
        self._start = self._end = 0
        self._waited = False
        # A large buffer lets the kernel take whole images between two turns of the event loop.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def expect(self, shape: tuple[int, int]) -> None:
        """Take images of these (rows, columns); much larger ones are damaged."""
        self._largest = max(8 * shape[0] * shape[1], SMALLEST_LIMIT_BYTES)

    async def next(self) -> AcquisitionHeader | MerlinImage | Damaged:
        """Wait for the next message.

        Raises
        ------
        ConnectionError
            If the connection ends.
        """
        if not self._waited:
            # Images that come without a pause would otherwise keep every other task waiting.
            await asyncio.sleep(0)
        self._waited = False
        while True:
            body_bytes = await self._prefix()
            await self._fill(merlin.PREFIX_BYTES + min(body_bytes, len(merlin.FRAME_MAGIC)))
            at = self._start + merlin.PREFIX_BYTES
            if self._store.startswith(merlin.FRAME_MAGIC, at):
                try:
                    return await self._image(body_bytes)
                except BadMessage as error:
                    self._start += len(merlin.MAGIC)
                    return Damaged(str(error), isinstance(error, merlin.RawImage))
            if (
                self._store.startswith(merlin.ACQUISITION_HEADER_MAGIC, at)
                and body_bytes <= MAX_ACQUISITION_HEADER_BYTES
            ):
                found = await self._acquisition_header(body_bytes)
                if found is not None:
                    return found
            self._start += len(merlin.MAGIC)

    async def drain(self, quiet_s: float, timeout_s: float) -> bool:
        """Throw away what comes until nothing has come for `quiet_s`.

        Returns
        -------
        bool
            False if it had not ceased within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._start = self._end = 0
            try:
                async with asyncio.timeout(quiet_s):
                    await self._receive()
            except TimeoutError:
                return True
        return False

    async def _prefix(self) -> int:
        """Skip to the next prefix; length of the body that it announces."""
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
                return merlin.parse_prefix(raw)
            except BadMessage:
                self._start += len(merlin.MAGIC)

    async def _acquisition_header(self, body_bytes: int) -> AcquisitionHeader | None:
        await self._fill(merlin.PREFIX_BYTES + body_bytes)
        at = self._start + merlin.PREFIX_BYTES
        try:
            found = merlin.parse_acquisition_header(bytes(self._store[at : at + body_bytes]))
        except BadMessage:
            return None
        self._start = at + body_bytes
        return found

    async def _image(self, body_bytes: int) -> MerlinImage | Damaged:
        header_at = merlin.PREFIX_BYTES
        await self._fill(header_at + merlin.FRAME_START_BYTES)
        at = self._start + header_at
        offset = merlin.parse_data_offset(self._store[at : at + merlin.FRAME_START_BYTES])
        if offset > body_bytes:
            raise BadMessage(f"an image of {body_bytes} bytes with a header of {offset}")
        await self._fill(header_at + offset)
        at = self._start + header_at
        header = merlin.parse_frame_header(self._store[at : at + offset])
        # One less where the end leaves the comma uncounted (wire card C2).
        if body_bytes - header.body_bytes not in (0, -1):
            raise BadMessage(f"an image of {body_bytes} bytes; its header says {header.body_bytes}")
        if header.pixel_bytes > self._largest:
            raise BadMessage(f"an image of {header.height} x {header.width} pixels")
        whole = header_at + header.body_bytes
        await self._fill(whole)
        if (cut := await self._cut(header_at + offset, whole)) is not None:
            self._start += cut
            return Damaged(
                f"an image that ends after {cut - header_at} of {header.body_bytes} bytes"
            )
        first = self._start + header_at + offset
        wire = np.frombuffer(self._store, header.dtype, header.width * header.height, first)
        data = wire.astype(header.dtype.newbyteorder("<")).reshape(header.shape)
        self._start += whole
        return MerlinImage(header, data)

    async def _cut(self, head: int, whole: int) -> int | None:
        """Where, from the start, the next message begins inside an image that has lost its end.

        Parameters
        ----------
        head, whole : int
            Bytes of the image from the start, without its pixels and with them.
        """
        end = self._start + whole
        magic = merlin.MAGIC
        if end + len(magic) <= self._end and self._store.startswith(magic, end):
            return None  # the rule, and cheaper to see than that nothing begins inside
        at = merlin.PREFIX_BYTES
        while True:
            last = min(self._start + whole + len(magic) - 1, self._end)
            if at >= head and self._store.find(magic[:1], self._start + at, last) < 0:
                return None  # one letter is looked for thirty times as fast as four
            stop = min(self._start + head + len(magic) - 1, last) if at < head else last
            found = self._store.find(magic, self._start + at, stop)
            if found < 0:
                if at >= head:
                    return None
                at = head
                continue
            at = found - self._start
            # Four letters may well be counts; what follows them in a message is not.
            if _begins(self._store[found : min(found + _START_BYTES, self._end)]):
                await self._fill(at + _START_BYTES)
                if _MESSAGE_START.match(self._store, self._start + at):
                    return at
            at += 1

    async def _fill(self, count: int) -> None:
        """Wait until `count` bytes are in the store, counted from the start."""
        if self._end - self._start >= count:
            return
        size = len(self._store)
        if size - self._start < count or size - self._end < size // 4:
            rest = self._store[self._start : self._end]
            if size < count:
                self._store = bytearray(2 * count)
            self._store[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        while self._end - self._start < count:
            await self._receive()

    async def _receive(self) -> None:
        """Put what comes next behind the rest; nothing is lost when the caller is cancelled."""
        while True:
            try:
                received = self._sock.recv_into(memoryview(self._store)[self._end :])
            except BlockingIOError:
                await self._readable()
                continue
            if not received:
                raise ConnectionError("closed by the detector")
            self._end += received
            return

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._waited = True
        file = self._sock.fileno()
        loop.add_reader(file, _set, ready)
        try:
            await ready
        finally:
            loop.remove_reader(file)


def _begins(raw: bytearray) -> bool:
    """Whether a message may begin with these bytes, of which some may not have come yet."""
    example = b"MPX,0000000000,MQ1,", b"MPX,0000000000,HDR,"
    return any(
        _MESSAGE_START.match(bytes(raw) + whole[len(raw) :]) is not None for whole in example
    )


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
