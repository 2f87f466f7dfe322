"""What tracking leaves in a run file: columns of each frame, and a row for each tilt series.

The columns stand in ``/series_NNN/frames`` of a run that tracks; ``/entry/process_tracking`` holds
the settings, the calibration of the beam shift, and in ``series`` one row for each tilt series.
Pairs are (y, x) of the image in nm, positive towards higher rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..messages.manifest import RunManifest, TrackingPlan
from ..messages.offsets import offset_of, pair_of
from ..messages.tracking import Pair
from .layout import DATE_BYTES, DOSE_UNIT, ENTRY, Column, Dataset, Group, Node

Floats = NDArray[np.float64]

TRACKING = f"{ENTRY}/process_tracking"
TRACKING_DATE = f"{TRACKING}/date"
TRACKED_SERIES = f"{TRACKING}/series"
LOST_BEYOND = f"{TRACKING}/lost_beyond"


@dataclass(frozen=True)
class TrackingColumn(Column):
    """One number or one pair per frame; `text` says what it is."""

    text: str = ""
    is_pair: bool = False

    def empty(self, frames: int) -> NDArray[Any]:
        """Its values before anything is known."""
        return np.full((frames, 2) if self.is_pair else frames, self.fill, self.dtype)


def _pair(name: str, key: str, text: str) -> TrackingColumn:
    return TrackingColumn(f"frames/{name}", key, "float64", "nm", f"{text}, (y, x)", is_pair=True)


def _number(name: str, key: str, units: str, text: str) -> TrackingColumn:
    return TrackingColumn(f"frames/{name}", key, "float64", units, text)


# The header of a frame tells these...
FRAME_COLUMNS = (
    _pair("shift_applied", "shift_nm", "beam shift during the exposure"),
    _pair("shift_predicted", "shift_predicted_nm", "beam shift that the tracker asked for"),
    _pair(
        "shift_predicted_sd",
        "shift_sd_nm",
        "standard deviation that the tracker expected of the offset",
    ),
    _number("defocus_applied", "defocus_nm", "nm", "change of the focus during the exposure"),
    _number("defocus_sd", "defocus_sd_nm", "nm", "standard deviation expected of the defocus"),
    _number("drift_speed", "drift_nm_per_s", "nm/s", "drift that the tracker expected"),
    TrackingColumn("frames/scouts", "scouts", "int64", text="scouts taken before the frame"),
    _number("scout_dose", "scout_dose_e_per_nm2", DOSE_UNIT, "electrons per area of those scouts"),
)
# The stage as it was last read back before the exposure; an axis that it does not tell is NaN.
STAGE_COLUMNS = tuple(
    _number(f"stage_{axis}", f"stage_{axis}_nm", "nm", f"{axis} of the stage, as it reads back")
    for axis in "xyz"
)
SCOUT_COLUMN = TrackingColumn(
    "frames/scout",
    "scout",
    "int64",
    text="row of the latest scout before the frame in the table of the scouts; -1: none recorded",
)
# ... and the tracker's answer these, some milliseconds later.
ANSWER_COLUMNS = (
    _pair("offset_measured", "offset_nm", "where the specimen was, from its place; NaN: unknown"),
    _pair("offset_measured_sd", "sd_nm", "standard deviation of the measured offset"),
    _number(
        "registration_score",
        "score",
        "",
        "how well the frame agreed with its reference, 1 at best; a score without an offset was "
        "not believed",
    ),
)
# Files of earlier builds lack these.
LATER_COLUMNS = (*STAGE_COLUMNS, SCOUT_COLUMN)
TRACKING_COLUMNS = (*FRAME_COLUMNS, *LATER_COLUMNS, *ANSWER_COLUMNS)


# --- what is there before the first frame ---------------------------------------------------------


def tracked_series(manifest: RunManifest) -> tuple[str, ...]:
    """Names of the tilt series that are tracked, in order; none in a run that does not track."""
    if manifest.tracking is None:
        return ()
    return tuple(stack.name for stack in manifest.stacks if stack.kind == "series")


def tracking_nodes(manifest: RunManifest) -> Iterator[Node]:
    """Columns and tables of a run that tracks, still empty; the groups of the series are there."""
    plan, names = manifest.tracking, tracked_series(manifest)
    if plan is None:
        return
    frames = {stack.name: stack.frames for stack in manifest.stacks}
    for name in names:
        for column in TRACKING_COLUMNS:
            attrs = {"long_name": column.text} | ({"units": column.units} if column.units else {})
            yield Dataset(f"/{name}/{column.path}", column.empty(frames[name]), attrs=attrs)
    yield from _process(manifest.software, plan)
    if not names:
        return
    yield Group(TRACKED_SERIES, "NXcollection")
    yield Dataset(f"{TRACKED_SERIES}/name", np.array([name.encode() for name in names]))
    for name, (empty, attrs) in _ROW_FIELDS.items():
        yield Dataset(f"{TRACKED_SERIES}/{name}", np.array([empty] * len(names)), attrs=attrs)


def _process(software: str, plan: TrackingPlan) -> Iterator[Node]:
    program, _, version = software.partition(" ")
    yield Group(TRACKING, "NXprocess")
    yield Dataset(f"{TRACKING}/program", f"{program} tracking")
    yield Dataset(f"{TRACKING}/version", version or "unknown")
    yield Dataset(f"{TRACKING}/sequence_index", np.int64(0))
    yield Dataset(TRACKING_DATE, dtype=f"S{DATE_BYTES}", fill="")
    yield Dataset(
        LOST_BEYOND,
        np.float64(plan.lost_beyond_nm),
        attrs={"units": "nm", "long_name": "offset beyond which a frame counts as off"},
    )
    yield Group(f"{TRACKING}/parameters", "NXparameters")
    for name, value in plan.settings.items():
        known = "none" if value is None else value
        yield Dataset(f"{TRACKING}/parameters/{name.replace('.', '_')}", known)
    if (found := plan.calibration) is None:
        return
    group = f"{TRACKING}/shift_calibration"
    text = f"shift (y, x) of the image in nm for one {found.unit} of each deflector"
    yield Group(group, "NXcollection")
    yield Dataset(f"{group}/matrix", np.array(found.matrix_nm), attrs={"long_name": text})
    yield Dataset(
        f"{group}/covariance",
        np.array(found.covariance_nm2),
        attrs={"long_name": "covariance of the elements of the matrix, row by row"},
    )
    yield Dataset(f"{group}/date", found.date)
    yield Dataset(f"{group}/largest", np.float64(found.largest_nm), attrs={"units": "nm"})


# --- frames ---------------------------------------------------------------------------------------


def frame_stamps(header: Mapping[str, Any], scout: int = -1) -> dict[str, Any]:
    """Columns of a frame that was taken, from its header; nothing is measured of it yet.

    Parameters
    ----------
    header : mapping
        Of the frame's message.
    scout : int
        Row of the latest scout before it, -1 where there is none.

    Returns
    -------
    dict
        By the keys of `TRACKING_COLUMNS`: numbers, and arrays of shape (2,).
    """
    stamps = _stamps(header, (*FRAME_COLUMNS, *STAGE_COLUMNS)) | _stamps({}, ANSWER_COLUMNS)
    scouts: object = header.get("scouts", 0)
    stamps["scouts"] = scouts if type(scouts) is int and 0 <= scouts < 1 << 31 else -1
    if stamps["scouts"] == 0:
        stamps["scout_dose_e_per_nm2"] = 0.0
    return stamps | {SCOUT_COLUMN.key: scout}


def answer_stamps(header: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a frame that its measured offset fills, by the keys of `ANSWER_COLUMNS`.

    Raises
    ------
    BadMessage
        If the header of the message names no frame.
    """
    found = offset_of(header)
    told = {"offset_nm": found.offset_nm, "sd_nm": found.sd_nm, "score": header.get("score")}
    return _stamps(told, ANSWER_COLUMNS)


def _stamps(header: Mapping[str, Any], columns: tuple[TrackingColumn, ...]) -> dict[str, Any]:
    stamps: dict[str, Any] = {}
    for column in columns:
        value: object = header.get(column.key)
        if column.is_pair:
            stamps[column.key] = np.array(pair_of(value) or (np.nan, np.nan))
        else:
            pair = pair_of((value, 0))
            stamps[column.key] = column.fill if pair is None else pair[0]
    return stamps


# --- series ---------------------------------------------------------------------------------------

_NM = {"units": "nm"}
# Name of each field of a row: what stands there before the first frame, and attributes.
_ROW_FIELDS: dict[str, tuple[Any, dict[str, str]]] = {
    "frames_measured": (0, {"long_name": "frames whose offset is known"}),
    "frames_not_believed": (0, {"long_name": "frames whose measurement was not believed"}),
    "frames_off": (0, {"long_name": "frames whose offset is larger than lost_beyond"}),
    "offset_rms": ((np.nan, np.nan), _NM | {"long_name": "measured offset, rms, (y, x)"}),
    "offset_largest": ((np.nan, np.nan), _NM | {"long_name": "measured offset, largest, (y, x)"}),
    "scouts": (0, {"long_name": "scouts taken"}),
    "scout_dose": (0.0, {"units": DOSE_UNIT, "long_name": "electrons per area of the scouts"}),
}


@dataclass(frozen=True)
class TrackingFigures:
    """How well the specimen of one series was kept in the frame; pairs are (y, x) in nm.

    Attributes
    ----------
    frames_measured, frames_not_believed, frames_off : int
        Frames whose offset is known; whose measurement was not believed; whose offset is larger
        than `lost_beyond`.
    offset_rms, offset_largest : tuple of float
        Of the measured offsets, each axis for itself; NaN where nothing was measured.
    scouts : int
        Scouts taken.
    scout_dose : float
        Their electrons per nm^2; NaN where that is not known.
    """

    frames_measured: int
    frames_not_believed: int
    frames_off: int
    offset_rms: tuple[float, float]
    offset_largest: tuple[float, float]
    scouts: int
    scout_dose: float


def figures_of(columns: Mapping[str, NDArray[Any]], lost_beyond_nm: float) -> TrackingFigures:
    """How well the specimen was kept in the frame.

    Parameters
    ----------
    columns : mapping
        Columns of a series by the keys of `TRACKING_COLUMNS`.
    lost_beyond_nm : float
        Offset beyond which a frame counts as off.
    """
    offset, score = columns["offset_nm"], columns["score"]
    known = np.isfinite(offset).all(axis=1)
    there = offset[known]
    rms = largest = (float("nan"), float("nan"))
    if len(there):
        y, x = np.sqrt(np.mean(there**2, axis=0)).tolist()
        rms = (y, x)
        y, x = np.abs(there).max(axis=0).tolist()
        largest = (y, x)
    taken = columns["scouts"] > 0
    return TrackingFigures(
        int(known.sum()),
        int((np.isfinite(score) & ~known).sum()),
        int((np.abs(there).max(axis=1, initial=0.0) > lost_beyond_nm).sum()),
        rms,
        largest,
        int(columns["scouts"][taken].sum()),
        float(columns["scout_dose_e_per_nm2"][taken].sum()),
    )


@dataclass(frozen=True)
class SeriesTracking:
    """Tracking of one series: one row per frame, pairs (y, x) in nm; NaN where not known.

    Attributes
    ----------
    shift_applied_nm, shift_predicted_nm, shift_predicted_sd_nm : ndarray of shape (frames, 2)
        Beam shift during the exposure; the one that the tracker asked for; standard deviation that
        it expected of the offset that remains.
    offset_measured_nm, offset_measured_sd_nm : ndarray of shape (frames, 2)
        Where the specimen was in the frame, from its place, and the standard deviation.
    registration_score : ndarray of shape (frames,)
        How well the frame agreed with its reference.
    defocus_applied_nm, defocus_sd_nm : ndarray of shape (frames,)
        Change of the focus; standard deviation expected of the defocus that remains.
    drift_speed_nm_per_s : ndarray of shape (frames,)
        Drift that the tracker expected.
    scouts : ndarray of shape (frames,)
        Scouts before the frame; -1 where the frame was not taken.
    scout_dose_e_per_nm2 : ndarray of shape (frames,)
        Their dose.
    scout : ndarray of shape (frames,)
        Row of the latest of them in `Stack.scouts`; -1 where none was recorded.
    stage_nm : ndarray of shape (frames, 3)
        Where the stage stood along (x, y, z), as it was read back before the exposure; NaN for an
        axis that it does not tell.
    lost_beyond_nm : float
        Offset beyond which a frame counts as off.
    figures : TrackingFigures
        Of the whole series.
    """

    shift_applied_nm: Floats
    shift_predicted_nm: Floats
    shift_predicted_sd_nm: Floats
    offset_measured_nm: Floats
    offset_measured_sd_nm: Floats
    registration_score: Floats
    defocus_applied_nm: Floats
    defocus_sd_nm: Floats
    drift_speed_nm_per_s: Floats
    scouts: NDArray[np.int64]
    scout_dose_e_per_nm2: Floats
    scout: NDArray[np.int64]
    stage_nm: Floats
    lost_beyond_nm: float
    figures: TrackingFigures

    def measured_nm(self, index: int) -> tuple[Pair, Pair] | None:
        """Offset of a frame and its standard deviation; None where it is not known."""
        y, x, sd_y, sd_x = (
            *self.offset_measured_nm[index].tolist(),
            *self.offset_measured_sd_nm[index].tolist(),
        )
        return ((y, x), (sd_y, sd_x)) if np.isfinite([y, x, sd_y, sd_x]).all() else None

    @property
    def offset_predicted_nm(self) -> Floats:
        """Offset (y, x) that was expected in each frame, shape (frames, 2): 0 where all is set."""
        return self.shift_applied_nm - self.shift_predicted_nm


def tracking_of(read: Callable[[str], NDArray[Any]], stack: str) -> SeriesTracking | None:
    """Read the tracking of a series.

    Parameters
    ----------
    read : callable
        Values of a dataset by its path; empty where the file does not have it.
    stack : str
        Name of the series.

    Returns
    -------
    SeriesTracking or None
        None where the specimen was not tracked, as in files of earlier versions.
    """
    columns = {column.key: read(f"/{stack}/{column.path}") for column in TRACKING_COLUMNS}
    beyond, frames = read(LOST_BEYOND), len(columns["shift_nm"])
    for column in LATER_COLUMNS:
        if not columns[column.key].size:
            columns[column.key] = column.empty(frames)
    if not beyond.size or not all(values.size for values in columns.values()):
        return None
    lost_beyond_nm = float(beyond)
    return SeriesTracking(
        shift_applied_nm=columns["shift_nm"],
        shift_predicted_nm=columns["shift_predicted_nm"],
        shift_predicted_sd_nm=columns["shift_sd_nm"],
        offset_measured_nm=columns["offset_nm"],
        offset_measured_sd_nm=columns["sd_nm"],
        registration_score=columns["score"],
        defocus_applied_nm=columns["defocus_nm"],
        defocus_sd_nm=columns["defocus_sd_nm"],
        drift_speed_nm_per_s=columns["drift_nm_per_s"],
        scouts=columns["scouts"],
        scout_dose_e_per_nm2=columns["scout_dose_e_per_nm2"],
        scout=columns[SCOUT_COLUMN.key],
        stage_nm=np.stack([columns[column.key] for column in STAGE_COLUMNS], axis=1),
        lost_beyond_nm=lost_beyond_nm,
        figures=figures_of(columns, lost_beyond_nm),
    )
