"""Outputs of the analysis: results, notices, progress, and tasks on whole series."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

Parameters = dict[str, str | int | float]


@dataclass(frozen=True)
class Result:
    """A result of the analysis.

    Attributes
    ----------
    name, series : str
        Name of the result, and of the stack of frames that it belongs to.
    data : ndarray
        Contiguous, little-endian.
    index : int or None
        Index of the frame in its stack; None for a result of the whole stack.
    elapsed_s : float
        Wall time of the computation.
    parameters : dict
        Settings and figures of the computation, written into the run file.
    record : bool
        Whether the result is written into the run file; otherwise it is only published.
    """

    name: str
    series: str
    data: NDArray[Any]
    index: int | None
    elapsed_s: float
    parameters: Parameters
    record: bool = True


@dataclass(frozen=True)
class Notice:
    """A message for the operator.

    Attributes
    ----------
    level : str
        ``info``, ``warning`` or ``error``.
    message : str
        One sentence.
    """

    level: Literal["info", "warning", "error"]
    message: str


@dataclass(frozen=True)
class Progress:
    """How far a long computation is.

    Attributes
    ----------
    what : str
        What is computed, for example ``aligning``.
    fraction : float
        Finished fraction, 0 to 1.
    """

    what: str
    fraction: float


Output = Result | Notice | Progress
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
