"""Stream messages: multipart ``[topic, JSON header, raw buffers...]``, for any ZeroMQ client.

The same messages go to the monitor (PUB, may drop) and, through the link (`link.py`), to the
recorder and the online analysis. On the link alone, a frame may come as the detector compressed it:
``"encoding": "bslz4"`` in its header says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..core.chunk import ENCODING, BadChunk, Chunk
from ..core.errors import BadMessage

MAX_HEADER_BYTES = 1_000_000
STEERING_TOPIC = "steering"  # one message a row of the table of adaptive holds


@dataclass(frozen=True)
class Message:
    """One stream message.

    `payload` holds C-ordered little-endian arrays or raw buffers, sent without being copied.
    """

    topic: str
    header: dict[str, Any]
    payload: tuple[Any, ...] = field(default=())

    def parts(self) -> list[Any]:
        """Frames of the multipart message."""
        header = json.dumps(self.header, separators=(",", ":"), allow_nan=False)
        return [self.topic.encode(), header.encode(), *self.payload]


def telemetry_topic(device: str) -> str:
    """Topic of one device's readings."""
    return f"telemetry/{device}"


def finite(value: float | None) -> float | None:
    """A float fit for JSON: None stands for anything not finite."""
    return None if value is None or not np.isfinite(value) else float(value)


def parse(parts: Sequence[bytes | memoryview]) -> Message:
    """Decode a multipart message.

    Raises
    ------
    BadMessage
        If a part is missing, too large, or not what it should be.
    """
    if len(parts) < 2:
        raise BadMessage(f"{len(parts)} parts; a message has a topic and a header at least")
    if len(parts[0]) > 1000 or len(parts[1]) > MAX_HEADER_BYTES:
        raise BadMessage("topic or header too long")
    try:
        topic = bytes(parts[0]).decode()
        header = json.loads(bytes(parts[1]))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadMessage(f"topic or header unreadable: {error}") from None
    if not isinstance(header, dict):
        raise BadMessage("the header is not a JSON object")
    return Message(topic, header, tuple(parts[2:]))


_DTYPES = {"uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"}


def chunk_of(message: Message) -> Chunk | None:
    """The frame that a message carries as the detector compressed it; None where it is raw.

    Raises
    ------
    BadMessage
        If header and payload disagree.
    """
    encoding = message.header.get("encoding")
    if encoding is None:
        return None
    if encoding != ENCODING:
        raise BadMessage(f"encoding {encoding!r} is not {ENCODING!r}")
    shape, dtype = _checked(message)
    if len(shape) != 2 or not message.payload:
        raise BadMessage("a compressed frame has two axes and a payload")
    chunk = Chunk((shape[0], shape[1]), dtype, message.payload[0])
    try:
        chunk.check()
    except BadChunk as error:
        raise BadMessage(str(error)) from None
    return chunk


def array_of(message: Message, part: int = 0) -> NDArray[Any]:
    """The array that a frame or result message carries; without a copy, unless compressed.

    Returns
    -------
    ndarray
        Read-only, shape and dtype from the header.

    Raises
    ------
    BadMessage
        If header and payload disagree.
    """
    shape, dtype = _checked(message)
    if (chunk := chunk_of(message)) is not None:
        try:
            return chunk.decompress()
        except BadChunk as error:
            raise BadMessage(str(error)) from None
    if part >= len(message.payload):
        raise BadMessage("no payload")
    buffer = message.payload[part]
    kind = np.dtype(dtype).newbyteorder("<")
    expected = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    size = memoryview(buffer).nbytes
    if size != expected:
        raise BadMessage(f"payload of {size} bytes; shape {shape} {dtype} needs {expected}")
    array = np.frombuffer(buffer, dtype=kind).reshape(shape)
    array.flags.writeable = False
    return array


def _checked(message: Message) -> tuple[list[int], str]:
    """Shape (empty for one number) and type that a header names; BadMessage if they are none."""
    shape, dtype = message.header.get("shape"), message.header.get("dtype")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise BadMessage(f"dtype {dtype!r} is not one of {', '.join(sorted(_DTYPES))}")
    if (
        not isinstance(shape, list)
        or len(shape) > 4
        or not all(type(n) is int and 0 < n <= 1_000_000 for n in shape)
    ):
        raise BadMessage(f"shape {shape!r} is not a list of at most four positive integers")
    return cast(list[int], shape), dtype
