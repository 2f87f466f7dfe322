"""A run file while it grows: frames go in at once, small things are gathered and flushed.

Each flush stops the writer, so it is for the caller to space them out. No message and no socket
here: `recorder.py` decides what comes, this decides how it is written.
Every method that touches the disk may raise OSError and can then be called again.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...protocols.config.pipeline import ResultPlan
from ...protocols.core.chunk import Chunk
from ...protocols.core.clock import iso_utc
from ...protocols.messages.manifest import Interruption, RunManifest
from ...protocols.runfile import layout
from ...protocols.runfile.nexus import create_run_file, finalise
from ...protocols.runfile.steering_table import COLUMNS, STEERING, steering_row
from ...protocols.runfile.tracking_columns import frame_stamps
from ...protocols.storage.transaction import CHUNK_CACHE_BYTES, LIBVER
from ...protocols.storage.writer_lock import WriterLock
from .buffers import (
    BadRecord,
    HoldTimes,
    LogBuffer,
    StackBuffer,
    integer_of,
    number_of,
    whole_pages,
)
from .reopen import reopen
from .scout_record import ScoutRecord
from .tracking_record import TrackingRecord

RESERVE_BYTES = 32 << 20
# Of which so much may be used up when a run is to end on a full disk.
LAST_RESERVE_BYTES = 2 << 20


class RunFile:
    """The file of one run, in SWMR mode from the start.

    Parameters
    ----------
    path : Path
        Where; nothing may be there, unless the run is `resumed`.
    manifest : RunManifest
        What will be recorded. A resumed file keeps its own.
    resumed : Interruption, optional
        The run of the file at `path` is resumed in it, after this time without record.

    Attributes
    ----------
    frames, lost : int
        Frames in the file, and frames that were taken but are not in it.
    reserve_bytes : int
        What must stay free on the disk.
    refused : OSError or None
        What the disk said when it did not take what had been written: nothing goes in any more.

    Raises
    ------
    FileExistsError
        If there is something at `path`, which is left alone.
    CannotResume
        If the file at `path` is not that of this run, or the run is over.
    OSError
        If it cannot be written.
    """

    def __init__(
        self, path: Path, manifest: RunManifest, resumed: Interruption | None = None
    ) -> None:
        self.path = path
        self.reserve_bytes = RESERVE_BYTES
        self.refused: OSError | None = None
        if resumed is None:
            self.manifest = manifest
            self._file: Any = create_run_file(path, manifest)
            self._lock = WriterLock(path)
        else:
            self._lock = WriterLock(path)
            self.manifest = manifest = reopen(path, manifest, resumed)
            self._file = h5py.File(path, "r+", libver=LIBVER, rdcc_nbytes=CHUNK_CACHE_BYTES)
        self.last_ns = manifest.started_ns if resumed is None else resumed.until_ns
        self._epoch_ns = layout.epoch_ns(manifest.started_ns)
        self._stacks = {plan.name: StackBuffer(self._file, plan.name) for plan in manifest.stacks}
        self._results = {
            (plan.name, result.name): result
            for plan in (*manifest.stacks, manifest.whole_run)
            for result in plan.results
        }
        self._telemetry = {
            device: LogBuffer(
                self._file,
                # Values before their shared time: who reads by time finds them written.
                {c: f"{layout.telemetry_path(device, c)}/value" for c in channels}
                | {"time": f"{layout.telemetry_path(device, next(iter(channels)))}/time"},
            )
            for device, channels in manifest.telemetry.items()
            if channels
        }
        names = (*layout.EVENT_TEXT, "time")
        self._events = LogBuffer(self._file, {name: f"{layout.EVENTS}/{name}" for name in names})
        self._dose = LogBuffer(self._file, {n: f"{layout.DOSE}/{n}" for n in ("value", "time")})
        clock = {n: f"{layout.CLOCK}/{n}" for n in layout.CLOCK_COLUMNS}
        self._clock = LogBuffer(self._file, clock)
        self._logs = [*self._telemetry.values(), self._dose, self._events, self._clock]
        self._steering = (
            LogBuffer(self._file, {name: f"{STEERING}/{name}" for name in COLUMNS})
            if manifest.adaptive_holds
            else None
        )
        if self._steering is not None:
            self._logs.append(self._steering)
        self._holds = HoldTimes(self._file, manifest)
        self._tracking = TrackingRecord(self._file, manifest, self._stacks)
        self._scouts = ScoutRecord(self._file, manifest, self._seconds)
        self.frames = sum(stack.recorded for stack in self._stacks.values())
        self.lost = sum(stack.lost for stack in self._stacks.values())
        self._file.swmr_mode = True

    def check_frame(self, series: object, index: object) -> StackBuffer:
        """Find the stack in which a frame belongs.

        Raises
        ------
        BadRecord
            If there is no such frame, or it is already recorded.
        """
        stack = self._stacks.get(series) if isinstance(series, str) else None
        if stack is None:
            raise BadRecord(f"no stack is called {series!r}; there are {', '.join(self._stacks)}")
        if type(index) is not int or not 0 <= index < stack.frames:
            raise BadRecord(f"{series} has the frames 0 to {stack.frames - 1}, not {index!r}")
        if stack.is_recorded(index):
            raise BadRecord(f"frame {index} of {series} is already recorded")
        return stack

    def write_frame(
        self,
        header: Mapping[str, Any],
        frame: NDArray[Any] | Chunk | None,
        chunk: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write a frame and note its stamps; None stands for a frame that was lost.

        Parameters
        ----------
        header : mapping
            Of the frame's message: ``series``, ``index`` and the keys of `layout.COLUMNS`.
        frame : ndarray, Chunk or None
            (rows, columns), of the file's dtype. A chunk goes into the file as it is, with zeros
            behind it to the end of its last page.
        chunk : ndarray of uint8, optional
            The frame as compressed by `Bitshuffle`; without it HDF5 compresses.

        Raises
        ------
        BadRecord
            If the file has no room for such a frame.
        """
        index: Any = header.get("index")
        stack = self.check_frame(header.get("series"), index)
        if frame is not None:
            if frame.shape != stack.shape or frame.dtype != stack.dtype:
                raise BadRecord(
                    f"frames of {header['series']} are {stack.shape} {stack.dtype}, "
                    f"not {frame.shape} {frame.dtype}"
                )
            self._check_room()
            if isinstance(frame, Chunk):
                chunk = np.frombuffer(frame.raw, np.uint8)
            try:
                if chunk is not None:
                    stack.data.id.write_direct_chunk((index, 0, 0), whole_pages(chunk))
                else:
                    stack.data[index] = frame
            except (OSError, RuntimeError):
                stack.reopen()
                raise
        self.lost -= stack.is_lost(index)
        stamps = self._stamps(header)
        if stack.is_tracked:
            stamps |= frame_stamps(header, self._scouts.row_before(header))
        stack.note(index, stamps, lost=frame is None)
        if frame is None:
            self.lost += 1
        else:
            self.frames += 1
        self._dose.add(
            {
                "time": self._seconds(header.get("t_ns")),
                "value": number_of(header.get("dose_total_e_per_nm2")),
            }
        )

    def check_result(self, series: object, name: object) -> ResultPlan:
        """Find the plan of a result; raises :class:`BadRecord` if none was announced."""
        plan = self._results.get((str(series), str(name)))
        if plan is None:
            raise BadRecord(f"no result {name!r} of {series!r} was announced")
        return plan

    def write_result(self, header: Mapping[str, Any], array: NDArray[Any]) -> None:
        """Write a result, or one frame of a result that comes per frame.

        Raises
        ------
        BadRecord
            If no such result was announced, or its shape or index is wrong.
        """
        series, index = header.get("series"), header.get("index")
        plan = self.check_result(series, header.get("name"))
        shape = plan.shape[1:] if plan.per_frame else plan.shape
        if array.shape != shape:
            raise BadRecord(f"'{plan.name}' of {series} has the shape {shape}, not {array.shape}")
        data = self._file[layout.result_path(str(series), plan) + "/data"]
        if not plan.per_frame:
            data[...] = array
        elif type(index) is int and 0 <= index < plan.shape[0]:
            data[index] = array
        else:
            raise BadRecord(f"'{plan.name}' of {series} has no frame {index!r}")
        t_ns = self._note_time(header.get("t_ns"))
        date = self._file[layout.process_path(str(series), plan.process) + "/date"]
        date[()] = iso_utc(self.last_ns if t_ns is None else t_ns).encode()

    def add_telemetry(self, device: str, t_ns: object, values: object) -> list[str]:
        """Note readings of a device; returns the names that have no place in the file."""
        log = self._telemetry.get(device)
        if log is None or not isinstance(values, dict):
            return [device]
        channels = self.manifest.telemetry[device]
        row = {name: number_of(values.get(name)) for name in channels}
        log.add(row | {"time": self._seconds(t_ns)})
        return [f"{device}/{name}" for name in values if name not in channels]

    def add_event(self, header: Mapping[str, Any]) -> None:
        """Note an event; too long a text is cut and ends in an ellipsis."""
        texts = {
            "level": str(header.get("level", "info")),
            "source": str(header.get("source", "")),
            "message": str(header.get("message") or ""),
            "json": json.dumps(header, ensure_ascii=False, separators=(",", ":")),
        }
        row: dict[str, Any] = {
            name: layout.fit_text(text, layout.EVENT_TEXT[name]) for name, text in texts.items()
        }
        self._events.add(row | {"time": self._seconds(header.get("t_ns"))})

    def add_clock(self, pair: object) -> None:
        """Note a pair of monotonic and UTC time; raises :class:`BadRecord` if it is not one."""
        names = layout.CLOCK_COLUMNS
        if not isinstance(pair, dict) or any(integer_of(pair.get(n)) is None for n in names):
            raise BadRecord(f"a clock pair has the integers {', '.join(names)}, not {pair!r}")
        self._clock.add({name: pair[name] for name in names})

    def add_steering(self, header: Mapping[str, Any]) -> None:
        """Note a choice of the steering, also in the table of holds.

        Raises
        ------
        BadRecord
            If this run has no adaptive holds, or no such hold.
        """
        if self._steering is None:
            raise BadRecord("this run has no adaptive holds")
        row = steering_row(header, self._seconds(header.get("t_ns")))
        self._steering.add(row)
        if row["hold"]:
            self._holds.choose(row["hold"], row["hold_s"], row["temperature_c"])

    def set_hold(self, times: object) -> None:
        """Note the moments of a hold; raises :class:`BadRecord` if the run has no such hold."""
        self._holds.set(times)

    def set_offset(self, header: Mapping[str, Any]) -> None:
        """Note the measured offset of a frame, see `offsets.offset_message`.

        Raises
        ------
        BadMessage
            If the message names no frame.
        BadRecord
            If the file has no place for it, or no such frame was taken.
        """
        self._tracking.note(header)

    def write_scout(self, header: Mapping[str, Any], picture: NDArray[Any]) -> None:
        """Write the picture of a scout; raises as `ScoutRecord.write`."""
        self._check_room()
        self._scouts.write(header, picture)

    def flush(self) -> None:
        """Write what was gathered and let readers see it; returns when the disk has it."""
        self._check_room()
        for log in self._logs:
            log.write()
        begun = [stack for stack in self._stacks.values() if stack.is_behind]
        for stack in begun:
            stack.write_stamps()
        self._tracking.write(self.last_ns)
        self._holds.write()
        self._file.flush()
        if begun or self._scouts.is_behind:
            # HDF5 flushes in an order of its own: a frame is called recorded when the rest is in.
            for stack in begun:
                stack.write_keys()
            self._scouts.write_rows()
            self._file.flush()
        self._sync()

    def close(self, status: layout.Status, ended_ns: object, dose: object, reason: str) -> None:
        """Write everything with the final status, close and tidy the file.

        Parameters
        ----------
        status : str
            How the run ended.
        ended_ns : int, optional
            When; anything else stands for the last moment that was recorded.
        dose : float, optional
            Electrons per nm^2 in all, as the daemon's ledger has it.
        reason : str
            Why it ended so; may be empty.
        """
        if self._file:
            self.flush()
            ended = integer_of(ended_ns)
            self._file[layout.END_TIME][()] = iso_utc(
                self.last_ns if ended is None else ended
            ).encode()
            self._file[layout.REASON][()] = layout.fit_text(reason, layout.REASON_BYTES)
            self._file[layout.DOSE_TOTAL][()] = number_of(dose)
            self._file[layout.STATUS][()] = status.encode()
            self._file.flush()
            self._file.close()
        # A program that reads the file now keeps it locked against tidying; it is complete without.
        with contextlib.suppress(BlockingIOError):
            finalise(self.path)
        self._lock.close()

    def _sync(self) -> None:
        try:
            self._lock.sync()
        except OSError as error:
            self.refused = error
            raise

    def _check_room(self) -> None:
        """Refuse before the disk does: HDF5 does not get over a failed write in good order."""
        if self.refused is not None:
            # The kernel tells it once, forgets what it was, and is content from then on.
            why = f"the disk has refused what was written: {self.refused.strerror}"
            raise OSError(self.refused.errno, why)
        self._lock.probe()
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < self.reserve_bytes:
            raise OSError(
                errno.ENOSPC, f"less than {self.reserve_bytes >> 20} MiB left on the disk"
            )

    def _stamps(self, header: Mapping[str, Any]) -> dict[str, float | int]:
        stamps: dict[str, float | int] = {}
        for column in layout.COLUMNS:
            value = header.get(column.key)
            if column is layout.TIME_COLUMN:
                stamps[column.key] = self._seconds(value)
            elif column.dtype.startswith("float"):
                stamps[column.key] = number_of(value)
            else:
                number = integer_of(value)
                stamps[column.key] = -1 if number is None else number
        return stamps

    def _note_time(self, t_ns: object) -> int | None:
        known = integer_of(t_ns)
        if known is not None:
            self.last_ns = max(self.last_ns, known)
        return known

    def _seconds(self, t_ns: object) -> float:
        known = self._note_time(t_ns)
        return math.nan if known is None else (known - self._epoch_ns) * 1e-9
