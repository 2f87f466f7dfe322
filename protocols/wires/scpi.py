"""Codec of SCPI as Keithley's source-measure units speak it: program messages, readings, errors.

Source: wire cards A2 and A3. A line holds program units joined by ``;``; a unit is a header of
mnemonics joined by ``:`` in their long or short form, ``?`` when it is a query, and arguments.
A unit that does not begin with ``:`` goes on at the level of the one before. Lines end in CR
(RS-232) or LF (TCP). Nothing is echoed, nothing is acknowledged, and a query that is refused is
not answered: the error queue has to be read.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import BadMessage

NOT_A_NUMBER = 9.91e37
OVERFLOW = 9.9e37

# Codes of the error queue [S].
NO_ERROR = 0
UNDEFINED_HEADER = -113
DATA_TYPE_ERROR = -104
MISSING_PARAMETER = -109
EXECUTION_ERROR = -200
SETTINGS_CONFLICT = -221
OUT_OF_RANGE = -222
ILLEGAL_PARAMETER = -224
QUEUE_OVERFLOW = -350
NOT_WITH_OUTPUT_OFF = 803
ERROR_TEXT: Mapping[int, str] = {
    NO_ERROR: "No error",
    UNDEFINED_HEADER: "Undefined header",
    DATA_TYPE_ERROR: "Data type error",
    MISSING_PARAMETER: "Missing parameter",
    EXECUTION_ERROR: "Execution error",
    SETTINGS_CONFLICT: "Settings conflict",
    OUT_OF_RANGE: "Parameter data out of range",
    ILLEGAL_PARAMETER: "Illegal parameter value",
    QUEUE_OVERFLOW: "Queue overflow",
    NOT_WITH_OUTPUT_OFF: "Not permitted with OUTPUT off",
}


@dataclass(frozen=True)
class Unit:
    """One program unit.

    Attributes
    ----------
    path : tuple of str
        Mnemonics from the root, upper case, as they were spelled; a common command such as
        ``*IDN`` is alone.
    query : bool
        Whether an answer is asked for.
    arguments : tuple of str
        As they were written, strings without their quotes.
    """

    path: tuple[str, ...]
    query: bool = False
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        root = "" if self.path[0].startswith("*") else ":"
        header = root + ":".join(self.path) + ("?" if self.query else "")
        return " ".join([header, ",".join(_quoted(a) for a in self.arguments)]).rstrip()


_BARE = re.compile(r"[^\s;,'\"]+")
_MNEMONIC = re.compile(r"\*?[A-Z][A-Z0-9_]*", re.ASCII)
_MAX_UNITS = 100


def _quoted(argument: str) -> str:
    return argument if _BARE.fullmatch(argument) else '"' + argument.replace('"', '""') + '"'


def program(*units: Unit) -> str:
    """Text of a program message, without its end of line."""
    return ";".join(str(unit) for unit in units)


def parse_program(line: str) -> list[Unit]:
    """Units of a program message; empty ones are skipped.

    Raises
    ------
    BadMessage
        If the line is not a program message.
    """
    units: list[Unit] = []
    level: tuple[str, ...] = ()
    for text in _split(line, ";"):
        if not text:
            continue
        header, rest = (*text.split(None, 1), "")[:2]
        header, query = (header[:-1], True) if header.endswith("?") else (header, False)
        rooted = header.startswith(":")
        mnemonics = tuple(header.upper().lstrip(":").split(":"))
        if not all(_MNEMONIC.fullmatch(m) for m in mnemonics):
            raise BadMessage(f"{text[:60]!r} begins with no header")
        if mnemonics[0].startswith("*"):
            path = mnemonics
        else:
            path = mnemonics if rooted else level + mnemonics
            level = path[:-1]
        if len(units) == _MAX_UNITS or len(path) > 20:
            raise BadMessage("a message of too many units")
        arguments = _split(rest, ",") if rest.strip() else []
        units.append(Unit(path, query, tuple(_unquoted(a) for a in arguments)))
    return units


def _split(text: str, separator: str) -> list[str]:
    """Parts outside quotes, stripped."""
    parts: list[str] = []
    quote = ""
    start = 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == separator:
            parts.append(text[start:place].strip())
            start = place + 1
    if quote:
        raise BadMessage(f"{text[:60]!r}: a quote that is not closed")
    parts.append(text[start:].strip())
    return parts


def _unquoted(argument: str) -> str:
    quote = argument[:1]
    if quote and quote in "'\"" and len(argument) > 1 and argument.endswith(quote):
        return argument[1:-1].replace(quote * 2, quote)
    return argument


class Vocabulary:
    """Headers that an instrument knows, found in long and short form.

    Parameters
    ----------
    headers : iterable of str
        As manuals write them: ``SOURce:CURRent[:LEVel]``; capitals are the short form, a node in
        brackets may be left out.
    """

    def __init__(self, headers: Iterable[str]) -> None:
        self._short: dict[str, str] = {}
        self._known: dict[tuple[str, ...], str] = {}
        for header in headers:
            for path in self._paths(header):
                self._known[path] = header

    def find(self, path: Sequence[str]) -> str | None:
        """The header that a path spells, as it was given here; None if there is none."""
        return self._known.get(tuple(self._short.get(node, "") for node in path))

    def _paths(self, header: str) -> list[tuple[str, ...]]:
        choices: list[list[tuple[str, ...]]] = []
        for optional, node in re.findall(r"(\[?):?([*\w]+)\]?", header):
            short = "".join(c for c in node if not c.islower())
            self._short[short] = self._short[node.upper()] = short
            choices.append([(short,), ()] if optional else [(short,)])
        return [
            tuple(itertools.chain.from_iterable(chosen)) for chosen in itertools.product(*choices)
        ]


def number(value: float, digits: int = 6, plus: bool = True) -> str:
    """A value as a reading carries it: ``+1.000000E-01``; NaN and infinities as their codes."""
    if math.isnan(value):
        value = NOT_A_NUMBER
    elif math.isinf(value):
        value = math.copysign(OVERFLOW, value)
    return f"{value:+.{digits}E}" if plus else f"{value:.{digits}E}"


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([Ee][+-]?\d{1,3})?", re.ASCII)


def parse_numbers(line: str) -> tuple[float, ...]:
    """Values of a reply such as ``+1.000000E-01,+1.000000E-03``.

    Returns
    -------
    tuple of float
        NaN and the infinities where the instrument's codes stand for them.

    Raises
    ------
    BadMessage
        If a part is not a number.
    """
    values: list[float] = []
    for part in line.split(","):
        text = part.strip()
        if not _NUMBER.fullmatch(text):
            raise BadMessage(f"{line[:80]!r} is not a list of numbers")
        value = float(text)
        if math.isclose(abs(value), NOT_A_NUMBER, rel_tol=1e-4):
            value = math.nan
        elif abs(value) >= OVERFLOW * (1.0 - 1e-4):
            value = math.copysign(math.inf, value)
        values.append(value)
    return tuple(values)


@dataclass(frozen=True)
class ErrorEntry:
    """One entry of the error queue."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"error {self.code} ({self.text})"


def error_reply(code: int) -> str:
    """An entry as ``:SYST:ERR?`` answers it: ``-113,"Undefined header"``."""
    sign = "+" if code > 0 else ""
    return f'{sign}{code},"{ERROR_TEXT.get(code, "Device error")}"'


_ERROR = re.compile(r'([+-]?\d{1,6})\s*,\s*"([^"]*)"', re.ASCII)


def parse_error(line: str) -> ErrorEntry:
    """Entry of the error queue; raises BadMessage if the line is not one."""
    found = _ERROR.fullmatch(line.strip())
    if found is None:
        raise BadMessage(f"{line[:80]!r} is not an entry of an error queue")
    # The 2450 adds the moment and kind of the event after a semicolon.
    return ErrorEntry(int(found[1]), found[2].split(";")[0])


def parse_identity(line: str) -> tuple[str, str, str, str]:
    """Vendor, model, serial number and firmware of a reply to ``*IDN?``.

    Raises
    ------
    BadMessage
        If the line is not such a reply.
    """
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 4 or not all(parts[:2]):
        raise BadMessage(f"{line[:80]!r} is not an identity")
    vendor, model, serial, firmware = parts
    return vendor, model.removeprefix("MODEL ").removeprefix("Model "), serial, firmware
