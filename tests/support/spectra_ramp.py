"""A small ramp of the simulated specimen, shared by the tests of spectra."""

import numpy as np

from pyrotome.analysis.spectra import frame_of_events
from pyrotome.simulators.world.spectra.sodium_front import Ramp

AXIS = np.arange(1.0, 201.0)
ELEMENTS = ("B", "Na", "Cr", "Fe", "Mn", "Li")
# Three times the paper's rate, so that a ramp has a third of the frames.
FAST = Ramp(rate_k_per_s=3.0)


def event_frame(specimen, frame):
    drawn = specimen.draw(frame)
    return frame_of_events(drawn.counts, drawn.channels, 200)
