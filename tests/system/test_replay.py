"""A recorded tilt series taken again: every value exact, in angle order, valid NeXus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import mrcfile
import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_needle_is_recorded_exactly_in_angle_order(cli: Any, measured_data: Path) -> None:
    done = cli(
        "run", str(EXAMPLES / "recipes" / "replay_needle.yaml"),
        "--rig", str(EXAMPLES / "rigs" / "replay.yaml"),
        "-o", "needle.nxs", "--speed", "20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = measured_data / "needle_haadf"
    # The file is older than the standard's map identifier.
    with (
        pytest.warns(RuntimeWarning, match="Map ID|machine stamp"),
        mrcfile.open(folder / "HAADF.mrc", permissive=True) as stack,
    ):
        truth = np.array(stack.data)
    angles = np.loadtxt(folder / "HAADF.rawtlt")
    with h5py.File(cli.folder / "needle.nxs") as file:
        series = file["series_001"]
        frames = series["instrument/detector/data"][()]
        offset = int(series["instrument/detector/encoding/value_offset"][()])
        tilts = series["sample/rotation_angle"][()]
    assert frames.dtype == np.uint16
    assert offset == 32768
    np.testing.assert_array_equal(frames.astype(np.int64) - offset, truth)
    assert tilts == pytest.approx(angles, abs=1e-6)
