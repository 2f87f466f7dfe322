"""The newer format of DECTRIS' SIMPLON stream: every message is one CBOR map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cbor2
import numpy as np

from ..core.errors import BadMessage
from .simplon_messages import (
    Buffer,
    Compression,
    Image,
    Message,
    Pixels,
    SeriesEnd,
    SeriesStart,
    checked_shape,
    whole_number,
)

_TYPED_ARRAYS = {64: "uint8", 69: "uint16", 70: "uint32"}
_TAG_OF = {dtype: tag for tag, dtype in _TYPED_ARRAYS.items()}
_TAG_MATRIX, _TAG_COMPRESSED = 40, 56_500


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


def parse_v2(parts: Sequence[Buffer]) -> Message:
    """Decode a message; raises BadMessage if it is not one."""
    try:
        # Tags are taken apart below: the signature of cbor2's hook for them differs by version.
        found = cbor2.loads(bytes(parts[0]))
    except Exception as error:  # whatever a decoder of many types raises on bytes that are none
        raise BadMessage(f"not CBOR: {type(error).__name__}: {error}"[:200]) from None
    if isinstance(found, cbor2.CBORTag):
        found = found.value
    if not isinstance(found, Mapping):
        raise BadMessage("CBOR data that are not a map")
    kind, series = found.get("type"), whole_number(found, "series_id")
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
        whole_number(found, "image_id"),
        {str(name): _pixels_v2(value) for name, value in data.items()},
        _nanoseconds(found.get("start_time")),
        _nanoseconds(found.get("stop_time")),
        _nanoseconds(found.get("real_time")),
    )


def _pixels_v2(value: object) -> Pixels:
    dimensions, typed = _pair(value, _TAG_MATRIX)
    if not isinstance(typed, cbor2.CBORTag) or typed.tag not in _TYPED_ARRAYS:
        raise BadMessage("pixels that are not an array of unsigned integers")
    dtype = _TYPED_ARRAYS[typed.tag]
    shape = checked_shape(dimensions, dtype)
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
        raise BadMessage("pixels that are not bytes")
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
