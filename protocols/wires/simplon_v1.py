"""The older format of the SIMPLON stream: JSON parts, and the pixels in a part of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import BadMessage
from .simplon_messages import (
    Buffer,
    Compression,
    Image,
    Message,
    Pixels,
    SeriesConfig,
    SeriesEnd,
    SeriesStart,
    checked_dtype,
    checked_shape,
    md5_of,
    whole_number,
)

MAX_JSON_BYTES = 1_000_000
_ENCODING = re.compile(r"(?:bs(?P<bits>8|16|32)-?)?(?P<lz4>lz4)?(?P<order>[<>])")


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


def parse_v1(parts: Sequence[Buffer]) -> Message:
    """Decode a message; raises BadMessage if it is not one."""
    head = _object(parts[0])
    kind = head.get("htype")
    if kind is None and len(parts) == 1:
        return SeriesConfig(head)
    if kind == "dheader-1.0":
        detail = head.get("header_detail")
        config = _object(parts[1]) if len(parts) > 1 and detail in {"basic", "all"} else {}
        return SeriesStart(whole_number(head, "series"), config)
    if kind == "dseries_end-1.0":
        return SeriesEnd(whole_number(head, "series"))
    if kind != "dimage-1.0" or len(parts) < 4:
        raise BadMessage(f"a message of {len(parts)} parts with htype {str(kind)[:60]!r}")
    times = _object(parts[3])
    md5 = head.get("hash")
    return Image(
        whole_number(head, "series"),
        whole_number(head, "frame"),
        {"": _pixels_v1(_object(parts[1]), parts[2])},
        whole_number(times, "start_time"),
        whole_number(times, "stop_time"),
        whole_number(times, "real_time"),
        md5 if isinstance(md5, str) else "",
    )


def _pixels_v1(described: Mapping[str, Any], raw: Buffer) -> Pixels:
    if described.get("htype") != "dimage_d-1.0":
        raise BadMessage(f"{str(described)[:60]!r} does not describe an image")
    text = described.get("encoding")
    found = _ENCODING.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise BadMessage(f"encoding {str(text)[:40]!r} is not known")
    dtype = checked_dtype(described.get("type"))
    shape = checked_shape(described.get("shape"), dtype)
    size = whole_number(described, "size")
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


def _object(raw: Buffer) -> dict[str, Any]:
    if memoryview(raw).nbytes > MAX_JSON_BYTES:
        raise BadMessage(f"JSON of {memoryview(raw).nbytes} bytes")
    try:
        found = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise BadMessage(f"{bytes(raw[:40])!r} is not JSON") from None
    if not isinstance(found, dict):
        raise BadMessage(f"{bytes(raw[:40])!r} is not a JSON object")
    return found


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
