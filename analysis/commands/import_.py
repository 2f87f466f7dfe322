"""``pyrotome import``: a tilt series from elsewhere as a run file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput
from ...protocols.core.units import parse_quantity
from ..io.encoding import Encoding, survey
from ..io.heat_history import HeatHistory, Timing, match, without_log
from ..io.heater_logs import HeaterLog, read_heater_log
from ..io.safe_output import new_file
from ..io.tilt_angles import TiltFile, check_angles, read_tilt_file
from ..io.tilt_series_readers import Floats, TiltStack, open_stack
from .imported import SERIES, Imported, write_imported
from .interrupts import notify

_DIFFERENT = 0.01  # relative difference of two pixel sizes that is told


@dataclass(frozen=True)
class ImportRequest:
    """What the user asked for.

    Attributes
    ----------
    source, target : Path
        The tilt series, and the run file; nothing may be there.
    tilts : Path, optional
        List of angles or ``.mdoc``; else the source must hold them.
    pixel_nm : float, optional
        Pixel size; else that of the source or of the ``.mdoc``.
    title : str, optional
        Else the name of the source.
    entry : str, optional
        Which stack of a file with several.
    tilt_axis_deg : float, optional
        Direction of the tilt axis; else that of the ``.mdoc`` or of the source.
    heater_log : Path, optional
        Log of a heater.
    started : datetime or float, optional
        When the first frame began: on the clock of the log, or seconds after the log's start.
    interval_s : float, optional
        Time from frame to frame; else that of the ``.mdoc`` or of the source.
    """

    source: Path
    target: Path
    tilts: Path | None = None
    pixel_nm: float | None = None
    title: str | None = None
    entry: str | None = None
    tilt_axis_deg: float | None = None
    heater_log: Path | None = None
    started: datetime | float | None = None
    interval_s: float | None = None


@dataclass(frozen=True)
class ImportReport:
    """What an import has written: number of frames, encoding, and what was read where."""

    frames: int
    encoding: Encoding
    read: tuple[str, ...]


@dataclass
class KnownValues:
    """Values with the file that each came from."""

    told: list[str] = field(default_factory=list[str])

    def first(self, what: str, *candidates: tuple[str, float | None], unit: str) -> float | None:
        """Take the first value that is known, and note where it came from."""
        for source, value in candidates:
            if value is not None:
                self.told.append(f"{what} {value:g} {unit} ({source})")
                return value
        return None


def import_stack(
    source: Path,
    target: Path,
    tilts: Path | None = None,
    pixel_nm: float | None = None,
    title: str | None = None,
    entry: str | None = None,
    tilt_axis_deg: float | None = None,
) -> tuple[int, Encoding]:
    """Write a run file with one tilt series from elsewhere.

    Parameters
    ----------
    source : Path
        MRC, npz, EMD, NXtomo, TIFF, or a vendor's format.
    target : Path
        The run file; nothing may be there.
    tilts : Path, optional
        Text file of angles, or ``.mdoc``; else the source must hold them.
    pixel_nm : float, optional
        Pixel size in nm; else that of the source.
    title : str, optional
        Else the name of the source.
    entry : str, optional
        Which stack of a file with several.
    tilt_axis_deg : float, optional
        Direction of the tilt axis in deg; else what the files say.

    Returns
    -------
    frames : int
        How many were recorded.
    encoding : Encoding
        How.

    Raises
    ------
    BadInput
        If something is missing, disagrees, or cannot be recorded exactly.
    """
    request = ImportRequest(source, target, tilts, pixel_nm, title, entry, tilt_axis_deg)
    report = carry_out(request)
    return report.frames, report.encoding


def carry_out(request: ImportRequest) -> ImportReport:
    """Write a run file with one tilt series from elsewhere.

    Parameters
    ----------
    request : ImportRequest
        What is asked for.

    Returns
    -------
    ImportReport

    Raises
    ------
    BadInput
        If something is missing, disagrees, or cannot be recorded exactly.
    """
    source = request.source
    given = None if request.tilts is None else read_tilt_file(request.tilts)
    log = None if request.heater_log is None else read_heater_log(request.heater_log)
    known = KnownValues()
    with open_stack(source, request.entry) as stack:
        angles, there = checked_angles(stack, request, given)
        known.told.insert(0, _angles_told(angles, source if given is None else request.tilts))
        pixel_nm = pixel_nm_of(request, stack, given, known)
        axis_deg = tilt_axis_of(request, stack, given, known)
        heat = _heat(request, stack, given, log)
        with new_file(request.target) as partial:
            seen = survey(stack, there, source)
            doubts = () if heat is None else heat.warnings
            warnings = [*seen.warnings, *_missing(source, angles, there), *doubts]
            imported = Imported(
                source, stack, angles, there, pixel_nm, seen.encoding,
                request.title or source.stem, axis_deg, tuple(warnings), heat,
            )  # fmt: skip
            write_imported(partial, imported)
        known.told += [*_references_told(stack), *_heat_told(heat)]
    for warning in warnings:
        notify(warning)
    return ImportReport(int(there.sum()), seen.encoding, (stack.form, *known.told))


def _angles_told(angles: Floats, source: Path | None) -> str:
    finite = angles[np.isfinite(angles)]
    span = f"{finite.min():g} to {finite.max():g}" if finite.size > 1 else f"{finite[0]:g}"
    return f"angles {span} deg ({source.name if source is not None else ''})"


def _missing(source: Path, angles: Floats, there: NDArray[np.bool_]) -> Iterator[str]:
    for index in np.flatnonzero(~there):
        yield f"{source}: image {index} ({angles[index]:g} deg) is missing, also in the run file"


def _references_told(stack: TiltStack) -> Iterator[str]:
    for name, frames in (("dark", stack.dark_frames), ("flat", stack.flat_frames)):
        if frames:
            plural = "s" if frames > 1 else ""
            yield f"mean of {frames} {name} frame{plural} kept in {SERIES}/references/{name}"


def _heat(
    request: ImportRequest, stack: TiltStack, given: TiltFile | None, log: HeaterLog | None
) -> HeatHistory | None:
    """Times of the frames, matched with the log of the heater; None where nothing is known."""
    mdoc_times = None if given is None or given.mdoc is None else given.mdoc.times
    times = mdoc_times if mdoc_times is not None else stack.times
    # What the user says of the frames goes before what the files say.
    if request.interval_s is not None:
        times = None
    timing = Timing(times, request.started, request.interval_s)
    if log is None:
        return without_log(timing, stack.shape[0])
    return match(log, timing, stack.shape[0], f"{request.heater_log} and {request.source}")


def _heat_told(heat: HeatHistory | None) -> Iterator[str]:
    if heat is None:
        return
    yield heat.told
    if heat.log is None:
        return
    known = heat.temperature_c[np.isfinite(heat.temperature_c)]
    if known.size:
        yield f"frames at {known.min():.1f} to {known.max():.1f} degC"
    holds = "1 hold" if len(heat.holds) == 1 else f"{len(heat.holds)} holds"
    yield f"{holds} in the log, {heat.holds_before} before the series"


def pixel_nm_of(
    request: ImportRequest, stack: TiltStack, given: TiltFile | None, known: KnownValues
) -> float:
    """Pixel size in nm; BadInput if it is not known, or nonsense."""
    source = request.source
    mdoc_nm = None if given is None or given.mdoc is None else given.mdoc.pixel_nm
    mdoc_name = "" if request.tilts is None else request.tilts.name
    # A stack that was binned after it was recorded has its own pixel size; its .mdoc does not.
    chosen = known.first(
        "pixel size", ("--pixel-size", request.pixel_nm), (source.name, stack.pixel_nm),
        (mdoc_name, mdoc_nm), unit="nm",
    )  # fmt: skip
    if chosen is None:
        raise BadInput(str(source), "has no pixel size; give it as in --pixel-size '3.36 nm'")
    if not math.isfinite(chosen) or chosen <= 0:
        where = str(
            request.tilts if request.pixel_nm is None and stack.pixel_nm is None else source
        )
        raise BadInput(
            where,
            f"says that its pixels are {chosen:g} nm; give the right size as in "
            "--pixel-size '3.36 nm'",
        )
    if mdoc_nm is not None and abs(mdoc_nm - chosen) > _DIFFERENT * chosen:
        notify(f"{mdoc_name}: its pixels are {mdoc_nm:g} nm; {chosen:g} nm is taken")
    return chosen


def tilt_axis_of(
    request: ImportRequest, stack: TiltStack, given: TiltFile | None, known: KnownValues
) -> float | None:
    """Direction of the tilt axis in deg; None if nothing says it."""
    mdoc_deg = None if given is None or given.mdoc is None else given.mdoc.tilt_axis_deg
    stack_deg = stack.tilt_axis_deg
    if stack_deg is not None and not abs(stack_deg) <= 360:
        stack_deg = None
    return known.first(
        "tilt axis", ("--tilt-axis", request.tilt_axis_deg),
        ("" if request.tilts is None else request.tilts.name, mdoc_deg),
        (request.source.name, stack_deg), unit="deg",
    )  # fmt: skip


def checked_angles(
    stack: TiltStack, request: ImportRequest, given: TiltFile | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Angle of each image in deg, and which images are there; BadInput if they do not fit."""
    source = request.source
    angles = stack.tilt_deg if given is None else given.tilt_deg
    if angles is None:
        beside = source.with_name(f"{source.name}.mdoc")
        which = f"--tilts {beside}" if beside.is_file() else "--tilts"
        raise BadInput(str(source), f"holds no angles; give a file of them with {which}")
    where = str(request.tilts or source)
    if len(angles) != stack.shape[0]:
        raise BadInput(
            where,
            f"{len(angles)} angles for the {stack.shape[0]} images of {source.name}; "
            "one angle for each image is needed",
        )
    there = np.ones(len(angles), np.bool_) if stack.there is None else stack.there
    unknown = np.flatnonzero(~np.isfinite(angles) & there)
    if unknown.size:
        raise BadInput(
            f"{where}: image {unknown[0]} (the first is 0)",
            f"its angle is {angles[unknown[0]]:g}; give all angles with --tilts",
        )
    if not there.any():
        raise BadInput(str(source), "all its images are marked as missing")
    check_angles(where, angles)
    return angles, there


def import_command(
    source: Path,
    target: Path,
    tilts: Path | None = None,
    pixel_size: str | None = None,
    title: str | None = None,
    entry: str | None = None,
    tilt_axis: str | None = None,
    heater_log: Path | None = None,
    started: str | None = None,
    frame_interval: str | None = None,
) -> None:
    """Carry out ``pyrotome import``; arguments as those of `ImportRequest`, with units."""
    pixel_nm = (
        None
        if pixel_size is None
        else positive_quantity("--pixel-size", pixel_size, "nm", "3.36 nm")
    )
    axis_deg = None
    if tilt_axis is not None:
        axis_deg = quantity_of("--tilt-axis", tilt_axis, "deg", "84.8 deg")
        if not abs(axis_deg) <= 360:
            raise BadInput("--tilt-axis", f"'{tilt_axis}' is beyond 360 deg; such as '84.8 deg'")
    if started is not None and heater_log is None:
        raise BadInput("--started", "places the frames in a heater log; give --heater-log too")
    interval_s = None
    if frame_interval is not None:
        interval_s = positive_quantity("--frame-interval", frame_interval, "s", "2.5 s")
    request = ImportRequest(
        source, target, tilts, pixel_nm, title, entry, axis_deg, heater_log,
        None if started is None else _moment(started), interval_s,
    )  # fmt: skip
    report = carry_out(request)
    if report.encoding.scale != 1:
        step = report.encoding.scale
        notify(f"fractions are kept in 16 bits, in steps of {step:.6g} (value_scale)")
    print(f"{target}: {report.frames} frame{'s' if report.frames > 1 else ''} in {SERIES}")
    print("  " + "; ".join(report.read))


def _moment(written: str) -> datetime | float:
    """When the first frame began: a moment of local time, or seconds after the start of a log."""
    try:
        moment = datetime.fromisoformat(written.strip())
    except ValueError:
        try:
            return parse_quantity(written, "s", "120 s")
        except ValueError:
            raise BadInput(
                "--started",
                f"'{written}' is neither a moment such as '2026-03-31 16:24:15' nor a time after "
                "the start of the log such as '120 s'",
            ) from None
    return moment.astimezone().replace(tzinfo=None) if moment.tzinfo is not None else moment


def positive_quantity(option: str, written: str, unit: str, example: str) -> float:
    """Value of an option with a unit; BadInput if it is not above zero."""
    value = quantity_of(option, written, unit, example)
    if not 0 < value < math.inf:
        raise BadInput(option, f"'{written}' is not above zero; write it as in '{example}'")
    return value


def quantity_of(option: str, written: str, unit: str, example: str) -> float:
    """Value of an option with a unit; BadInput if it cannot be read."""
    try:
        return parse_quantity(written, unit, example)
    except ValueError as error:
        raise BadInput(option, str(error)) from None
