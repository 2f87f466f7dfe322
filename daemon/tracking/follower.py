"""Keep the specimen in the frame: shift beam and focus by the newest table of the tracker.

The tracker is a process of its own. It gets every frame and is told what happens between them; it
answers with a table for all angles still to come. The engine reads the newest table and never
waits for one (decision 24).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ...drivers.base import Beam, DeviceRefused, OutOfRange
from ...protocols.config.tracking import Focus, Track
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.tracking import (
    DriftAt,
    FocusMeasured,
    HoldDone,
    OffsetMeasured,
    PlaceTold,
    Row,
    SeriesBegun,
    StageMoved,
    Table,
    TemperatureRead,
    Told,
    Visit,
)
from ...protocols.messages.tracking_rules import (
    Next,
    TrackingLimits,
    after_scout,
    before_exposure,
    limits_of,
    stage_takes_over,
)
from .applied_shift import AppliedShift
from .focus_needs import FocusNeeds
from .height_correction import MOVE_ERROR_NM, HeightCorrection
from .scout_answers import ANSWER_S, ScoutAnswers
from .tracking_alarms import TrackingAlarms
from .tracking_plan import calibration_told
from .tracking_status import tracking_status

# Wall seconds that the engine waits for a table at the beginning of a series and after a move.
_POLL_S = 0.005
# Times running that the beam shift has moved by itself, after which the run pauses.
_MOST_FORGOTTEN = 2
CHANNELS: Mapping[str, str] = {
    "offset_y_nm": "nm",
    "offset_x_nm": "nm",
    "offset_sd_y_nm": "nm",
    "offset_sd_x_nm": "nm",
    "score": "",
}
BEAM_CHANNELS: Mapping[str, str] = {
    "shift_y_nm": "nm",
    "shift_x_nm": "nm",
    "defocus_nm": "nm",
}


class Follower:
    """Follows the specimen of one run.

    Parameters
    ----------
    track, focus
        From the recipe.
    beam : Beam
        Connected.
    clock : ExperimentClock
        Time of the messages.
    field_nm : float
        Width of the field of a frame.
    tell : callable
        Sends a message to the tracker.
    telemetry : callable
        Takes device, readings and their time.
    event : callable
        Takes level, source and message.
    pause : callable
        Requests a pause at the next standby.
    """

    def __init__(
        self,
        track: Track,
        focus: Focus,
        beam: Beam,
        clock: ExperimentClock,
        field_nm: float,
        tell: Callable[[Told], None],
        telemetry: Callable[[str, dict[str, float], int], None],
        event: Callable[[str, str, str], None],
        pause: Callable[[], None],
    ) -> None:
        self._focus = focus
        self._beam, self._clock, self._field_nm = beam, clock, field_nm
        self._tell, self._telemetry, self._event = tell, telemetry, event
        self.alarms = TrackingAlarms(track, event, pause)
        self._limits = limits_of(track)
        self.answers = ScoutAnswers()
        self.focus_needs = FocusNeeds(focus, beam.rig.focus, event)
        # Taken before the next frame, and their fluence.
        self.scouts, self.scout_dose_e_per_nm2 = 0, 0.0
        # When the latest of them was taken.
        self.scout_t_ns: int | None = None
        self._table: Table | None = None
        self._series, self._following = "", True
        # A person has said where the specimen stands, and nobody has looked there yet.
        self.pointed_out = False
        self._applied = AppliedShift(beam, clock)
        self._row: Row | None = None
        self._can_focus = False
        self._frames = 0
        self._since_ns = 0
        self._heights = HeightCorrection()

    async def prepare(self, *, calibrated_later: bool = False) -> None:
        """See what the beam can do; it stands at zero shift and in focus now.

        Parameters
        ----------
        calibrated_later : bool
            Whether the run calibrates the shift before it needs it, see `recalibrated`.

        Raises
        ------
        DeviceRefused
            If the beam cannot be shifted, or its shift is not calibrated.
        """
        if await self._is_ready(calibrated_later):
            await self._apply((0.0, 0.0), 0.0)

    async def recalibrated(self) -> None:
        """Go on by a calibration that was measured just now, and that the beam has read."""
        t_ns = await self._applied.read_back()
        await self._is_ready()
        self._tell(self._applied.message(t_ns))
        self._table = None
        self.alarms.calibrated()

    async def _is_ready(self, calibrated_later: bool = False) -> bool:
        """See what the beam can do; False where its shift is to be calibrated first."""
        reach = await self._beam.reach()
        self._can_focus = self._focus.by != "none" and reach.defocus_nm is not None
        if reach.shift_nm is None and reach.units is not None and calibrated_later:
            return False
        if reach.shift_nm is None:
            why = reach.needs_calibration or "the rig names no beam shift (beam.shift)"
            raise DeviceRefused(
                self._beam.name,
                "keep the specimen in the frame",
                why,
                "Calibrate the shift, or leave track out of the recipe",
            )
        shift = self._beam.rig.shift
        self._limits = replace(
            self._limits,
            shift_limit_nm=reach.shift_nm,
            hand_over_nm=0.6 * reach.shift_nm if shift is None else shift.hand_over_nm,
        )
        if (told := calibration_told(self._beam.rig, self._clock.now_ns())) is not None:
            self._tell(told)
        return True

    def use(self, track: Track) -> None:
        """Follow by the settings of the recipe, or by those of a series, from now on."""
        self._limits = limits_of(track, self._limits)
        self.alarms.use(track)

    def rest(self, series: str) -> None:
        """A series begins that is not followed: the beam stays where it is, nothing is told."""
        self._series, self._following = series, False
        self._table = self._row = None
        self.scouts, self.scout_dose_e_per_nm2 = 0, 0.0

    # --- what happens -----------------------------------------------------------------------------

    def series_begins(
        self, series: str, tilt_deg: Sequence[float], frame_s: float, temperature_c: float | None
    ) -> None:
        """Tell the tracker which angles come, and when as far as that is known.

        Parameters
        ----------
        series : str
            Its name.
        tilt_deg : sequence of float
            Angles in the order of exposure.
        frame_s : float
            Expected time from one to the next.
        temperature_c : float or None
            Of the specimen now.
        """
        now_ns = self._clock.now_ns()
        if temperature_c is not None:
            self._tell(TemperatureRead(t_ns=now_ns, temperature_c=temperature_c))
        visits = tuple(
            Visit(tilt_deg=tilt, t_ns=now_ns + int((k + 1) * frame_s * 1e9))
            for k, tilt in enumerate(tilt_deg)
        )
        self._series, self._table, self._frames, self._following = series, None, 0, True
        self.alarms.series_begins()
        self._tell(SeriesBegun(series=series, visits=visits))

    def held(self, rise_k: float, hold_s: float) -> None:
        """Tell the tracker that a hold is over; what it has said of the drift is old then."""
        now_ns = self._clock.now_ns()
        self._table, self._since_ns = None, now_ns
        self._tell(HoldDone(t_ns=now_ns, rise_k=rise_k, hold_s=max(0.0, hold_s)))

    async def follow(self, tilt_deg: float) -> None:
        """Shift beam and focus to where the specimen is expected at an angle.

        Without a table for the angle, or with one that is not trusted, they stay. A shift that the
        column does not take, or has not kept, is told, and pauses the run if the recipe says so.
        """
        moved = await self._applied.moved_by_itself()
        if moved is not None:
            text = f"{self._series}: {moved.text}"
            if moved.times < _MOST_FORGOTTEN:
                self.alarms.warn(f"{text}; it is set again")
            else:
                self.alarms.lost(text)
        row = None if self._table is None else self._table.row_at(tilt_deg)
        self._row = row
        if row is None or self._table is None or not self._table.trusted:
            return
        try:
            await self._apply(row.shift_nm, row.defocus_nm)
        except (OutOfRange, DeviceRefused) as error:
            self.alarms.lost(f"{self._series} at {tilt_deg:g} deg: {error}")

    @property
    def status(self) -> dict[str, Any]:
        """How the specimen is followed at this moment; see `tracking_status`."""
        alarms = self.alarms
        return tracking_status(
            self._series, self._table, self._row, self._applied, alarms.latest, alarms.why_lost,
            self._limits,
        )  # fmt: skip

    async def look_at(self, shift_nm: tuple[float, float], defocus_nm: float) -> None:
        """Shift the beam and focus it for a picture that is no frame of the series.

        Raises OutOfRange or DeviceRefused, as `Beam.deflect` and `Beam.focus` do.
        """
        await self._apply(shift_nm, defocus_nm)

    @property
    def applied(self) -> tuple[tuple[float, float], float]:
        """Shift (y, x) and defocus that are applied, in nm."""
        return self._applied.shift_nm, self._applied.defocus_nm

    def focus_due(self, voltage_kv: float) -> str:
        """Why a focus series comes before the next frame; empty if none does."""
        placed = self._table is not None and self._table.placed
        return self.focus_needs.due(self._row, placed, voltage_kv)

    def before_exposure(
        self,
        tilt_deg: float,
        spent_e_per_nm2: float,
        scout_e_per_nm2: float,
        *,
        repeats: bool = False,
    ) -> Next:
        """Whether a scout comes before the frame of an angle; see the rule of the same name."""
        table = self._table
        row = None if table is None else table.row_at(tilt_deg)
        if row is None or table is None or not (table.trusted and table.placed):
            return Next("expose")
        latest = self.alarms.latest
        return before_exposure(
            row.shift_sd_nm,
            self._limits,
            spent_e_per_nm2,
            scout_e_per_nm2,
            latest,
            repeats=repeats,
        )

    def after_scout(self, found: OffsetMeasured, taken: int) -> Next:
        """What follows a scout; see the rule of the same name."""
        following = after_scout(found, self._field_nm, self._limits, taken)
        if following.do == "expose":
            self.alarms.why_lost = ""
        return following

    def lift_nm(self, tilt_deg: float) -> float | None:
        """How far the stage should lift the specimen before the next frame; None: not at all.

        A specimen that is off the tilt axis needs a beam shift that grows with the tilt. Where the
        table expects one beyond `hand_over_nm`, the stage takes the height out, once known.

        Parameters
        ----------
        tilt_deg : float
            Angle of the next frame; at a large one a move that errs moves the image.
        """
        table, heights = self._table, self._heights
        if table is None or not table.trusted:
            return None
        by_nm = heights.due(table, self._frames, tilt_deg, self._limits)
        if heights.stuck_nm is not None:
            self.alarms.warn_once(
                "z",
                f"{self._series}: the specimen still stands {heights.stuck_nm:.0f} nm off the tilt "
                "axis, as before the stage was moved: its z does not move as it says. Bring the "
                "height to the axis by hand",
            )
        return by_nm

    @property
    def apart_deg(self) -> float | None:
        """How far in angle the nearest picture is that the next frame can be compared with.

        None where there is none, or no table that knows.
        """
        return None if self._table is None else self._table.apart_deg

    @property
    def limits(self) -> TrackingLimits:
        """What recipe and column allow."""
        return self._limits

    @property
    def drift(self) -> tuple[DriftAt, ...]:
        """How the drift dies down, by the newest table."""
        return () if self._table is None else self._table.drift

    def height_nm(self) -> tuple[float, float] | None:
        """Height of the specimen over the tilt axis by the newest table, and its sd."""
        return None if self._table is None else self._table.height

    async def table_comes(self) -> None:
        """Wait until the tracker has answered, for as long as it may take."""
        end_s = time.monotonic() + ANSWER_S
        while self._table is None and time.monotonic() < end_s:
            await asyncio.sleep(_POLL_S)

    def hand_over_nm(self) -> tuple[float, float] | None:
        """How far (y, x) the stage should bring the specimen back before a series; None: it stays.

        See `stage_takes_over`: the beam shift is small again afterwards.
        """
        table = self._table
        if table is None or not table.trusted:
            return None
        return stage_takes_over(table.rows, self._limits)

    def moved(self, x_nm: float, y_nm: float, z_nm: float, t_ns: int) -> None:
        """Tell the tracker that the stage was moved; the table is old from now on."""
        if z_nm:
            moves = "lifts" if z_nm > 0 else "lowers"
            text = f"{moves} the specimen by {abs(z_nm):.0f} nm, to the tilt axis"
        else:
            text = f"takes over ({y_nm:.0f}, {x_nm:.0f}) nm (y, x) of the beam shift"
        self._event("info", "tracker", f"{self._series}: the stage {text}")
        if z_nm and self._table is not None:
            self._heights.moved(self._table.height, z_nm)
        self._frames, self._table, self._since_ns = 0, None, t_ns
        x_error_nm, y_error_nm, z_error_nm = (
            MOVE_ERROR_NM * (by != 0) for by in (x_nm, y_nm, z_nm)
        )
        self._tell(
            StageMoved(
                t_ns=t_ns,
                moved_nm=(x_nm, y_nm, z_nm),
                error_nm=(x_error_nm, y_error_nm, z_error_nm),
            )
        )

    def point_out(self, offset_nm: tuple[float, float], sd_nm: float) -> None:
        """A person says how far (y, x) the specimen is off with the present shift, and how well."""
        now_ns = self._clock.now_ns()
        self._frames, self._table, self._since_ns, self.pointed_out = 0, None, now_ns, True
        self.alarms.place_told()
        self._tell(PlaceTold(t_ns=now_ns, offset_nm=offset_nm, sd_nm=(sd_nm, sd_nm)))

    async def _apply(self, shift_nm: tuple[float, float], defocus_nm: float) -> None:
        """Set and read back; the tracker learns what was set."""
        applied = self._applied
        wanted_nm = defocus_nm if self._can_focus else applied.defocus_nm
        t_ns = await applied.set(shift_nm, wanted_nm, even_if_near=self._table is None)
        self._tell(applied.message(t_ns))
        self._telemetry("beam", applied.readings, t_ns)

    def header(self) -> dict[str, Any]:
        """What the header of a frame says of its shift."""
        scouts = {"scouts": self.scouts, "scout_dose_e_per_nm2": self.scout_dose_e_per_nm2}
        known = self._applied.header(self._row) | scouts
        if self.scout_t_ns is not None:
            known["scout_t_ns"] = self.scout_t_ns
        return known

    # --- what the tracker answers -----------------------------------------------------------------

    def note(self, body: Mapping[str, Any]) -> None:
        """Take in an answer of the tracker: what a frame showed, and a new table."""
        try:
            if (told := body.get("table")) is not None:
                self._note_table(Table.model_validate(told))
            if (told := body.get("focused")) is not None:
                self.focus_needs.note_focus(FocusMeasured.model_validate(told))
            if (told := body.get("measured")) is not None:
                self._note_measured(OffsetMeasured.model_validate(told))
        except ValidationError as error:
            self._event("error", "tracker", f"an answer that cannot be read: {error.errors()[0]}")

    def _note_table(self, table: Table) -> None:
        if table.series != self._series or table.t_ns < self._since_ns:
            return
        self._table = table
        self.alarms.note_table(table, self._limits)

    def _note_measured(self, found: OffsetMeasured) -> None:
        if found.scan != "frame":
            self.answers.note(found)
            return
        if found.offset_nm is not None and found.sd_nm is not None:
            values = {
                "offset_y_nm": found.offset_nm[0],
                "offset_x_nm": found.offset_nm[1],
                "offset_sd_y_nm": found.sd_nm[0],
                "offset_sd_x_nm": found.sd_nm[1],
                "score": found.score,
            }
            self._telemetry("tracker", values, found.t_ns)
        self.focus_needs.note_frame(found)
        if self._following:
            self._frames += not found.doubt
            self.alarms.note_frame(found, self._field_nm, self._limits)
