"""Read finished run files: their stacks of frames, results and logs."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin  # pyright: ignore[reportUnusedImport]  # noqa: F401 - registers the frames' filter
import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput
from ..messages.manifest import StackKind
from . import holds, layout, superblock
from .transaction import redo_path
from .writer_lock import is_written

Floats = NDArray[np.float64]

_KINDS: tuple[StackKind, ...] = ("series", "reference", "ramp")


@dataclass(frozen=True)
class Stack:
    """One stack of frames as it was recorded.

    Attributes
    ----------
    name, kind : str
        Such as ``series_001``; ``series``, ``reference`` or ``ramp``.
    frames, shape : int, (rows, columns)
        How many frames were planned, and their size.
    there : ndarray of bool, shape (frames,)
        Which of them were recorded.
    tilt_deg, nominal_tilt_deg : ndarray of shape (frames,)
        Angles read back and asked, NaN where unknown.
    pixel_nm : float
        Sampling.
    begun_s : float
        When the first of them was exposed, in the file's time; infinite where unknown.
    value_offset, value_scale : int, float
        value = (recorded - value_offset) * value_scale.
    """

    name: str
    kind: StackKind
    frames: int
    shape: tuple[int, int]
    there: NDArray[np.bool_]
    tilt_deg: Floats
    nominal_tilt_deg: Floats
    pixel_nm: float
    begun_s: float
    value_offset: int
    value_scale: float

    @property
    def asked_deg(self) -> tuple[float, ...]:
        """Asked angles; one that is not known is taken from what was read back."""
        known = np.isfinite(self.nominal_tilt_deg)
        return tuple(float(a) for a in np.where(known, self.nominal_tilt_deg, self.tilt_deg))

    @property
    def views_deg(self) -> tuple[float, ...]:
        """Different asked angles, in the order of their first exposure."""
        return tuple(dict.fromkeys(round(angle, 6) for angle in self.asked_deg))


@dataclass(frozen=True)
class StoredResult:
    """A result in the file; `axes` are its axes' names, values and units."""

    name: str
    process: int
    path: str
    shape: tuple[int, ...]
    axes: tuple[tuple[str, Floats, str], ...]


class RunReader:
    """A run file that nobody writes any more.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    BadInput
        If it is missing, damaged, no run file, or still being written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_at_rest(path)
        try:
            self._file: Any = h5py.File(path, "r")
        except OSError as error:
            raise BadInput(str(path), f"HDF5 cannot open it: {error}") from None
        try:
            if layout.STATUS not in self._file:
                raise BadInput(
                    str(path),
                    f"is HDF5 but no run file: it has no {layout.STATUS} (`pyrotome import` "
                    "makes one of a tilt series from elsewhere)",
                )
            names = [name for name in self._file if layout.frames_path(name) in self._file]
            self.stacks = {name: self._stack(name) for name in sorted(names)}
        except (KeyError, OSError, RuntimeError) as error:
            self.close()
            raise BadInput(str(path), f"is a damaged run file: {error}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def text(self, path: str) -> str:
        """A text in the file; empty where there is none."""
        if path not in self._file:
            return ""
        value = self._file[path][()]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def series(self, number: int | None) -> Stack:
        """Find one tilt series by its number; None asks for the only one.

        Raises
        ------
        BadInput
            If there is none such, or the file holds several.
        """
        names = [stack.name for stack in self.every_series()]
        if number is None:
            if len(names) > 1:
                raise BadInput(
                    str(self.path),
                    f"holds {len(names)} tilt series ({names[0]} to {names[-1]}); "
                    "say which one with --series N",
                )
            return self.stacks[names[0]]
        name = f"series_{number:03d}"
        if name not in names:
            raise BadInput("--series", f"{self.path} has no {name}; it has {', '.join(names)}")
        return self.stacks[name]

    def every_series(self) -> list[Stack]:
        """All tilt series, in their order.

        Raises
        ------
        BadInput
            If there is none.
        """
        found = [stack for stack in self.stacks.values() if stack.kind == "series"]
        if not found:
            raise BadInput(str(self.path), "holds no tilt series")
        return found

    @cached_property
    def hold_totals_s(self) -> dict[str, float | None]:
        """Time at processing temperature before each stack; None where it is not known."""
        measured = holds.holds_of(self._file)
        return {name: holds.hold_total_s(self._file, name, measured) for name in self.stacks}

    def frame(self, stack: Stack, index: int) -> NDArray[Any]:
        """One frame as recorded, shape (rows, columns)."""
        return np.asarray(self._file[layout.frames_path(stack.name)][index])

    def values(self, stack: Stack, index: int) -> NDArray[np.float32]:
        """One frame in the values that the detector gave, shape (rows, columns)."""
        frame = self.frame(stack, index)
        if stack.value_scale == 1:
            return np.subtract(frame, stack.value_offset, dtype=np.float32)
        # The offset of a narrow range far from zero is long; single precision would round it.
        steps = np.subtract(frame, stack.value_offset, dtype=np.float64)
        return (steps * stack.value_scale).astype(np.float32)

    def results(self, stack: Stack) -> list[StoredResult]:
        """Everything that pipelines left for a stack, earliest first."""
        found: list[StoredResult] = []
        group = self._file[stack.name]
        for process in sorted(name for name in group if name.startswith("process_")):
            for name, result in group[process].items():
                if result.attrs.get("NX_class") != "NXdata" or "data" not in result:
                    continue
                data = result["data"]
                if data.chunks is not None and not data.id.get_num_chunks():
                    continue  # planned, never written
                axes = tuple(
                    (str(axis), np.asarray(result[axis][...]), _units(result[axis]))
                    for axis in result.attrs.get("axes", ())
                )
                number = int(process.removeprefix("process_"))
                found.append(StoredResult(name, number, data.name, data.shape, axes))
        return found

    def newest(self, stack: Stack, name: str) -> StoredResult | None:
        """Newest result of one name."""
        return next((r for r in reversed(self.results(stack)) if r.name == name), None)

    def read(self, path: str) -> NDArray[Any]:
        """A whole dataset."""
        return np.asarray(self._file[path][...])

    def last_process(self, stack: Stack) -> int:
        """Highest number of an NXprocess group of a stack; 0 if there is none."""
        names = [name for name in self._file[stack.name] if name.startswith("process_")]
        return max((int(name.removeprefix("process_")) for name in names), default=0)

    def heater_log(self) -> tuple[Floats, dict[str, tuple[Floats, str]], int]:
        """Log of the heater.

        Returns
        -------
        time_s : ndarray of shape (samples,)
            Since the start of the file's times.
        channels : dict
            Name to values and unit.
        start_ns : int
            The start, UTC.
        """
        device = f"{layout.TELEMETRY}/{layout.HEATER}"
        logs: Mapping[str, Any] = self._file.get(device, {})
        channels = {
            name: (np.asarray(log["value"][...], np.float64), _units(log["value"]))
            for name, log in logs.items()
        }
        if not channels:
            raise BadInput(str(self.path), "holds no log of a heater")
        time = logs[next(iter(channels))]["time"]
        return np.asarray(time[...], np.float64), channels, int(time.attrs["start_ns"])

    def _stack(self, name: str) -> Stack:
        file = self._file
        frames, rows, columns = file[layout.frames_path(name)].shape
        kinds: list[StackKind] = [kind for kind in _KINDS if name.startswith(f"{kind}_")]
        tilt_deg = self.read(layout.column_path(name, "tilt_deg"))
        image_key = self.read(layout.image_key_path(name))
        for what, column in (("angles", tilt_deg), ("image keys", image_key)):
            if column.shape != (frames,):
                raise BadInput(
                    f"{self.path}: {name}",
                    f"has {frames} frames and {column.size} {what}; one for each frame is needed "
                    "(`pyrotome import` takes the frames with a list of angles)",
                )
        nominal = layout.column_path(name, "nominal_tilt_deg")
        scale = layout.value_scale_path(name)
        stamps = layout.column_path(name, "t_ns")
        stamped = self.read(stamps) if stamps in file else np.empty(0)
        return Stack(
            name=name,
            kind=kinds[0] if kinds else "series",
            frames=frames,
            shape=(rows, columns),
            there=image_key == layout.RECORDED,
            tilt_deg=tilt_deg,
            nominal_tilt_deg=self.read(nominal) if nominal in file else tilt_deg,
            pixel_nm=float(file[f"/{name}/instrument/detector/x_pixel_size"][()]),
            begun_s=float(np.min(stamped, where=np.isfinite(stamped), initial=np.inf)),
            value_offset=int(file[layout.value_offset_path(name)][()]),
            value_scale=float(file[scale][()]) if scale in file else 1.0,
        )


def _units(dataset: Any) -> str:
    return str(dataset.attrs.get("units", ""))


def check_at_rest(path: Path) -> None:
    """Refuse what is no HDF5 file, or is being written.

    Raises
    ------
    BadInput
        Saying which.
    """
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
    left_open = redo_path(path).exists()
    with suppress(superblock.BadSuperblock):
        left_open = left_open or superblock.parse(head).left_open
    if left_open and is_written(path):
        raise BadInput(str(path), "is still being written; come back when the run has ended")
    if left_open:
        raise BadInput(
            str(path),
            f"is still being written, or was left open by a killed program: if no run is under "
            f"way, run `pyrotome recover {path}`",
        )
