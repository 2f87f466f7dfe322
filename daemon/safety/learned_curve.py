"""What belongs to which temperature, learned from readings: the supervisor's measure."""

from __future__ import annotations

from bisect import bisect_left


class Relation:
    """A quantity by temperature, learned: medians in steps of 10 K, which stay once they are full.

    What comes later cannot talk it out of what it has learned first.
    """

    STEP_C, KEPT, ENOUGH, SPREAD_C = 10.0, 9, 3, 50.0

    def __init__(self) -> None:
        self._samples: dict[int, list[tuple[float, float]]] = {}
        self._steps: list[int] = []
        self._at_c: list[float] = []
        self._values: list[float] = []

    def learn(self, temperature_c: float, value: float) -> None:
        """Take in a pair that is believed."""
        step = round(temperature_c / self.STEP_C)
        found = self._samples.setdefault(step, [])
        if len(found) >= self.KEPT:
            return
        found.append((temperature_c, value))
        if len(found) < self.ENOUGH:
            return
        middle = len(found) // 2
        at_c, median = (sorted(pair[k] for pair in found)[middle] for k in (0, 1))
        place = bisect_left(self._steps, step)
        if place == len(self._steps) or self._steps[place] != step:
            self._steps.insert(place, step)
            self._at_c.insert(place, at_c)
            self._values.insert(place, median)
        else:
            self._at_c[place], self._values[place] = at_c, median

    @property
    def armed(self) -> bool:
        """Whether enough was seen, over enough of a range, to tell right from wrong."""
        at_c = self._at_c
        return bool(at_c) and at_c[-1] - at_c[0] >= self.SPREAD_C

    @property
    def slope(self) -> float:
        """Change with temperature over all that was learned, per K; only when armed."""
        return (self._values[-1] - self._values[0]) / (self._at_c[-1] - self._at_c[0])

    @property
    def largest(self) -> float:
        """The largest value learned; 0 before the first."""
        return max(self._values, default=0.0)

    def above(self, temperature_c: float) -> float | None:
        """Value at the nearest higher temperature that was learned, if there is one."""
        place = bisect_left(self._at_c, temperature_c)
        return self._values[place] if place < len(self._values) else None

    def expected(self, temperature_c: float) -> tuple[float, float]:
        """Value at a temperature, and by how many K it lies beyond what was learned."""
        at_c, values = self._at_c, self._values
        place = bisect_left(at_c, temperature_c)
        if place == 0 or place == len(at_c):
            end = 0 if place == 0 else -1
            beyond_c = temperature_c - at_c[end]
            return values[end] + self.slope * beyond_c, abs(beyond_c)
        low, high = place - 1, place
        weight = (temperature_c - at_c[low]) / (at_c[high] - at_c[low])
        return values[low] + weight * (values[high] - values[low]), 0.0
