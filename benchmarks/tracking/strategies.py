"""Ways to keep a specimen in the field: nothing, what other programs do, and the product's tracker.

Each is a class with `before(tilt)`, which gives beam shift and defocus of the next frame, and
`after(tilt, frame)`, which sees it. The tracker's also takes scouts through `scan`.
"""

import math

import numpy as np
from column import RISE_K, TILT_S, WAY_BACK_S

from pyrotome.analysis.motion.summary import what_was_learned
from pyrotome.analysis.tracking.pictures import picture_of
from pyrotome.analysis.tracking.registration import register
from pyrotome.analysis.tracking.tracker import Tracker
from pyrotome.protocols.messages.tracking import (
    FrameTaken,
    HoldDone,
    SeriesBegun,
    StageMoved,
    Visit,
)
from pyrotome.protocols.messages.tracking_rules import (
    Next,
    TrackingLimits,
    after_scout,
    before_exposure,
    not_found_running,
)

STILL = (np.zeros(2), 0.0)


class Nothing:
    """(a) The beam stays."""

    def __init__(self, scope):
        self.scope = scope

    def begin(self, series, tilts):
        pass

    def before(self, tilt):
        return STILL

    def after(self, tilt, frame):
        pass

    def hold(self):
        pass

    def end(self, series):
        pass

    sd = (math.nan, math.nan)
    scouts = 0


class FrameBefore(Nothing):
    """(b) Each frame is registered to the one before, which centres the next.

    On a way back, what the nearest angle has needed last is applied, and its frame compared with.
    """

    def __init__(self, scope):
        super().__init__(scope)
        self.shift, self.seen = np.zeros(2), []  # tilt, picture, place, shift that centres

    def nearest(self, tilt):
        if self.seen and abs(tilt - self.seen[-1][0]) > 3:
            return min(reversed(self.seen), key=lambda item: abs(item[0] - tilt))
        return self.seen[-1] if self.seen else None

    def before(self, tilt):
        near = self.nearest(tilt)
        if near is not None:
            self.shift = self.wanted(tilt, near)
        return self.shift, 0.0

    def wanted(self, tilt, near):
        return near[3]

    def after(self, tilt, frame):
        picture = picture_of(frame, self.scope.field_nm, tilt, self.scope.dose)
        near, place = self.nearest(tilt), np.zeros(2)
        if near is not None:
            found = register(near[1], picture)
            if not found.believed:
                # The peer has no test of its own; a wrong shift would lose it at once.
                return
            place = near[2] + found.shift_nm
        self.seen.append((tilt, picture, place, self.shift - place))


class Line(FrameBefore):
    """(b') A line through the last five frames; the start angle's shift is remembered."""

    def wanted(self, tilt, near):
        if near is not self.seen[-1]:
            return near[3]
        points = []
        for at, _, _, needed in reversed(self.seen[-5:]):
            if points and abs(at - points[-1][0]) > 3:
                break
            points.append((at, needed))
        if len(points) < 2:
            return near[3]
        angles = np.array([at for at, _ in points])
        return np.polyfit(angles - tilt, np.array([needed for _, needed in points]), 1)[1]


class Model:
    """(c), (d), (e) The product's tracker and its decision rules."""

    limits = TrackingLimits(scouts_e_per_nm2=0.0)

    def __init__(self, scope):
        self.scope, self.tracker, self.table = scope, Tracker(), None
        self.series, self.index, self.dose, self.scouts = "", 0, 0.0, 0
        self.sd, self.shift, self.last = (0.0, 0.0), np.zeros(2), None
        self.paused = self.refused = 0
        self.recent = []

    @property
    def now_ns(self):
        return round(self.scope.column.time_s * 1e9)

    def begin(self, series, tilts):
        self.series, self.index, self.dose, self.last = f"series_{series + 1:03d}", 0, 0.0, None
        self.recent = []
        t_s, at, visits = self.scope.column.time_s, self.scope.column.tilt, []
        for tilt in tilts:
            t_s += 0.0 if tilt == at else WAY_BACK_S if abs(tilt - at) > 10 else TILT_S
            visits.append(Visit(tilt_deg=tilt, t_ns=round(t_s * 1e9)))
            at = tilt
        self.table = self.tracker.tell(SeriesBegun(series=self.series, visits=tuple(visits)))

    def before(self, tilt):
        row = self.table.row_at(tilt)
        self.shift, self.sd, focus = np.array(row.shift_nm), row.shift_sd_nm, row.defocus_nm
        wanted = before_exposure(self.sd, self.limits, self.dose, self.scope.scout_dose, self.last)
        if self.series == "series_001" and self.index == 0:
            return self.shift, focus  # the user has centred it
        if not_found_running(self.recent):
            # The run pauses; the person who resumes it lets the specimen be searched.
            self.paused, self.recent = self.paused + 1, []
            wanted = Next("wide")
        taken = 0
        while wanted.do in ("scout", "wide"):
            taken += 1
            found = self.scout(tilt, wanted.do, focus)
            wanted = after_scout(found, self.scope.field_nm, self.limits, taken)
        self.paused += wanted.do == "pause"
        return self.shift, focus

    def scout(self, tilt, scan, focus):
        pixels, field_nm, dose = self.scope.scan(scan, self.shift)
        found, table = self.tracker.feed(self.header(tilt, scan, field_nm, dose, focus), pixels)
        row = table.row_at(tilt)
        self.shift, self.sd = np.array(row.shift_nm), row.shift_sd_nm
        self.dose += dose
        self.scouts += 1
        return found

    def header(self, tilt, scan, field_nm, dose, focus):
        return FrameTaken(
            t_ns=self.now_ns, series=self.series, index=self.index, scan=scan, tilt_deg=tilt,
            field_nm=field_nm, dose_e_per_nm2=dose, shift_nm=tuple(self.shift),
            defocus_nm=focus, temperature_c=200.0,
        )  # fmt: skip

    def after(self, tilt, frame):
        header = self.header(tilt, "frame", self.scope.field_nm, self.scope.dose, 0.0)
        self.last, self.table = self.tracker.feed(header, frame)
        self.recent = [*self.recent, self.last][-3:]
        self.refused += not self.table.trusted
        self.index += 1

    def hold(self):
        self.tracker.tell(HoldDone(t_ns=self.now_ns, rise_k=RISE_K))

    def end(self, series):
        if series == 0:
            asked = -what_was_learned(self.tracker.motion).height_nm
            self.scope.column.move_z(asked)
            error = math.hypot(0.03 * asked, 150.0)
            self.tracker.tell(
                StageMoved(t_ns=self.now_ns, moved_nm=(0, 0, asked), error_nm=(0, 0, error))
            )


class ModelScouts(Model):
    """(d) A scout where the prediction is worse than 100 nm."""

    limits = TrackingLimits(keep_within_nm=100.0)


class ModelAlways(Model):
    """(e) A scout before every frame."""

    limits = TrackingLimits(keep_within_nm=0.0)


STRATEGIES = {
    "nothing": Nothing,
    "frame before": FrameBefore,
    "line through 5": Line,
    "model, scouts: 0": Model,
    "model, scout if sd > 100 nm": ModelScouts,
    "model, scout always": ModelAlways,
}
