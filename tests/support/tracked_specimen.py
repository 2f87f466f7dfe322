"""A specimen on a stage that errs, and frames of it: what the tests of the tracking look at."""

import math

import numpy as np

from pyrotome.analysis.motion.motion import Motion
from pyrotome.analysis.motion.prediction import predict
from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import draw_counts, thickness_nm

FIELD_NM, DOSE = 1065.0, 5.77
SCOUT_DOSE = 0.0225
SPECIMEN = Sintering(36, 1)


def frame(tilt_deg=0.0, offset_nm=(0.0, 0.0), seed=0, points=128, times=1, dose=DOSE, specimen=1):
    """Counts of the copper specimen; `times` the field, at `dose` on all of it."""
    made = SPECIMEN if specimen == 1 else Sintering(36, specimen)
    field_nm = times * FIELD_NM
    pixel_nm = field_nm / points
    thickness = thickness_nm(made.truth(20.0), (points, points), pixel_nm, tilt_deg, offset_nm)
    electrons = np.full(points, dose * pixel_nm**2, np.float32)
    return draw_counts(thickness, electrons, np.random.default_rng(seed))


class Stage:
    """X, Z and jitter of a stage; it returns to the same place but for the jitter."""

    def __init__(self, seed, height_nm=1500.0, axis_nm=300.0, jitter_nm=20.0, matrix=None):
        self.rng = np.random.default_rng(seed)
        self.height_nm, self.axis_nm, self.jitter_nm = height_nm, axis_nm, jitter_nm
        self.matrix = np.eye(2) if matrix is None else np.array(matrix)
        self.place = np.zeros(2)

    def offset(self, tilt_deg, shift):
        tilt = math.radians(tilt_deg)
        across = self.axis_nm * (math.cos(tilt) - 1) + self.height_nm * math.sin(tilt)
        moved = np.array([0.0, across]) + self.place + self.matrix @ np.asarray(shift)
        return moved + self.jitter_nm * self.rng.standard_normal(2)


def follow(motion: Motion, stage: Stage, tilts, *, step_s=2.0):
    """Track a series frame by frame; rows of (offset y, x, predicted sd y, x)."""
    rows = []
    for tilt in tilts:
        motion.advance(motion.time_s + step_s)
        motion.tilt_to(tilt)
        found = predict(motion, [tilt], [motion.time_s])
        offset = stage.offset(tilt, found.shift_nm[0])
        motion.measure(tuple(offset), (0.5, 0.5), tuple(found.shift_nm[0]))
        rows.append((*offset, *found.sd_nm[0]))
    return np.array(rows)
