"""Focus series before a frame: measure the focus where the model does not know it well enough.

Three short scans of a part of the field, out of its middle, at the focus in use and on both sides
of it. Their pictures go to the tracker, which answers with the focus and its uncertainty; they are
not recorded. What they cost is charged to the series.
"""

from __future__ import annotations

import asyncio

from ...drivers.base import DeviceLost, DeviceRefused, OutOfRange
from ...protocols.config.recipe import BeamSettings
from ...protocols.messages.tracking import FocusMeasured, FocusPicture
from ..schedule.dose import DoseExceeded
from ..schedule.focus_scans import (
    ASIDE,
    PICTURES,
    focus_series_e_per_nm2,
    focus_settings,
    focus_step_nm,
)
from ..schedule.operations import AcquireStack
from ..tracking.focus_needs import WORDS
from ..tracking.follower import Follower
from .context import AcquisitionContext
from .single_picture import take_single_picture

# Wall seconds that the engine waits for the result.
ANSWER_S = 1.0


class FocusSeries:
    """The focus series of one run.

    Parameters
    ----------
    context : AcquisitionContext
        Beam, detector, ledger and journal.
    follower : Follower
        Knows what is needed, and sets shift and focus.

    Attributes
    ----------
    detector_taken : bool
        Whether the detector is armed for a focus series, and no longer for frames.
    """

    def __init__(self, context: AcquisitionContext, follower: Follower) -> None:
        self._context, self._follower = context, follower
        self._account, self._spent, self._taken = "", 0.0, 0
        self._refused: set[str] = set()
        self.detector_taken = False

    def begin(self, account: str) -> None:
        """A series begins, whose dose the focus series are charged to."""
        self._account, self._spent, self._refused = account, 0.0, set()
        self._follower.focus_needs.series_begins()

    async def before(self, index: int, tilt_deg: float) -> bool:
        """Measure the focus before a frame, where it has to be.

        Parameters
        ----------
        index : int
            Of the frame in its series.
        tilt_deg : float
            Nominal angle, at which the stage stands.

        Returns
        -------
        bool
            Whether a focus series was taken.

        Raises
        ------
        DeviceError
            From beam and detector.
        """
        follower, context = self._follower, self._context
        needs = follower.focus_needs
        why = follower.focus_due(context.settings.voltage_kv)
        if not why:
            return False
        where = f"{self._account} frame {index} at {tilt_deg:g} deg"
        if refused := needs.impossible or self._unaffordable():
            self._warn_once(refused, f"{where}: {why}; no focus series: {refused}")
            needs.answered()
            return False
        self._tell("info", f"{where}: {why}; a focus series")
        found = None
        try:
            found = await self._take(index, tilt_deg, needs.out_of_focus_nm)
        except (OutOfRange, DeviceRefused, DeviceLost) as error:
            self._tell("warning", f"{where}: the focus series has failed: {error}")
            if isinstance(error, DeviceLost):
                await context.detector.connect()
        finally:
            needs.answered(found)
            await follower.follow(tilt_deg)
        if found is not None:
            self._report(where, found)
        return True

    def _report(self, where: str, found: FocusMeasured) -> None:
        if found.doubt:
            text = f"{where}: the focus series is not used: {WORDS[found.doubt]}; the focus stays"
            self._tell("warning", text)
            return
        self._tell(
            "info",
            f"{where}: in focus at {found.defocus_nm:+.0f} \u00b1 {found.sd_nm:.0f} nm from where "
            "the run began",
        )

    # --- dose ------------------------------------------------------------------------------------

    def _unaffordable(self) -> str:
        """Reserve a focus series; why that cannot be, or nothing."""
        context, most = self._context, self._follower.focus_needs.dose_e_per_nm2
        dose = focus_series_e_per_nm2(context.settings, context.parked_dose_e_per_nm2)
        if self._spent + dose > most * (1 + 1e-9):
            return (
                f"it takes {dose:.2g} e/nm^2, of {most:g} {self._spent:.2g} are used (focus.dose)"
            )
        limit = context.ledger.limit
        if limit is not None:
            left = limit - context.ledger.charged - self._needed_by_the_plan()
            if dose > left:
                return f"it takes {dose:.2g} e/nm^2, the rest of the recipe leaves {left:.2g}"
        try:
            context.ledger.reserve(self._account, dose, is_series=True)
        except DoseExceeded as error:
            return str(error)
        return ""

    def _needed_by_the_plan(self) -> float:
        """What the frames and scouts to come take, those of this series included."""
        context, progress = self._context, self._context.progress
        needed = 0.0
        for operation in progress.plan.operations[progress.operation_index :]:
            stack = getattr(operation, "stack", None)
            if stack is None or stack.is_dark:
                continue
            frame = context.settings.dose_per_frame_e_per_nm2 + context.parked_dose_e_per_nm2
            of_stack = stack.frames * frame
            if isinstance(operation, AcquireStack) and operation.track is not None:
                of_stack += operation.track.scouts_e_per_nm2
            if stack.name == self._account:
                of_stack -= context.ledger.of(stack.name) - self._spent
            needed += max(0.0, of_stack)
        return needed

    # --- pictures --------------------------------------------------------------------------------

    async def _take(
        self, index: int, tilt_deg: float, out_of_focus_nm: float
    ) -> FocusMeasured | None:
        """Take the pictures; None if the tracker does not answer."""
        context, follower = self._context, self._follower
        cone = follower.focus_needs.convergence_mrad
        assert cone is not None
        scan = focus_settings(context.settings)
        step_nm = focus_step_nm(context.settings, cone, out_of_focus_nm)
        (y_nm, x_nm), middle_nm = follower.applied
        # Along the tilt axis, on one side and then on the other.
        side = 1 if self._taken % 2 == 0 else -1
        y_aside_nm = y_nm + side * ASIDE * context.settings.field_nm * (
            scan.frame[0] / scan.frame[1]
        )
        self._taken += 1
        self.detector_taken = True
        answer: asyncio.Future[FocusMeasured] = asyncio.get_running_loop().create_future()
        follower.focus_needs.expect(answer)
        before = context.ledger.of(self._account)
        try:
            # Before the field changes, for which the beam shift is calibrated.
            await follower.look_at((y_aside_nm, x_nm), middle_nm - step_nm)
            await context.beam.prepare(scan)
            for number, away_nm in enumerate((-step_nm, 0.0, step_nm)):
                await follower.look_at((y_aside_nm, x_nm), middle_nm + away_nm)
                await self._picture(scan, index, number, tilt_deg)
            done, _ = await asyncio.wait([answer], timeout=ANSWER_S)
        finally:
            follower.focus_needs.expect(None)
            self._spent += context.ledger.of(self._account) - before
            await context.beam.prepare(context.settings)
            await follower.look_at((y_nm, x_nm), middle_nm)
        if not done:
            self._tell("warning", f"{self._account}: a focus series had no answer")
        return answer.result() if done else None

    async def _picture(self, scan: BeamSettings, index: int, number: int, tilt_deg: float) -> None:
        """Expose one picture and send it to the tracker."""
        context = self._context
        await context.detector.arm(1, scan.exposure_s, scan.frame)
        picture = await take_single_picture(context, self._account, scan, index)
        taken = FocusPicture(
            t_ns=picture.t_ns,
            series=self._account,
            index=index,
            number=number,
            of=PICTURES,
            tilt_deg=tilt_deg,
            field_nm=scan.field_nm,
            defocus_nm=self._follower.applied[1],
        )
        context.out.tracking(taken, picture.frame.data)

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._refused:
            self._refused.add(key)
            self._tell("warning", text)

    def _tell(self, level: str, text: str) -> None:
        self._context.out.event(level, "tracker", text)
