"""``pyrotome calibrate-pixel``: from pictures of silicon to a calibration, and what is refused."""

import numpy as np
import pytest
from silicon_pictures import COILS, PIXEL_A, map_at, picture
from typer.testing import CliRunner

from pyrotome.analysis.commands.app import commands
from pyrotome.analysis.commands.calibrate_pixel import calibrate_pixel_command
from pyrotome.protocols.config.scanning.pixel_calibration import load_pixel_calibration
from pyrotome.protocols.core.errors import BadInput


def test_a_picture_becomes_a_calibration_with_its_doubts(tmp_path):
    path, out = tmp_path / "si.npz", tmp_path / "pixel.json"
    np.savez(path, image=picture(map_at(0.0)))
    made = CliRunner().invoke(
        commands, ["calibrate-pixel", str(path), "--pixel-size", "0.36 A", "--voltage", "200 kV",
                   "-o", str(out)],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "a pixel is 0.358" in made.output
    assert "one scan rotation alone" in made.output
    assert "each by itself" in made.output
    found = load_pixel_calibration(out)
    np.testing.assert_allclose(found.matrix_nm, 0.1 * PIXEL_A * COILS, atol=1e-5)
    assert (found.voltage_kv, found.frames, found.scan_rotations_deg) == (200.0, 1, (0.0,))
    assert found.field_nm == pytest.approx(0.036 * 192)


def test_frames_of_one_view_are_averaged(tmp_path):
    rng = np.random.default_rng(0)
    path, out = tmp_path / "si.npz", tmp_path / "pixel.json"
    frames = [picture(map_at(30.0), counts=1.0, rng=rng, moved_px=(0.5 * k, 0.2)) for k in range(6)]
    np.savez(path, images=np.array(frames, np.uint16))
    calibrate_pixel_command(path, "0.358 Å", "300 kV", "30 deg", out)
    found = load_pixel_calibration(out)
    assert found.frames == 6
    np.testing.assert_allclose(found.matrix_nm, 0.1 * PIXEL_A * COILS, atol=1e-4)


def test_what_cannot_be_calibrated_is_refused(tmp_path):
    noise, out = tmp_path / "noise.npz", tmp_path / "pixel.json"
    np.savez(noise, image=np.random.default_rng(1).poisson(5.0, (96, 96)))
    with pytest.raises(BadInput, match="bring a crystal of silicon"):
        calibrate_pixel_command(noise, "0.358 Å", "300 kV", None, out)
    with pytest.raises(BadInput, match="--voltage"):
        calibrate_pixel_command(noise, "0.358 Å", None, None, out)
    with pytest.raises(BadInput, match="--pixel-size"):
        calibrate_pixel_command(noise, "0.358 kg", "300 kV", None, out)
    with pytest.raises(BadInput, match="no such file"):
        calibrate_pixel_command(tmp_path / "none.npz", "0.358 Å", None, None, None)
    (tmp_path / "text.npz").write_text("x")
    with pytest.raises(BadInput, match="not a readable npz"):
        calibrate_pixel_command(tmp_path / "text.npz", "0.358 Å", None, None, None)
    assert not out.exists()
