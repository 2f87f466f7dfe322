"""When a species appears."""

import numpy as np

from pyrotome.analysis.spectra.onset import OnsetWatch, excess_significance


def test_a_species_is_told_once_and_where_it_began():
    rng = np.random.default_rng(1)
    watch, told = OnsetWatch("NaCr"), []
    for frame in range(200):
        mean = 20.0 if frame < 120 else 20.0 + 0.8 * (frame - 120)
        if (found := watch.feed(float(rng.poisson(mean)), 50.0 + frame)) is not None:
            told.append(found)
    (onset,) = told
    assert onset.name == "NaCr"
    assert 118 <= onset.frame <= onset.told_at <= 145
    assert onset.temperature_c == 50.0 + onset.frame
    assert onset.significance >= 5.0


def test_noise_is_hardly_ever_an_onset():
    rng = np.random.default_rng(2)
    told = 0
    for _ in range(40):
        watch = OnsetWatch("NaFe")
        told += any(watch.feed(float(rng.poisson(5.0)), 0.0) for _ in range(150))
    assert told == 0


def test_a_fall_and_nothing_are_no_excess():
    assert excess_significance(5.0, 50.0, 1.0) == 0.0
    assert excess_significance(0.0, 0.0, 1.0) == 0.0
    assert excess_significance(9.0, 0.0, 0.5) > 3.0
