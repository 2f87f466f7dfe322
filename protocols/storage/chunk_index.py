"""Mend the index of a dataset's chunks (fixed array) that a kill has left half written.

The kernel may stop the write of a killed program at the border of a memory page. Run files are laid
out so that no other block of metadata reaches over such a border; this one does from some 270
frames on. Old entries followed by new ones, or the other way round, are all true, and only their
checksum is not; an entry cut in two is given up. Source: HDF5 File Format Specification, version
3.0, sections IV.A.1.b (object header), IV.A.2.i (layout), VII.C (fixed array).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .superblock import UNDEFINED, lookup3

Read = Callable[[int, int], bytes]
"""Bytes of the file, given an address and a count; fewer at its end."""

_LAYOUT, _CONTINUATION = 0x08, 0x10
_FIXED_ARRAY, _CHUNKED = 3, 2
_LARGEST_BYTES = 64 << 20
_MOST_PARTS = 64


@dataclass(frozen=True)
class Block:
    """A stretch of entries, one per chunk, with a checksum behind it.

    Attributes
    ----------
    address : int
        Where it begins.
    head_bytes : int
        Bytes before the first entry, which the checksum covers.
    entries, entry_bytes : int
        How many, and the size of each.
    """

    address: int
    head_bytes: int
    entries: int
    entry_bytes: int

    @property
    def size(self) -> int:
        """Bytes without the checksum."""
        return self.head_bytes + self.entries * self.entry_bytes


def repaired_nodes(read: Read, object_header: int, file_bytes: int) -> list[tuple[int, bytes]]:
    """What must be written so that the chunk index of a dataset can be read.

    Parameters
    ----------
    read : callable
        Reads the file.
    object_header : int
        Address of the dataset's object header.
    file_bytes : int
        Size of the file; no chunk reaches over it.

    Returns
    -------
    list of (int, bytes)
        Addresses and their new bytes; empty where all is well, or nothing is understood.
    """
    changes: list[tuple[int, bytes]] = []
    for block in blocks(read, object_header):
        data = read(block.address, block.size + 4)
        if len(data) == block.size + 4 and not is_sound(data):
            changes.append((block.address, block_of(data[: block.size], block, file_bytes)))
    return changes


def is_sound(data: bytes) -> bool:
    """Whether the last four bytes are the checksum of those before them."""
    return lookup3(data[:-4]) == int.from_bytes(data[-4:], "little")


def block_of(data: bytes, block: Block, file_bytes: int) -> bytes:
    """The same entries without those that point to nowhere, and their checksum."""
    head = data[: block.head_bytes]
    empty = UNDEFINED.to_bytes(8, "little") + bytes(block.entry_bytes - 8)
    entries: list[bytes] = []
    for at in range(block.head_bytes, block.size, block.entry_bytes):
        entry = data[at : at + block.entry_bytes]
        address = int.from_bytes(entry[:8], "little")
        # Of a compressed chunk its size follows, and the filters that were left out, 4 bytes.
        length = int.from_bytes(entry[8:-4], "little") if len(entry) > 12 else 1
        real = address > 0 and length > 0 and address + length <= file_bytes
        entries.append(entry if real else empty)
    body = head + b"".join(entries)
    return body + lookup3(body).to_bytes(4, "little")


def blocks(read: Read, object_header: int) -> Iterator[Block]:
    """Blocks of a dataset's chunk index, where that is a fixed array; else none."""
    array = _array_address(read, object_header)
    if array is None:
        return
    raw = read(array, 28)
    if len(raw) < 28 or raw[:4] != b"FAHD" or not is_sound(raw):
        return
    entry_bytes, page_bits = raw[6], raw[7]
    count, address = struct.unpack_from("<QQ", raw, 8)
    if entry_bytes < 8 or count * entry_bytes > _LARGEST_BYTES or address == UNDEFINED:
        return
    if read(address, 4) != b"FADB":
        return
    head, page = 14, 1 << page_bits
    if count <= page:
        yield Block(address, head, count, entry_bytes)
        return
    pages = -(-count // page)
    bitmap = -(-pages // 8)
    there = read(address + head, bitmap)
    at = address + head + bitmap + 4
    for number in range(min(pages, 8 * len(there))):
        entries = min(page, count - number * page)
        # A page of which no entry was ever written is not there either.
        if there[number // 8] & 0x80 >> number % 8:
            yield Block(at, 0, entries, entry_bytes)
        at += page * entry_bytes + 4


def _array_address(read: Read, object_header: int) -> int | None:
    """Where the header of a dataset's fixed array is."""
    for kind, data in _messages(read, object_header):
        if kind != _LAYOUT or len(data) < 6 or data[0] not in (4, 5) or data[1] != _CHUNKED:
            continue
        at = 5 + data[3] * data[4]
        if len(data) >= at + 10 and data[at] == _FIXED_ARRAY:
            return int.from_bytes(data[at + 2 : at + 10], "little")
    return None


def _messages(read: Read, object_header: int) -> Iterator[tuple[int, bytes]]:
    """Messages of an object header of version 2, continuations included."""
    head = read(object_header, 6)
    if len(head) < 6 or head[:4] != b"OHDR" or head[4] != 2:
        return
    flags = head[5]
    at = object_header + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    waiting = [(at + width, int.from_bytes(read(at, width), "little"))]
    order = 2 if flags & 0x04 else 0
    for _ in range(_MOST_PARTS):
        if not waiting:
            return
        at, size = waiting.pop()
        data = read(at, min(size, _LARGEST_BYTES))
        here = 0
        while here + 4 + order <= len(data):
            kind, length, _flags = struct.unpack_from("<BHB", data, here)
            here += 4 + order
            message = data[here : here + length]
            here += length
            if kind == _CONTINUATION and len(message) >= 16:
                start, whole = struct.unpack_from("<QQ", message)
                waiting.append((start + 4, max(0, whole - 8)))  # within signature and checksum
            yield kind, message
