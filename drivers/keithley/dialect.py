"""How a heater is set up and driven in the words of the 2400 and of the 2450: text, no I/O.

Source: wire cards A2 and A3. What rests on memory [M] there: on the 2400 that readings are paced by
``:SYST:AZER``, on the 2450 ``:SOUR:CURR:READ:BACK``, ``:SENS:VOLT:AZER`` and the elements
``SOUR, READ`` of ``:READ?``. Every setting is read back, and an instrument that does not know it
is refused before its output goes on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ...protocols.core.errors import BadMessage
from ...protocols.wires import scpi

# Their answers differ in form: one that a cancelled question left on its way is taken for no other.
OUTPUT_OFF = ":OUTP 0;:OUTP?;:SYST:ERR?;:SOUR:CURR 0"
OUTPUT_ON = "*CLS;:OUTP 1;:OUTP?;*OPC?"
OUTPUT_IS = ":OUTP?"
ERROR = ":SYST:ERR?"
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SourceLimits:
    """Limits that the instrument itself keeps, and its integration time.

    `current_a` is the highest that is ever set; the source range is chosen by it.
    """

    current_a: float
    compliance_v: float
    nplc: float


@dataclass(frozen=True)
class Setting:
    """One setting, and what its read-back has to look like."""

    header: str
    value: str
    reads_back: Callable[[str], bool]

    @property
    def message(self) -> str:
        """Set and read back in one line."""
        return f"{self.header} {self.value};{self.header}?"


def output_is(line: str) -> bool:
    """Answer to `OUTPUT_IS`; BadMessage for any other line."""
    text = line.strip()
    if text not in {"0", "1"}:
        raise BadMessage(f"{line[:40]!r} is neither 0 nor 1")
    return text == "1"


def output_after_on(line: str) -> bool:
    """Answer to `OUTPUT_ON`: whether the output is on; BadMessage for any other line."""
    state, _, complete = line.partition(";")
    if complete.strip() != "1":
        raise BadMessage(f"{line[:40]!r} does not tell the output")
    return output_is(state)


def output_after_off(line: str) -> bool:
    """Answer to `OUTPUT_OFF`: whether the output is on; BadMessage for any other line."""
    state, _, error = line.partition(";")
    scpi.parse_error(error)
    return output_is(state)


def is_number(value: float) -> Callable[[str], bool]:
    """Read-back of exactly this number."""
    return lambda line: math.isclose(_first(line), value, rel_tol=_TOLERANCE, abs_tol=1e-12)


def covers(value: float) -> Callable[[str], bool]:
    """Read-back of a range that this number fits in: the instrument chooses the next one up."""
    return lambda line: _first(line) * 1.06 >= value


def names(*words: str) -> Callable[[str], bool]:
    """Read-back of these words, in whatever order."""
    return lambda line: all(word in line.upper() for word in words)


def _first(line: str) -> float:
    try:
        return scpi.parse_numbers(line)[0]
    except BadMessage:
        return math.nan


class Dialect(ABC):
    """One command set."""

    READING_BYTES: ClassVar[int] = 28  # two numbers, a comma and the end of the line
    # A reading measures the voltage and the current, one after the other.
    FUNCTIONS: ClassVar[int] = 2

    @abstractmethod
    def settings(self, limits: SourceLimits) -> list[Setting]:
        """What is set before the output goes on, in this order."""

    @abstractmethod
    def cycle(self, current_a: float) -> str:
        """Set a current and read."""

    @abstractmethod
    def reading(self, line: str) -> tuple[float, float]:
        """Voltage and current of a reading; BadMessage for any other line."""

    @staticmethod
    def _pair(line: str) -> tuple[float, float]:
        values = scpi.parse_numbers(line)
        if len(values) != 2:
            raise BadMessage(f"{line[:80]!r} is not two numbers")
        return values[0], values[1]


class Dialect2400(Dialect):
    """The 2400, and a 2450 that is set to its command set."""

    def settings(self, limits: SourceLimits) -> list[Setting]:
        """What is set before the output goes on, in this order."""
        volts, amps = limits.compliance_v, limits.current_a
        return [
            Setting(":SYST:RSEN", "1", is_number(1)),
            Setting(":SOUR:FUNC", "CURR", names("CURR")),
            Setting(":SOUR:CURR:MODE", "FIX", names("FIX")),
            Setting(":SOUR:CURR:RANG", f"{amps:.4E}", covers(amps)),
            Setting(":SOUR:CURR", "0", is_number(0)),
            Setting(":SENS:FUNC:CONC", "1", is_number(1)),
            Setting(":SENS:FUNC", "'VOLT','CURR'", names("VOLT", "CURR")),
            Setting(":SENS:VOLT:PROT", f"{volts:.4E}", is_number(volts)),
            Setting(":SENS:VOLT:RANG", f"{volts:.4E}", covers(volts)),
            Setting(":SENS:VOLT:NPLC", f"{limits.nplc:g}", is_number(limits.nplc)),
            Setting(":SOUR:DEL", "0", is_number(0)),
            Setting(":SYST:AZER", "0", is_number(0)),
            Setting(":FORM:ELEM", "VOLT,CURR", names("VOLT", "CURR")),
        ]

    def cycle(self, current_a: float) -> str:
        """Set a current and read."""
        return f":SOUR:CURR {current_a:.5E};:READ?"

    def reading(self, line: str) -> tuple[float, float]:
        """Voltage and current of a reading; BadMessage for any other line."""
        return self._pair(line)


class Dialect2450(Dialect):
    """The 2450 in its own SCPI command set."""

    def settings(self, limits: SourceLimits) -> list[Setting]:
        """What is set before the output goes on, in this order."""
        volts, amps = limits.compliance_v, limits.current_a
        return [
            Setting(":SOUR:FUNC", "CURR", names("CURR")),
            Setting(":SENS:FUNC", '"VOLT"', names("VOLT")),
            Setting(":SENS:VOLT:RSEN", "1", is_number(1)),
            Setting(":SOUR:CURR:RANG", f"{amps:.4E}", covers(amps)),
            Setting(":SOUR:CURR", "0", is_number(0)),
            Setting(":SOUR:CURR:VLIM", f"{volts:.4E}", is_number(volts)),
            Setting(":SENS:VOLT:RANG", f"{volts:.4E}", covers(volts)),
            Setting(":SENS:VOLT:NPLC", f"{limits.nplc:g}", is_number(limits.nplc)),
            Setting(":SENS:VOLT:AZER", "0", is_number(0)),
            Setting(":SOUR:CURR:READ:BACK", "1", is_number(1)),
            Setting(":SOUR:CURR:DEL", "0", is_number(0)),
        ]

    def cycle(self, current_a: float) -> str:
        """Set a current and read."""
        return f':SOUR:CURR {current_a:.5E};:READ? "defbuffer1",SOUR,READ'

    def reading(self, line: str) -> tuple[float, float]:
        """Voltage and current of a reading; BadMessage for any other line."""
        current, voltage = self._pair(line)
        return voltage, current
