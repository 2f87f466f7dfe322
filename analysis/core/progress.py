"""Long computations as generators of small pieces, each yielding the finished fraction."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

_T = TypeVar("_T")


def run_to_end(
    pieces: Generator[float, None, _T], report: Callable[[float], None] | None = None
) -> _T:
    """Run small pieces to their end, telling each fraction; what they return."""
    while True:
        try:
            done = next(pieces)
        except StopIteration as end:
            return end.value
        if report is not None:
            report(done)


def scaled_progress(
    start: float, stop: float, steps: Generator[float, None, _T]
) -> Generator[float, None, _T]:
    """Steps that are a part of others: their fractions from `start` to `stop`; what they return."""
    while True:
        try:
            fraction = next(steps)
        except StopIteration as end:
            return end.value
        yield start + (stop - start) * fraction
