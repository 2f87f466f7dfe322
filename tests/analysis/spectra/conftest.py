"""The simulated specimen that the tests of spectra share."""

import pytest
from spectra_ramp import FAST

from pyrotome.simulators.world.spectra.sodium_front import SodiumFront


@pytest.fixture(scope="session")
def specimen():
    return SodiumFront(3, counts_per_pixel=12.0, ramp=FAST, pixels=96)
