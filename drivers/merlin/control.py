"""A Merlin's control socket: commands, and the answers that belong to them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ...protocols.core.errors import BadMessage
from ...protocols.wires import merlin
from ...protocols.wires.merlin import Command, Kind, Reply
from ..base import GRACE_S, DeviceRefused
from ..common.armed_detector import refused, size_text
from ..links.errors import broken, no_answer, not_connected, reason
from ..links.tcp import end_tcp, open_tcp

_IMAGE_SIZE = (merlin.IMAGEY, merlin.IMAGEX)  # in the order of an array's shape


class ControlLink:
    """One command and its answer at a time; answers to others are stale and dropped.

    Parameters
    ----------
    device : str
        For messages.
    address : tuple
        Host and port.
    """

    def __init__(self, device: str, address: tuple[str, int]) -> None:
        self._device = device
        self._address = address
        self._endpoint = f"tcp://{address[0]}:{address[1]}"
        self._socket: Any = None
        self._decoder = merlin.MpxDecoder(replies=True)
        self._replies: list[bytes] = []
        self._owed: list[tuple[Kind, str]] = []  # answers to commands that were cancelled
        self._lock = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether commands are possible."""
        return self._socket is not None

    async def open(self, timeout_s: float) -> None:
        """Connect; raises DeviceLost."""
        self._socket = await open_tcp(self._device, "connect", self._address, timeout_s)
        self._decoder = merlin.MpxDecoder(replies=True)
        self._replies, self._owed = [], []

    async def close(self) -> None:
        """Close the connection; a command under way fails as lost."""
        if self._socket is not None:
            end_tcp(self._socket)
        async with self._lock:
            self._drop()

    def _drop(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    async def ask(
        self, kind: Kind, name: str, value: str | None = None, timeout_s: float = GRACE_S
    ) -> Reply:
        """Send a command and wait for its answer.

        Raises
        ------
        DeviceRefused
            If the answer is an error.
        DeviceLost
            If none comes by the deadline; the connection is closed, for an answer that is owed
            would be taken for the next one.
        """
        command = Command(kind, name, value)
        request = _in_words(command)
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._socket is None:
                raise not_connected(self._device, request)
            try:
                async with asyncio.timeout(timeout_s):
                    await loop.sock_sendall(self._socket, merlin.encode_command(command))
                    reply = await self._reply_to(command)
            except TimeoutError:
                self._drop()
                raise no_answer(self._device, request, self._endpoint, timeout_s) from None
            except OSError as error:
                self._drop()
                raise broken(self._device, request, self._endpoint, reason(error)) from None
            except asyncio.CancelledError:
                self._owed.append((kind, name))
                raise
        if reply.error != merlin.ERROR_OK:
            raise DeviceRefused(
                self._device,
                request,
                f"{self._endpoint} answered {reply.describe()}",
                "See the Merlin software's window",
            )
        return reply

    async def stop(self) -> None:
        """End any acquisition; DeviceRefused if one goes on."""
        try:
            await self.ask("CMD", merlin.STOPACQUISITION)
        except DeviceRefused:
            # Nothing to stop is as good; anything but idle is not.
            status = (await self.ask("GET", merlin.DETECTORSTATUS)).value
            if status != str(merlin.STATUS_IDLE):
                raise

    async def set_size(self, shape: tuple[int, int]) -> None:
        """Have frames of (rows, columns); DeviceRefused if the detector has others."""
        has = await self._size()
        if has == shape:
            return
        with contextlib.suppress(DeviceRefused):
            for name, pixels in zip(_IMAGE_SIZE, shape, strict=True):
                await self.ask("SET", name, str(pixels))
            has = await self._size()
        if has != shape:
            raise refused(
                self._device,
                f"acquire frames of {size_text(shape)} pixels",
                f"the detector has {size_text(has)} and does not change",
                "Set the recipe's beam.frame to what the detector has",
            )

    async def _size(self) -> tuple[int, int]:
        pixels: list[int] = []
        for name in _IMAGE_SIZE:
            value = (await self.ask("GET", name)).value or ""
            if not value.isdecimal():
                raise refused(self._device, f"read {name}", f"it answered {value!r}")
            pixels.append(int(value))
        return pixels[0], pixels[1]

    async def _reply_to(self, command: Command) -> Reply:
        """Wait for the answer of the same kind and name; others are stale and dropped."""
        loop = asyncio.get_running_loop()
        while True:
            while self._replies:
                try:
                    reply = merlin.parse_reply(self._replies.pop(0))
                except BadMessage:
                    continue
                key = (reply.kind, reply.name)
                if self._owed and key == self._owed[0]:
                    self._owed.pop(0)
                elif key == (command.kind, command.name):
                    return reply
            data = await loop.sock_recv(self._socket, 65_536)
            if not data:
                raise ConnectionError("closed by the detector")
            self._replies += self._decoder.feed(data)


def _in_words(command: Command) -> str:
    """What a command does, for messages."""
    if command.kind == "SET":
        return f"set {command.name} to {command.value}"
    return f"read {command.name}" if command.kind == "GET" else f"execute {command.name}"
