"""Dark frames in a whole run: blanked, without dose, marked in the file, and resumed."""

from __future__ import annotations

from typing import Any

import h5py
import hdf5plugin  # noqa: F401 reads compressed frames
import numpy as np
import pytest
from command_line import RIG, TINY

import pyrotome

STEPS: list[Any] = [
    {"dark": {"frames": 3}},
    {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}},
    {"dark": {"frames": 300}},
]
ANALYSIS: list[Any] = [{"align": {"method": "centre-of-mass"}}]


def test_dark_frames_are_recorded_and_resumed(cli: Any) -> None:
    recipe = cli.recipe(**TINY, steps=STEPS, analysis=ANALYSIS)
    simulator = {**RIG["simulator"], "detector": {"offset": 100, "hot_pixels": 3}}
    running = cli.start(
        "run", recipe, "--rig", cli.rig(simulator=simulator), "-o", "run.nxs",
    )  # fmt: skip
    running.wait_for("dark_002")
    running.interrupt()
    assert running.wait() == 130, running.text()
    done = cli("run", "--resume", "run.nxs")
    assert done.returncode == 0, done.stderr
    with h5py.File(cli.folder / "run.nxs") as file:
        for name, count in (("dark_001", 3), ("dark_002", 300)):
            frames = file[f"{name}/instrument/detector/data"][...]
            assert file[f"{name}/instrument/detector/image_key"][...].tolist() == [2] * count
            assert file[f"{name}/frames/dose"][...].max() == 0
            assert (frames == frames[0]).all()
            assert frames.min() == 100
            assert (frames[0] > 100).sum() == 3
        assert file["series_001/instrument/detector/image_key"][...].tolist() == [0] * 3
        total = file["dark_002/frames/dose_total"][...]
    found = cli.inspect("run.nxs")
    assert (found["status"], found["frames"], found["lost_frames"]) == ("complete", 306, 0)
    per_frame = found["series"][0]["dose_e_per_nm2"] / 3
    # Three frames were exposed, with the time that the blanker took; dark frames add nothing.
    assert found["dose_e_per_nm2"] >= 3 * per_frame * (1 - 1e-9)
    assert found["dose_e_per_nm2"] == pytest.approx(total[-1])
    assert np.ptp(total) < 1e-6 * per_frame
    with pyrotome.open(cli.folder / "run.nxs") as run:
        kinds = {name: stack.kind for name, stack in run.stacks.items()}
        # What the online analysis has taken away from the series that followed.
        mean = run.stacks["dark_001"].results["dark_mean"].data
        assert mean.min() == 100
        assert int((mean > 100).sum()) == 3
        assert kinds == {"dark_001": "dark", "series_001": "series", "dark_002": "dark"}
