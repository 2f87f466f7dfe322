"""Messages of DECTRIS' SIMPLON stream, whichever format carries them: start, image, end."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core import lz4
from ..core.chunk import BadChunk, Chunk
from ..core.errors import BadMessage

MAX_FRAME_BYTES = 1 << 30

Buffer = bytes | memoryview
# `lz4` is a bare block; `lz4-hdf5` is one in the container of HDF5's filter.
Compression = Literal["none", "lz4", "lz4-hdf5", "bslz4"]
DTYPES = ("uint8", "uint16", "uint32")
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


def checked_dtype(found: object) -> str:
    """Type of pixels that a message names; raises BadMessage if it is not one of `DTYPES`."""
    if not isinstance(found, str) or found not in DTYPES:
        raise BadMessage(f"pixels of type {str(found)[:40]!r}")
    return found


def checked_shape(found: object, dtype: str) -> tuple[int, int]:
    """Two sides of an image in the order of the message; raises BadMessage if it is too large."""
    if (
        not isinstance(found, Sequence)
        or len(found) != 2
        or not all(type(n) is int and 1 <= n <= 65_536 for n in found)
    ):
        raise BadMessage(f"an image of shape {str(found)[:60]!r}")
    if found[0] * found[1] * np.dtype(dtype).itemsize > MAX_FRAME_BYTES:
        raise BadMessage(f"an image of {found[0]} x {found[1]} pixels of {dtype}")
    return found[0], found[1]


def whole_number(fields: Mapping[Any, Any], name: str) -> int:
    """A field that is a whole number, 0 or more; raises BadMessage if it is not."""
    found = fields.get(name)
    if type(found) is not int or found < 0:
        raise BadMessage(f"{name} is {str(found)[:40]!r}, not a whole number")
    return found
