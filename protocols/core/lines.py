"""Cut byte streams into lines, however they were split, in bounded memory."""

from __future__ import annotations

import re

from .errors import BadMessage

# Longer than any answer of an instrument that speaks in lines of text.
MAX_LINE_BYTES = 4096


class LineDecoder:
    """Cut a byte stream into lines that end in CR, LF or both; empty lines are dropped.

    A line that is too long, or that holds bytes other than printable ASCII, is dropped.

    Parameters
    ----------
    max_line_bytes : int
        Bounds the memory.

    Attributes
    ----------
    skipped_bytes : int
        Bytes dropped so far.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.skipped_bytes = 0
        self._max = max_line_bytes
        self._buffer = bytearray()
        self._skipping = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes held back because their line is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[str]:
        """Take bytes as they come; return the lines that are complete, without their ends."""
        *ended, rest = re.split(rb"[\r\n]", bytes(data))
        lines: list[str] = []
        for part in ended:
            self._add(part)
            if self._skipping:
                self._skipping = False
            elif self._buffer:
                if all(0x20 <= byte < 0x7F or byte == 0x09 for byte in self._buffer):
                    lines.append(self._buffer.decode("ascii"))
                else:
                    self.skipped_bytes += len(self._buffer)
            self._buffer.clear()
        self._add(rest)
        return lines

    def clear(self) -> None:
        """Forget what has come of an incomplete line."""
        self.skipped_bytes += len(self._buffer)
        self._buffer.clear()
        self._skipping = False

    def _add(self, part: bytes) -> None:
        if self._skipping or len(self._buffer) + len(part) > self._max:
            self.skipped_bytes += len(self._buffer) + len(part)
            self._buffer.clear()
            self._skipping = True
        else:
            self._buffer += part


class StrictLineDecoder:
    """Cut a byte stream into lines that end in LF; a line that is too long is an error.

    Parameters
    ----------
    max_line_bytes : int
        Bounds the memory.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max_bytes = max_line_bytes
        self._buffer = bytearray()
        self._skipping = False

    def feed(self, received: bytes) -> list[bytes]:
        """Lines that are complete now, without their ends; empty ones are left out.

        Raises
        ------
        BadMessage
            If a line is longer than allowed; it is skipped to its end, and what came with it too.
        """
        if self._skipping:
            _, end, received = received.partition(b"\n")
            self._skipping = not end
        self._buffer += received
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        if max(map(len, (*lines, rest))) > self._max_bytes:
            self._skipping = len(rest) > 0
            self._buffer = bytearray()
            raise BadMessage(f"a line of more than {self._max_bytes} bytes")
        return [bytes(line) for line in lines if line.strip()]
