"""Decomposition: maps and spectra against those of the simulated specimen."""

import numpy as np
import pytest
from spectra_ramp import AXIS, ELEMENTS, event_frame

from pyrotome.analysis.spectra import (
    DecomposeSettings,
    Decomposition,
    choose_extra,
    frame_of_counts,
)


def correlation(found, specimen, name, frame):
    true = specimen.maps(frame)[specimen.names.index(name)]
    return np.corrcoef(found.map_of(name).ravel(), true.ravel())[0, 1]


def test_maps_of_some_counts_a_pixel_are_those_of_the_specimen(specimen):
    ours = Decomposition(ELEMENTS, AXIS)
    alone = Decomposition(ELEMENTS, AXIS, DecomposeSettings(weight=0.0))
    for frame in range(40, 46):
        events = event_frame(specimen, frame)
        found, single = ours.feed(events), alone.feed(events)
    for name, least in (("B", 0.9), ("Na", 0.95), ("Cr", 0.95), ("Fe", 0.95), ("Mn", 0.8)):
        assert correlation(found, specimen, name, 45) > least
        assert correlation(found, specimen, name, 45) > correlation(single, specimen, name, 45)


def test_spectra_are_found_and_counts_are_kept(specimen):
    ours = Decomposition(ELEMENTS, AXIS)
    events = event_frame(specimen, 45)
    found = ours.feed(events)
    assert np.allclose(found.spectra.sum(axis=1), 1.0)
    for name in ELEMENTS:
        true = specimen.spectra[specimen.names.index(name)]
        spectrum = found.spectra[found.names.index(name)]
        assert spectrum @ true > 0.97 * np.linalg.norm(spectrum) * np.linalg.norm(true), name
    assert found.assigned.sum() == pytest.approx(events.events, rel=1e-4)
    assert found.maps.sum() == pytest.approx(events.events, rel=1e-3)


def test_an_empty_frame_is_told_and_teaches_nothing(specimen):
    ours = Decomposition(ELEMENTS, AXIS)
    before = ours.feed(event_frame(specimen, 45)).maps
    found = ours.feed(frame_of_counts(np.zeros((96, 96, 200))))
    assert found.doubts == ("the frame has no counts",)
    assert np.array_equal(found.maps, before)


def test_another_axis_or_another_shape_is_refused(specimen):
    ours = Decomposition(ELEMENTS, AXIS)
    ours.feed(event_frame(specimen, 45))
    with pytest.raises(ValueError, match="9 channels, the axis 200"):
        ours.feed(frame_of_counts(np.ones((96, 96, 9))))
    with pytest.raises(ValueError, match="16 pixels, those before 9216"):
        ours.feed(frame_of_counts(np.ones((4, 4, 200))))


def test_the_number_of_components_is_that_of_the_specimen():
    rng = np.random.default_rng(4)
    axis = np.array([11.0, 23.0, 52.0, 75.0, 79.0])
    # Chromium's 50, 53, 54 are not on this axis; two further species are.
    spectra = np.array(
        [[0, 0, 1.0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0.5, 0.5], [0.9, 0, 0, 0, 0.1]]
    )
    maps = rng.gamma(0.5, 60.0, (4, 24, 24))
    dense = rng.poisson(np.einsum("kyx,kc->yxc", maps, spectra))
    extra, gain = choose_extra(frame_of_counts(dense), ["Cr", "Na"], axis, most=3)
    assert extra == 2
    assert gain[2] > gain[1] > gain[0] == 0
