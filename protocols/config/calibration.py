"""One heating chip: its R(T), the power that holds a temperature, and which readings are plausible.

A calibration file belongs to one chip. JSON holds either the polynomial
``R(T) = R0 (1 + alpha dT + beta dT^2)``, inverted analytically, or a table; CSV holds a table
(columns ``temperature_c``, ``resistance_ohm`` and optionally ``power_w``, values such as the
chip's name in lines that begin with ``#``). Tables are interpolated monotonically (PCHIP). The
vendors' own formulae are not public (wire card A4); a log with four constants is turned into a
table by whoever has them.

A wrong R(T) cannot be seen in the resistance alone. It is seen cold, where the chip must read the
ambient temperature, and hot at rest, where the power must be what the chip loses at the
temperature that is read: 1 % in R is 3 to 7 degC cold and 2 to 3 % of the power hot.
"""

from __future__ import annotations

import csv
import json
import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from ..core.documents import Strict
from ..core.errors import BadInput
from ..core.units import ZERO_CELSIUS_K

MAX_FILE_BYTES = 1_000_000
_ABSOLUTE_ZERO_C = -ZERO_CELSIUS_K
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Celsius = Annotated[float, Field(ge=_ABSOLUTE_ZERO_C, le=3000.0)]


class OutOfCalibration(ValueError):
    """A temperature or resistance that the calibration does not reach."""


class _Curve:
    """Monotone interpolation of a table, and its inverse by bisection within the interval."""

    def __init__(self, x: tuple[float, ...], y: tuple[float, ...]) -> None:
        # Only where it is needed: it takes longer to load than all the rest of the daemon.
        from scipy.interpolate import PchipInterpolator

        self.x, self.y = list(x), list(y)
        cubic = PchipInterpolator(np.array(x), np.array(y))
        # Highest power first, one row per interval.
        self._c: list[list[float]] = np.asarray(cubic.c).T.tolist()

    def _place(self, x: float) -> tuple[list[float], float]:
        i = min(max(bisect_right(self.x, x) - 1, 0), len(self._c) - 1)
        return self._c[i], x - self.x[i]

    def value(self, x: float) -> float:
        (a, b, c, d), h = self._place(x)
        return ((a * h + b) * h + c) * h + d

    def slope(self, x: float) -> float:
        (a, b, c, _), h = self._place(x)
        return (3.0 * a * h + 2.0 * b) * h + c

    def solve(self, y: float) -> float:
        """Where a rising curve has a value; its ends for a value beyond them."""
        i = min(max(bisect_right(self.y, y) - 1, 0), len(self._c) - 1)
        low, high = self.x[i], self.x[i + 1]
        for _ in range(60):
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
            low, high = (middle, high) if self.value(middle) < y else (low, middle)
        return 0.5 * (low + high)


def _check_table(x: tuple[float, ...], y: tuple[float, ...], of: str) -> None:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} temperatures and {len(y)} values of {of}; as many are needed")
    for name, column in (("temperature_c", x), (of, y)):
        falls = next((k for k in range(1, len(column)) if column[k] <= column[k - 1]), None)
        if falls is not None:
            raise ValueError(
                f"{name} must rise from row to row; {column[falls]:g} follows {column[falls - 1]:g}"
            )


class PolynomialResistance(Strict):
    """``R0 (1 + alpha dT + beta dT^2)`` with dT from `reference_c`, rising over `range_c`."""

    kind: Literal["polynomial"]
    r0_ohm: _Positive
    alpha_per_k: _Positive
    beta_per_k2: _Finite = 0.0
    reference_c: _Celsius = 25.0
    range_c: tuple[_Celsius, _Celsius]

    @model_validator(mode="after")
    def _rises(self) -> PolynomialResistance:
        low_c, high_c = self.range_c
        if low_c >= high_c:
            raise ValueError("range_c must be written as [lowest, highest]")
        for end_c in self.range_c:
            if self.slope(end_c) <= 0.0 or self.value(end_c) <= 0.0:
                raise ValueError(
                    f"the resistance does not rise, or is not positive, at {end_c:g} degC; "
                    "narrow range_c or check the constants"
                )
        return self

    def value(self, temperature_c: float) -> float:
        """Resistance in ohm."""
        rise = temperature_c - self.reference_c
        return self.r0_ohm * (1.0 + (self.alpha_per_k + self.beta_per_k2 * rise) * rise)

    def slope(self, temperature_c: float) -> float:
        """Its derivative in ohm per kelvin."""
        rise = temperature_c - self.reference_c
        return self.r0_ohm * (self.alpha_per_k + 2.0 * self.beta_per_k2 * rise)

    def solve(self, resistance_ohm: float) -> float:
        """Temperature in degC, on the rising branch; within `range_c` only."""
        excess = resistance_ohm / self.r0_ohm - 1.0
        # This form of the root stays exact for a beta of zero.
        root = math.sqrt(max(0.0, self.alpha_per_k**2 + 4.0 * self.beta_per_k2 * excess))
        return self.reference_c + 2.0 * excess / (self.alpha_per_k + root)


class TableResistance(Strict):
    """Resistance at temperatures, both rising, interpolated monotonically."""

    kind: Literal["table"]
    temperature_c: Annotated[tuple[_Celsius, ...], Field(min_length=2, max_length=10_000)]
    resistance_ohm: tuple[_Positive, ...]

    @model_validator(mode="after")
    def _rises(self) -> TableResistance:
        _check_table(self.temperature_c, self.resistance_ohm, "resistance_ohm")
        return self

    @cached_property
    def _curve(self) -> _Curve:
        return _Curve(self.temperature_c, self.resistance_ohm)

    @property
    def range_c(self) -> tuple[float, float]:
        """Lowest and highest temperature of the table."""
        return self.temperature_c[0], self.temperature_c[-1]

    def value(self, temperature_c: float) -> float:
        """Resistance in ohm."""
        return self._curve.value(temperature_c)

    def slope(self, temperature_c: float) -> float:
        """Its derivative in ohm per kelvin."""
        return self._curve.slope(temperature_c)

    def solve(self, resistance_ohm: float) -> float:
        """Temperature in degC; within the table only."""
        return self._curve.solve(resistance_ohm)


class BalancePower(Strict):
    """Power that holds a temperature: ``G (T - Ta) + S (T^4 - Ta^4)``, absolute in the second."""

    kind: Literal["balance"]
    conductance_w_per_k: _Positive
    radiation_w_per_k4: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def value(self, temperature_c: float, ambient_c: float) -> float:
        """Holding power in watt."""
        kelvin, ambient_k = temperature_c + ZERO_CELSIUS_K, ambient_c + ZERO_CELSIUS_K
        radiated = self.radiation_w_per_k4 * (kelvin**4 - ambient_k**4)
        return self.conductance_w_per_k * (kelvin - ambient_k) + radiated

    def slope(self, temperature_c: float, ambient_c: float) -> float:
        """Its derivative in watt per kelvin."""
        kelvin = temperature_c + ZERO_CELSIUS_K
        return self.conductance_w_per_k + 4.0 * self.radiation_w_per_k4 * kelvin**3


class TablePower(Strict):
    """Power that holds temperatures, both rising; at ambient temperature it should be zero."""

    kind: Literal["table"]
    temperature_c: Annotated[tuple[_Celsius, ...], Field(min_length=2, max_length=10_000)]
    power_w: tuple[_Finite, ...]

    @model_validator(mode="after")
    def _rises(self) -> TablePower:
        _check_table(self.temperature_c, self.power_w, "power_w")
        return self

    @cached_property
    def _curve(self) -> _Curve:
        return _Curve(self.temperature_c, self.power_w)

    def value(self, temperature_c: float, ambient_c: float) -> float:
        """Holding power in watt; beyond the table it goes on straight."""
        held_c = min(max(temperature_c, self.temperature_c[0]), self.temperature_c[-1])
        return self._curve.value(held_c) + self._curve.slope(held_c) * (temperature_c - held_c)

    def slope(self, temperature_c: float, ambient_c: float) -> float:
        """Its derivative in watt per kelvin."""
        held_c = min(max(temperature_c, self.temperature_c[0]), self.temperature_c[-1])
        return self._curve.slope(held_c)


@dataclass(frozen=True)
class Verdict:
    """Whether a reading can be true.

    Attributes
    ----------
    plausible : bool
        Whether it can.
    deviation : float
        How far off it is, in units of what is tolerated; with its sign.
    reason : str
        In words, for the operator.
    """

    plausible: bool
    deviation: float
    reason: str


class ChipCalibration(Strict):
    """Calibration of one chip.

    Attributes
    ----------
    chip : str
        Its name or serial number.
    resistance : PolynomialResistance or TableResistance
        R(T).
    power : BalancePower or TablePower, optional
        Power that holds a temperature in vacuum. Without it the regulation has to learn, and a
        hot reading cannot be checked.
    ambient_c, ambient_tolerance_c : float
        Temperature of the chip without power, and how well it is known.
    power_tolerance : float
        How well `power` is known, as a fraction of it. Gas around the chip changes the power by
        far more; a chip used in gas needs a calibration for it.
    time_constant_s : float
        Of the chip near ambient temperature, at constant power.
    """

    chip: Annotated[str, Field(min_length=1, max_length=200)]
    note: Annotated[str, Field(max_length=2000)] = ""
    resistance: Annotated[PolynomialResistance | TableResistance, Field(discriminator="kind")]
    power: Annotated[BalancePower | TablePower, Field(discriminator="kind")] | None = None
    ambient_c: _Celsius = 25.0
    ambient_tolerance_c: Annotated[float, Field(gt=0, le=50)] = 2.0
    power_tolerance: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    time_constant_s: Annotated[float, Field(gt=0, le=60)] = 0.01

    @model_validator(mode="after")
    def _ambient_is_inside(self) -> ChipCalibration:
        low_c, high_c = self.resistance.range_c
        if not low_c <= self.ambient_c <= high_c:
            raise ValueError(
                f"ambient_c {self.ambient_c:g} is outside the range of the resistance, "
                f"{low_c:g} to {high_c:g} degC"
            )
        return self

    @property
    def range_c(self) -> tuple[float, float]:
        """Lowest and highest temperature."""
        return self.resistance.range_c

    @cached_property
    def range_ohm(self) -> tuple[float, float]:
        """Lowest and highest resistance."""
        low_c, high_c = self.range_c
        return self.resistance.value(low_c), self.resistance.value(high_c)

    def resistance_ohm(self, temperature_c: float) -> float:
        """Resistance at a temperature.

        Raises
        ------
        OutOfCalibration
            If the temperature is outside `range_c`.
        """
        low, high = self.range_c
        if not low <= temperature_c <= high:  # false for NaN too
            raise OutOfCalibration(
                f"{temperature_c:g} degC is outside the calibration of chip {self.chip}, "
                f"which reaches from {low:g} to {high:g} degC"
            )
        return self.resistance.value(temperature_c)

    def temperature_c(self, resistance_ohm: float) -> float:
        """Temperature at which the chip has a resistance.

        Raises
        ------
        OutOfCalibration
            If the resistance is outside `range_ohm`.
        """
        low, high = self.range_ohm
        if not low <= resistance_ohm <= high:
            low_c, high_c = self.range_c
            raise OutOfCalibration(
                f"{resistance_ohm:.6g} ohm is outside the calibration of chip {self.chip}, "
                f"which reaches from {low:.6g} to {high:.6g} ohm ({low_c:g} to {high_c:g} degC)"
            )
        return min(max(self.resistance.solve(resistance_ohm), self.range_c[0]), self.range_c[1])

    def holding_power_w(self, temperature_c: float) -> float | None:
        """Power that holds a temperature; None where the calibration does not say."""
        return None if self.power is None else self.power.value(temperature_c, self.ambient_c)

    def check_cold(self, resistance_ohm: float, power_w: float = 0.0) -> Verdict:
        """Judge a reading of the chip at rest, without heating.

        Parameters
        ----------
        resistance_ohm : float
            As measured.
        power_w : float
            Of the measurement itself; what it warms the chip is taken off.
        """
        try:
            read_c = self.temperature_c(resistance_ohm)
        except OutOfCalibration as error:
            return Verdict(False, math.inf, str(error))
        warmed_c = 0.0
        if self.power is not None:
            warmed_c = power_w / self.power.slope(self.ambient_c, self.ambient_c)
        off_c = read_c - warmed_c - self.ambient_c
        percent = 100.0 * (resistance_ohm / self.resistance.value(self.ambient_c + warmed_c) - 1.0)
        reason = (
            f"cold it reads {resistance_ohm:.5g} ohm, {read_c - warmed_c:.1f} degC, at an ambient "
            f"temperature of {self.ambient_c:g} +- {self.ambient_tolerance_c:g} degC: "
            f"{percent:+.2f} % in resistance from the calibration of chip {self.chip}"
        )
        deviation = off_c / self.ambient_tolerance_c
        return Verdict(abs(deviation) <= 1.0, deviation, reason)

    def check_steady(self, resistance_ohm: float, power_w: float) -> Verdict:
        """Judge a reading of the chip at rest at any temperature: its power against its loss.

        Parameters
        ----------
        resistance_ohm, power_w : float
            Means over a time in which the temperature stood still.
        """
        try:
            read_c = self.temperature_c(resistance_ohm)
        except OutOfCalibration as error:
            return Verdict(False, math.inf, str(error))
        if self.power is None:
            return Verdict(True, 0.0, f"the calibration of chip {self.chip} holds no power")
        expected_w = self.power.value(read_c, self.ambient_c)
        tolerated_w = math.hypot(
            self.power_tolerance * expected_w,
            self.ambient_tolerance_c * self.power.slope(self.ambient_c, self.ambient_c),
        )
        deviation = (power_w - expected_w) / tolerated_w
        reason = (
            f"{resistance_ohm:.5g} ohm reads as {read_c:.1f} degC, which takes "
            f"{expected_w * 1e3:.3f} +- {tolerated_w * 1e3:.3f} mW, and it takes "
            f"{power_w * 1e3:.3f} mW: resistance, power and temperature do not belong together"
        )
        return Verdict(abs(deviation) <= 1.0, deviation, reason)


def load_calibration(path: Path) -> ChipCalibration:
    """Calibration from a ``.json`` file or a ``.csv`` table.

    Raises
    ------
    BadInput
        If the file cannot be read or is no calibration: file, place inside, what is wrong.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise BadInput(str(path), f"larger than {MAX_FILE_BYTES} bytes: not a calibration")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(str(path), "is not text (UTF-8)") from None
    if path.suffix.lower() == ".csv":
        return parse_calibration_csv(text, str(path))
    return parse_calibration_json(text, str(path))


def parse_calibration_json(text: str, name: str) -> ChipCalibration:
    """Calibration from JSON text; `name` is for messages; raises as `load_calibration`."""
    try:
        body = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise BadInput(f"{name}:{error.lineno}", f"is not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(name, f"is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        keys = ", ".join(ChipCalibration.model_fields)
        raise BadInput(name, f"should be a JSON object with the keys {keys}")
    return _validated(body, name)


def parse_calibration_csv(text: str, name: str) -> ChipCalibration:
    """Calibration from a CSV table; `name` is for messages; raises as `load_calibration`.

    Lines such as ``# chip: A-17`` give the keys of `ChipCalibration` that are single values.
    """
    body: dict[str, Any] = {"chip": Path(name).stem}
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            key, colon, value = line.strip().lstrip("#").partition(":")
            if colon and key.strip() in ChipCalibration.model_fields:
                body[key.strip()] = value.strip()
        elif line.strip():
            rows.append((number, [cell.strip() for cell in next(csv.reader([line]))]))
    needed = ["temperature_c", "resistance_ohm"]
    header = rows[0][1] if rows else []
    if header not in (needed, [*needed, "power_w"]):
        raise BadInput(
            f"{name}:{rows[0][0]}" if rows else name,
            "the first line should read temperature_c,resistance_ohm or "
            "temperature_c,resistance_ohm,power_w",
        )
    columns: dict[str, list[float]] = {column: [] for column in header}
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            raise BadInput(f"{name}:{number}", f"{len(cells)} values; {len(header)} are needed")
        for column, cell in zip(header, cells, strict=True):
            try:
                columns[column].append(float(cell))
            except ValueError:
                raise BadInput(f"{name}:{number}: {column}", f"'{cell}' is not a number") from None
    temperature = {"kind": "table", "temperature_c": columns["temperature_c"]}
    body["resistance"] = {**temperature, "resistance_ohm": columns["resistance_ohm"]}
    if "power_w" in columns:
        body["power"] = {**temperature, "power_w": columns["power_w"]}
    return _validated(body, name)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key '{twice}' is written twice")
    return found


def _validated(body: dict[str, Any], name: str) -> ChipCalibration:
    try:
        return ChipCalibration.model_validate(body)
    except ValidationError as error:
        lines: list[str] = []
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"] if part not in ("polynomial",))
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message = "unknown key"
            elif item["type"] == "missing":
                message = "required key is missing"
            lines.append(f"{name}: {place}: {message}" if place else f"{name}: {message}")
        raise BadInput("", "\n".join(lines)) from None
