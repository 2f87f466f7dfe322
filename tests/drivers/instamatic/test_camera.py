"""What instamatic's own simulated camera sees of our moves, through instamatic's own TEM server."""

import asyncio

import numpy as np
import pytest

from pyrotome.drivers.instamatic.column import InstamaticBeam, InstamaticStage
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.rig import BeamRig, StageRig
from pyrotome.protocols.config.shift_calibration import ShiftCalibration
from pyrotome.protocols.core.clock import ExperimentClock

# At a magnification of 2500 its 516 pixels see 40 um; one step of its deflectors is 1 nm there,
# and the image moves against stage and beam.
FIELD_NM, PIXEL_NM = 40_000.0, 40_000.0 / 516
SETTINGS = BeamSettings.model_validate(
    {
        "voltage": "200 kV",
        "current": "2 pA",
        "dwell": "500 ns",
        "frame": [256, 256],
        "pixel_size": f"{FIELD_NM / 256} nm",
    }
)
WIDE = ["-900 um", "900 um"]


def calibration(zero) -> ShiftCalibration:
    return ShiftCalibration.model_validate(
        {
            "unit": "step",
            "matrix_nm": [[0.0, -1.0], [-1.0, 0.0]],
            "covariance_nm2": np.zeros((4, 4)).tolist(),
            "zero": zero,
            "largest_nm": 3000.0,
            "field_nm": FIELD_NM,
            "voltage_kv": 200.0,
            "date": "2026-11-27T10:00:00Z",
        }
    )


@pytest.mark.timeout(300)
async def test_their_camera_sees_stage_and_beam_move(foreign, pictures, tmp_path):
    with foreign.instamatic_server(tmp_path) as endpoint:
        limits = {"speed": "20 deg/s", "settle": "0 s", "x": WIDE, "y": WIDE, "move": "200 um"}
        rig = StageRig(driver="instamatic-stage", endpoint=endpoint, limits=limits)
        stage = InstamaticStage("stage", rig, ExperimentClock())
        shift = {"limit": "3 um", "hand_over": "3 um"}
        rig = BeamRig.model_validate(
            {"driver": "instamatic-beam", "endpoint": endpoint, "shift": shift}
        )
        beam = InstamaticBeam("beam", rig, ExperimentClock())
        await stage.connect()
        await beam.connect()
        await beam.prepare(SETTINGS)
        beam.calibration = calibration((await beam.deflection()).units)
        first = (await beam.deflection()).units
        # Their sample stands about the middle of the stage, and the shift begins anywhere.
        at_nm = {"x_nm": -first[0], "y_nm": -first[1]}
        await stage.move_to(0.0, **at_nm)
        with pictures.instamatic_camera(tmp_path) as camera:
            before = await asyncio.to_thread(camera.picture)

            async def moved_nm():
                after = await asyncio.to_thread(camera.picture)
                return np.array(pictures.moved_pixels(before, after)) * PIXEL_NM

            for shift_nm in ((0.0, 2000.0), (-1500.0, 500.0)):
                await beam.deflect(shift_nm)
                np.testing.assert_allclose(await moved_nm(), shift_nm, atol=PIXEL_NM)
            await beam.deflect((0.0, 0.0))
            moved = {"x_nm": at_nm["x_nm"] + 2000.0, "y_nm": at_nm["y_nm"] - 1000.0}
            await stage.move_to(0.0, **moved)
            np.testing.assert_allclose(await moved_nm(), (1000.0, -2000.0), atol=PIXEL_NM)
        await stage.disconnect()
        await beam.disconnect()
