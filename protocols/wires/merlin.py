"""Codec of the Quantum Detectors Merlin wire: MPX frames, commands, and images of Medipix3 chips.

Source: areaDetector's ADMerlin, Lima and LiberTEM-live (wire card C2). Everything on both sockets
is ``MPX,`` + ten digits N + ``,`` + body, where N counts that comma too, so the body has N - 1
bytes. The data socket carries one acquisition header and then one frame per image: an ASCII
header, padded, and big-endian pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadMessage

MAGIC = b"MPX,"
PREFIX_BYTES = 15
MAX_CONTROL_BYTES = 65_536
MAX_DATA_BYTES = 2**31
MAX_FRAME_HEADER_BYTES = 16_384
FRAME_MAGIC = b"MQ1,"
FRAME_START_BYTES = 24  # with room for a frame number of more digits than the usual six

CONTROL_PORT = 6341
DATA_PORT = 6342

ERROR_OK, ERROR_BUSY, ERROR_UNKNOWN, ERROR_RANGE = 0, 1, 2, 3
ERROR_TEXT = {
    ERROR_OK: "ok",
    ERROR_BUSY: "busy",
    ERROR_UNKNOWN: "unknown command",
    ERROR_RANGE: "parameter out of range",
}

NUMFRAMESTOACQUIRE = "NUMFRAMESTOACQUIRE"
NUMFRAMESPERTRIGGER = "NUMFRAMESPERTRIGGER"
ACQUISITIONTIME = "ACQUISITIONTIME"  # ms
ACQUISITIONPERIOD = "ACQUISITIONPERIOD"  # ms
COUNTERDEPTH = "COUNTERDEPTH"
CONTINUOUSRW = "CONTINUOUSRW"
ENABLECOUNTER1 = "ENABLECOUNTER1"
TRIGGERSTART = "TRIGGERSTART"
TRIGGERSTOP = "TRIGGERSTOP"
IMAGEX = "IMAGEX"
IMAGEY = "IMAGEY"
SOFTWAREVERSION = "SOFTWAREVERSION"
DETECTORSTATUS = "DETECTORSTATUS"
STARTACQUISITION = "STARTACQUISITION"
STOPACQUISITION = "STOPACQUISITION"
SOFTTRIGGER = "SOFTTRIGGER"
SOFTTRIGGER_ALIASES = (SOFTTRIGGER, "SWTRIGGER")

TRIGGER_INTERNAL, TRIGGER_SOFT = 0, 5
STATUS_IDLE, STATUS_BUSY, STATUS_STANDBY, STATUS_ERROR, STATUS_ARMED, STATUS_INIT = range(6)

Kind = Literal["GET", "SET", "CMD"]
KINDS: tuple[Kind, ...] = ("GET", "SET", "CMD")
_KINDS: dict[str, Kind] = {kind: kind for kind in KINDS}
# Counter depth in bits -> how a pixel travels.
PIXEL_TYPES: Mapping[int, str] = {1: "U08", 6: "U08", 12: "U16", 24: "U32"}
_PIXEL_BYTES = {"U08": 1, "U16": 2, "U32": 4, "U64": 8}


def frame(body: bytes) -> bytes:
    """Put a body behind its prefix."""
    return prefix(len(body)) + body


def prefix(body_bytes: int) -> bytes:
    """Return the 15 bytes before a body of that length, so that a large one need not be copied."""
    return b"MPX,%010d," % (body_bytes + 1)


def parse_prefix(raw: bytes | bytearray | memoryview) -> int:
    """Length in bytes of the body that follows a prefix.

    Raises
    ------
    BadMessage
        If the 15 bytes are not a prefix.
    """
    text = bytes(raw)
    digits = text[4:14]
    if len(text) != PREFIX_BYTES or not text.startswith(MAGIC) or text[14:] != b",":
        raise BadMessage(f"{text[:40]!r} is not an MPX prefix")
    if not digits.isdigit() or int(digits) < 1:
        raise BadMessage(f"{text[:40]!r} is not an MPX prefix")
    return int(digits) - 1


class MpxDecoder:
    """Cut a byte stream into bodies, skipping what is none.

    Parameters
    ----------
    max_body_bytes : int
        A longer body is taken for garbage; bounds the memory.
    replies, commands : bool
        The stream carries answers, or commands, from an end whose N may leave the comma
        uncounted (LiberTEM-live's simulator does that). An answer ends in an error code, so the
        digit after one that ends in a comma belongs to it. The end of a command cannot be told:
        a letter or digit that has come with it, where the next prefix should begin, belongs to it.

    Attributes
    ----------
    skipped_bytes : int
        Bytes thrown away so far in search of a prefix.
    """

    def __init__(
        self,
        max_body_bytes: int = MAX_CONTROL_BYTES,
        *,
        replies: bool = False,
        commands: bool = False,
    ) -> None:
        self.skipped_bytes = 0
        self._max = max_body_bytes
        self._replies, self._commands = replies, commands
        self._buffer = bytearray()
        self._body_bytes: int | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take bytes as they come; return the bodies that are complete."""
        self._buffer += data
        bodies: list[bytes] = []
        while (body := self._next()) is not None:
            bodies.append(body)
        return bodies

    @property
    def buffered_bytes(self) -> int:
        """Bytes held back because what they belong to is not complete."""
        return len(self._buffer)

    def _next(self) -> bytes | None:
        if self._body_bytes is None:
            self._body_bytes = self._find_prefix()
            if self._body_bytes is None:
                return None
        end = PREFIX_BYTES + self._body_bytes
        if len(self._buffer) < end:
            return None
        if self._replies and self._buffer.endswith(b",", 0, end):
            if len(self._buffer) == end:
                return None
            end += self._buffer[end : end + 1].isdigit()
        elif self._commands and not self._buffer.startswith(MAGIC[: len(self._buffer) - end], end):
            end += self._buffer[end : end + 1].isalnum()
        body = bytes(self._buffer[PREFIX_BYTES:end])
        del self._buffer[:end]
        self._body_bytes = None
        return body

    def _find_prefix(self) -> int | None:
        """Skip to the next prefix that is complete and believable; length of its body."""
        while True:
            found = self._buffer.find(MAGIC)
            if found < 0:
                self._skip(len(self._buffer) - _partial_magic(self._buffer))
                return None
            self._skip(found)
            if len(self._buffer) < PREFIX_BYTES:
                return None
            try:
                length = parse_prefix(self._buffer[:PREFIX_BYTES])
            except BadMessage:
                length = self._max + 1
            if length <= self._max:
                return length
            self._skip(len(MAGIC))

    def _skip(self, count: int) -> None:
        self.skipped_bytes += count
        del self._buffer[:count]


def _partial_magic(buffer: bytearray) -> int:
    """How many bytes at the end could be the start of a prefix."""
    return next((n for n in (3, 2, 1) if buffer.endswith(MAGIC[:n])), 0)


@dataclass(frozen=True)
class Command:
    """What a client asks; `value` only with SET."""

    kind: Kind
    name: str
    value: str | None = None

    def __str__(self) -> str:
        return ",".join(p for p in (self.kind, self.name, self.value) if p is not None)


@dataclass(frozen=True)
class Reply:
    """What the detector answers; `value` only to GET."""

    kind: Kind
    name: str
    error: int = ERROR_OK
    value: str | None = None

    def describe(self) -> str:
        """Error code in words."""
        return f"error {self.error} ({ERROR_TEXT.get(self.error, 'unknown code')})"


def encode_command(command: Command) -> bytes:
    """Bytes of a command, with its prefix."""
    return frame(str(command).encode("ascii"))


def parse_command(body: bytes) -> Command:
    """Decode the body of a command; the field that some clients add to GET and CMD is dropped.

    Raises
    ------
    BadMessage
        If it is not valid.
    """
    kind, name, rest = _parts(body)
    if kind == "SET" and not rest:
        raise BadMessage(f"{body[:60]!r}: SET without a value")
    return Command(kind, name, ",".join(rest) if kind == "SET" else None)


def encode_reply(reply: Reply) -> bytes:
    """Bytes of an answer, with its prefix."""
    fields = [reply.kind, reply.name]
    if reply.kind == "GET":
        fields.append(reply.value or "")
    return frame(",".join([*fields, str(reply.error)]).encode("ascii"))


def parse_reply(body: bytes) -> Reply:
    """Decode the body of an answer; raises BadMessage if it is invalid."""
    kind, name, rest = _parts(body)
    wanted = 2 if kind == "GET" else 1
    if len(rest) < wanted or not rest[-1].isdecimal():
        raise BadMessage(f"{body[:60]!r}: no error code")
    return Reply(kind, name, int(rest[-1]), ",".join(rest[:-1]) if kind == "GET" else None)


def _parts(body: bytes) -> tuple[Kind, str, list[str]]:
    try:
        first, name, *rest = bytes(body).decode("ascii").split(",")
    except ValueError:
        raise BadMessage(f"{body[:60]!r} is not a command or answer") from None
    kind, name = _KINDS.get(first.strip().upper()), name.strip()
    if kind is None or not name:
        raise BadMessage(f"{body[:60]!r} is not a command or answer")
    return kind, name.upper(), [part.strip() for part in rest]


_FRAMES = "Frames in Acquisition (Number)"
_PER_TRIGGER = "Frames per Trigger (Number)"
_DEPTH = "Counter Depth (number)"
ACQUISITION_HEADER_MAGIC = b"HDR,"


@dataclass(frozen=True)
class AcquisitionHeader:
    """What comes first on the data socket after STARTACQUISITION."""

    frames: int
    frames_per_trigger: int = 1
    counter_depth: int = 12
    fields: Mapping[str, str] = field(default_factory=dict[str, str])


def encode_acquisition_header(header: AcquisitionHeader) -> bytes:
    """Body of an acquisition header; `fields` come after those that every reader needs."""
    lines = {
        _FRAMES: str(header.frames),
        _PER_TRIGGER: str(header.frames_per_trigger),
        _DEPTH: str(header.counter_depth),
        **header.fields,
    }
    text = "".join(f"{key}:\t{value}\r\n" for key, value in lines.items())
    return f"HDR,\t\r\n{text}End\t".encode("latin-1")


def parse_acquisition_header(body: bytes) -> AcquisitionHeader:
    """Decode the body of an acquisition header; raises BadMessage if it is invalid."""
    if not body.startswith(ACQUISITION_HEADER_MAGIC):
        raise BadMessage(f"{body[:40]!r} is not an acquisition header")
    found: dict[str, str] = {}
    for line in body.decode("latin-1").splitlines():
        key, tab, value = line.partition("\t")
        if tab and key.endswith(":"):
            found[key[:-1]] = value.strip()
    try:
        frames, per_trigger = int(found.pop(_FRAMES)), int(found.pop(_PER_TRIGGER, "1"))
        depth = int(found.pop(_DEPTH, "12"))
    except (KeyError, ValueError):
        raise BadMessage(f"acquisition header without a number for '{_FRAMES}'") from None
    return AcquisitionHeader(frames, per_trigger, depth, found)


class RawImage(BadMessage):
    """An image in raw mode (R64): the bits of the chips in their order of readout, not counts."""


@dataclass(frozen=True)
class FrameHeader:
    """Header of one image.

    `sequence` counts from 1 within the acquisition; `pixel_type` is ``U08``, ``U16``, ``U32`` or
    ``U64``; `data_offset` is the header's length in bytes, padding included; `timestamp` is text
    such as ``2026-01-01 00:00:00.000000``. `counter` is 1 for the second counter of a pixel.
    """

    sequence: int
    width: int
    height: int
    pixel_type: str = "U16"
    counter_depth: int = 12
    data_offset: int = 384
    chips: int = 1
    layout: str = "1x1"
    shutter_s: float = 0.0
    timestamp: str = "1970-01-01 00:00:00.000000"
    thresholds_kev: tuple[float, ...] = (0.0,) * 8
    counter: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Pixels as they travel: big-endian unsigned integers."""
        return np.dtype(f">u{_PIXEL_BYTES[self.pixel_type]}")

    @property
    def pixel_bytes(self) -> int:
        """Bytes of pixels that follow the header."""
        return self.width * self.height * _PIXEL_BYTES[self.pixel_type]

    @property
    def body_bytes(self) -> int:
        """Bytes of header and pixels."""
        return self.data_offset + self.pixel_bytes


def header_bytes(chips: int) -> int:
    """Length of an image's header for a number of chips."""
    return 256 + 128 * chips


def encode_frame_header(header: FrameHeader) -> bytes:
    """Return the `data_offset` bytes before an image's pixels.

    Raises
    ------
    ValueError
        If the offset is too small for the header.
    """
    chips = "".join("3RX," + "000," * 27 for _ in range(header.chips))
    mask = f"{2**header.chips - 1:02X}"
    thresholds = ",".join(f"{v:.6E}" for v in header.thresholds_kev)
    shutter_ns = round(header.shutter_s * 1e9)
    text = (
        f"MQ1,{header.sequence:06d},{header.data_offset:05d},{header.chips:02d},"
        f"{header.width:04d},{header.height:04d},{header.pixel_type},{header.layout:>6},{mask},"
        f"{header.timestamp},{header.shutter_s:.6f},{header.counter},0,0,{thresholds},{chips}"
        f"MQ1A,{header.timestamp.replace(' ', 'T')}000Z,{shutter_ns}ns,{header.counter_depth},"
    ).encode("ascii")
    if len(text) > header.data_offset:
        raise ValueError(f"header of {len(text)} bytes; data_offset is {header.data_offset}")
    return text.ljust(header.data_offset, b"\0")  # readers look for the padding by its zeros


def parse_data_offset(start: bytes | bytearray | memoryview) -> int:
    """Length of an image's header from its first bytes, `FRAME_START_BYTES` or more.

    Raises
    ------
    BadMessage
        If they are not the start of one.
    """
    parts = bytes(start[:FRAME_START_BYTES]).split(b",", 3)
    if len(parts) < 4 or parts[0] != b"MQ1" or not (parts[1].isdigit() and parts[2].isdigit()):
        raise BadMessage(f"{bytes(start[:40])!r} is not the start of an image")
    offset = int(parts[2]) if len(parts[2]) <= 5 else 0
    if not 100 <= offset <= MAX_FRAME_HEADER_BYTES:
        raise BadMessage(f"an image header of {offset} bytes")
    return offset


def parse_frame_header(raw: bytes | bytearray | memoryview) -> FrameHeader:
    """Decode an image's header from its `data_offset` bytes (more may follow).

    Raises
    ------
    BadMessage
        If it is not valid, or the pixels are not unsigned integers of whole bytes.
    """
    offset = parse_data_offset(raw)
    parts = bytes(raw[:offset]).decode("latin-1").split(",")
    try:
        sequence, _, chips, width, height = (int(p) for p in parts[1:6])
        pixel_type, layout, timestamp = parts[6], parts[7].strip(), parts[9]
        shutter_s = float(parts[10])
        counter = int(parts[11]) if parts[11].strip().isdigit() else 0
        thresholds = tuple(float(p) for p in parts[14:22])
    except (ValueError, IndexError):
        raise BadMessage(f"{bytes(raw[:60])!r}: not the header of an image") from None
    if pixel_type.startswith("R"):
        raise RawImage(f"an image in raw mode ({pixel_type[:10]})")
    if pixel_type not in _PIXEL_BYTES:
        raise BadMessage(f"pixels of type {pixel_type!r}; known are {', '.join(_PIXEL_BYTES)}")
    if not (1 <= width <= 65_536 and 1 <= height <= 65_536):
        raise BadMessage(f"an image of {height} x {width} pixels")
    return FrameHeader(
        sequence,
        width,
        height,
        pixel_type,
        _depth_of(parts, pixel_type),
        offset,
        chips,
        layout,
        shutter_s,
        timestamp,
        thresholds,
        counter,
    )


def _depth_of(parts: list[str], pixel_type: str) -> int:
    """Counter depth from the extension after ``MQ1A``, or what the pixel type implies."""
    try:
        return int(parts[parts.index("MQ1A") + 3])
    except (ValueError, IndexError):
        return 8 * _PIXEL_BYTES[pixel_type]


def pixels_to_wire(data: NDArray[np.unsignedinteger[Any]], pixel_type: str) -> bytes:
    """Big-endian bytes of an image; values beyond the type's range are the caller's fault."""
    return data.astype(f">u{_PIXEL_BYTES[pixel_type]}").tobytes()
