"""Endpoints of a rig: what an address can be, and in which words one is refused that cannot.

A driver names the forms that it takes by examples: ``tcp://HOST:6341``, ``http://HOST:8080`` or
``serial:///dev/ttyUSB0``. Nothing here opens a connection.
"""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Sequence
from pathlib import Path

SERIAL = "serial"

_HOST_NAME = re.compile(r"[^\W_]([\w-]{0,61}[^\W_])?(\.[^\W_]([\w-]{0,61}[^\W_])?)*\.?")
_ANY_ADDRESS = ("0.0.0.0", "::", "*")
# What people know from other programs, and what it is.
_FOREIGN = (
    (re.compile(r"COM\d+:?", re.I), "is a serial port of Windows"),
    (re.compile(r"GPIB\d*::.*", re.I), "is a GPIB address, and GPIB is not supported"),
    (re.compile(r"USB\d*::.*", re.I), "is a USB address of VISA, which is not supported"),
    (re.compile(r"(ASRL|TCPIP|VXI|PXI)\d*.*::.*", re.I), "is an address of VISA"),
    (re.compile(r"/.*"), "is the path of a device"),
)
_VISA_TCP = re.compile(r"TCPIP\d*::([^:\s]+)(?:::(\d+)::SOCKET|(?:::\w+)?::INSTR)", re.I)
_VISA_SERIAL = re.compile(r"ASRL(/[^:\s]+)::INSTR", re.I)


def endpoint_problem(text: str, forms: Sequence[str], simulated: bool = False) -> str | None:
    """What is wrong with an endpoint, and what would be right.

    Parameters
    ----------
    text : str
        As the rig has it.
    forms : sequence of str
        Examples of what the driver takes, such as ``tcp://HOST:6341``; the first is the usual one.
    simulated : bool
        Whether a simulator may choose the port (0) or the terminal (``serial://auto``).

    Returns
    -------
    str or None
        None where an instrument can be there.
    """
    problem = _problem(text, forms, simulated)
    return None if problem is None else f"{_quoted(text)} {problem}; write {_right(text, forms)}"


def split_endpoint(text: str, scheme: str) -> tuple[str, int] | None:
    """Host and port of ``SCHEME://HOST:PORT``; None if a text has another form."""
    before, separator, rest = text.partition("://")
    if before != scheme or not separator:
        return None
    rest = rest.removesuffix("/") if scheme == "http" else rest
    host, port = _host_and_port(rest)
    if port == "*" or _address_problem(rest, simulated=True) is not None:
        return None
    return host, int(port)


def _quoted(text: str) -> str:
    shown = text if len(text) <= 60 else text[:60] + "..."
    return f"'{shown}'" if text.strip() else "an empty text"


def _problem(text: str, forms: Sequence[str], simulated: bool) -> str | None:
    schemes = [form.partition("://")[0] for form in forms]
    if not text.strip():
        return "is no address"
    if any(character.isspace() or not character.isprintable() for character in text):
        return "holds a space or a character that cannot be in an address"
    for pattern, what in _FOREIGN:
        if pattern.fullmatch(text):
            return what
    scheme, separator, rest = text.partition("://")
    if not separator:
        return f"does not begin with {_listed([f'{scheme}://' for scheme in schemes])}"
    if scheme not in schemes:
        return f"begins with {scheme[:20]}://, which this driver does not speak"
    if scheme == SERIAL:
        return None if simulated else _device_problem(rest)
    return _address_problem(rest.removesuffix("/") if scheme == "http" else rest, simulated)


def _listed(words: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(words))


def _device_problem(path: str) -> str | None:
    place = Path(path)
    if not place.is_absolute():
        return "names no absolute path after serial://"
    try:
        if not stat.S_ISCHR(place.stat().st_mode):
            return "is not a device"
    except FileNotFoundError:
        # What is under /dev comes with the instrument.
        if not path.startswith("/dev/") and not place.parent.is_dir():
            return "is in a folder that does not exist"
    except OSError as error:
        return f"cannot be a device: {error.strerror}"
    return None


def _address_problem(rest: str, simulated: bool) -> str | None:
    """What is wrong with ``HOST:PORT``."""
    if re.search(r"[/?#]", rest):
        return "has a path after the port"
    if "@" in rest:
        return "holds a user name, which this driver does not send"
    host, port = _host_and_port(rest)
    if ":" in host and not rest.startswith("["):
        return "holds more than one port, or an IPv6 address without brackets"
    if not host:
        return "names no host"
    if not port:
        return "names no port"
    problem = _host_problem(host, simulated)
    if problem is not None:
        return problem
    if port == "*" and simulated:
        return None
    if not _is_number(port):
        return f"has the port '{port[:20]}', which is not a number"
    if int(port) > 65535 or (int(port) == 0 and not simulated):
        return f"has the port {port}; ports go from 1 to 65535"
    return None


def _is_number(port: str) -> bool:
    return port.isascii() and port.isdigit() and len(port) <= 9


def _host_and_port(rest: str) -> tuple[str, str]:
    """Host without its brackets, and port; each is empty where it is missing."""
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        return host, port.removeprefix(":")
    host, _, port = rest.rpartition(":") if ":" in rest else (rest, "", "")
    return host, port


def _host_problem(host: str, simulated: bool) -> str | None:
    if host in _ANY_ADDRESS and not simulated:
        return f"names {host}, where a server can listen but no instrument can be"
    if ":" in host or re.fullmatch(r"[\d.]+", host):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            kind = "IPv6 address in brackets" if ":" in host else "IPv4 address"
            return f"names the host '{host[:50]}', which is not an {kind}"
        return None
    if host != "*" and (len(host) > 253 or not _HOST_NAME.fullmatch(host)):
        return f"names the host '{host[:50]}', which is not a name of a computer"
    return None


def _right(text: str, forms: Sequence[str]) -> str:
    """What would be right, with what can be kept of the text."""
    kept = _kept(text, forms)
    right = [f"'{form}'" for form in ([kept] if kept is not None else forms)]
    return " or ".join(right)


def _kept(text: str, forms: Sequence[str]) -> str | None:
    """An endpoint of the first fitting form that keeps the host, port or device of a text."""
    bare = text.strip()
    if any(form.startswith(SERIAL) for form in forms):
        visa = _VISA_SERIAL.fullmatch(bare)
        path = visa.group(1) if visa is not None else bare.removeprefix("serial:").lstrip("/")
        if visa is None and bare.startswith(("/dev/", "serial:")):
            path = "/" + path
        if path.startswith("/dev/") and not any(c.isspace() for c in path):
            return f"serial://{path}"
    visa = _VISA_TCP.fullmatch(bare)
    given = f"{visa.group(1)}:{visa.group(2) or ''}" if visa is not None else bare
    rest = given.partition("://")[2] if "://" in given else given
    host, port = _host_and_port(re.split(r"[/?#]", rest.rpartition("@")[2], maxsplit=1)[0])
    for form in forms:
        scheme, _, usual = form.partition("://")
        if scheme == SERIAL or not host or _host_problem(host, simulated=False) is not None:
            continue
        if (
            "://" not in given
            and visa is None
            and not port
            and not re.search(r"[.:]|^localhost$", host)
        ):
            continue  # a word, such as COM3
        if not _is_number(port) or not 1 <= int(port) <= 65535:
            port = usual.rpartition(":")[2]
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    return None
