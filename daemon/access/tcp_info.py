"""What the kernel says of a connection, by its file descriptor."""

from __future__ import annotations

import contextlib
import fcntl
import resource
import socket as sockets
import struct
import termios

# Local and remote address of a connection.
Ends = tuple[object, object]

_MOST_DESCRIPTORS = 65_536
# Offsets of tcpi_bytes_acked and tcpi_bytes_received in Linux's struct tcp_info.
_TCPI_BYTES_ACKED, _TCPI_BYTES_RECEIVED = 120, 128


def raise_descriptor_limit() -> int:
    """Raise this process's limit of file descriptors as far as allowed; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return soft


def ends_of(fd: int) -> Ends:
    """Addresses of both ends of a connection; Nones if it is closed already."""
    try:
        socket = sockets.socket(fileno=fd)
    except OSError:
        return None, None
    try:
        return socket.getsockname(), socket.getpeername()
    except OSError:
        return None, None
    finally:
        socket.detach()


def address_of(ends: Ends) -> str:
    """The remote address, for people."""
    match ends[1]:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case None:
            return "an address that could not be read any more"
        case _:
            return "a local socket"


def port_of(end: object) -> object:
    """Port of an address, or path of a local one."""
    match end:
        case (str(), int(port), *_):
            return port
        case _:
            return end


def received_bytes(fd: int) -> int:
    """Bytes that have come from the peer; 0 where the kernel does not count (not TCP)."""
    return _tcp_count(fd, _TCPI_BYTES_RECEIVED)


def sent_bytes(fd: int) -> tuple[int, int]:
    """Bytes that the peer has not received yet, and bytes that it has acknowledged (TCP alone)."""
    waiting = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.TIOCOUTQ, waiting)
    except OSError:
        return 0, 0
    return struct.unpack("=i", waiting)[0], _tcp_count(fd, _TCPI_BYTES_ACKED)


def _tcp_count(fd: int, offset: int) -> int:
    try:
        socket = sockets.socket(fileno=fd)
    except OSError:
        return 0
    try:
        info = socket.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
        return int(struct.unpack_from("=Q", info, offset)[0])
    except (OSError, struct.error):
        return 0
    finally:
        socket.detach()
