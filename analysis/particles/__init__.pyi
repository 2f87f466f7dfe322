from .necks import (
    Neck,
    Particle,
    iter_measure_necks,
    measure_necks,
    measure_particles,
    warm_up_necks,
    write_necks,
)
from .segmentation import contacts, dilation, erosion, iter_segment, otsu_level, segment
from .tracking import centroids, track

__all__ = [
    "Neck",
    "Particle",
    "centroids",
    "contacts",
    "dilation",
    "erosion",
    "iter_measure_necks",
    "iter_segment",
    "measure_necks",
    "measure_particles",
    "otsu_level",
    "segment",
    "track",
    "warm_up_necks",
    "write_necks",
]
