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

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cbor2
import numpy as np
from numpy.typing import NDArray

from ..core import lz4
from ..core.chunk import BadChunk, Chunk
from .simplon import BadMessage

__all__ = ["BadMessage", "Image", "Pixels", "SeriesConfig", "SeriesEnd", "SeriesStart", "parse"]

PORT_V1, PORT_V2 = 9999, 31_001
MAX_JSON_BYTES = 1_000_000
MAX_FRAME_BYTES = 1 << 30
MAX_PARTS = 20

Buffer = bytes | memoryview
# `lz4` is a bare block; `lz4-hdf5` is one in the container of HDF5's filter.
Compression = Literal["none", "lz4", "lz4-hdf5", "bslz4"]
DTYPES = ("uint8", "uint16", "uint32")
_ENCODING = re.compile(r"(?:bs(?P<bits>8|16|32)-?)?(?P<lz4>lz4)?(?P<order>[<>])")
_TYPED_ARRAYS = {64: "uint8", 69: "uint16", 70: "uint32"}
_TAG_OF = {dtype: tag for tag, dtype in _TYPED_ARRAYS.items()}
_TAG_MATRIX, _TAG_COMPRESSED = 40, 56_500
_CHUNK_HEADER = struct.Struct(">QI")
_CHUNK_BLOCK_BYTES = 8192  # what a bitshuffle header without a block size means


@dataclass(frozen=True)
class Pixels:
    """A frame as it travels.

    Attributes
    ----------
    shape : tuple of int
        (rows, columns).
    dtype : str
        ``uint8``, ``uint16`` or ``uint32``.
    compression : str
        How `raw` is compressed.
    raw : bytes-like
        What came.
    big_endian : bool
        Byte order of the pixels.
    """

    shape: tuple[int, int]
    dtype: str
    compression: Compression
    raw: Buffer
    big_endian: bool = False

    @property
    def frame_bytes(self) -> int:
        """Size of the frame, uncompressed."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def chunk(self) -> Chunk | None:
        """The frame as a chunk, its lengths checked; None if it did not come as one.

        Raises
        ------
        BadMessage
            If the lengths are not those of the frame.
        """
        if self.compression != "bslz4" or self.big_endian:
            return None
        raw = self.raw
        if memoryview(raw).nbytes >= 12 and _CHUNK_HEADER.unpack_from(raw) == (0, 0):
            # LiberTEM's mocked frames leave the header empty; HDF5 needs what it should say.
            head = _CHUNK_HEADER.pack(self.frame_bytes, _CHUNK_BLOCK_BYTES)
            raw = head + bytes(raw[_CHUNK_HEADER.size :])
        chunk = Chunk(self.shape, self.dtype, raw)
        try:
            chunk.check()
        except BadChunk as error:
            raise BadMessage(str(error)) from None
        return chunk

    def array(self) -> NDArray[np.unsignedinteger[Any]]:
        """The frame, little-endian, shape (rows, columns); uncompressed ones are not copied.

        Raises
        ------
        BadMessage
            If it cannot be undone, or is of another size.
        """
        kind = np.dtype(self.dtype).newbyteorder(">" if self.big_endian else "<")
        try:
            if self.compression == "bslz4":
                little = Pixels(self.shape, self.dtype, "bslz4", self.raw).chunk()
                assert little is not None
                data = little.decompress().view(kind)
            elif self.compression == "lz4":
                data = lz4.decompress_block(self.raw, self.frame_bytes).view(kind)
            elif self.compression == "lz4-hdf5":
                data = lz4.decompress_hdf5(self.raw, self.frame_bytes).view(kind)
            else:
                if memoryview(self.raw).nbytes != self.frame_bytes:
                    raise BadMessage(
                        f"{memoryview(self.raw).nbytes} bytes for a frame of {self.frame_bytes}"
                    )
                data = np.frombuffer(self.raw, kind)
        except (BadChunk, lz4.BadBlock) as error:
            raise BadMessage(str(error)) from None
        return data.astype(kind.newbyteorder("<"), copy=False).reshape(self.shape)


@dataclass(frozen=True)
class SeriesStart:
    """A series begins. `config` is what the detector says about it, as it comes."""

    series: int
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class SeriesConfig:
    """The second part of a start, from an end that sends it by itself."""

    config: Mapping[str, Any]


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes
    ----------
    series, frame : int
        Which series, and the place in it, from 0.
    channels : mapping
        Name (of a threshold; empty in v1) to pixels.
    start_ns, stop_ns, real_ns : int
        On the detector's clock, and for how long it counted.
    md5 : str
        Of the pixels as they travel, in hexadecimal digits; empty where unknown.
    """

    series: int
    frame: int
    channels: Mapping[str, Pixels]
    start_ns: int = 0
    stop_ns: int = 0
    real_ns: int = 0
    md5: str = ""

    def intact(self) -> bool:
        """Whether the pixels are those that the hash was made of, as far as there is one."""
        return not self.md5 or any(
            md5_of(pixels.raw) == self.md5 for pixels in self.channels.values()
        )


@dataclass(frozen=True)
class SeriesEnd:
    """A series is over."""

    series: int


Message = SeriesStart | SeriesConfig | Image | SeriesEnd


def md5_of(raw: Buffer) -> str:
    """Hash as images of v1 carry it."""
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def parse(parts: Sequence[Buffer]) -> Message:
    """Decode a message of either format.

    Parameters
    ----------
    parts : sequence of bytes-like
        Of the ZeroMQ message.

    Raises
    ------
    BadMessage
        If it is none.
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise BadMessage(f"a message of {len(parts)} parts")
    first = bytes(parts[0][:3])
    if first[:1] == b"{":
        return _parse_v1(parts)
    # A map, or the tag by which CBOR says that it is CBOR.
    if first[:1] and (0xA0 <= first[0] <= 0xBF or first == b"\xd9\xd9\xf7"):
        return _parse_v2(parts)
    raise BadMessage(f"{bytes(parts[0][:40])!r} begins no message of the stream")


def resembles_image(parts: Sequence[Buffer]) -> bool:
    """Whether a message that cannot be read was most likely meant as an image."""
    return len(parts) >= 4 or b"image_id" in bytes(parts[0])


# v1: JSON


def encode_start_v1(
    series: int,
    config: Mapping[str, Any] | None,
    *,
    apart: bool = False,
    appendix: bytes | None = None,
) -> list[list[Buffer]]:
    """Messages that begin a series.

    Parameters
    ----------
    series : int
        Its number.
    config : mapping or None
        With header detail ``basic``; None: detail ``none``.
    apart : bool
        As two messages instead of one.
    appendix : bytes, optional
        What the user wants to travel along.
    """
    head = {
        "htype": "dheader-1.0",
        "series": series,
        "header_detail": "none" if config is None else "basic",
    }
    parts: list[Buffer] = [_json(head)]
    if config is not None:
        parts.append(_json(config))
    if appendix is not None:
        parts.append(appendix)
    return [[part] for part in parts] if apart else [parts]


def encode_image_v1(image: Image, appendix: bytes | None = None) -> list[Buffer]:
    """Parts of an image; `md5` is made where the image has none."""
    (pixels,) = image.channels.values()
    rows, columns = pixels.shape
    described = {
        "htype": "dimage_d-1.0",
        "shape": [columns, rows],
        "type": pixels.dtype,
        "encoding": _encoding(pixels),
        "size": memoryview(pixels.raw).nbytes,
    }
    head = {
        "htype": "dimage-1.0",
        "series": image.series,
        "frame": image.frame,
        "hash": image.md5 or md5_of(pixels.raw),
    }
    times = {
        "htype": "dconfig-1.0",
        "start_time": image.start_ns,
        "stop_time": image.stop_ns,
        "real_time": image.real_ns,
    }
    parts: list[Buffer] = [_json(head), _json(described), pixels.raw, _json(times)]
    return parts if appendix is None else [*parts, appendix]


def encode_end_v1(series: int) -> list[Buffer]:
    """Parts of an end."""
    return [_json({"htype": "dseries_end-1.0", "series": series})]


def _parse_v1(parts: Sequence[Buffer]) -> Message:
    head = _object(parts[0])
    kind = head.get("htype")
    if kind is None and len(parts) == 1:
        return SeriesConfig(head)
    if kind == "dheader-1.0":
        detail = head.get("header_detail")
        config = _object(parts[1]) if len(parts) > 1 and detail in {"basic", "all"} else {}
        return SeriesStart(_whole(head, "series"), config)
    if kind == "dseries_end-1.0":
        return SeriesEnd(_whole(head, "series"))
    if kind != "dimage-1.0" or len(parts) < 4:
        raise BadMessage(f"a message of {len(parts)} parts with htype {str(kind)[:60]!r}")
    times = _object(parts[3])
    md5 = head.get("hash")
    return Image(
        _whole(head, "series"),
        _whole(head, "frame"),
        {"": _pixels_v1(_object(parts[1]), parts[2])},
        _whole(times, "start_time"),
        _whole(times, "stop_time"),
        _whole(times, "real_time"),
        md5 if isinstance(md5, str) else "",
    )


def _pixels_v1(described: Mapping[str, Any], raw: Buffer) -> Pixels:
    if described.get("htype") != "dimage_d-1.0":
        raise BadMessage(f"{str(described)[:60]!r} describes no image")
    text = described.get("encoding")
    found = _ENCODING.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise BadMessage(f"encoding {str(text)[:40]!r} is not known")
    dtype = _dtype(described.get("type"))
    shape = _shape(described.get("shape"), dtype)
    size = _whole(described, "size")
    if size != memoryview(raw).nbytes:
        raise BadMessage(f"an image of {memoryview(raw).nbytes} bytes; {size} are announced")
    compression: Compression = "none"
    if found["bits"]:
        if int(found["bits"]) != 8 * np.dtype(dtype).itemsize or not found["lz4"]:
            raise BadMessage(f"encoding {text!r} is none of {dtype}")
        compression = "bslz4"
    elif found["lz4"]:
        compression = "lz4"
    return Pixels((shape[1], shape[0]), dtype, compression, raw, found["order"] == ">")


def _encoding(pixels: Pixels) -> str:
    order = ">" if pixels.big_endian else "<"
    if pixels.compression == "bslz4":
        return f"bs{8 * np.dtype(pixels.dtype).itemsize}-lz4{order}"
    if pixels.compression == "lz4-hdf5":
        raise ValueError("the older format has LZ4 only as bare blocks")
    return f"lz4{order}" if pixels.compression == "lz4" else order


# v2: CBOR


def encode_start_v2(series: int, unique_id: str, config: Mapping[str, Any]) -> list[Buffer]:
    """Message that begins a series."""
    return [_cbor("start", series, unique_id, config)]


def encode_image_v2(image: Image, unique_id: str) -> list[Buffer]:
    """Message of an image."""
    fields = {
        "image_id": image.frame,
        "start_time": [image.start_ns, 1_000_000_000],
        "stop_time": [image.stop_ns, 1_000_000_000],
        "real_time": [image.real_ns, 1_000_000_000],
        "data": {name: _tagged(pixels) for name, pixels in image.channels.items()},
    }
    return [_cbor("image", image.series, unique_id, fields)]


def encode_end_v2(series: int, unique_id: str) -> list[Buffer]:
    """Message of an end."""
    return [_cbor("end", series, unique_id, {})]


def _cbor(kind: str, series: int, unique_id: str, fields: Mapping[str, Any]) -> bytes:
    head = {"type": kind, "series_id": series, "series_unique_id": unique_id}
    return cbor2.dumps({**head, **fields})


def _tagged(pixels: Pixels) -> cbor2.CBORTag:
    if pixels.compression == "lz4" or pixels.big_endian:
        raise ValueError("the newer format has neither bare LZ4 blocks nor big-endian pixels")
    raw: Any = bytes(pixels.raw)
    if pixels.compression != "none":
        name = "bslz4" if pixels.compression == "bslz4" else "lz4"
        item = np.dtype(pixels.dtype).itemsize
        raw = cbor2.CBORTag(_TAG_COMPRESSED, [name, item, raw])
    typed = cbor2.CBORTag(_TAG_OF[pixels.dtype], raw)
    return cbor2.CBORTag(_TAG_MATRIX, [list(pixels.shape), typed])


def _parse_v2(parts: Sequence[Buffer]) -> Message:
    try:
        # Tags are taken apart below: the signature of cbor2's hook for them differs by version.
        found = cbor2.loads(bytes(parts[0]))
    except Exception as error:  # whatever a decoder of many types raises on bytes that are none
        raise BadMessage(f"no CBOR: {type(error).__name__}: {error}"[:200]) from None
    if isinstance(found, cbor2.CBORTag):
        found = found.value
    if not isinstance(found, Mapping):
        raise BadMessage("CBOR that is no map")
    kind, series = found.get("type"), _whole(found, "series_id")
    if kind == "start":
        return SeriesStart(series, {k: v for k, v in found.items() if isinstance(k, str)})
    if kind == "end":
        return SeriesEnd(series)
    if kind != "image":
        raise BadMessage(f"a message of type {str(kind)[:60]!r}")
    data = found.get("data")
    if not isinstance(data, Mapping) or not data:
        raise BadMessage("an image without data")
    return Image(
        series,
        _whole(found, "image_id"),
        {str(name): _pixels_v2(value) for name, value in data.items()},
        _nanoseconds(found.get("start_time")),
        _nanoseconds(found.get("stop_time")),
        _nanoseconds(found.get("real_time")),
    )


def _pixels_v2(value: object) -> Pixels:
    dimensions, typed = _pair(value, _TAG_MATRIX)
    if not isinstance(typed, cbor2.CBORTag) or typed.tag not in _TYPED_ARRAYS:
        raise BadMessage("pixels that are no array of unsigned integers")
    dtype = _TYPED_ARRAYS[typed.tag]
    shape = _shape(dimensions, dtype)
    raw: object = typed.value
    compression: Compression = "none"
    if isinstance(raw, cbor2.CBORTag):
        values = raw.value
        if raw.tag != _TAG_COMPRESSED or not isinstance(values, Sequence) or len(values) != 3:
            raise BadMessage("pixels that are neither bytes nor compressed bytes")
        name, item, raw = values
        if name not in {"bslz4", "lz4"} or item != np.dtype(dtype).itemsize:
            raise BadMessage(f"compression {str(name)[:40]!r} of {item!r} bytes is not known")
        compression = "bslz4" if name == "bslz4" else "lz4-hdf5"
    if not isinstance(raw, bytes):
        raise BadMessage("pixels that are no bytes")
    return Pixels(shape, dtype, compression, raw)


def _pair(value: object, tag: int) -> tuple[Any, Any]:
    if not isinstance(value, cbor2.CBORTag) or value.tag != tag:
        raise BadMessage(f"pixels without tag {tag}")
    if not isinstance(value.value, Sequence) or len(value.value) != 2:
        raise BadMessage(f"tag {tag} of something else than two")
    return value.value[0], value.value[1]


def _nanoseconds(value: object) -> int:
    """Of a time as [numerator, denominator] in seconds; 0 where there is none."""
    if not isinstance(value, Sequence) or len(value) != 2:
        return 0
    above, below = value
    if type(above) is not int or type(below) is not int or below <= 0:
        return 0
    return above * 1_000_000_000 // below


# Both


def _dtype(found: object) -> str:
    if not isinstance(found, str) or found not in DTYPES:
        raise BadMessage(f"pixels of type {str(found)[:40]!r}")
    return found


def _shape(found: object, dtype: str) -> tuple[int, int]:
    if (
        not isinstance(found, Sequence)
        or len(found) != 2
        or not all(type(n) is int and 1 <= n <= 65_536 for n in found)
    ):
        raise BadMessage(f"an image of shape {str(found)[:60]!r}")
    if found[0] * found[1] * np.dtype(dtype).itemsize > MAX_FRAME_BYTES:
        raise BadMessage(f"an image of {found[0]} x {found[1]} pixels of {dtype}")
    return found[0], found[1]


def _object(raw: Buffer) -> dict[str, Any]:
    if memoryview(raw).nbytes > MAX_JSON_BYTES:
        raise BadMessage(f"JSON of {memoryview(raw).nbytes} bytes")
    try:
        found = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise BadMessage(f"{bytes(raw[:40])!r} is no JSON") from None
    if not isinstance(found, dict):
        raise BadMessage(f"{bytes(raw[:40])!r} is no JSON object")
    return found


def _whole(fields: Mapping[Any, Any], name: str) -> int:
    found = fields.get(name)
    if type(found) is not int or found < 0:
        raise BadMessage(f"{name} is {str(found)[:40]!r}, no whole number")
    return found


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
