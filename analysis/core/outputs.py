"""What the analysis hands out: results, notices, progress, and tasks on whole series."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

Parameters = dict[str, str | int | float]


@dataclass(frozen=True)
class Result:
    """Something computed.

    Attributes
    ----------
    name, series : str
        Which result of which stack of frames.
    data : ndarray
        Contiguous, little-endian.
    index : int or None
        Position of the frame in its stack, for results of single frames.
    elapsed_s : float
        Wall time that it took.
    parameters : dict
        What it was computed with.
    record : bool
        Whether it belongs into the file; if not, it is only shown.
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
    """Something that the operator should know."""

    level: Literal["info", "warning", "error"]
    message: str


@dataclass(frozen=True)
class Progress:
    """How far something is that takes a while."""

    what: str
    fraction: float


Output = Result | Notice | Progress
T = TypeVar("T")


def with_progress(what: str, steps: Generator[float, None, T]) -> Generator[Output, None, T]:
    """Pass the finished fractions of some steps on as progress; return what they return."""
    while True:
        try:
            fraction = next(steps)
        except StopIteration as end:
            return end.value
        yield Progress(what, fraction)


@dataclass(frozen=True)
class Task:
    """Work on a whole series; its outputs are computed one after another, and tasks in order."""

    series: str
    outputs: Iterator[Output]
