"""``pyrotome export``: images as MRC, EMD or TIFF; tables and the heater's log as CSV; plots."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py, mrcfile and tifffile carry no types.

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...protocols.core.errors import BadInput
from ...protocols.runfile import layout
from ...protocols.runfile.reader import Floats, Run, Stack, open_run
from ..io.safe_output import new_file
from ..report.recorded_atoms import ATOM_ENDINGS, ATOMS, export_atoms
from ..report.steering import STEERING, export_steering
from ..report.tables import NECKS, PLOTS, SHIFTS, TUNING, export_table
from ..report.tracking import TRACKING, export_tracking
from .interrupts import notify

FRAMES, HEATER, SCOUTS = "frames", "heater", "scouts"
_LENGTHS = {"x", "y", "z"}
# ImageJ's kind of TIFF cannot be longer.
_IMAGEJ_BYTES = (1 << 32) - (1 << 25)
CSV_ENDING = "_Synchronized data.csv"
LOG_ENDING = "_Metadata.log"


@dataclass(frozen=True)
class Exported:
    """What is written to a file.

    Attributes
    ----------
    name, title : str
        What it is, and of which run.
    data : ndarray
        Images (n, rows, columns), a volume, or a single plane.
    axes : tuple of (name, values, units)
        One for each axis of `data`.
    pixel_nm : float
        Sampling along the lengths.
    tilt_deg : ndarray of shape (n,) or None
        Angles of the images of a tilt series.
    """

    name: str
    title: str
    data: NDArray[Any]
    axes: tuple[tuple[str, Floats, str], ...]
    pixel_nm: float
    tilt_deg: Floats | None


def narrowed(values: NDArray[Any], low: float, high: float) -> np.dtype[Any]:
    """Smallest of the types that MRC, ImageJ and EMD share in which whole `values` are exact."""
    if values.dtype.kind == "f":
        return np.dtype(np.float32)
    for dtype in (np.uint16, np.int16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.float32)


def recorded_frames(run: Run, stack: Stack) -> Exported:
    """Frames of a series in the detector's values, without the missing ones."""
    there = np.flatnonzero(stack.recorded)
    if not there.size:
        raise BadInput(f"{run.path}: {stack.name}", "holds no recorded frame")
    if stack.value_scale != 1:
        data = np.stack([stack.frame_values(int(index)) for index in there])
    else:
        data = np.empty((there.size, *stack.frame_shape), np.int32)
        for place, index in enumerate(there):
            data[place] = stack.frames[int(index)]
    data = data.astype(narrowed(data, data.min(), data.max()))
    tilt_deg = stack.tilt_deg
    tilts = np.where(np.isfinite(tilt_deg), tilt_deg, stack.nominal_tilt_deg)[there]
    lengths: list[tuple[str, Floats, str]] = [
        (axis, np.arange(size, dtype=np.float64) * stack.pixel_nm, "nm")
        for axis, size in zip("yx", stack.frame_shape, strict=True)
    ]
    axes: tuple[tuple[str, Floats, str], ...] = (("angle", tilts, "degree"), *lengths)
    title = f"{run.text(f'{layout.ENTRY}/title')}: {stack.name}"
    return Exported(FRAMES, title, data, axes, stack.pixel_nm, tilts)


def stored_result(run: Run, stack: Stack, name: str) -> Exported:
    """Newest result of one name, without frames that were not processed.

    Raises
    ------
    BadInput
        If there is no such result, or it is not an image or volume.
    """
    result = stack.results.get(name)
    if result is None:
        there = ", ".join(dict.fromkeys([FRAMES, *(r.name for r in stack.all_results()), HEATER]))
        raise BadInput("--what", f"{stack.name} of {run.path} holds no '{name}'; it has {there}")
    data, axes = result.data, list[tuple[str, Floats, str]](result.axes)
    pixels = [
        float(values[1] - values[0])
        for axis, values, _ in axes
        if axis in _LENGTHS and values.size > 1
    ]
    if data.ndim not in (2, 3) or not pixels:
        raise BadInput(
            "--what",
            f"'{name}' is not an image, image stack or volume; read it with `pyrotome.open`",
        )
    tilts = None
    if axes[0][0] not in _LENGTHS:
        written = np.isfinite(data).any(axis=tuple(range(1, data.ndim)))
        if not written.any():
            raise BadInput("--what", f"'{name}' of {stack.name} holds no frame")
        axis, values, unit = axes[0]
        if axis == "view" and len(stack.views_deg) == len(data):
            axis, values, unit = "rotation_angle", np.array(stack.views_deg), "degree"
        data, values = data[written], values[written]
        if axis == "rotation_angle":
            tilts, axis = values, "angle"
        axes[0] = (axis, values, unit)
    title = f"{run.text(f'{layout.ENTRY}/title')}: {stack.name}, {name}"
    data = data.astype(np.float32 if data.dtype.kind == "f" else data.dtype, copy=False)
    return Exported(name, title, data, tuple(axes), pixels[0], tilts)


def write_mrc(path: Path, exported: Exported) -> None:
    """MRC with the voxel size in its header; a tilt series is marked as a stack of images."""
    import mrcfile

    data = exported.data
    if data.dtype.kind in "ui" and data.dtype.itemsize > 2:
        data = data.astype(np.float32)
    with mrcfile.new(path) as opened:
        file: Any = opened
        file.set_data(data)
        if exported.axes[0][0] not in _LENGTHS:
            file.set_image_stack()
        elif data.ndim == 3:
            file.set_volume()
        file.voxel_size = exported.pixel_nm * 10  # angstrom
        file.add_label(f"pyrotome {__version__}")
        file.add_label(exported.title.encode("ascii", "replace").decode()[:80])


def write_emd(path: Path, exported: Exported) -> None:
    """Berkeley EMD 0.2."""
    with h5py.File(path, "x", libver=("earliest", "v110")) as opened:
        file: Any = opened
        file.attrs["version_major"] = 0
        file.attrs["version_minor"] = 2
        for name in ("microscope", "sample", "user", "comments"):
            file.create_group(name)
        file["comments"].attrs["title"] = exported.title
        file["comments"].attrs["software"] = f"pyrotome {__version__}"
        group = file.create_group(f"data/{exported.name}")
        group.attrs["emd_group_type"] = 1
        shape = exported.data.shape
        chunks = (1, *shape[1:]) if len(shape) == 3 else shape
        group.create_dataset(
            "data", data=exported.data, chunks=chunks, compression="gzip", compression_opts=1
        )
        for number, (name, values, unit) in enumerate(exported.axes, 1):
            dim = group.create_dataset(f"dim{number}", data=values)
            dim.attrs["name"] = name
            dim.attrs["units"] = {"degree": "[deg]", "nm": "[n_m]"}.get(unit, unit)


def write_tiff(path: Path, exported: Exported) -> None:
    """TIFF as ImageJ writes it, or OME with big offsets beyond 4 GB."""
    import tifffile

    data, pixel = exported.data, exported.pixel_nm
    if data.dtype.kind in "ui" and data.dtype.itemsize > 2:
        data = data.astype(np.float32)
    axes = "ZYX"[-data.ndim :]
    if data.nbytes < _IMAGEJ_BYTES:
        metadata: dict[str, Any] = {"axes": axes, "unit": "nm", "Info": exported.title}
        if exported.axes[0][0] in _LENGTHS:
            metadata["spacing"] = pixel
        elif exported.tilt_deg is not None:
            metadata["Labels"] = [f"{angle:g} deg" for angle in exported.tilt_deg]
        tifffile.imwrite(
            path, data, imagej=True, resolution=(1 / pixel, 1 / pixel), metadata=metadata
        )
        return
    sizes = {f"PhysicalSize{axis}": pixel for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "XY"}
    tifffile.imwrite(
        path, data, ome=True, bigtiff=True,
        metadata={"axes": axes, "Name": exported.title, **sizes, **units},
    )  # fmt: skip


Writer = Callable[[Path, Exported], None]
WRITERS: dict[str, Writer] = {
    ".mrc": write_mrc,
    ".mrcs": write_mrc,
    ".st": write_mrc,
    ".emd": write_emd,
    ".tif": write_tiff,
    ".tiff": write_tiff,
}


def _writer_for(target: Path, what: str) -> Writer:
    writer = WRITERS.get(target.suffix.lower())
    if writer is None:
        raise BadInput(
            "--to",
            f"{target}: '{what}' cannot be written as '{target.suffix}'; use "
            f"{', '.join(WRITERS)} (.csv takes --what {HEATER}, {NECKS}, {SHIFTS}, {TUNING} or "
            f"{TRACKING}; .png {', '.join(PLOTS)}, {TUNING} or {TRACKING}; "
            f"{', '.join(ATOM_ENDINGS)} --what {ATOMS})",
        )
    return writer


def export_scouts(run: Run, target: Path, number: int | None) -> list[Path]:
    """Write the pictures of the scouts of one series, in the order in which they were taken.

    Parameters
    ----------
    run : Run
        The run file.
    target : Path
        As for `export_images`. Where scouts differ in their grid of positions, there is one file
        for each grid, such as ``scouts-search.tif``.
    number : int or None
        Of the tilt series; None for the only one.

    Raises
    ------
    BadInput
        If none was recorded, or a file is there already.
    """
    writer, stack = _writer_for(target, SCOUTS), run.one_series(number)
    scouts = stack.scouts
    if scouts is None:
        raise BadInput("--what", f"{stack.name} of {run.path} holds no scouts")
    written: list[Path] = []
    for pictures in scouts.stacks:
        counts, tilt_deg = pictures.counts, scouts.tilt_deg[pictures.rows]
        lengths: list[tuple[str, Floats, str]] = [
            (axis, np.arange(size) * pictures.pixel_nm, "nm")
            for axis, size in zip("yx", counts.shape[1:], strict=True)
        ]
        title = f"{run.text(f'{layout.ENTRY}/title')}: scouts of {stack.name}, {pictures.grid}"
        data = counts.astype(narrowed(counts, counts.min(), counts.max()))
        axes = (("angle", tilt_deg, "degree"), *lengths)
        exported = Exported(SCOUTS, title, data, axes, pictures.pixel_nm, tilt_deg)
        path = target
        if len(scouts.stacks) > 1:
            path = target.with_stem(f"{target.stem}-{pictures.grid}")
        written += _write_images(writer, path, exported)
    return written


def export_images(run: Run, target: Path, what: str, number: int | None) -> list[Path]:
    """Write frames or a result of one series; angles go into a ``.rawtlt`` where needed.

    Parameters
    ----------
    run : Run
        The run file.
    target : Path
        Its ending says which kind of file; nothing may be there.
    what : str
        ``frames``, or the name of a result such as ``volume``.
    number : int or None
        Of the tilt series; None for the only one.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    BadInput
        If something is missing, or a file exists at `target`.
    """
    writer = _writer_for(target, what)
    stack = run.one_series(number)
    exported = recorded_frames(run, stack) if what == FRAMES else stored_result(run, stack, what)
    left_out = stack.frame_count - len(exported.data) if exported.tilt_deg is not None else 0
    if left_out:
        notify(f"{left_out} of {stack.frame_count} frames of {stack.name} are missing and left out")
    return _write_images(writer, target, exported)


def _write_images(writer: Writer, target: Path, exported: Exported) -> list[Path]:
    """Write images, and their angles beside them where the format takes none."""
    written = [target]
    with ExitStack() as files:
        partial = files.enter_context(new_file(target))
        if exported.tilt_deg is not None and writer is not write_emd:
            beside = target.with_suffix(".rawtlt")
            text = "".join(f"{angle:.10g}\n" for angle in exported.tilt_deg)
            # One list of angles serves a series that is exported twice.
            if not (beside.is_file() and beside.read_bytes() == text.encode()):
                files.enter_context(new_file(beside)).write_text(text)
                written.append(beside)
        writer(partial, exported)
    return written


def column_title(channel: str, unit: str) -> str:
    """Channel of the heater as a column of Impulse's log: words, and the unit in brackets."""
    words = channel.removesuffix("_c") if unit == "degC" else channel
    words = re.sub(r"[^A-Za-z0-9]+", " ", words).strip().capitalize()
    shown = "°C" if unit == "degC" else re.sub(r"[^A-Za-z0-9%/°]", "", unit)
    return f"{words} ({shown})" if shown else words


def export_heater(run: Run, target: Path) -> list[Path]:
    """Write the heater's log as DENSsolutions Impulse does: a CSV and a text beside it.

    Parameters
    ----------
    run : Run
        The run file.
    target : Path
        What the names begin with; an ending ``.csv`` is taken off.

    Returns
    -------
    list of Path
        ``X_Synchronized data.csv`` and ``X_Metadata.log``.
    """
    heater = run.heater_channels()
    channels = dict(heater)
    first = next(iter(channels.values()))
    time_s, start_ns = first.time_s, first.start_ns
    stem = target.name.removesuffix(CSV_ENDING).removesuffix(".csv")
    if not stem:
        raise BadInput(
            "--to", f"{target} holds no name; give the beginning of the file names, such as run1"
        )
    written = [target.with_name(stem + CSV_ENDING), target.with_name(stem + LOG_ENDING)]
    start = datetime.fromtimestamp(start_ns / 1e9, UTC)
    good = np.flatnonzero(np.isfinite(time_s))
    with ExitStack() as files:
        table, notes = (files.enter_context(new_file(path)) for path in written)
        with table.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            titles = [column_title(name, log.units) for name, log in channels.items()]
            rows.writerow(["Experiment time", "TimeStamp", *titles])
            for index in good:
                stamp = datetime.fromtimestamp(start_ns / 1e9 + time_s[index], UTC)
                # Never in exponents, and to the microsecond, as the log's readers expect.
                values = (f"{log.values[index]:.6f}" for log in channels.values())
                rows.writerow([f"{time_s[index]:.6f}", f"{stamp:%H:%M:%S.%f}", *values])
        with notes.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["Experiment date", f"{start:%Y-%m-%d}"])
            rows.writerow(["Experiment time", f"{start:%H:%M:%S}"])
            rows.writerow(["Live notes", run.text(f"{layout.ENTRY}/title")])
            rows.writerow([f"times are UTC; written by pyrotome {__version__}"])
    return written


def export_command(file: Path, target: Path, series: int | None, what: str | None) -> None:
    """Carry out ``pyrotome export``.

    Parameters
    ----------
    file, target : Path
        The run file, and what is written.
    series : int or None
        Number of the tilt series; None for the only one, or for all of them in a table.
    what : str or None
        Frames, a result, a table or a plot; None: by the ending of `target`.
    """
    named = {".csv": HEATER, ".xyz": ATOMS, ".cif": ATOMS}
    what = what or named.get(target.suffix.lower(), FRAMES)
    with open_run(file) as run:
        if what == HEATER:
            written: Sequence[Path] = export_heater(run, target)
        elif what == STEERING:
            written = export_steering(run, target)
        elif what == TRACKING:
            written = export_tracking(run, target, series)
        elif what == ATOMS:
            written = export_atoms(run, target, series)
        elif what == SCOUTS:
            written = export_scouts(run, target, series)
        elif what in (NECKS, SHIFTS, TUNING, *PLOTS):
            written = export_table(run, target, what, series, notify)
        else:
            written = export_images(run, target, what, series)
    for path in written:
        print(path)
