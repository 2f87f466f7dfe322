"""What a step of the analysis yields: results, notices and progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

Parameters = dict[str, str | int | float]


@dataclass(frozen=True)
class Result:
    """A result of the analysis.

    Attributes
    ----------
    name, series : str
        Name of the result, and of the stack of frames that it belongs to (``entry`` for a result
        of the whole run).
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
    index: int | None = None
    elapsed_s: float = 0.0
    parameters: Parameters = field(default_factory=dict[str, str | int | float])
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
