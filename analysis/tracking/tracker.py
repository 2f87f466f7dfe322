"""The tracker: messages and frames in, measurements and tables out; no files, no sockets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.tracking import (
    Focused,
    FocusMeasured,
    FocusPicture,
    FrameTaken,
    HoldDone,
    OffsetMeasured,
    PlaceTold,
    SeriesBegun,
    ShiftCalibrated,
    ShiftSet,
    StageMoved,
    Table,
    TemperatureRead,
    Told,
)
from ...protocols.messages.tracking_rules import correction_fails
from ..motion.assumptions import Assumptions
from ..motion.motion import Motion
from ..motion.motion_state import for_next_specimen, motion_from, state_of
from ..motion.prediction import MotionPrediction, height_over_axis, predict
from ..sharpness.focus_watch import FocusWatch
from ..sharpness.spectrum import fine_counts
from ..sharpness.watch import WatchState
from .comparison import answer_of, answer_to, compared
from .pictures import SIDE, Picture, picture_of
from .references import SPARSE_DEG, ReferencePicture, ReferencePictures
from .registration import WORDS
from .table import drift_to_come, table_rows
from .tracker_state import TrackerState

_RECENT = 5
# The first picture defines the place; its own noise is that of a registration.
_ORIGIN_SD_NM = 0.3
_WORSE = (
    "the correction makes it worse: the offset has grown in three frames although it was "
    "corrected. Nothing more is corrected; calibrate the shift (`pyrotome calibrate`)"
)


class Tracker:
    """Follows the specimen through the series of a run.

    The first frame that shows something defines where the specimen belongs, and that it is in
    focus there.

    Parameters
    ----------
    state : TrackerState, optional
        To go on from; by default nothing is known.
    assumptions : Assumptions, optional
        Of a new model; a state brings its own.
    side : int
        Squares along the longer side of a binned frame.
    convergence_mrad, depth_nm : float, optional
        Half angle of the probe, and the defocus that is not seen; without them blur is told, and
        not what defocus makes it.

    Raises
    ------
    ValueError
        If the state is damaged.

    Examples
    --------
    >>> import numpy as np
    >>> tracker = Tracker()
    >>> header = FrameTaken(
    ...     t_ns=0, series="series_001", index=0, tilt_deg=0, field_nm=1000, dose_e_per_nm2=6
    ... )
    >>> frame = np.random.default_rng(1).poisson(5, (128, 128)).astype(np.uint16)
    >>> measured, table = tracker.feed(header, frame)
    >>> measured.offset_nm
    (0.0, 0.0)
    """

    def __init__(
        self,
        state: TrackerState | None = None,
        *,
        assumptions: Assumptions | None = None,
        side: int = SIDE,
        convergence_mrad: float | None = None,
        depth_nm: float | None = None,
    ) -> None:
        self._side = side
        self._before: dict[str, Picture] = {}
        if state is None:
            state = TrackerState(motion=state_of(Motion(assumptions)))
        self.motion = motion_from(state.motion)
        self._references = ReferencePictures.restore(state.references)
        self._epoch_ns = state.epoch_ns
        self._series, self._visits, self._late_ns = state.series, state.visits, state.late_ns
        self._shift_nm, self._defocus_nm = state.shift_nm, state.defocus_nm
        self._matrix_nm = state.matrix_nm
        self._recent = list(state.recent)
        self._trusted, self._tables = state.trusted, state.tables
        self._sharpness = FocusWatch(convergence_mrad, depth_nm, state.sharpness)
        self._focused, self._depth_nm = state.focused, depth_nm or 0.0

    def state(self, *, pictures: bool = True) -> TrackerState:
        """What a later tracker goes on from.

        Parameters
        ----------
        pictures : bool
            Whether to keep the references too: some kB for each angle.
        """
        return TrackerState(
            motion=state_of(self.motion),
            references=self._references.store() if pictures else (),
            epoch_ns=self._epoch_ns,
            series=self._series,
            visits=self._visits,
            late_ns=self._late_ns,
            shift_nm=self._shift_nm,
            defocus_nm=self._defocus_nm,
            matrix_nm=self._matrix_nm,
            recent=tuple(self._recent),
            trusted=self._trusted,
            tables=self._tables,
            focused=self._focused,
            sharpness=self._sharpness.state() if pictures else WatchState(),
        )

    def state_for_next_run(self) -> TrackerState:
        """What another specimen on the same column can use."""
        motion = for_next_specimen(state_of(self.motion))
        return TrackerState(motion=motion, matrix_nm=self._matrix_nm)

    def tell(self, message: Told) -> Table | None:
        """Take in what happened between frames.

        Parameters
        ----------
        message : Told
            What happened. A frame goes to :meth:`feed`.

        Returns
        -------
        Table or None
            A new table, where the message changes what is expected of coming frames.

        Raises
        ------
        TypeError
            For a frame or a picture of a focus series: its pixels are missing.
        """
        match message:
            case FrameTaken() | FocusPicture():
                raise TypeError("a frame needs its pixels; give both to feed or focus")
            case ShiftSet():
                self._shift_nm, self._defocus_nm = message.shift_nm, message.defocus_nm
                return None
            case TemperatureRead():
                self.motion.set_temperature(message.temperature_c)
                return None
            case SeriesBegun():
                self._series, self._visits, self._late_ns = message.series, message.visits, 0
                self._recent, self._trusted = [], True
                self.motion.expect([visit.tilt_deg for visit in message.visits])
                first_ns = message.visits[0].t_ns if message.visits else 0
                if self._epoch_ns is None and message.visits:
                    self._epoch_ns = first_ns
                return self._table(first_ns, None)
            case ShiftCalibrated():
                self._recalibrate(message)
            case PlaceTold():
                self._pass_time(message.t_ns)
                self._recent, self._trusted = [], True
                expected = self._expected(self.motion.tilt_deg or 0.0)
                self.motion.displace(
                    np.array(message.offset_nm) - expected.offset_nm[0], message.sd_nm
                )
            case HoldDone():
                self._pass_time(message.t_ns)
                self.motion.hold(message.rise_k)
            case StageMoved():
                self._pass_time(message.t_ns)
                self.motion.move_stage(message.moved_nm, message.error_nm)
            case Focused():
                self._pass_time(message.t_ns)
                if message.reset:
                    self.motion.focus_here(message.sd_nm, message.defocus_nm)
                else:
                    self.motion.measure_focus(message.defocus_nm, message.sd_nm)
        return self._table(message.t_ns, None) if self._series else None

    def feed(self, header: FrameTaken, pixels: NDArray[Any]) -> tuple[OffsetMeasured, Table]:
        """Take in a frame or a scout.

        Parameters
        ----------
        header : FrameTaken
            When, where and how it was taken.
        pixels : ndarray
            Counts as integers, shape (rows, columns).

        Returns
        -------
        measured : OffsetMeasured
            Where the specimen was, or why that is not known.
        table : Table
            For the rest of the series.

        Raises
        ------
        ValueError
            If the pixels are no frame; nothing was taken in.
        """
        side, field_nm, counts = self._side, header.field_nm, pixels
        if header.scan == "wide":
            side = max(pixels.shape, default=1)
        elif header.scan == "frame":
            counts, binning = fine_counts(pixels)
            # What fills no square is cut off.
            field_nm *= binning * counts.shape[1] / pixels.shape[1]
        picture = picture_of(counts, field_nm, header.tilt_deg, header.dose_e_per_nm2, side)
        if header.shift_nm is not None:
            self._shift_nm = header.shift_nm
        if header.defocus_nm is not None:
            self._defocus_nm = header.defocus_nm
        if header.series != self._series:
            self._series, self._visits, self._late_ns = header.series, (), 0
            self._recent, self._trusted = [], True
        self._pass_time(header.t_ns)
        if header.temperature_c is not None:
            self.motion.set_temperature(header.temperature_c)
        self.motion.tilt_to(header.tilt_deg)
        measured = self._measure(header, picture)
        if header.scan == "frame":
            if not measured.doubt:
                blur = self._sharpness.look(header, counts, field_nm / counts.shape[1])
                measured = measured.model_copy(update={"blur": blur})
                if blur is not None and blur.begins:
                    self.motion.doubt_focus(blur.out_of_focus_nm or 0.0)
            self._recent = [*self._recent, measured][-_RECENT:]
            self._trusted = self._trusted and not correction_fails(self._recent)
            self._next_visit(header)
        return measured, self._table(header.t_ns, header.index)

    def focus(
        self, header: FocusPicture, pixels: NDArray[Any]
    ) -> tuple[FocusMeasured, Table] | None:
        """Take in a picture of a focus series.

        Parameters
        ----------
        header : FocusPicture
            When, where and how it was taken.
        pixels : ndarray
            Counts as integers, shape (rows, columns).

        Returns
        -------
        tuple of FocusMeasured and Table, or None
            After the last picture: where the focus is, or why that is not known.

        Raises
        ------
        ValueError
            If a picture of the series is missing, or the convergence is not known.
        """
        fit = self._sharpness.picture(header, pixels)
        if fit is None:
            return None
        self._pass_time(header.t_ns)
        self.motion.tilt_to(header.tilt_deg)
        if not fit.doubt:
            if not len(self._references):
                self.motion.focus_here(fit.sd_nm, fit.defocus_nm)
            else:
                if not self._focused:
                    # Until now it was as good as a person sees it.
                    self.motion.doubt_focus(self._depth_nm)
                self.motion.measure_focus(fit.defocus_nm, fit.sd_nm)
            self._focused = True
        found = FocusMeasured(
            t_ns=header.t_ns,
            series=header.series,
            index=header.index,
            tilt_deg=header.tilt_deg,
            defocus_nm=fit.defocus_nm,
            sd_nm=min(fit.sd_nm, 1e9),
            doubt=fit.doubt,
        )
        return found, self._table(header.t_ns, None)

    # --- parts -----------------------------------------------------------------------------------

    def _pass_time(self, t_ns: int) -> None:
        if self._epoch_ns is None:
            self._epoch_ns = t_ns
        self.motion.advance((t_ns - self._epoch_ns) * 1e-9)

    def _expected(self, tilt_deg: float) -> MotionPrediction:
        """What is expected at an angle now, with the beam shift as it is."""
        return predict(
            self.motion, [tilt_deg], [self.motion.time_s], assumed_shift_nm=self._shift_nm
        )

    def _recalibrate(self, told: ShiftCalibrated) -> None:
        """Convert what was learned of beam shifts, where they were given by another calibration."""
        new, known = np.array(told.matrix_nm), self._matrix_nm
        self._matrix_nm = told.matrix_nm
        if known is None or known == told.matrix_nm:
            return
        back = np.linalg.inv(new)
        change = np.array(known) @ back
        covariance = np.array(told.covariance_nm2)
        spread = np.stack([back.T @ covariance[k : k + 2, k : k + 2] @ back for k in (0, 2)])
        shift_nm = np.array(np.linalg.solve(change, self._shift_nm), np.float64)
        self.motion.recalibrate(change, spread, shift_nm)
        self._shift_nm = float(shift_nm[0]), float(shift_nm[1])
        self._recent, self._trusted = [], True

    def _measure(self, header: FrameTaken, picture: Picture) -> OffsetMeasured:
        """Compare a picture with its reference, and teach the model."""
        reference = self._references.for_tilt(header.tilt_deg, header.series)
        if reference is None:
            self._before[header.scan] = picture
            return self._define_place(header, picture)
        expected = self._expected(header.tilt_deg)
        found = compared(reference, picture, expected, header, self._before.get(header.scan))
        self._before[header.scan] = found.picture
        slip = 0.0
        if not found.doubt:
            slip = self.motion.measure(found.offset_nm, found.sd_nm, self._shift_nm)
            # A scout is coarser than a frame; it serves where no picture is near.
            sparse = header.scan != "frame"
            apart_deg = self._references.apart_deg(header.tilt_deg)
            if not sparse or (apart_deg or 0.0) > SPARSE_DEG:
                self._references.add(
                    ReferencePicture(
                        found.picture, found.offset_nm, found.sd_nm, header.series, sparse
                    )
                )
        return answer_of(header, found, expected, slip)

    def _define_place(self, header: FrameTaken, picture: Picture) -> OffsetMeasured:
        """The first picture: the specimen is where it belongs, and in focus."""
        if not picture.counts.any():
            return answer_to(header).model_copy(update={"doubt": "blank"})
        sd = (_ORIGIN_SD_NM, _ORIGIN_SD_NM)
        self.motion.measure((0.0, 0.0), sd, self._shift_nm)
        if not self._focused:
            self.motion.focus_here(0.0, self._defocus_nm)
        sparse = header.scan != "frame"
        self._references.add(ReferencePicture(picture, (0.0, 0.0), sd, header.series, sparse))
        return answer_to(header).model_copy(
            update={"offset_nm": (0.0, 0.0), "sd_nm": sd, "score": 1.0}
        )

    def _next_visit(self, header: FrameTaken) -> None:
        """Drop the visits up to this frame; learn how late the series is."""
        for number, visit in enumerate(self._visits):
            if abs(visit.tilt_deg - header.tilt_deg) < 0.1:
                self._late_ns = header.t_ns - visit.t_ns
                self._visits = self._visits[number + 1 :]
                return

    def _table(self, t_ns: int, index: int | None) -> Table:
        self._tables += 1
        notes = [] if self._trusted else [_WORSE]
        if self._recent and self._recent[-1].doubt in WORDS:
            notes.append(WORDS[self._recent[-1].doubt])
        apart_deg = None
        if self._visits:
            apart_deg = self._references.apart_deg(self._visits[0].tilt_deg)
        return Table(
            t_ns=t_ns,
            number=self._tables,
            series=self._series,
            index=index,
            rows=table_rows(self.motion, self._visits, self._late_ns, self._epoch_ns or 0),
            height=height_over_axis(self.motion),
            placed=len(self._references) > 0,
            apart_deg=apart_deg,
            drift=drift_to_come(self.motion, t_ns),
            trusted=self._trusted,
            notes=tuple(notes),
        )


def warm_up_tracking() -> None:
    """Compile and import what frames and scouts need; the first of them then take no longer.

    Examples
    --------
    >>> warm_up_tracking()
    """
    first = FrameTaken(
        t_ns=0, series="warm-up", index=0, tilt_deg=0.0, field_nm=100.0, dose_e_per_nm2=1.0
    )
    for dtype in (np.uint8, np.uint16, np.uint32):
        tracker = Tracker()
        frame = (np.arange(512 * 512, dtype=np.int64) % 97).reshape(512, 512).astype(dtype)
        for index in range(2):
            at = {"t_ns": index, "index": index, "tilt_deg": float(index)}
            tracker.feed(first.model_copy(update=at), frame + dtype(index))
        scout = first.model_copy(update={"t_ns": 2, "index": 2, "scan": "scout"})
        tracker.feed(scout, frame[:48, :48])
