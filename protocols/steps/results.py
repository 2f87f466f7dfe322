"""The results that a step declares: name, shape by axis symbols, data type, unit or columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Per = Literal["frame", "series", "run"]
StackKind = Literal["series", "reference", "ramp", "dark"]
# Axes whose length the pipeline knows, for each kind of result.
_KNOWN_AXES: Mapping[Per, tuple[str, ...]] = {
    "frame": ("frame", "y", "x"),
    "series": ("view", "y", "z", "x", "frame_y", "frame_x", "column"),
    "run": ("series", "y", "z", "x", "column"),
}
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class ResultSpec:
    """One result that a step declares before the run begins, so that the file has room for it.

    Parameters
    ----------
    name : str
        Lower-case letters, digits and underscores. The result is published as ``result/<name>``.
    axes : tuple of str
        Axis symbols in order; none for a scalar. Known symbols are ``frame`` (frames of the stack),
        ``view`` (different tilt angles), ``series`` (tilt series of the run), ``y``, ``z``, ``x``
        (pixels of the frame, or of the binned image where the result is not per frame; ``z`` is as
        long as ``x``), ``frame_y``, ``frame_x`` (pixels of the frame, for a result of a series)
        and ``column``. Any other symbol needs a length in `sizes`.
    dtype : str
        Data type as numpy names it.
    per : str
        ``frame`` for one value or array a frame (the first axis is then ``frame``), ``series`` for
        one a stack, ``run`` for one a run, which each series may replace.
    unit : str
        Unit of the values, such as ``nm``; empty for none.
    columns : tuple of str
        Names of the columns of a table, each with its unit (``radius_nm``). The last axis is then
        ``column``.
    sizes : mapping
        Lengths of the axes that only this step knows. For a table: the most rows it can have.
    stacks : tuple of str
        Kinds of stack that have the result.
    recorded : bool
        Whether it is written into the file; previews are only published.

    Raises
    ------
    ValueError
        If the declarations do not agree with one another.
    """

    name: str
    axes: tuple[str, ...] = ()
    dtype: str = "float32"
    per: Per = "series"
    unit: str = ""
    columns: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    stacks: tuple[StackKind, ...] = ("series",)
    recorded: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"result name {self.name!r}: use lower-case letters, digits and underscores"
            )
        try:
            kind = np.dtype(self.dtype).kind
        except TypeError:
            kind = ""
        if kind not in {"i", "u", "f"}:
            raise ValueError(f"result '{self.name}': dtype {self.dtype!r} is not a number type")
        if bool(self.columns) != ("column" in self.axes[-1:]):
            raise ValueError(
                f"result '{self.name}': a table has columns and the last axis 'column'; give both"
            )
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"result '{self.name}': a column is named twice")
        if (self.per == "frame") != (self.axes[:1] == ("frame",)):
            raise ValueError(
                f"result '{self.name}': a result per frame has 'frame' as its first axis, and no "
                "other result has it"
            )
        unknown = set(self.axes) - set(_KNOWN_AXES[self.per]) - set(self.sizes)
        if unknown:
            raise ValueError(
                f"result '{self.name}': give the length of the axis '{min(unknown)}' in sizes"
            )

    @classmethod
    def scalar(cls, name: str, unit: str = "", per: Per = "series") -> ResultSpec:
        """Declare one number (float64) for each frame, series or run."""
        return cls(name, ("frame",) if per == "frame" else (), "float64", per, unit)

    @classmethod
    def table(
        cls, name: str, columns: tuple[str, ...], most_rows: int, row: str = "row"
    ) -> ResultSpec:
        """Declare a table (float64) for each series.

        Parameters
        ----------
        name : str
            Of the result.
        columns : tuple of str
            Names with units.
        most_rows : int
            The file has room for so many rows; those that are not used are NaN.
        row : str
            Axis symbol of the rows: what one row describes, in the singular.
        """
        axes = (row, "column")
        return cls(name, axes, "float64", columns=columns, sizes={row: most_rows})

    def shape(self, lengths: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of the whole result.

        Parameters
        ----------
        lengths : mapping
            Lengths of the axes that the pipeline knows.
        """
        known = {**lengths, "column": len(self.columns), **self.sizes}
        return tuple(known[axis] for axis in self.axes)
