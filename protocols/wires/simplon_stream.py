"""Codec of DECTRIS' SIMPLON stream: frames by ZeroMQ, in its older (JSON) and newer (CBOR) format.

Source: DECTRIS' API reference 1.8 and stream documentation, LiberTEM-live (wire card C1). A series
has one start, its images and one end. In the older format, v1, a message has several parts: JSON
with an ``htype``, and for an image JSON that describes the pixels, the pixels, and JSON with times;
appendices may follow. LiberTEM-live's simulator sends the two parts of the start as two messages.
In the newer format, v2, every message is one CBOR map.

Both say how the pixels are compressed: as a chunk of HDF5's bitshuffle+LZ4 filter, which is passed
on as it is, with LZ4 alone (v1: a bare block; v2: the container of HDF5's filter), or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import BadMessage
from .simplon_messages import (
    DTYPES,
    MAX_FRAME_BYTES,
    Buffer,
    Compression,
    Image,
    Message,
    Pixels,
    SeriesConfig,
    SeriesEnd,
    SeriesStart,
    md5_of,
)
from .simplon_v1 import encode_end_v1, encode_image_v1, encode_start_v1, parse_v1
from .simplon_v2 import encode_end_v2, encode_image_v2, encode_start_v2, parse_v2

__all__ = [
    "DTYPES",
    "MAX_FRAME_BYTES",
    "PORT_V1",
    "PORT_V2",
    "BadMessage",
    "Buffer",
    "Compression",
    "Image",
    "Message",
    "Pixels",
    "SeriesConfig",
    "SeriesEnd",
    "SeriesStart",
    "encode_end_v1",
    "encode_end_v2",
    "encode_image_v1",
    "encode_image_v2",
    "encode_start_v1",
    "encode_start_v2",
    "md5_of",
    "parse",
    "resembles_image",
]

PORT_V1, PORT_V2 = 9999, 31_001
MAX_PARTS = 20


def parse(parts: Sequence[Buffer]) -> Message:
    """Decode a message of either format.

    Parameters
    ----------
    parts : sequence of bytes-like
        Of the ZeroMQ message.

    Raises
    ------
    BadMessage
        If it is not valid.
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise BadMessage(f"a message of {len(parts)} parts")
    first = bytes(parts[0][:3])
    if first[:1] == b"{":
        return parse_v1(parts)
    # A map, or the tag by which CBOR says that it is CBOR.
    if first[:1] and (0xA0 <= first[0] <= 0xBF or first == b"\xd9\xd9\xf7"):
        return parse_v2(parts)
    raise BadMessage(f"{bytes(parts[0][:40])!r} is not the beginning of a stream message")


def resembles_image(parts: Sequence[Buffer]) -> bool:
    """Whether a message that cannot be read was most likely meant as an image."""
    return len(parts) >= 4 or b"image_id" in bytes(parts[0])
