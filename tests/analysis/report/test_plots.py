"""The pictures of neck growth, and the model beside them."""

import numpy as np
import pytest
from matplotlib.image import imread

from pyrotome.analysis.denoise.parameter_search import NoiseChoice, Trial
from pyrotome.analysis.particles.necks import Neck
from pyrotome.analysis.report.plots import model_distance_nm, plot_growth, plot_model, plot_tuning


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


def curve(best="white", variance=100.0):
    trials = [
        Trial(noise, float(v), 30 - top + 2 * np.exp(-(np.log(v / 100) ** 2)))
        for noise, top in (("white", 0), ("g4", 1))
        for v in (25, 50, 100, 200, 400)
    ]
    return NoiseChoice(best, variance, 32.0, 24.0, (*trials, Trial("white", "auto", 31.0)))


@pytest.mark.parametrize("choice", [curve(), curve("white", "auto")])
def test_the_tuning_is_drawn(choice, tmp_path):
    plot_tuning(tmp_path / "one.png", choice)
    fewer = NoiseChoice("g4", 100.0, 31.0, 24.0, choice.trials[5:10])
    plot_tuning(tmp_path / "other.png", fewer)
    one, other = imread(tmp_path / "one.png"), imread(tmp_path / "other.png")
    assert min(one.shape[:2]) >= 500
    assert 0.01 < (one[..., :3].min(axis=2) < 0.9).mean() < 0.5
    assert one.shape == other.shape
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_tuning(tmp_path / "none.png", NoiseChoice("white", 1.0, 1.0, 1.0, ()))


def test_the_winner_of_the_tuning_is_marked_where_it_is(tmp_path):
    """Black stars: the one picture differs from the other only where they are, and in the title."""
    pictures = []
    for variance in (50.0, 400.0):
        plot_tuning(tmp_path / "one.png", curve(variance=variance))
        pictures.append(imread(tmp_path / "one.png")[..., :3].max(axis=2) < 0.1)
    differs = np.flatnonzero((pictures[0] != pictures[1]).any(axis=0))
    assert differs.size > 10
    assert np.ptp(differs) > 100
