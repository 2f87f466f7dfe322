"""Frames of the copper specimen out of focus: what the tests of the sharpness look at."""

import numpy as np

from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import as_thickness, draw_counts, thickness_nm
from pyrotome.simulators.world.image.defocus import out_of_focus

SPECIMEN = Sintering(36, 1).truth(20.0)
CONVERGENCE_MRAD = 5.0


def blurred(
    defocus_nm=0.0, tilt_deg=0.0, offset_nm=(0.0, 0.0), seed=0, points=128, field_nm=532.0, dose=6.0
):
    """Counts of a field of the specimen, seen by a probe that is focused elsewhere."""
    pixel_nm = field_nm / points
    seen = as_thickness(
        thickness_nm(SPECIMEN, (points, points), pixel_nm, tilt_deg, tuple(map(float, offset_nm)))
    )
    seen = out_of_focus(seen, defocus_nm, CONVERGENCE_MRAD, pixel_nm)
    electrons = np.full(points, dose * pixel_nm**2, np.float32)
    return draw_counts(seen, electrons, np.random.default_rng(seed))
