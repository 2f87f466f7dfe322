"""A Merlin's data socket: opened and closed, and each message waited for with a deadline."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ...protocols.wires.merlin import AcquisitionHeader
from ..base import GRACE_S
from ..links.errors import broken, no_answer, not_connected, reason
from ..links.tcp import end_tcp, open_tcp
from .data import Damaged, DataReader, MerlinImage


class DataLink:
    """One connection, read by one task at a time.

    Parameters
    ----------
    device : str
        For messages.
    address : tuple of str and int
        Host and port.

    Attributes
    ----------
    reading : asyncio.Lock
        Held while messages are read.
    header_due : bool
        Whether the header of an acquisition may still be on its way.
    """

    def __init__(self, device: str, address: tuple[str, int]) -> None:
        self._device, self._address = device, address
        self.endpoint = f"tcp://{address[0]}:{address[1]}"
        self._socket: Any = None
        self._reader: DataReader | None = None
        self.reading = asyncio.Lock()
        self.header_due = False

    async def open(self, timeout_s: float) -> DataReader:
        """Connect; DeviceLost if nothing listens."""
        self._socket = await open_tcp(
            self._device, "connect the frame socket", self._address, timeout_s
        )
        self._reader = DataReader(self._socket)
        self.header_due = False
        return self._reader

    async def expect(self, shape: tuple[int, int]) -> None:
        """Take images of (rows, columns), on a connection that is free of earlier headers."""
        async with self.reading:
            reader = self._reader
            if self.header_due or reader is None:
                self.drop()
                reader = await self.open(GRACE_S)
            reader.expect(shape)

    async def close(self) -> None:
        """Close the connection; a task that reads sees the device lost."""
        if self._socket is not None:
            end_tcp(self._socket)
        async with self.reading:  # a task that reads has seen the end by now
            self.drop()

    def drop(self) -> None:
        """Close the connection at once."""
        sock, self._socket, self._reader = self._socket, None, None
        if sock is not None:
            sock.close()

    async def next(
        self, request: str, timeout_s: float
    ) -> AcquisitionHeader | MerlinImage | Damaged:
        """Wait for the next message.

        Parameters
        ----------
        request : str
            For messages.
        timeout_s : float
            Wall seconds.

        Raises
        ------
        DeviceLost
            If none comes, or the connection breaks.
        """
        if self._reader is None:
            raise not_connected(self._device, request)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reader.next()
        except TimeoutError:
            raise no_answer(self._device, request, self.endpoint, timeout_s) from None
        except OSError as error:
            self.drop()
            raise broken(self._device, request, self.endpoint, reason(error)) from None

    async def header(self, timeout_s: float) -> None:
        """Wait until the acquisition's header comes; what comes before it is of another."""
        request = "read the acquisition header"
        deadline = time.monotonic() + timeout_s
        while not isinstance(
            await self.next(request, max(0.0, deadline - time.monotonic())), AcquisitionHeader
        ):
            pass

    async def drain(self, quiet_s: float, timeout_s: float) -> None:
        """Discard what is still on its way.

        Parameters
        ----------
        quiet_s : float
            Wall seconds of silence after which nothing more is on its way.
        timeout_s : float
            Wall seconds after which the connection is closed instead.
        """
        async with self.reading:
            if self._reader is None:
                return
            try:
                ceased = await self._reader.drain(quiet_s, timeout_s)
            except OSError:
                ceased = False
            if not ceased:
                self.drop()
