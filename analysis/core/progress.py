"""Long computations as progress generators: they yield finished fractions and return a result.

A caller may do something urgent between two fractions, or stop early by closing the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

_T = TypeVar("_T")


def run_to_end(
    steps: Generator[float, None, _T], progress: Callable[[float], None] | None = None
) -> _T:
    """Run a progress generator to its end.

    Parameters
    ----------
    steps : generator
        Yields the finished fraction (0 to 1) after each piece of work.
    progress : callable, optional
        Called with each fraction.

    Returns
    -------
    object
        What the generator returns.

    Examples
    --------
    >>> def halves():
    ...     yield 0.5
    ...     yield 1.0
    ...     return "volume"
    >>> run_to_end(halves(), progress=print)
    0.5
    1.0
    'volume'
    """
    while True:
        try:
            fraction = next(steps)
        except StopIteration as end:
            return end.value
        if progress is not None:
            progress(fraction)


def scaled_progress(
    start: float, stop: float, steps: Generator[float, None, _T]
) -> Generator[float, None, _T]:
    """Run a progress generator as a part of a longer one.

    Parameters
    ----------
    start, stop : float
        Fractions of the whole at which the part begins and ends.
    steps : generator
        The part; its fractions run from 0 to 1.

    Yields
    ------
    float
        Finished fraction of the whole; it never falls.

    Returns
    -------
    object
        What the part returns.

    Examples
    --------
    >>> def halves():
    ...     yield 0.5
    ...     yield 1.0
    >>> list(scaled_progress(0.2, 0.6, halves()))
    [0.4, 0.6]
    """
    highest = 0.0
    while True:
        try:
            highest = max(highest, next(steps))
        except StopIteration as end:
            return end.value
        yield start + (stop - start) * highest
