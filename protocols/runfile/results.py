"""Results that pipelines have left in a run file: arrays with axes, units and parameters."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Others, such as `process_tracking`, are no results of the analysis.
_NUMBERED = re.compile(r"process_(\d+)")


class Axis(NamedTuple):
    """One axis of a result: its name, its values of shape (n,), and their unit."""

    name: str
    values: NDArray[np.float64]
    units: str


@dataclass(frozen=True)
class StoredResult:
    """A result in an open run file; what is behind its properties is read when they are used.

    Attributes
    ----------
    name : str
        Such as ``volume``.
    process : int
        Number of the NXprocess group that holds it.
    path : str
        Of its dataset in the file.
    shape : tuple of int
        Of its array.
    """

    name: str
    process: int
    path: str
    shape: tuple[int, ...]
    _group: Any = field(repr=False, compare=False)

    @property
    def data(self) -> NDArray[Any]:
        """The whole array, read now."""
        return np.asarray(self._group["data"][...])

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """One for each axis of the array."""
        names = [str(name) for name in self._group.attrs.get("axes", ())]
        return tuple(
            Axis(name, np.asarray(self._group[name][...]), _units(self._group[name]))
            for name in names
        )

    @property
    def units(self) -> str:
        """Unit of the values; empty where they have none or where `columns` name them."""
        return _units(self._group["data"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a table, with units in their names; empty for anything else."""
        return tuple(str(name) for name in self._group["data"].attrs.get("columns", ()))

    @property
    def parameters(self) -> Mapping[str, str | int | float]:
        """Settings of the pipeline step that made it."""
        values = {n: item[()] for n, item in self._group.parent.get("parameters", {}).items()}
        return {
            name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value.item()
            for name, value in values.items()
        }

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.data, dtype)

    def __repr__(self) -> str:
        axes = ", ".join(f"{a.name}/{a.units}" if a.units else a.name for a in self.axes)
        size = " x ".join(str(side) for side in self.shape) or "one value"
        return f"<result {self.name}: {size}{f' ({axes})' if axes else ''}, process {self.process}>"


def stored_results(file: Any, stack: str) -> Iterator[StoredResult]:
    """Results of a stack, or of the entry, of which at least a part was written, earliest first.

    Parameters
    ----------
    file : h5py.File
        An open run file.
    stack : str
        Such as ``series_001``.

    Yields
    ------
    StoredResult
        Their arrays are not read yet.
    """
    group = file[stack]
    for process in sorted(name for name in group if _NUMBERED.fullmatch(name)):
        for name, result in group[process].items():
            if result.attrs.get("NX_class") != "NXdata" or "data" not in result:
                continue
            data = result["data"]
            if _is_written(data, group[process]):
                number = int(process.removeprefix("process_"))
                yield StoredResult(name, number, data.name, data.shape, result)


def last_process(file: Any, group: str) -> int:
    """Highest number of an NXprocess group of a stack, or of the entry; 0 if there is none."""
    found = [_NUMBERED.fullmatch(name) for name in file[group]]
    return max((int(match[1]) for match in found if match is not None), default=0)


def _units(dataset: Any) -> str:
    return str(dataset.attrs.get("units", ""))


def _is_written(data: Any, process: Any) -> bool:
    if data.chunks is not None:
        return data.id.get_num_chunks() > 0
    if data.shape == () and data.dtype.kind == "f":
        return bool(np.isfinite(data[()]))  # planned as NaN
    if data.shape == ():
        return "date" in process and bool(process["date"][()])  # comes with the first value
    return bool(data.id.get_storage_size())
