"""Replay: exact values at the nearest angle, and refusals of files that will not do."""

import mrcfile
import numpy as np
import pytest

from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.errors import BadInput
from pyrotome.simulators.world.microscope import World
from pyrotome.simulators.world.replay import Recording


@pytest.fixture
def recording(tmp_path):
    data = np.random.default_rng(0).integers(-300, 300, (5, 6, 8)).astype(np.int16)
    with mrcfile.new(tmp_path / "s.mrc") as file:
        file.set_data(data)
    (tmp_path / "s.rawtlt").write_text("-20\n-10\n0\n10\n20\n")
    return tmp_path, data


def test_nearest_frame_exact(recording):
    folder, data = recording
    source = Recording(folder / "s.mrc", folder / "s.rawtlt", 300)
    assert source.shape == (6, 8)
    for tilt, index in ((-90.0, 0), (-14.9, 1), (0.0, 2), (4.9, 2), (5.1, 3), (20.02, 4)):
        frame = source.frame(tilt)
        assert frame.dtype == np.uint16
        np.testing.assert_array_equal(frame.astype(int) - 300, data[index])


def test_a_world_of_a_recording(recording):
    folder, data = recording
    config = SimulatorRig.model_validate(
        {
            "specimen": {
                "kind": "replay",
                "stack": str(folder / "s.mrc"),
                "tilts": str(folder / "s.rawtlt"),
                "value_offset": 300,
            }
        }
    )
    world = World(config, 0)
    world.column.set_blanked(0, False)
    world.stage.move(0, {"a_deg": 10.0})
    exposure = world.scan.begin(10**10, 1.0, (6, 8))
    scene = world.scan.state(exposure.middle_ns)
    frame = world.scan.frame(exposure, scene, world.scan.end(exposure, scene))
    np.testing.assert_array_equal(frame.astype(int) - 300, data[3])
    dark = world.scan.frame(exposure, scene, np.zeros(6, np.float32))
    assert np.all(dark == 300)
    with pytest.raises(ValueError, match="geometry"):
        world.truth_at(0)


def test_the_old_fei_file_of_the_needle(measured_data):
    folder = measured_data / "needle_haadf"
    source = Recording(folder / "HAADF.mrc", folder / "HAADF.rawtlt", 32_768)
    # Read past mrcfile: 1024 bytes of header, then the extended one, whose length is at byte 92.
    raw = (folder / "HAADF.mrc").read_bytes()
    start = 1024 + int(np.frombuffer(raw, "<i4", 1, 92)[0])
    data = np.frombuffer(raw, "<i2", 77 * 256 * 256, start).reshape(77, 256, 256)
    for index, tilt in enumerate(np.arange(-76.0, 77.0, 2.0)):
        np.testing.assert_array_equal(source.frame(tilt).astype(int) - 32_768, data[index])


def test_files_that_will_not_do(recording):
    folder, _ = recording
    stack, tilts = folder / "s.mrc", folder / "s.rawtlt"
    garbage = folder / "garbage"
    garbage.write_bytes(b"\xff\x00 not what it should be" * 100)
    few = folder / "few.rawtlt"
    few.write_text("1\n2\n")
    with mrcfile.new(folder / "float.mrc") as file:
        file.set_data(np.zeros((5, 6, 8), np.float32))
    with mrcfile.new(folder / "flat.mrc") as file:
        file.set_data(np.zeros((6, 8), np.int16))
    for arguments, problem in (
        ((folder / "none.mrc", tilts, 300), "no such file"),
        ((stack, folder / "none", 300), "no such file"),
        ((garbage, tilts, 300), "MRC"),
        ((stack, garbage, 300), "angles"),
        ((stack, few, 300), "2 angles for the 5 frames"),
        ((stack, tilts, 0), "value_offset"),
        ((folder / "float.mrc", tilts, 0), "float32"),
        ((folder / "flat.mrc", tilts, 0), "stack"),
        ((folder, tilts, 0), "MRC"),
    ):
        with pytest.raises(BadInput, match=problem):
            Recording(*arguments)
