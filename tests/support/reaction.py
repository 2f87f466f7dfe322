"""Time between a fault and what must follow it, for the rows of the fault catalogue."""

from __future__ import annotations

import time

import pytest


class Reaction:
    """Measures the time between a fault and what must follow it."""

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self.took_s: float | None = None
        self._began_s: float | None = None

    def begins(self) -> None:
        """The fault happens now."""
        self._began_s = time.monotonic()

    @property
    def left_s(self) -> float:
        """Wall seconds in which it must still happen."""
        assert self._began_s is not None, "reaction.begins() was not called"
        return self._began_s + self.within_s - time.monotonic()

    def ends(self, took_s: float | None = None) -> None:
        """What must follow has been seen: now, or so long after the fault by a better clock."""
        assert self._began_s is not None, "reaction.begins() was not called"
        self.took_s = time.monotonic() - self._began_s if took_s is None else took_s
        assert self.took_s <= self.within_s, f"{self.took_s:.2f} s, at most {self.within_s:g} s"

    def check_ended(self) -> None:
        """Fail a row that has not measured its time."""
        if self.took_s is None:
            pytest.fail("the row has not measured its time: call reaction.ends()")
