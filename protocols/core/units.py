"""Physical quantities at the edges: text with a unit in, one float per quantity inside.

Inside pyrotome every quantity has one unit, named in the variable: ``_c`` degrees Celsius,
``_s`` seconds, ``_deg`` degrees, ``_mrad`` milliradians, ``_pa`` picoampere, ``_kv`` kilovolt,
``_nm`` nanometre, ``_e_per_nm2`` electrons per square nanometre. Pint converts here and nowhere
else. It is loaded with the first text in another unit: its import takes half a second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

if TYPE_CHECKING:
    import pint

ELEMENTARY_CHARGE_C = 1.602176634e-19
GAS_CONSTANT_J_PER_MOL_K = 8.314462618
ZERO_CELSIUS_K = 273.15

_NUMBER_THEN_UNIT = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*$")

# Beyond that, looking for the end of the number takes longer than anyone waits.
_LONGEST_TEXT = 200
# Pint evaluates a unit: a tower of powers would take it longer than anyone waits.
_LONGEST_UNIT = 60
_EXPONENT = re.compile(r"(?:\*\*|\^)\s*[-+]?\d{1,2}(?![\w.])")
_TOWER = re.compile(r"(?:\*\*|\^)\s*[-+]?\d+\s*(?:\*\*|\^)")
_NOT_A_NAME = re.compile(r"(?<!\w)[\d.]|\*\*|\^")

_FLUENCE = "elementary_charge/nm**2"
# Angstrom, as people write it: two characters of Unicode look alike, and the letter A, which is an
# ampere elsewhere. Converted without pint, in what they are worth.
_ANGSTROMS = ("\u00c5", "\u212b", "A")
_WORTH: Mapping[str, Mapping[str, float]] = {
    "nm": {**dict.fromkeys(_ANGSTROMS, 0.1), "pm": 1e-3},
    _FLUENCE: {
        f"{electrons}/{angstrom}{square}": 100.0
        for electrons in ("e", "e-")
        for angstrom in _ANGSTROMS
        for square in ("^2", "**2", "\u00b2")
    }
    | dict.fromkeys(("e-/nm^2", "e/nm\u00b2", "e-/nm\u00b2"), 1.0),
}
_ANGSTROM = re.compile(r"(?<!\w)[A\u212b](?!\w)")
# From here on a fluence is told by the square angstrom.
ATOMIC_E_PER_NM2 = 1e5


def _is_plain(unit: str) -> bool:
    """Whether a text is made of names, with exponents of one or two digits."""
    names = _EXPONENT.sub("", re.sub(r"^1\s*/", "", unit))
    return len(unit) <= _LONGEST_UNIT and not (_TOWER.search(unit) or _NOT_A_NAME.search(names))


@cache
def _registry() -> pint.UnitRegistry[Any]:
    import pint

    return pint.UnitRegistry()


def parse_quantity(value: object, unit: str, example: str, written: str = "") -> float:
    """Convert a text such as ``"200 degC"`` to a number in one unit.

    Parameters
    ----------
    value : object
        Text holding a number and a unit; a bare number is refused.
    unit : str
        The unit of the result, in pint's notation.
    example : str
        A right value, shown in the error message.
    written : str
        Another way to write `unit`; a text in either is converted without pint.

    Returns
    -------
    float
        The number in `unit`.

    Raises
    ------
    ValueError
        If the number, the unit or the dimension is wrong.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"expected a number with a unit such as '{example}', got {value!r}")
    if isinstance(value, (int, float)):
        raise ValueError(f"{value!r} has no unit; write it with one, such as '{example}'")
    if len(value) > _LONGEST_TEXT:
        raise ValueError(
            f"expected a number with a unit such as '{example}', got {len(value)} characters"
        )
    match = _NUMBER_THEN_UNIT.match(value)
    if match is None:
        raise ValueError(f"expected a number with a unit such as '{example}', got {value!r}")
    number, unit_text = float(match.group(1)), match.group(2)
    if not unit_text:
        raise ValueError(f"{value!r} has no unit; write it with one, such as '{example}'")
    worth = _WORTH.get(unit, {})
    if unit_text in worth:
        number *= worth[unit_text]
    elif unit_text not in (unit, written):
        if worth:
            unit_text = _ANGSTROM.sub("angstrom", unit_text)
        number = _converted(value, number, unit_text, unit, example)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite quantity; write one such as '{example}'")
    return number


def _converted(value: str, number: float, unit_text: str, unit: str, example: str) -> float:
    """A number in another unit, by pint."""
    from pint import DimensionalityError

    registry = _registry()
    try:
        if not _is_plain(unit_text):
            raise ValueError
        return float(registry.Quantity(number, registry.Unit(unit_text)).to(unit).magnitude)
    except DimensionalityError as error:
        raise ValueError(
            f"{value!r} has the wrong dimension ({error.dim1 or 'none'}); "
            f"expected a quantity such as '{example}'"
        ) from error
    except Exception as error:  # pint raises what its parsing and converting happen to meet
        raise ValueError(
            f"{unit_text[:80]!r} is not a unit known here; write it as in '{example}'"
        ) from error


def _refuse_implausible(value: str, number: float, quantity: _Unit) -> None:
    """Raise ValueError for what no experiment has, with what was probably meant.

    ``2 PA`` are petaampere and ``3 Ms`` are megaseconds: a letter of the wrong case.
    """
    if abs(number) <= quantity.most:
        return
    most = f"{quantity.most:g} {quantity.written}"
    problem = (
        f"{value!r} is {number:.3g} {quantity.written}, more than the {most} that can be meant"
    )
    match = _NUMBER_THEN_UNIT.match(value)
    unit = match.group(2) if match is not None and match.group(2) else ""
    meant = f"{match.group(1)} {unit[:1].swapcase()}{unit[1:]}" if match is not None else ""
    try:
        plausible = abs(parse_quantity(meant, quantity.unit, "")) <= quantity.most
    except ValueError:
        plausible = False
    hint = f"did you mean '{meant}'?" if plausible else f"write one such as '{quantity.example}'"
    raise ValueError(f"{problem}; {hint}")


class _Unit:
    """Build the pydantic annotation of one quantity.

    `most` bounds the size of what is believed.
    """

    def __init__(self, unit: str, written: str, example: str, most: float) -> None:
        self.unit, self.written, self.example, self.most = unit, written, example, most

    def validate(self, value: object) -> float:
        number = parse_quantity(value, self.unit, self.example, self.written)
        _refuse_implausible(str(value), number, self)
        return number

    def serialise(self, value: float) -> str:
        return f"{value!r} {self.written}"

    def serialise_fraction(self, value: float) -> str:
        return f"{value * 100!r} %"


class _Difference(_Unit):
    """A difference of temperatures, for which "3 degC" and "3 K" mean the same."""

    def validate(self, value: object) -> float:
        if isinstance(value, str) and value.rstrip().endswith(" degC"):
            value = value.rstrip().removesuffix("degC") + "K"
        return super().validate(value)


# Ten days of one step, a milliampere, the melting point of every element: far beyond what is done.
_temperature = _Unit("degC", "degC", "200 degC", 5000.0)
_difference = _Difference("kelvin", "K", "3 K", 5000.0)
_rate = _Unit("delta_degC/s", "delta_degC/s", "1 degC/s", 1e8)
_duration = _Unit("s", "s", "5 s", 10 * 86_400.0)
_angle = _Unit("deg", "deg", "2 deg", 360.0)
_speed = _Unit("deg/s", "deg/s", "10 deg/s", 1e5)
_current = _Unit("pA", "pA", "2 pA", 1e9)
_voltage = _Unit("kV", "kV", "300 kV", 5000.0)
_length = _Unit("nm", "nm", "1.04 nm", 1e8)
_creep = _Unit("nm/s", "nm/s", "5 nm/s", 1e8)
_expansion = _Unit("nm/kelvin", "nm/K", "8 nm/K", 1e6)
_cone = _Unit("mrad", "mrad", "1.2 mrad", 1000.0)
_fraction = _Unit("dimensionless", "", "1 %", 1e6)
_energy = _Unit("J/mol", "J/mol", "200 kJ/mol", 1e8)
_fluence = _Unit(_FLUENCE, "e/nm^2", "260 e/nm^2", 1e15)

TemperatureC = Annotated[
    float, BeforeValidator(_temperature.validate), PlainSerializer(_temperature.serialise)
]
DifferenceC = Annotated[
    float, BeforeValidator(_difference.validate), PlainSerializer(_difference.serialise)
]
RateCPerS = Annotated[float, BeforeValidator(_rate.validate), PlainSerializer(_rate.serialise)]
DurationS = Annotated[
    float, BeforeValidator(_duration.validate), PlainSerializer(_duration.serialise)
]
AngleDeg = Annotated[float, BeforeValidator(_angle.validate), PlainSerializer(_angle.serialise)]
SpeedDegPerS = Annotated[float, BeforeValidator(_speed.validate), PlainSerializer(_speed.serialise)]
CurrentPa = Annotated[
    float, BeforeValidator(_current.validate), PlainSerializer(_current.serialise)
]
VoltageKv = Annotated[
    float, BeforeValidator(_voltage.validate), PlainSerializer(_voltage.serialise)
]
LengthNm = Annotated[float, BeforeValidator(_length.validate), PlainSerializer(_length.serialise)]
SpeedNmPerS = Annotated[float, BeforeValidator(_creep.validate), PlainSerializer(_creep.serialise)]
ExpansionNmPerK = Annotated[
    float, BeforeValidator(_expansion.validate), PlainSerializer(_expansion.serialise)
]
ConeMrad = Annotated[float, BeforeValidator(_cone.validate), PlainSerializer(_cone.serialise)]
Fraction = Annotated[
    float, BeforeValidator(_fraction.validate), PlainSerializer(_fraction.serialise_fraction)
]
EnergyJPerMol = Annotated[
    float, BeforeValidator(_energy.validate), PlainSerializer(_energy.serialise)
]
FluenceEPerNm2 = Annotated[
    float, BeforeValidator(_fluence.validate), PlainSerializer(_fluence.serialise)
]


def fluence_e_per_nm2(current_pa: float, time_s: float, area_nm2: float) -> float:
    """Electrons per square nanometre that a probe current leaves in an area.

    Parameters
    ----------
    current_pa : float
        Probe current in pA.
    time_s : float
        Exposure of that area in seconds.
    area_nm2 : float
        Exposed area in nm^2.

    Returns
    -------
    float
        I t / (e A), the constants section of the design's science notes: for one pixel of side a
        and a dwell time t, this is the dose per frame.
    """
    return current_pa * 1e-12 * time_s / (ELEMENTARY_CHARGE_C * area_nm2)


@dataclass(frozen=True)
class FluenceUnit:
    """A unit in which fluence is told to people.

    Attributes
    ----------
    name : str
        Such as ``e/nm^2``.
    e_per_nm2 : float
        What one of it is worth.
    """

    name: str
    e_per_nm2: float

    def of(self, e_per_nm2: float) -> float:
        """The number in this unit."""
        return e_per_nm2 / self.e_per_nm2

    @property
    def typeset(self) -> str:
        """The name for a screen, such as ``e/nm²``."""
        return self.name.replace("^2", "\u00b2")


def fluence_unit(largest_e_per_nm2: float) -> FluenceUnit:
    """The unit for fluences up to a size: at atomic pixels people count by the square angstrom.

    Examples
    --------
    >>> unit = fluence_unit(5e7)
    >>> unit.name, unit.of(5e7)
    ('e/\u00c5^2', 500000.0)
    >>> fluence_unit(260.0).name
    'e/nm^2'
    """
    if largest_e_per_nm2 >= ATOMIC_E_PER_NM2:
        return FluenceUnit("e/\u00c5^2", 100.0)
    return FluenceUnit("e/nm^2", 1.0)


def kelvin(temperature_c: float) -> float:
    """Absolute temperature of a temperature in deg C."""
    return temperature_c + ZERO_CELSIUS_K
