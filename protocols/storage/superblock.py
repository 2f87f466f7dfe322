"""The first bytes of an HDF5 file, versions 2 and 3: whether it was closed, and where it ends.

A writer marks the file as open there; one that is killed leaves the mark, and an end that may be
older than what it wrote. Source: HDF5 File Format Specification, version 3.0, section II.A, and
Bob Jenkins, lookup3.c (2006), ``hashlittle``, for the checksum.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIZE = 48
"""Bytes of a superblock with addresses of 8 bytes, the only ones written in the last 25 years."""

OPEN_FOR_WRITING = 0x01
OPEN_FOR_SWMR = 0x04
UNDEFINED = (1 << 64) - 1
_FORM = struct.Struct("<8sBBBBQQQQ")
_MASK = 0xFFFFFFFF


class BadSuperblock(ValueError):
    """These bytes are not the superblock of a file that can be understood here."""


@dataclass(frozen=True)
class Superblock:
    """What a superblock says.

    Attributes
    ----------
    version : int
        2 or 3; only 3 has meaningful `flags`.
    flags : int
        `OPEN_FOR_WRITING` and `OPEN_FOR_SWMR`.
    base, extension, end, root : int
        Addresses in bytes: of the file's zero, of the superblock extension (or `UNDEFINED`), of
        the end of the file, and of the root group's object header.
    """

    version: int
    flags: int
    base: int
    extension: int
    end: int
    root: int

    @property
    def left_open(self) -> bool:
        """Whether a writer has it open, or was killed."""
        return bool(self.flags & (OPEN_FOR_WRITING | OPEN_FOR_SWMR))

    def closed(self, file_bytes: int) -> Superblock:
        """The superblock of the same file as if its writer had closed it.

        Where a killed writer had come beyond the end that stands here, or not as far, the end
        becomes whichever is larger: nothing that something may point to is given away. A file
        shorter than that end must be extended to it.

        Parameters
        ----------
        file_bytes : int
            Size of the file.
        """
        return replace(self, flags=0, end=max(self.end, file_bytes - self.base))

    def pack(self) -> bytes:
        """The bytes as they stand in the file, with their checksum."""
        addresses = self.base, self.extension, self.end, self.root
        body = _FORM.pack(SIGNATURE, self.version, 8, 8, self.flags, *addresses)
        return body + lookup3(body).to_bytes(4, "little")


def parse(data: bytes) -> Superblock:
    """Understand the first bytes of a file.

    Parameters
    ----------
    data : bytes
        At least `SIZE` bytes from its beginning.

    Raises
    ------
    BadSuperblock
        If they are not a superblock of version 2 or 3, or the checksum is wrong.
    """
    if data[:8] != SIGNATURE:
        raise BadSuperblock("it does not begin as an HDF5 file does")
    if len(data) < SIZE:
        raise BadSuperblock(f"it ends after {len(data)} bytes, within its superblock")
    _, version, offsets, lengths, flags, base, extension, end, root = _FORM.unpack_from(data)
    if version not in (2, 3) or (offsets, lengths) != (8, 8):
        raise BadSuperblock(
            f"its superblock is of version {version} with addresses of {offsets} bytes, "
            "not of version 2 or 3 with 8"
        )
    stated = int.from_bytes(data[_FORM.size : SIZE], "little")
    found = lookup3(data[: _FORM.size])
    if stated != found:
        raise BadSuperblock(f"the checksum of its superblock is {found:08x}, not {stated:08x}")
    return Superblock(version, flags, base, extension, end, root)


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _MASK


def lookup3(data: bytes, seed: int = 0) -> int:
    """Checksum of HDF5's metadata: 32 bits of Jenkins' ``hashlittle``."""
    a = b = c = (0xDEADBEEF + len(data) + seed) & _MASK
    position = 0
    while len(data) - position > 12:
        x, y, z = struct.unpack_from("<III", data, position)
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        for bits in (4, 6, 8, 16, 19, 4):
            a = (a - c) & _MASK ^ _rotated(c, bits)
            c = (c + b) & _MASK
            a, b, c = b, c, a
        position += 12
    rest = data[position:]
    if not rest:
        return c
    x, y, z = struct.unpack("<III", rest.ljust(12, b"\0"))
    a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, bits)) & _MASK
        a, b, c = b, c, a
    # Seven steps turn the three by one place: the last one changed stands in b.
    return b
