"""The pictures of neck growth, and the model beside them."""

import numpy as np
import pytest
from matplotlib.image import imread

from pyrotome.analysis.necks import Neck
from pyrotome.analysis.plots import model_distance_nm, plot_growth, plot_model


def table():
    rows = []
    for number, time_s in enumerate((0.0, 10.0, 40.0)):
        for k in range(3):
            neck = 75 * (0.12 + 0.48 * (1 - np.exp(-time_s / 20))) + k
            distance = float(model_distance_nm(np.array(neck), 75.0))
            values = (neck, 75.0, distance, distance, 0.0, 1.0, neck / 75, distance / 150)
            rows.append((f"series_{number:03d}", time_s, Neck(k, k + 1, *values)))
    return rows


def test_the_model_keeps_the_volume():
    radius, neck = 75.0, 40.0
    half = float(model_distance_nm(np.array(neck), radius)) / 2
    steps = np.linspace(-radius, half, 400_001)
    section = np.where(steps < np.sqrt(radius**2 - neck**2), radius**2 - steps**2, neck**2)
    assert np.pi * np.trapezoid(section, steps) == pytest.approx(
        4 / 3 * np.pi * radius**3, rel=1e-5
    )
    distances = model_distance_nm(np.linspace(0, 70, 50), radius)
    assert distances[0] == 150
    assert np.all(np.diff(distances) < 0)
    with pytest.raises(ValueError, match="between 0 and"):
        model_distance_nm(np.array([80.0]), radius)


@pytest.mark.parametrize("draw", [plot_growth, plot_model])
def test_pictures_show_something(draw, tmp_path):
    draw(tmp_path / "one.png", table())
    draw(tmp_path / "other.png", [(s, t, n) for s, t, n in table() if n.particle_a == 0])
    one, other = imread(tmp_path / "one.png"), imread(tmp_path / "other.png")
    assert min(one.shape[:2]) >= 500
    assert 0.01 < (one[..., :3].min(axis=2) < 0.9).mean() < 0.5
    assert one.shape == other.shape
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="no neck"):
        draw(tmp_path / "none.png", [])
