"""Learned R(T) or P(T) curve of the chip, against which the supervisor compares readings."""

from __future__ import annotations

from bisect import bisect_left


class LearnedCurve:
    """Learned R(T) or P(T) curve: medians in 10 K bins.

    A full bin is frozen, so that a slow drift cannot shift the reference.
    """

    STEP_C, KEPT, ENOUGH, SPREAD_C = 10.0, 9, 3, 50.0

    def __init__(self) -> None:
        self._samples: dict[int, list[tuple[float, float]]] = {}
        self._steps: list[int] = []
        self._at_c: list[float] = []
        self._values: list[float] = []

    def learn(self, temperature_c: float, value: float) -> None:
        """Add a pair of values that is trusted."""
        step = round(temperature_c / self.STEP_C)
        found = self._samples.setdefault(step, [])
        if len(found) >= self.KEPT:
            return
        found.append((temperature_c, value))
        if len(found) < self.ENOUGH:
            return
        centre = len(found) // 2
        at_c, median = (sorted(pair[k] for pair in found)[centre] for k in (0, 1))
        index = bisect_left(self._steps, step)
        if index == len(self._steps) or self._steps[index] != step:
            self._steps.insert(index, step)
            self._at_c.insert(index, at_c)
            self._values.insert(index, median)
        else:
            self._at_c[index], self._values[index] = at_c, median

    @property
    def armed(self) -> bool:
        """Whether the curve covers a range wide enough to judge readings by it."""
        at_c = self._at_c
        return bool(at_c) and at_c[-1] - at_c[0] >= self.SPREAD_C

    @property
    def slope(self) -> float:
        """Mean slope of the whole curve, per K; only when armed."""
        return (self._values[-1] - self._values[0]) / (self._at_c[-1] - self._at_c[0])

    @property
    def largest(self) -> float:
        """The largest learned value; 0 if there is none."""
        return max(self._values, default=0.0)

    def above(self, temperature_c: float) -> float | None:
        """Value at the nearest higher learned temperature, if there is one."""
        index = bisect_left(self._at_c, temperature_c)
        return self._values[index] if index < len(self._values) else None

    def expected(self, temperature_c: float) -> tuple[float, float]:
        """Value at a temperature, and its distance from the learned range, in K."""
        at_c, values = self._at_c, self._values
        index = bisect_left(at_c, temperature_c)
        if index == 0 or index == len(at_c):
            end = 0 if index == 0 else -1
            beyond_c = temperature_c - at_c[end]
            return values[end] + self.slope * beyond_c, abs(beyond_c)
        low, high = index - 1, index
        weight = (temperature_c - at_c[low]) / (at_c[high] - at_c[low])
        return values[low] + weight * (values[high] - values[low]), 0.0
