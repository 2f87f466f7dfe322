"""A particle of few atoms in few pixels, and its tilt series."""

import numpy as np
import pytest

from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

TILTS = np.arange(0.0, 180.0, 6.0)
IMAGING = Imaging(pixel_a=0.35, shape=(60, 60), dose_e_per_a2=4e4, pedestal=0.5)


@pytest.fixture(scope="session")
def particle():
    return amorphous_particle(60, np.random.default_rng(3))


@pytest.fixture(scope="session")
def series(particle):
    return simulated_series(particle, TILTS, IMAGING, np.random.default_rng(4))
