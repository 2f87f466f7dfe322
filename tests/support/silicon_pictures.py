"""Pictures of silicon along [110] with a known scan: waves of its first spots, Poisson noise."""

import numpy as np

from pyrotome.analysis.lattice.silicon import BASIS_PER_A

PIXEL_A = 0.358
# Of the coils, in their own axes (y, x).
COILS = np.array([[1.012, 0.004], [0.004, 0.991]])
INDICES = [(1, 0), (0, 1), (1, -1), (2, 1), (1, 2), (2, 2)]


def turned(angle_deg):
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[cos, sin], [-sin, cos]])


def map_at(rotation_deg, coils=COILS, lies_deg=17.0):
    """What a pixel of a picture shows, in the axes of the crystal."""
    return PIXEL_A * turned(lies_deg) @ coils @ turned(rotation_deg)


def picture(matrix, side=192, counts=40.0, rng=None, drift_px=(0.0, 0.0), moved_px=(0.0, 0.0)):
    """Silicon as waves of its first spots; it drifts by so many pixels while it is scanned."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    late = (rows + side / 2) / side
    places = np.stack([rows - moved_px[0] - drift_px[0] * late,
                       columns - moved_px[1] - drift_px[1] * late])  # fmt: skip
    image = np.ones((side, side))
    for n, (first, second) in enumerate(INDICES):
        wave = (first * BASIS_PER_A[0] + second * BASIS_PER_A[1]) @ matrix
        image += 0.3 / (1 + 0.3 * n) * np.cos(2 * np.pi * np.tensordot(wave, places, 1))
    image = counts * np.maximum(image, 0)
    return image if rng is None else rng.poisson(image)
