"""Curves of one heating chip: R(T), and the power that holds a temperature."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ..core.documents import Strict
from ..core.numbers import Finite, Positive
from ..core.units import ZERO_CELSIUS_K

_ABSOLUTE_ZERO_C = -ZERO_CELSIUS_K
Celsius = Annotated[float, Field(ge=_ABSOLUTE_ZERO_C, le=3000.0)]


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
    r0_ohm: Positive
    alpha_per_k: Positive
    beta_per_k2: Finite = 0.0
    reference_c: Celsius = 25.0
    range_c: tuple[Celsius, Celsius]

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
    temperature_c: Annotated[tuple[Celsius, ...], Field(min_length=2, max_length=10_000)]
    resistance_ohm: tuple[Positive, ...]

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
    conductance_w_per_k: Positive
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
    temperature_c: Annotated[tuple[Celsius, ...], Field(min_length=2, max_length=10_000)]
    power_w: tuple[Finite, ...]

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
