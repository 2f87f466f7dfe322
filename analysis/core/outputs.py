"""Outputs of the analysis: results, notices and progress; and tasks on whole series."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ...protocols.steps.outputs import Notice, Output, Parameters, Progress, Result

__all__ = ["Notice", "Output", "Parameters", "Progress", "Result", "Task", "with_progress"]

T = TypeVar("T")


def with_progress(what: str, steps: Generator[float, None, T]) -> Generator[Output, None, T]:
    """Turn the fractions of a progress generator into :class:`Progress` outputs.

    Parameters
    ----------
    what : str
        What is computed.
    steps : generator
        Yields finished fractions.

    Yields
    ------
    Progress
        One for each fraction.

    Returns
    -------
    object
        What the generator returns.

    Examples
    --------
    >>> def halves():
    ...     yield 0.5
    ...     yield 1.0
    >>> [output.fraction for output in with_progress("aligning", halves())]
    [0.5, 1.0]
    """
    while True:
        try:
            fraction = next(steps)
        except StopIteration as end:
            return end.value
        yield Progress(what, fraction)


@dataclass(frozen=True)
class Task:
    """Work on a whole series.

    Attributes
    ----------
    series : str
        Name of the series.
    outputs : iterator of Output
        The outputs; each step of the iterator does a piece of the work. The tasks of a series
        are carried out in their order.
    """

    series: str
    outputs: Iterator[Output]
