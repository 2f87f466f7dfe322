"""Scouts before a frame: find the specimen, search for it where it is not, pause without it.

A scout is a sparse scan of the field, taken with the probe and the dwell time of a frame. Its
picture goes to the tracker, whose answer the engine waits for, and to the recorder. What it costs
is charged to the series.
"""

from __future__ import annotations

from typing import Any

from ...drivers.base import DeviceLost
from ...protocols.config.recipe import BeamSettings
from ...protocols.messages.tracking import FrameTaken, OffsetMeasured, ScanKind
from ...protocols.messages.tracking_rules import Next
from ..schedule.dose import DoseExceeded
from ..schedule.scout_scans import (
    SCOUT_SCANS,
    BeamOnTimes,
    ScoutScan,
    scout_dose_e_per_nm2,
    scout_for,
    scout_settings,
)
from ..tracking.follower import Follower
from ..tracking.scout_answers import ANSWER_S, answer_to
from .context import AcquisitionContext
from .single_picture import take_single_picture

# Scouts in a row without an answer, after which a series takes no more.
_MOST_UNANSWERED = 2


class Scouts:
    """The scouts of one run.

    Parameters
    ----------
    context : AcquisitionContext
        Beam, detector, ledger and journal.
    follower : Follower
        Decides, and shifts the beam by what was found.
    """

    def __init__(self, context: AcquisitionContext, follower: Follower) -> None:
        self._context, self._follower = context, follower
        self._account, self._spent, self._unanswered = "", 0.0, 0
        # What a person saw last, and what it is called.
        self.latest_picture = context.settings, "the last frame"
        # Whether the detector is armed for scouts, and no longer for frames.
        self.detector_taken = False
        # Of the series: how many, and which kind is being taken now.
        self._taken, self._looking = 0, ""
        self._scan = SCOUT_SCANS[0]

    def begin(self, account: str) -> None:
        """A series begins, whose dose the scouts are charged to."""
        self._account, self._spent, self._unanswered = account, 0.0, 0
        self._taken, self._scan = 0, SCOUT_SCANS[0]

    def spread(self, frames: int) -> None:
        """Let the dose of the series suffice for a scout before each of so many frames.

        They have fewer positions then, and the beam is blanked before the last of them, if need be:
        enough where a frame is there to compare with.
        """
        budget = self._follower.limits.scouts_e_per_nm2 - self._spent
        on = self._on(self._context.least_on.typical_s)
        self._scan = scout_for(self._context.settings, frames, budget, on)

    @property
    def dose_e_per_nm2(self) -> float:
        """Fluence that hardly any scout passes, with that while the blanker works."""
        on = self._on(self._context.least_on.careful_s)
        return scout_dose_e_per_nm2(self._context.settings, self._scan, on)

    def _on(self, least_s: float) -> BeamOnTimes:
        context = self._context
        return BeamOnTimes(context.switching.expected_s, least_s, 1.0 / context.clock.wall_s(1))

    def _settings_of(self, kind: ScanKind) -> BeamSettings:
        context = self._context
        return scout_settings(
            context.settings,
            columns=(SCOUT_SCANS[0] if kind == "wide" else self._scan).columns,
            wide=kind == "wide",
            most=context.detector.rig.limits.frame,
        )

    @property
    def status(self) -> dict[str, Any]:
        """Scouts of the series so far, for those who watch."""
        return {
            "scouts": self._taken,
            "scouts_e_per_nm2": round(self._spent, 4),
            "scouts_limit_e_per_nm2": self._follower.limits.scouts_e_per_nm2,
            "looking": self._looking,
        }

    async def before(
        self, index: int, tilt_deg: float, *, always: bool = False, repeats: bool = False
    ) -> int:
        """Find the specimen before a frame, as far as the tracking rules ask for it.

        Parameters
        ----------
        index : int
            Of the frame in its series.
        tilt_deg : float
            Nominal angle, at which the stage stands.
        always : bool
            Whether a scout is taken in any case.
        repeats : bool
            Whether the frame before was at the same angle: then this one gets no scout of its own.

        Returns
        -------
        int
            Number of scouts that were taken; see `detector_taken`.

        Raises
        ------
        DeviceError
            From beam and detector.
        """
        follower, taken, before = self._follower, 0, self._spent
        follower.scouts, follower.scout_dose_e_per_nm2, follower.scout_t_ns = 0, 0.0, None
        self.latest_picture = self._context.settings, "the last frame"
        following = follower.before_exposure(
            tilt_deg, self._spent, self.dose_e_per_nm2, repeats=repeats
        )
        if always and following.do == "expose":
            following = Next("scout")
        while following.do in ("scout", "wide") and self._unanswered < _MOST_UNANSWERED:
            kind: ScanKind = "wide" if following.do == "wide" else "scout"
            if following.do == "wide" or taken:
                where = f"{self._account} frame {index} at {tilt_deg:g} deg"
                what = "search" if kind == "wide" else "scout"
                self._warn(f"{where}: {following.why}; {what} {taken + 1}")
            found = await self._look(kind, index, tilt_deg)
            taken += 1
            follower.scouts, follower.scout_dose_e_per_nm2 = taken, self._spent - before
            if found is None:
                break
            await follower.follow(tilt_deg)
            following = follower.after_scout(found, taken)
        if following.do == "pause":
            follower.alarms.lost(
                f"{self._account} frame {index} at {tilt_deg:g} deg: {following.why}"
            )
        return taken

    async def _look(self, kind: ScanKind, index: int, tilt_deg: float) -> OffsetMeasured | None:
        """Take one scan and wait for what it shows; None if that is not known."""
        context, scan = self._context, self._settings_of(kind)
        before = context.ledger.of(self._account)
        try:
            context.ledger.top_up(self._account, self.dose_e_per_nm2)
        except DoseExceeded as error:
            self._warn(f"no scout, because its dose would pass a limit: {error}")
            return None
        self._taken, self._looking = self._taken + 1, kind
        try:
            if kind == "wide":
                self.latest_picture = scan, f"the picture of the search at {tilt_deg:g} deg"
                await context.beam.prepare(scan)
            found = await self._take(kind, scan, index, tilt_deg)
        except DeviceLost as error:
            self._warn(f"a scout did not come: {error}")
            await context.detector.connect()
            found = None
        finally:
            self._looking = ""
            self._spent += context.ledger.of(self._account) - before
            if kind == "wide":
                await context.beam.prepare(context.settings)
        if found is not None and found.doubt == "blank" and kind == "scout" and self._scan.at_once:
            self._scan = ScoutScan(self._scan.columns)
            self._warn(
                f"{self._account}: a scout is dark; the detector probably begins later than it "
                "answers, and the end of a scout is waited for from now on"
            )
        self._unanswered = 0 if found is not None else self._unanswered + 1
        if self._unanswered == _MOST_UNANSWERED:
            self._warn(
                f"{self._account}: {_MOST_UNANSWERED} scouts had no answer; the rest of the series "
                "is exposed by the newest table, without scouts",
            )
        return found

    async def _take(
        self, kind: ScanKind, scan: BeamSettings, index: int, tilt_deg: float
    ) -> OffsetMeasured | None:
        context, follower = self._context, self._follower
        self.detector_taken = True
        await context.detector.arm(1, scan.exposure_s, scan.frame)
        at_once = kind == "scout" and self._scan.at_once
        picture = await take_single_picture(context, self._account, scan, index, at_once=at_once)
        t_ns = picture.t_ns
        header: dict[str, Any] = follower.header()
        answer = follower.answers.expect(t_ns)
        taken = FrameTaken(
            t_ns=t_ns,
            series=self._account,
            index=index,
            scan=kind,
            tilt_deg=tilt_deg,
            field_nm=scan.field_nm,
            dose_e_per_nm2=scan.dose_per_frame_e_per_nm2,
            cut_short=at_once,
            shift_nm=tuple(header["shift_nm"]),
            defocus_nm=header["defocus_nm"],
            temperature_c=round(context.watch.temperature_at(t_ns), 4),
        )
        context.out.tracking(taken, picture.frame.data)
        follower.scout_t_ns = t_ns
        found = await answer_to(answer)
        if found is None:
            self._warn(
                f"{self._account} frame {index} at {tilt_deg:g} deg: a scout had no answer within "
                f"{ANSWER_S:g} s; the frame is exposed by the newest table"
            )
        return found

    def _warn(self, text: str) -> None:
        self._context.out.event("warning", "tracker", text)
