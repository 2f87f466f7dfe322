"""The one reader of run files: ``pyrotome.open`` and every command that reads a run."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ..config.pipeline import RUN_RESULTS
from ..core.errors import BadInput
from ..core.units import fluence_unit
from ..messages.manifest import Interruption, RunManifest
from . import layout
from .file_state import open_hdf5
from .holds import Hold, heater_log, hold_total_s, holds_of, interruptions_of
from .logs import Channel, DeviceLog, RecordedEvent, Telemetry, events_of
from .recorded_atoms import RecordedAtoms
from .results import Axis, StoredResult, last_process, stored_results
from .stack import Floats, Frames, NotRecorded, Stack
from .steering_table import read_table
from .tree.scout_layout import account_of, is_scouts
from .tree.scout_pictures import RecordedScouts, scouts_of

__all__ = [
    "Axis",
    "Channel",
    "DeviceLog",
    "Floats",
    "Frames",
    "Hold",
    "NotRecorded",
    "RecordedAtoms",
    "RecordedEvent",
    "RecordedScouts",
    "Run",
    "SeriesTable",
    "Stack",
    "StoredResult",
    "Telemetry",
    "open_run",
]  # fmt: skip

# What h5py raises where a file is damaged.
HDF5_ERRORS = (KeyError, OSError, RuntimeError)


def open_run(path: str | os.PathLike[str], growing: bool = False) -> Run:
    """Open a run file for reading.

    Parameters
    ----------
    path : str or path
        The file.
    growing : bool
        Also open a file while it is recorded, or one that a killed program has left open. What is
        read then is what the file holds at that moment.

    Returns
    -------
    Run
        Close it after use, or use it in a ``with`` statement.

    Raises
    ------
    BadInput
        A `ValueError` that says what is wrong: the file is missing, is not a run file, is damaged,
        or is not closed and `growing` is false.

    Examples
    --------
    >>> import pyrotome
    >>> with pyrotome.open("run.nxs") as run:  # doctest: +SKIP
    ...     volume = run.series[1].result("volume").data
    """
    path = Path(path)
    file = open_hdf5(path, growing)
    try:
        run = Run(file, path)
        if not growing:
            with run.reading():
                for stack in run.stacks.values():
                    stack.check()
    except BaseException:
        file.close()
        raise
    return run


class SeriesTable(Collection[Stack]):
    """Tilt series of a run: by their number in the file, which begins at 1, or by their name.

    Parameters
    ----------
    stacks : sequence of Stack
        Tilt series in the order of the file.
    where : str
        Name of the file, for messages.
    """

    def __init__(self, stacks: Sequence[Stack], where: str) -> None:
        self._stacks = {stack.name: stack for stack in stacks}
        self._where = where

    def __getitem__(self, key: int | str) -> Stack:
        """One series by number or name; raises BadInput naming those that are there."""
        name = f"series_{key:03d}" if isinstance(key, int) else str(key)
        if name not in self._stacks:
            names = ", ".join(self._stacks) or "no tilt series"
            raise BadInput(self._where, f"has no {name}; it has {names}")
        return self._stacks[name]

    def __iter__(self) -> Iterator[Stack]:
        return iter(self._stacks.values())

    def __contains__(self, key: object) -> bool:
        return key in self._stacks or key in self._stacks.values()

    def __len__(self) -> int:
        return len(self._stacks)

    def __repr__(self) -> str:
        return "\n".join(repr(stack) for stack in self) or "no tilt series"


class Run:
    """An open run file.

    Arrays are read when they are used. Times are in seconds since the start of the run.

    Parameters
    ----------
    file : h5py.File
        Open for reading.
    path : Path
        Where it is, for messages.
    """

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self.path = file, path

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was read stays."""
        self._file.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what h5py raises on damage into a BadInput that names the file."""
        try:
            yield
        except BadInput:
            raise
        except HDF5_ERRORS as error:
            raise BadInput(
                str(self.path), f"is a damaged or unfinished run file: {error}"
            ) from error

    def __repr__(self) -> str:
        if not self._file:
            return f"<run file {self.path.name}, closed>"
        dose = self.dose_e_per_nm2
        unit = fluence_unit(dose or 0.0)
        parts = [
            f"{self.path.name}: {self.title or 'untitled'} ({self.status})",
            f"  started {self.started}, {self.software}",
            *(f"  {stack!r}" for stack in self.stacks.values()),
            f"  {len(self.holds)} holds, {self.event_count} events, "
            + ("dose not known" if dose is None else f"{unit.of(dose):.1f} {unit.name}"),
            f"  telemetry of {', '.join(self.telemetry) or 'no device'}",
        ]
        return "\n".join(parts)

    # --- the run --------------------------------------------------------------------------------

    @property
    def steering(self) -> dict[str, Any] | None:
        """Table of adaptive holds by column, each of shape (rows,); None where there are none."""
        with self.reading():
            return read_table(self._file)

    @property
    def title(self) -> str | None:
        """Title of the recipe."""
        return self.text(f"{layout.ENTRY}/title")

    @property
    def status(self) -> str | None:
        """``running``, ``complete``, ``aborted``, ``failed`` or ``interrupted``."""
        return self.text(layout.STATUS)

    @property
    def reason(self) -> str | None:
        """Why the run ended as it did; None where nothing was recorded of it."""
        return self.text(layout.REASON)

    @property
    def started(self) -> str | None:
        """Start of the run in UTC, as ISO 8601 text."""
        return self.text(f"{layout.ENTRY}/start_time")

    @property
    def software(self) -> str | None:
        """Program and version that recorded the file."""
        return self.text(f"{layout.RUN}/software")

    @property
    def recipe_text(self) -> str | None:
        """The recipe as it was written (YAML); None for an imported series."""
        return self.text(layout.RECIPE_TEXT)

    @cached_property
    def manifest(self) -> RunManifest | None:
        """What was fixed when the run began; None for an imported series.

        Raises
        ------
        BadInput
            If it cannot be understood.
        """
        text = self.text(layout.MANIFEST)
        if text is None:
            return None
        try:
            return RunManifest.model_validate_json(text)
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise BadInput(f"{self.path}: {layout.MANIFEST}", f"is not readable: {what}") from None

    @property
    def results(self) -> Mapping[str, StoredResult]:
        """Newest result of each name that concerns the run as a whole."""
        return {result.name: result for result in stored_results(self._file, RUN_RESULTS)}

    @property
    def last_process(self) -> int:
        """Highest number of an NXprocess group of such results; 0 if there is none."""
        return last_process(self._file, RUN_RESULTS)

    @property
    def dose_e_per_nm2(self) -> float | None:
        """Dose of the whole run in electrons per nm^2; None where it is not known."""
        total = self.values(layout.DOSE_TOTAL)
        if total.size and np.isfinite(total):
            return float(total)
        log = self.values(f"{layout.DOSE}/value")
        log = log[np.isfinite(log)]
        return float(log[-1]) if log.size else None

    @property
    def interruptions(self) -> list[Interruption]:
        """Times in which the experiment was not controlled, in order."""
        return interruptions_of(self._file)

    @property
    def events(self) -> list[RecordedEvent]:
        """Events of the run, in the order in which they were recorded."""
        return events_of(self._file)

    @property
    def event_count(self) -> int:
        """Number of events, without reading them."""
        path = f"{layout.EVENTS}/time"
        return len(self._file[path]) if path in self._file else 0

    # --- heat -----------------------------------------------------------------------------------

    @property
    def telemetry(self) -> Telemetry:
        """Logs by device and channel, such as ``telemetry["heater"]["temperature_c"]``."""
        return Telemetry(self._file)

    @property
    def holds(self) -> list[Hold]:
        """Holds in the order of the recipe, measured from the log of the heater."""
        return holds_of(self._file)

    @cached_property
    def hold_totals_s(self) -> dict[str, float | None]:
        """Time at processing temperature before each stack; None where it is not known."""
        measured = self.holds
        return {name: hold_total_s(self._file, name, measured) for name in self.stacks}

    def heater_temperature(self) -> tuple[Floats, Floats, int]:
        """Temperature log of the heater in order of time, without gaps in its numbers.

        Returns
        -------
        time_s, temperature_c : ndarray of shape (samples,)
            Empty where there is none.
        start_ns : int
            The zero of that time, in UTC nanoseconds.
        """
        return heater_log(self._file)

    def heater_channels(self) -> DeviceLog:
        """Every channel of the heater's log.

        Raises
        ------
        BadInput
            If there is none.
        """
        if not self.telemetry.get(layout.HEATER):
            raise BadInput(str(self.path), "holds no log of a heater")
        return self.telemetry[layout.HEATER]

    # --- frames ---------------------------------------------------------------------------------

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """Tilt series, reference frames and ramps by name."""
        file = self._file
        names = sorted(name for name in file if layout.frames_path(name) in file)
        growing = bool(file.swmr_mode)
        return {name: Stack(file, str(self.path), name, growing) for name in names}

    @cached_property
    def series(self) -> SeriesTable:
        """Tilt series, by number from 1 or by name."""
        return SeriesTable([s for s in self.stacks.values() if s.kind == "series"], str(self.path))

    @property
    def scouts(self) -> dict[str, RecordedScouts]:
        """Scouts by what they were taken for: a series, or a calibration such as height_001."""
        file, growing = self._file, bool(self._file.swmr_mode)
        names = [account_of(name) for name in file if is_scouts(name)]
        found = {name: scouts_of(file, name, growing) for name in names}
        return {name: scouts for name, scouts in found.items() if scouts is not None}

    def one_series(self, number: int | None) -> Stack:
        """Find the tilt series that a command names.

        Parameters
        ----------
        number : int or None
            Its number from 1; None where the file holds only one.

        Raises
        ------
        BadInput
            If there is no such series, or the file holds several and no number is given.
        """
        every = self.every_series()
        if number is not None:
            if f"series_{number:03d}" not in self.series:
                names = ", ".join(stack.name for stack in every)
                problem = f"{self.path} has no series_{number:03d}; it has {names}"
                raise BadInput("--series", problem)
            return self.series[number]
        if len(every) > 1:
            raise BadInput(
                str(self.path),
                f"holds {len(every)} tilt series ({every[0].name} to {every[-1].name}); choose one "
                "with --series N",
            )
        return every[0]

    def every_series(self) -> list[Stack]:
        """All tilt series, in their order.

        Raises
        ------
        BadInput
            If there is none.
        """
        if not self.series:
            raise BadInput(str(self.path), "holds no tilt series")
        return list(self.series)

    # --- by path --------------------------------------------------------------------------------

    def text(self, path: str) -> str | None:
        """A text of the file.

        Parameters
        ----------
        path : str
            Of a dataset, see `layout`.

        Returns
        -------
        str or None
            None where it is absent or empty.
        """
        if path not in self._file:
            return None
        value = self._file[path][()]
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return text.rstrip("\0") or None

    def values(self, path: str) -> NDArray[Any]:
        """A whole dataset.

        Parameters
        ----------
        path : str
            Of a dataset, see `layout`.

        Returns
        -------
        ndarray
            Empty where it is absent.
        """
        return np.asarray(self._file[path][()]) if path in self._file else np.empty(0)
