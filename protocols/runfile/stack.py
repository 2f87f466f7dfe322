"""A stack of frames in an open run file: tilt series, reference frames or ramp; lazy."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput
from ..messages.manifest import StackKind
from . import layout
from .frames import Frames, read_outliers
from .logs import utc_of
from .recorded_atoms import ATOMS, RecordedAtoms
from .references import StackReferences, references_of
from .results import StoredResult, last_process, stored_results
from .tracking_columns import SeriesTracking, tracking_of
from .tree.scout_pictures import RecordedScouts, scouts_of

Floats = NDArray[np.float64]

_KINDS: tuple[StackKind, ...] = ("series", "reference", "ramp", "dark")
_POLL_S = 0.1


class NotRecorded(BadInput):
    """A frame that did not appear in a growing file in time."""


class Stack:
    """One stack of frames of an open run file.

    Columns are read when they are used for the first time, and in a growing file every time.

    Parameters
    ----------
    file : h5py.File
        The open file.
    where : str
        Name of the file, for messages.
    name : str
        Such as ``series_001``.
    growing : bool
        Whether the file may grow.

    Attributes
    ----------
    name : str
        Name in the file.
    kind : str
        ``series``, ``reference``, ``ramp`` or ``dark``.
    """

    def __init__(self, file: Any, where: str, name: str, growing: bool = False) -> None:
        self._file, self._where, self._growing = file, where, growing
        self.name = name
        kinds: list[StackKind] = [kind for kind in _KINDS if name.startswith(f"{kind}_")]
        self.kind: StackKind = kinds[0] if kinds else "series"
        self._columns: dict[str, NDArray[Any]] = {}

    def __repr__(self) -> str:
        count, (rows, columns) = self.frame_count, self.frame_shape
        recorded = int(self.recorded.sum())
        shown = f"{count} frames" if recorded == count else f"{recorded} of {count} frames"
        text = f"{self.name}: {shown} of {rows} x {columns}"
        if self.kind == "series" and np.isfinite(self.tilt_deg).any():
            text += f", {np.nanmin(self.tilt_deg):+.1f} to {np.nanmax(self.tilt_deg):+.1f} deg"
        names = ", ".join(self.results)
        return text + (f"; results {names}" if names else "")

    def check(self) -> None:
        """Make sure that there is one angle and one image key for each frame.

        Raises
        ------
        BadInput
            If not: such a file was not written by this software.
        """
        for what, path in (
            ("angles", layout.column_path(self.name, "tilt_deg")),
            ("image keys", layout.image_key_path(self.name)),
        ):
            size = self._file[path].size
            if self._file[path].shape != (self.frame_count,):
                raise BadInput(
                    f"{self._where}: {self.name}",
                    f"has {self.frame_count} frames and {size} {what}; it needs one for each "
                    "frame (`pyrotome import` takes the frames with a list of angles)",
                )

    # --- frames ---------------------------------------------------------------------------------

    @cached_property
    def frames(self) -> Frames:
        """Frames in the detector's values, read when indexed; `frames.raw` is the dataset."""
        dataset = self._file[layout.frames_path(self.name)]
        outliers = read_outliers(self._file, self.name)
        return Frames(dataset, self.value_offset, self.value_scale, outliers)

    @cached_property
    def frame_count(self) -> int:
        """Frames that were planned."""
        return int(self._file[layout.frames_path(self.name)].shape[0])

    @cached_property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        _, rows, columns = self._file[layout.frames_path(self.name)].shape
        return rows, columns

    @property
    def recorded(self) -> NDArray[np.bool_]:
        """Which frames are in the file, shape (frames,)."""
        return self._read(layout.image_key_path(self.name)) == layout.key_of_recorded(self.name)

    @property
    def exposed(self) -> NDArray[np.bool_]:
        """Which frames were exposed, whether they are in the file or lost, shape (frames,)."""
        recorded = self.recorded
        time_s = self.time_s
        return recorded | np.isfinite(time_s) if time_s.size else recorded

    @cached_property
    def value_offset(self) -> int:
        """What was added to every value before it was recorded."""
        return int(self._file[layout.value_offset_path(self.name)][()])

    @cached_property
    def value_scale(self) -> float:
        """Size of one recorded step: value = (recorded - offset) * scale."""
        path = layout.value_scale_path(self.name)
        return float(self._file[path][()]) if path in self._file else 1.0

    @cached_property
    def marked_value(self) -> float | None:
        """Value of a pixel that the detector has not measured; None where none is marked so."""
        path = layout.saturation_path(self.name)
        if path not in self._file:
            return None
        return (int(self._file[path][()]) + 1 - self.value_offset) * self.value_scale

    @cached_property
    def tilt_axis_deg(self) -> float | None:
        """Direction of the tilt axis as the rig or the imported file told it; None if not told."""
        told = self._file[f"/{self.name}"].attrs.get(layout.TILT_AXIS)
        value = math.nan if told is None else float(np.ravel(told)[0])
        return value if math.isfinite(value) else None

    @cached_property
    def pixel_nm(self) -> float:
        """Sampling in nm."""
        return float(self._file[f"/{self.name}/instrument/detector/x_pixel_size"][()])

    def frame_values(self, index: int) -> NDArray[np.float32]:
        """One frame in the detector's values, in single precision, shape (rows, columns)."""
        if self.frames.dtype == np.float32:
            return self.frames[index]
        return np.subtract(self.frames.raw[index], self.value_offset, dtype=np.float32)

    @cached_property
    def references(self) -> StackReferences | None:
        """Mean dark and flat frame that came with an imported series; None without."""
        return references_of(self._file, self.name)

    def wait_for_frame(self, index: int, timeout_s: float) -> NDArray[Any]:
        """One frame of a growing file as recorded, as soon as the recorder has written it.

        Parameters
        ----------
        index : int
            Index in the stack, from 0.
        timeout_s : float
            Longest wait in seconds of wall time.

        Returns
        -------
        ndarray of shape (rows, columns)
            As recorded, in the type of the file.

        Raises
        ------
        NotRecorded
            If the frame does not appear in time.
        """
        end_s = time.monotonic() + timeout_s
        keys = self._file[layout.image_key_path(self.name)]
        while True:
            if self._growing:
                keys.refresh()
            if keys[index] == layout.key_of_recorded(self.name):
                break
            if time.monotonic() > end_s:
                raise NotRecorded(
                    self._where, f"{self.name} frame {index} did not appear within {timeout_s:g} s"
                )
            time.sleep(_POLL_S)
        if self._growing:
            self.frames.raw.refresh()
        return np.asarray(self.frames.raw[index])

    # --- one value a frame ----------------------------------------------------------------------

    @property
    def tilt_deg(self) -> Floats:
        """Tilt angles read back, NaN where not known, shape (frames,)."""
        return self.column("tilt_deg")

    @property
    def nominal_tilt_deg(self) -> Floats:
        """Requested tilt angles; the angle read back where none was requested, shape (frames,)."""
        nominal, tilt = self.column("nominal_tilt_deg"), self.tilt_deg
        if not nominal.size:
            return tilt
        return np.where(np.isfinite(nominal), nominal, tilt)

    @property
    def temperature_c(self) -> Floats:
        """Temperature at mid-exposure in degC, shape (frames,)."""
        return self.column("temperature_c")

    @property
    def dose_e_per_nm2(self) -> Floats:
        """Dose of each frame in electrons per nm^2, shape (frames,)."""
        return self.column("dose_e_per_nm2")

    @property
    def dose_total_e_per_nm2(self) -> Floats:
        """Dose since the run began, after each frame, in electrons per nm^2, shape (frames,)."""
        return self.column("dose_total_e_per_nm2")

    @property
    def exposure_s(self) -> Floats:
        """Exposure times in seconds, shape (frames,)."""
        return self.column("exposure_s")

    @property
    def time_s(self) -> Floats:
        """Moment of each exposure in seconds since the start of the run, shape (frames,)."""
        return self.column(layout.TIME_COLUMN.key)

    @property
    def time_utc(self) -> NDArray[np.datetime64]:
        """Moment of each exposure in UTC, NaT where not known, shape (frames,)."""
        time_s = self.time_s
        if not time_s.size:
            return utc_of(time_s, 0)
        dataset = self._file[layout.column_path(self.name, layout.TIME_COLUMN.key)]
        return utc_of(time_s, int(dataset.attrs["start_ns"]))

    def column(self, key: str) -> NDArray[Any]:
        """One value a frame by the key of the frame's header, see `layout.COLUMNS`.

        Parameters
        ----------
        key : str
            Such as ``tilt_deg`` or ``frame_number``.

        Returns
        -------
        ndarray of shape (frames,)
            Empty where the file does not have the column.
        """
        return self._read(layout.column_path(self.name, key))

    @property
    def tracking(self) -> SeriesTracking | None:
        """Where the beam was and where the specimen was, frame by frame; None if not tracked."""
        return tracking_of(self._read, self.name)

    @property
    def scouts(self) -> RecordedScouts | None:
        """Scouts before its frames, with their pictures; None where none was taken."""
        return scouts_of(self._file, self.name, self._growing)

    @property
    def views_deg(self) -> tuple[float, ...]:
        """Different requested angles, in the order of their first exposure."""
        return tuple(dict.fromkeys(round(float(angle), 6) for angle in self.nominal_tilt_deg))

    @property
    def started_s(self) -> float:
        """When its first frame was exposed, as `time_s`; infinite where that is not known."""
        time_s = self.time_s
        return float(np.min(time_s, where=np.isfinite(time_s), initial=np.inf))

    # --- results --------------------------------------------------------------------------------

    def all_results(self) -> list[StoredResult]:
        """Every result that pipelines have left for the stack, earliest first."""
        return list(stored_results(self._file, self.name))

    @property
    def results(self) -> Mapping[str, StoredResult]:
        """Newest result of each name."""
        return {result.name: result for result in self.all_results()}

    def result(self, name: str) -> StoredResult:
        """Newest result of one name.

        Parameters
        ----------
        name : str
            Such as ``volume`` or ``necks``.

        Returns
        -------
        StoredResult
            With its array, axes, units and the parameters of the step that made it.

        Raises
        ------
        BadInput
            If there is none; the message names those that are there.
        """
        results = self.results
        if name not in results:
            names = ", ".join(results) or "no results"
            raise BadInput(f"{self._where}: {self.name}", f"has no result '{name}'; it has {names}")
        return results[name]

    @property
    def atoms(self) -> RecordedAtoms | None:
        """Newest atoms of the series, with their errors; None where none were looked for.

        Raises
        ------
        BadInput
            If another version has written them with other columns.
        """
        stored = self.results.get(ATOMS)
        where = f"{self._where}: {self.name}"
        return None if stored is None else RecordedAtoms.of(stored, where)

    @property
    def last_process(self) -> int:
        """Highest number of an NXprocess group; 0 if there is none."""
        return last_process(self._file, self.name)

    def _read(self, path: str) -> NDArray[Any]:
        if not self._growing and path in self._columns:
            return self._columns[path]
        if path not in self._file:
            return np.empty(0)
        dataset = self._file[path]
        if self._growing:
            dataset.refresh()
        values = np.asarray(dataset[...])
        self._columns[path] = values
        return values
