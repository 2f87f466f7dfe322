"""A tracked run between its exposures: settle, shift, look by scouts, and let the stage help."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ...protocols.config.tracking import Settle
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import Point
from ...protocols.messages.tracking_rules import settled_ns
from ..acquisition.context import AcquisitionContext
from ..acquisition.focus_series import FocusSeries
from ..acquisition.scouts import Scouts
from ..acquisition.stack_acquisition import StackAcquisition
from ..schedule.operations import CalibrateHeight
from ..schedule.tilt_angles import arrivals
from ..tracking.follower import Follower

# A picture further away in angle is not compared with.
_FAR_DEG = 8.0
# How well a person can point at the specimen (one sd), as a part of the field.
_POINTED_PART = 0.05
# A height that is smaller than twice its own doubt, or than this, is left as it is.
_LEAST_HEIGHT_NM = 50.0


class SpecimenTracking:
    """Keeps the specimen of one run in the frame.

    Parameters
    ----------
    context : AcquisitionContext
        Stage, beam and detector.
    follower : Follower
        Shifts the beam by the newest table.
    settle : Settle or None
        Whether a series waits for the drift to die down.
    checkpoint : callable
        Where a pause takes effect.
    """

    def __init__(
        self,
        context: AcquisitionContext,
        follower: Follower,
        settle: Settle | None,
        checkpoint: Callable[[], Awaitable[bool]],
    ) -> None:
        self._context, self._follower, self._settle = context, follower, settle
        self._checkpoint = checkpoint
        self._scouts = Scouts(context, follower)
        self._focus = FocusSeries(context, follower)
        self._series, self._tilts = "", tuple[float, ...]()
        # Time from frame to frame as it was last, and when the latest series came to its first.
        self._frame_s: float | None = None
        self._first_ns = 0

    @property
    def status(self) -> dict[str, Any]:
        """How the specimen is kept in the frame at this moment, for those who watch."""
        return {**self._follower.status, **self._scouts.status}

    async def settled(self, series: str) -> None:
        """Wait, with the beam blanked, until the drift is slow enough by the model."""
        settle, clock, out = self._settle, self._context.clock, self._context.out
        if settle is None:
            return
        # After a hold the tracker has another one to tell.
        await self._follower.table_comes()
        drift = self._follower.drift
        now_ns = clock.now_ns()
        latest_ns = now_ns + int(settle.at_most_s * 1e9)
        until_ns = settled_ns(drift, settle.drift_below_nm_per_s)
        if until_ns is not None and until_ns <= now_ns:
            return
        end_ns = latest_ns if until_ns is None else min(until_ns, latest_ns)
        out.event(
            "info",
            "tracker",
            f"{series} waits {(end_ns - now_ns) * 1e-9:.0f} s with the beam blanked, until the "
            f"drift is below {settle.drift_below_nm_per_s:g} nm/s",
        )
        await clock.sleep_until_ns(end_ns)
        if until_ns is None or until_ns > latest_ns:
            out.event(
                "warning",
                "tracker",
                f"{series}: after {settle.at_most_s:g} s the drift is probably still faster than "
                f"{settle.drift_below_nm_per_s:g} nm/s; the series begins all the same",
            )

    async def series_begins(self, series: str, tilt_deg: Sequence[float], frame_s: float) -> None:
        """Get a table for the angles of a series, and let the stage take over a large shift.

        Parameters
        ----------
        series : str
            Its name.
        tilt_deg : sequence of float
            Angles in the order of exposure.
        frame_s : float
            Planned time from one to the next; the measured one counts where there is one.
        """
        follower = self._follower
        self._series, self._tilts = series, tuple(tilt_deg)
        frame_s = self._frame_s = frame_s if self._frame_s is None else self._frame_s
        self._scouts.begin(series)
        self._focus.begin(series)
        await self._expect(series, tilt_deg, frame_s)
        if follower.limits.scouts_e_per_nm2 > 0 and len(tilt_deg):
            way = self._way_to(tilt_deg[0])
            if way:
                await self._look_at(series, way)
                await self._expect(series, tilt_deg, frame_s)
            if follower.limits.keep_within_nm == 0:
                self._scouts.spread(sum(arrivals(tilt_deg)))
        if (by_nm := follower.hand_over_nm()) is not None:
            await self._move_stage(y_nm=by_nm[0], x_nm=by_nm[1])

    async def _move_stage(self, *, x_nm: float = 0.0, y_nm: float = 0.0, z_nm: float = 0.0) -> bool:
        """Move the stage by so much and get a new table; False if the stage cannot."""
        at = await self._context.stage.shift(x_nm=x_nm, y_nm=y_nm, z_nm=z_nm)
        if at is None:
            return False
        self._follower.moved(x_nm, y_nm, z_nm, at.t_ns)
        await self._follower.table_comes()
        return True

    def _way_to(self, tilt_deg: float) -> tuple[float, ...]:
        """Angles to look at on the way to one that no picture is near to; none where one is.

        A picture looks too different from one that was taken far away, and the specimen leaves the
        field on the way: it is followed in steps.
        """
        apart_deg = self._follower.apart_deg
        if apart_deg is not None and apart_deg <= _FAR_DEG:
            return ()
        position = self._context.stage.position
        here_deg = 0.0 if position is None else position.tilt_deg
        if apart_deg is None and abs(tilt_deg - here_deg) <= _FAR_DEG:
            return ()  # its first frame defines the place
        steps = max(1, math.ceil(abs(tilt_deg - here_deg) / _FAR_DEG))
        way = [here_deg + (tilt_deg - here_deg) * k / steps for k in range(steps)]
        return tuple(round(angle, 3) for angle in (way if apart_deg is None else way[1:]))

    async def _expect(self, series: str, tilt_deg: Sequence[float], frame_s: float) -> None:
        latest = self._context.watch.latest
        temperature_c = None if latest is None else latest.temperature_c
        self._follower.series_begins(series, tilt_deg, frame_s, temperature_c)
        await self._follower.table_comes()

    async def before_exposure(
        self, acquisition: StackAcquisition, first: int, tilt_deg: float
    ) -> None:
        """Bring the specimen into the frame of an angle, at which the stage stands.

        What cannot be followed, or was not found, is not exposed before a person has looked; then
        it is looked for again.
        """
        follower = self._follower
        await self._keep_time(first)
        if (by_nm := follower.lift_nm(tilt_deg)) is not None:
            await self._move_stage(z_nm=by_nm)
        taken = 0
        while True:
            always = await self._goes_there() or taken > 0
            await follower.follow(tilt_deg)
            index = acquisition.indices[first]
            repeats = not arrivals(self._tilts)[first]
            await self._focus.before(index, tilt_deg)
            taken += await self._scouts.before(index, tilt_deg, always=always, repeats=repeats)
            if not await self._checkpoint() or not (taken or follower.pointed_out):
                break
        if self._scouts.detector_taken or self._focus.detector_taken:
            await acquisition.arm_from(first)
            self._scouts.detector_taken = self._focus.detector_taken = False

    async def _goes_there(self) -> bool:
        """Take in where a person says that the specimen stands; whether one has said so."""
        follower = self._follower
        if not follower.pointed_out:
            return False
        follower.pointed_out = False
        await follower.table_comes()
        if (by_nm := follower.hand_over_nm()) is not None:
            await self._move_stage(y_nm=by_nm[0], x_nm=by_nm[1])
        return True

    def point_out(self, point: Point) -> str:
        """A person says where the specimen stands in the last picture; it is looked for there.

        Parameters
        ----------
        point : Point
            In nm from the middle of the picture of the search, or of the last frame where nothing
            was searched; or its row and column there.

        Returns
        -------
        str
            What was said, in words.

        Raises
        ------
        BadInput
            If that is outside the picture.
        """
        scan, what = self._scouts.latest_picture
        size_nm = tuple(count * scan.pixel_nm for count in scan.frame)
        offset_nm = point.y, point.x
        if point.unit == "px":
            offset_nm = tuple(
                (at + 0.5) * scan.pixel_nm - 0.5 * size
                for at, size in zip(offset_nm, size_nm, strict=True)
            )
        y_nm, x_nm = offset_nm
        if abs(y_nm) > 0.5 * size_nm[0] or abs(x_nm) > 0.5 * size_nm[1]:
            raise BadInput(
                "--at",
                f"{point} is outside {what}, which shows {scan.frame[0]} x {scan.frame[1]} px, "
                f"\u00b1{0.5 * size_nm[0]:.0f} nm by \u00b1{0.5 * size_nm[1]:.0f} nm (y, x)",
            )
        self._follower.point_out((y_nm, x_nm), _POINTED_PART * self._context.settings.field_nm)
        return f"the specimen stands at ({y_nm:.0f}, {x_nm:.0f}) nm (y, x) in {what}"

    async def _keep_time(self, first: int) -> None:
        """Measure the time from frame to frame; after the way to the first, ask for a new table.

        What drifts has drifted on since the table was made.
        """
        now_ns = self._context.clock.now_ns()
        if first:
            self._frame_s = (now_ns - self._first_ns) * 1e-9 / first
            return
        self._first_ns = now_ns
        await self._expect(self._series, self._tilts, self._frame_s or 0.0)

    async def calibrate_height(self, operation: CalibrateHeight) -> None:
        """Look at the specimen at some angles, and let the stage bring it to the tilt axis.

        Raises
        ------
        DoseExceeded
            If the scouts would pass a limit; nothing is exposed.
        """
        context, follower, out = self._context, self._follower, self._context.out
        ledger, name = context.ledger, operation.name
        self._scouts.begin(name)
        ledger.reserve(name, operation.scouts * self._scouts.dose_e_per_nm2, is_series=False)
        try:
            await self._look_at(name, operation.tilt_deg)
            found = follower.height_nm()
            if found is None:
                out.event("warning", "tracker", f"{name}: the scouts do not tell the height")
                return
            height_nm, sd_nm = found
            out.event(
                "info",
                "tracker",
                f"{name}: the specimen stands {height_nm:.0f} \u00b1 {sd_nm:.0f} nm over the axis",
            )
            if abs(height_nm) < max(_LEAST_HEIGHT_NM, 2.0 * sd_nm):
                return
            if not await self._move_stage(z_nm=-height_nm):
                out.event("warning", "tracker", f"{name}: the stage cannot move so far along z")
                return
            await self._look_at(name, operation.check_deg)
            left = follower.height_nm()
            if left is not None:
                out.event(
                    "info",
                    "tracker",
                    f"{name}: {left[0]:.0f} \u00b1 {left[1]:.0f} nm are left",
                )
        finally:
            ledger.release(name)
            await context.detector.disarm()

    async def _look_at(self, name: str, tilt_deg: Sequence[float]) -> None:
        await self._expect(name, tilt_deg, 1.0)
        for index, tilt in enumerate(tilt_deg):
            await self._checkpoint()
            await self._context.stage.tilt(tilt)
            while True:
                await self._goes_there()
                await self._follower.follow(tilt)
                await self._scouts.before(index, tilt, always=True)
                if not await self._checkpoint():
                    break
