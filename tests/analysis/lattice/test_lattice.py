"""What a pixel is worth, from pictures of silicon [110] with a known scan, and from a real one."""

from pathlib import Path

import numpy as np
import pytest
from silicon_pictures import COILS, INDICES, PIXEL_A, map_at, picture

from pyrotome.analysis.lattice import (
    Rotated,
    Spots,
    average_frames,
    find_spots,
    lattice_map,
    rotated_map,
    scan_map,
)
from pyrotome.analysis.lattice.silicon import BASIS_PER_A, NoLattice

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "si110" / "si110_haadf.npz"


def test_spots_are_located_within_their_errors():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:160, :160]
    true = np.array([0.2131, 0.1207])
    off = []
    for _ in range(20):
        image = rng.poisson(5 + np.cos(2 * np.pi * (true[0] * y + true[1] * x)))
        found = find_spots(image)
        off.append((np.abs(found.places[0]) - true) / found.sd[0])
    assert np.abs(off).max() < 4.5
    assert 0.6 < np.sqrt(np.mean(np.square(off))) < 1.5


@pytest.mark.parametrize(
    "wrong", [np.ones((8, 8)), np.ones((3, 40, 40)), np.full((40, 40), np.nan)]
)
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError, match=r"spectrum|NaN"):
        find_spots(wrong)


def test_a_map_is_found_within_its_errors():
    true = map_at(0.0)
    found = lattice_map(find_spots(picture(true, rng=np.random.default_rng(1))), 1.1 * PIXEL_A)
    np.testing.assert_allclose(found.metric_a2, true.T @ true, rtol=5e-4, atol=1e-4)
    assert len(found.indices) >= 5
    assert found.strained < 3
    assert abs(found.spot_pixel_a - PIXEL_A).max() < 0.02 * PIXEL_A


@pytest.mark.parametrize(
    "wrong",
    [
        np.random.default_rng(2).poisson(5.0, (128, 128)),
        np.zeros((128, 128)),
        picture(1.6 * map_at(0.0)),
        10 + np.add.outer(np.cos(np.arange(128) * 0.9), np.cos(np.arange(128) * 0.9)),
    ],
)
def test_what_is_not_silicon_is_refused(wrong):
    with pytest.raises(NoLattice, match="bring a crystal of silicon"):
        lattice_map(find_spots(wrong), PIXEL_A)


def test_too_few_spots_are_told_or_refused():
    seen = np.array([[1, 0], [0, 1]]) @ BASIS_PER_A @ map_at(0.0)
    spots = Spots(seen, np.full((2, 2), 1e-4), np.array([9.0, 8.0]))
    found = scan_map([Rotated(lattice_map(spots, PIXEL_A), 0.0)])
    assert any("2 spots of the crystal alone" in doubt for doubt in found.doubts)
    one = Spots(seen[:1], spots.sd[:1], spots.strength[:1])
    with pytest.raises(NoLattice):
        lattice_map(one, PIXEL_A)


def test_pictures_at_several_rotations_give_the_map_of_the_coils():
    rng = np.random.default_rng(3)
    turns = (0.0, 45.0, 90.0, 135.0)
    maps = [rotated_map(picture(map_at(turn), rng=rng), PIXEL_A, turn) for turn in turns]
    found = scan_map(maps)
    sd = np.sqrt(np.diag(found.covariance_a2)).reshape(2, 2)
    off = np.abs(found.matrix_a - PIXEL_A * COILS)
    assert (off < 5 * sd + 1e-9).all()
    assert off.max() < 3e-4 * PIXEL_A
    assert found.pixel_a == pytest.approx(PIXEL_A * np.sqrt(np.linalg.det(COILS)), rel=2e-4)
    assert found.turn_off_deg < 0.1
    (doubt,) = found.doubts
    assert "the scan is distorted: a pixel is 0.3545 to 0.3625 A long" in doubt


def test_what_contradicts_itself_is_told():
    maps = [rotated_map(picture(map_at(turn)), PIXEL_A, turn) for turn in (0.0, 90.0)]
    elsewhere = rotated_map(picture(map_at(45.0, np.eye(2))), PIXEL_A, 47.0)
    said = " ".join(scan_map([*maps, elsewhere]).doubts)
    assert "does not turn with the scan as coils do" in said
    assert "turns otherwise than the scan rotation" in said
    assert "one scan rotation alone" in " ".join(scan_map(maps[:1]).doubts)


def test_a_picture_whose_scan_varies_is_told():
    side = 256
    rows, columns = np.mgrid[:side, :side] - side / 2
    bent = rows + 4e-4 * rows**2
    image = np.full((side, side), 4.0)
    for first, second in INDICES:
        wave = (first * BASIS_PER_A[0] + second * BASIS_PER_A[1]) @ map_at(0.0)
        image += np.cos(2 * np.pi * (wave[0] * bent + wave[1] * columns))
    found = scan_map([rotated_map(image, PIXEL_A)])
    assert any("quarters of a picture differ" in doubt for doubt in found.doubts)


def test_frames_are_registered_and_their_drift_is_taken_out():
    rng = np.random.default_rng(4)
    true, frame_s, every_s = map_at(0.0), 0.5, 1.0
    speed = np.array([0.8, -0.5])
    frames = [
        picture(true, counts=2.0, rng=rng, drift_px=speed * frame_s, moved_px=speed * k * every_s)
        for k in range(8)
    ]
    found = average_frames(frames, [k * every_s for k in range(8)], 1.5 / PIXEL_A)
    assert found.used == 8
    np.testing.assert_allclose(found.drift_px_per_s, speed, atol=0.03)
    with_drift = rotated_map(found.picture, PIXEL_A)
    rows = picture(true).shape[0]
    pixel_s = (frame_s / rows, 0.0)
    drift = (found.drift_px_per_s, found.drift_sd_px_per_s)
    without = rotated_map(found.picture, PIXEL_A, drift=drift, pixel_s=pixel_s)
    wrong, right = (
        np.abs(one.lattice.metric_a2 - true.T @ true).max() for one in (with_drift, without)
    )
    assert right < 0.3 * wrong


def test_a_frame_that_has_jumped_is_left_out():
    true = map_at(0.0)
    frames = [picture(true), picture(true), picture(np.eye(2) * 0.2), picture(true)]
    frames[2] = np.random.default_rng(5).normal(size=frames[0].shape).cumsum(axis=0)
    found = average_frames(frames, range(4), 2.0)
    assert found.used <= 4
    np.testing.assert_allclose(found.shifts_px[[0, 1, 3]], 0, atol=0.05)
    with pytest.raises(ValueError, match="differ in shape"):
        average_frames([np.ones((32, 32)), np.ones((32, 33))], [0, 1], 2.0)
    with pytest.raises(ValueError, match="0 frames"):
        average_frames([], [], 2.0)


@pytest.mark.skipif(not REAL.exists(), reason="shared/data/si110 is not here")
def test_the_real_picture_gives_an_affine_map_and_its_doubts():
    with np.load(REAL) as file:
        image = file["image"]
    one = rotated_map(image, 0.085)
    found = scan_map([one])
    # Each spot by itself would give another number; the map explains them all.
    sizes = one.lattice.spot_pixel_a
    assert (sizes.min(), sizes.max()) == (
        pytest.approx(0.0836, abs=2e-4), pytest.approx(0.0852, abs=2e-4),
    )  # fmt: skip
    assert len(sizes) >= 12
    assert np.abs(one.lattice.left * 1024).max() < 0.1, "pixels of the spectrum"
    assert found.pixel_a == pytest.approx(0.0844, abs=1e-4)
    assert found.distortion == pytest.approx(0.0204, abs=5e-4)
    said = " ".join(found.doubts)
    assert "one scan rotation alone" in said
    assert "one number for the pixel size is wrong by up to 1 %" in said
