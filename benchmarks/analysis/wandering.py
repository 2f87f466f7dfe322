"""Field that wanders during a tilt series: what masks and measured offsets make of it.

``python benchmarks/analysis/wandering.py``. Series of 41 views from -40 to 40 deg of the simulated
copper particles, 1024 x 1024 pixels of 1.04 nm, 237 e/nm^2 in all, binned by 4. The field stands
still, walks at random (150 nm rms), jumps at each tilt (190 nm rms), or follows a specimen 600 nm
above the tilt axis that nobody tracks. Each series is aligned, reconstructed by total variation and
measured twice: as before (pixels that left the field continue as the mean of the border, neighbours
are searched without a start) and now (they have no weight, and the alignment starts from offsets
that are measured with an error of 1 nm).

Errors are those of the common part: particles that lie in the field in nearly all frames. The same
particles are compared in the series whose field stands still. The last lines are the bounds to keep.
"""

import argparse
import time

import numpy as np
from scipy.ndimage import gaussian_filter

from pyrotome.analysis.alignment.align import align_series
from pyrotome.analysis.core.arrays import binned
from pyrotome.analysis.particles.necks import measure_necks, measure_particles
from pyrotome.analysis.particles.segmentation import segment
from pyrotome.analysis.tomography.image_levels import without_vacuum
from pyrotome.analysis.tomography.total_variation import tv
from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import draw_counts, thickness_nm

PIXELS, PIXEL_NM, BINNING = 1024, 1.04, 4
FLUENCE = 5.77  # e/nm^2 and frame
TIME_S = 20.0
WALK_NM, JUMPS_NM, HEIGHT_NM = 150.0, 190.0, 600.0
OFFSET_SD_NM = 1.0
NEARLY_ALL = 0.9  # of the frames show a particle of the common part
SLAB = 1.6  # times the thickness that the alignment found, as the step `reconstruct`
AT_MOST = 1.3


def offsets_of(case, tilts, seed):
    """Where the specimen is in each frame, (y, x) in nm."""
    rng = np.random.default_rng([seed, len(case)])
    steps = rng.standard_normal((len(tilts), 2))
    if case == "walk":
        walk = np.cumsum(steps, axis=0) - steps[0]
        return WALK_NM * walk / np.sqrt((walk**2).mean(axis=0))
    if case == "jumps":
        return JUMPS_NM * steps
    still = np.zeros((len(tilts), 2))
    if case == "height":
        still[:, 1] = HEIGHT_NM * np.sin(np.radians(tilts))
    return still


def series(truth, tilts, offsets, pixels, seed):
    """Binned counts, smoothed by a Gaussian of 1 pixel and plain."""
    rng = np.random.default_rng(seed)
    electrons = np.full(pixels, FLUENCE * PIXEL_NM**2, np.float32)
    smooth, plain = [], []
    for tilt, offset in zip(tilts, offsets, strict=True):
        thickness = thickness_nm(truth, (pixels, pixels), PIXEL_NM, tilt, tuple(offset))
        counts = draw_counts(thickness, electrons, rng).astype(np.float32)
        smooth.append(binned(gaussian_filter(counts, 1.0), BINNING))
        plain.append(binned(counts, BINNING))
    return np.stack(smooth), np.stack(plain)


def common_part(truth, tilts, offsets, field_nm):
    """Particles that lie in the field in nearly all frames."""
    x, y, z = truth.centres_nm.T[:, :, None]
    radians = np.radians(tilts)
    across = np.abs(x * np.cos(radians) + z * np.sin(radians) + offsets[:, 1])
    along = np.abs(y + offsets[:, 0])
    inside = np.maximum(across, along) + truth.radii_nm[:, None] < field_nm / 2
    return inside.mean(axis=1) >= NEARLY_ALL
