"""What a run file holds, measured from what was recorded; reads only, also while the file grows."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # pyright: ignore[reportUnusedImport]  # noqa: F401 - registers the results' filter
import numpy as np
from numpy.typing import NDArray

from ..config.pipeline import NECK_COLUMNS
from ..core.errors import BadInput
from . import layout, superblock
from .holds import Hold, hold_total_s, holds_of, interruptions_of
from .transaction import redo_path
from .writer_lock import is_written

Floats = NDArray[np.float64]


def is_left_open(path: Path) -> bool:
    """Whether a file was being written by a program that is no more, or an edit was cut short."""
    try:
        with path.open("rb") as raw:
            block = superblock.parse(raw.read(superblock.SIZE))
    except (OSError, superblock.BadSuperblock):
        return False
    return redo_path(path).exists() or (block.left_open and not is_written(path))


def inspect_file(path: Path) -> dict[str, Any]:
    """Report what a run file holds.

    Parameters
    ----------
    path : Path
        A file of this software, complete, cut short or still growing.

    Returns
    -------
    dict
        The object that ``inspect --json`` prints; absent things are None.

    Raises
    ------
    BadInput
        If the file is missing, cannot be read, or is none of ours.
    """
    with _reading(path) as file:
        return report_of(file)


def inspect_closely(path: Path) -> tuple[dict[str, Any], list[SeriesFigures]]:
    """Report what a run file holds, with more of its series.

    Parameters
    ----------
    path : Path
        As for :func:`inspect_file`.

    Returns
    -------
    report : dict
        As :func:`inspect_file`.
    figures : list of SeriesFigures
        In the order of the series.

    Raises
    ------
    BadInput
        As :func:`inspect_file`.
    """
    with _reading(path) as file:
        stacks = _stacks(file)
        figures = [SeriesFigures.of(stack) for stack in stacks if stack.is_series]
        return _report(file, stacks), figures


def report_of(file: Any) -> dict[str, Any]:
    """Report what an open run file holds, as :func:`inspect_file`."""
    return _report(file, _stacks(file))


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    file = _open(path)
    try:
        yield file
    except (KeyError, OSError, RuntimeError) as error:
        raise BadInput(str(path), f"is a damaged or unfinished run file: {error}") from error
    finally:
        file.close()


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as raw:
            head = raw.read(superblock.SIZE)
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except IsADirectoryError:
        raise BadInput(str(path), "is a folder; name a run file") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    if not h5py.is_hdf5(path):
        raise BadInput(str(path), "is not an HDF5 file, so it is no run file")
    # The mark of a SWMR writer. A file opens as SWMR only where there is (or was) one: HDF5 would
    # otherwise read a damaged spot again and again, for minutes, in the hope that it gets better.
    growing = False
    with suppress(superblock.BadSuperblock):
        growing = bool(superblock.parse(head).flags & superblock.OPEN_FOR_SWMR)
    try:
        file: Any = h5py.File(path, "r", swmr=growing)
    except OSError as error:
        if is_left_open(path):
            raise BadInput(
                str(path), f"was left open by a killed program; run `pyrotome recover {path}`"
            ) from None
        raise BadInput(str(path), f"HDF5 cannot open it: {error}") from None
    if layout.STATUS not in file or f"{layout.ENTRY}/title" not in file:
        file.close()
        raise BadInput(str(path), f"is HDF5 but no run file: it has no {layout.STATUS}")
    return file


def _stacks(file: Any) -> list[_Stack]:
    names = sorted(name for name in file if layout.frames_path(name) in file)
    return [_Stack(file, name) for name in names]


def _report(file: Any, stacks: Sequence[_Stack]) -> dict[str, Any]:
    holds = holds_of(file)
    dose = _number(file[layout.DOSE_TOTAL][()]) if layout.DOSE_TOTAL in file else None
    if dose is None:
        dose = _last(_values(file, f"{layout.DOSE}/value"))
    return {
        "title": _text(file, f"{layout.ENTRY}/title"),
        "status": _text(file, layout.STATUS),
        "started": _text(file, f"{layout.ENTRY}/start_time"),
        "software": _text(file, f"{layout.RUN}/software"),
        "frames": sum(stack.recorded for stack in stacks),
        "lost_frames": sum(stack.lost for stack in stacks),
        "dose_e_per_nm2": dose,
        "events": len(_values(file, f"{layout.EVENTS}/time")),
        "holds": [_hold_report(hold) for hold in holds],
        "series": [stack.report(holds) for stack in stacks if stack.is_series],
        "interruptions": [
            interruption.model_dump(include={"from_ns", "until_ns", "hot_s", "reason"})
            for interruption in interruptions_of(file)
        ],
    }


class _Stack:
    """One group of frames, as far as it was recorded."""

    def __init__(self, file: Any, name: str) -> None:
        self.name, self._file = name, file
        self.is_series = _text(file, f"/{name}/definition") == "NXtomo"
        there = _values(file, layout.image_key_path(name)) == layout.RECORDED
        stamped = np.isfinite(_values(file, layout.column_path(name, "t_ns")))
        self.recorded, self.lost = int(there.sum()), int((stamped & ~there).sum())
        self._there, self._stamped = there, stamped | there
        self.planned = there.size

    def report(self, holds: Sequence[Hold]) -> dict[str, Any]:
        temperature = self._column("temperature_c")[self._there]
        temperature = temperature[np.isfinite(temperature)]
        tilt = self._column("tilt_deg")[self._there]
        dose = self._column("dose_e_per_nm2")[self._stamped]
        return {
            "name": self.name,
            "frames": self.recorded,
            "lost_frames": self.lost,
            "tilt_deg": [_number(angle) for angle in tilt],
            "shape": list(self._file[layout.frames_path(self.name)].shape[1:]),
            "temperature_mean_c": float(temperature.mean()) if temperature.size else None,
            "temperature_std_c": float(temperature.std()) if temperature.size else None,
            "dose_e_per_nm2": _sum(dose),
            "hold_total_s": hold_total_s(self._file, self.name, holds),
            "results": list(self.newest),
        }

    def _column(self, key: str) -> Floats:
        return _values(self._file, layout.column_path(self.name, key))

    @property
    def missing_deg(self) -> list[float]:
        """Asked angles of the frames that are not there."""
        return [float(angle) for angle in self._column("nominal_tilt_deg")[~self._there]]

    @property
    def newest(self) -> dict[str, Any]:
        """Newest group of each result of which at least a part was written, by name."""
        stack = self._file[self.name]
        found: dict[str, Any] = {}
        for process in sorted(name for name in stack if name.startswith("process_")):
            for name, group in stack[process].items():
                is_data = group.attrs.get("NX_class") == "NXdata" and "data" in group
                if is_data and _is_written(group["data"]):
                    found[name] = group
        return found


def _hold_report(hold: Hold) -> dict[str, Any]:
    figures = hold.figures
    return {
        "index": hold.index,
        "target_c": hold.target_c,
        "requested_s": hold.requested_s,
        "achieved_s": figures.achieved_s if figures else None,
        "median_c": figures.median_c if figures else None,
        "max_c": figures.max_c if figures else None,
    }


@dataclass(frozen=True)
class SeriesFigures:
    """More of one series than its report: its gaps, and what its newest results show.

    Attributes
    ----------
    series : str
        Its name.
    planned : int
        Frames that were to be taken.
    missing_deg : list of float
        Asked angles of those that are not there.
    volume_px : tuple of int or None
        Shape of the volume, (y, z, x).
    voxel_nm : float or None
        Side of its voxels.
    pairs : int or None
        Pairs of particles with a neck.
    neck_to_particle, distance_to_diameter : float or None
        Medians of r_n/r_p and d/2r_p over the pairs; None, as the others, where there is no result.
    """

    series: str
    planned: int
    missing_deg: list[float]
    volume_px: tuple[int, ...] | None = None
    voxel_nm: float | None = None
    pairs: int | None = None
    neck_to_particle: float | None = None
    distance_to_diameter: float | None = None

    @classmethod
    def of(cls, stack: _Stack) -> SeriesFigures:
        """Read them from the file."""
        found: dict[str, Any] = {}
        newest = stack.newest
        volume, necks = newest.get("volume"), newest.get("necks")
        if volume is not None:
            found["volume_px"] = volume["data"].shape
            along = volume["x"][...] if "x" in volume else ()
            found["voxel_nm"] = float(along[1] - along[0]) if len(along) > 1 else None
        if necks is not None and necks["data"].shape[1:] == (len(NECK_COLUMNS),):
            table = necks["data"][...]
            table = table[np.isfinite(table[:, 0])]
            found["pairs"] = len(table)
            for name in ("neck_to_particle", "distance_to_diameter") if len(table) else ():
                found[name] = float(np.median(table[:, NECK_COLUMNS.index(name)]))
        return cls(stack.name, stack.planned, stack.missing_deg, **found)


def _is_written(data: Any) -> bool:
    if data.chunks is None:
        return bool(data.id.get_storage_size())
    return data.id.get_num_chunks() > 0


def _values(file: Any, path: str) -> Any:
    return file[path][...] if path in file else np.empty(0)


def _text(file: Any, path: str) -> str | None:
    if path not in file:
        return None
    value = file[path][()]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text or None


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _sum(values: Floats) -> float | None:
    """Sum of what is known; None if there is something and nothing of it is known."""
    return None if values.size and np.isnan(values).all() else float(np.nansum(values))


def _last(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else None
