"""The tracking of a run as a table and as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from recorder_link import T0, TILTS, S, a_manifest, picture

from pyrotome.analysis.report.tracking import export_tracking
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.manifest import TrackingPlan
from pyrotome.protocols.runfile.reader import open_run

PLAN = TrackingPlan(settings={}, lost_beyond_nm=10.0)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """Two series; of the second, one frame was taken, of which nothing is known."""
    file = RunFile(tmp_path / "run.nxs", a_manifest(tracking=PLAN))
    for series, frames in (("series_001", 5), ("series_002", 1)):
        for index in range(frames):
            header = {
                "series": series, "index": index, "t_ns": T0 + index * S, "tilt_deg": TILTS[index],
                "shift_nm": [10.0, index * 1.0], "shift_predicted_nm": [8.0, index * 1.0],
                "shift_sd_nm": [5.0, 6.0], "defocus_nm": 40.0, "defocus_sd_nm": 100.0,
                "stage_x_nm": 5.0,
            }  # fmt: skip
            file.write_frame(header, picture(series, index))
    for index, offset in enumerate(([3.0, -4.0], None, [20.0, 1.0])):
        sd = None if offset is None else [0.5, 0.5]
        file.set_offset({
            "series": "series_001", "index": index, "offset_nm": offset, "sd_nm": sd, "score": 0.5
        })  # fmt: skip
    file.close("complete", None, 1.0, "")
    return tmp_path / "run.nxs"


def test_a_row_for_each_frame_that_was_taken(run_file: Path, tmp_path: Path) -> None:
    with open_run(run_file) as run:
        export_tracking(run, tmp_path / "t.csv", None)
        export_tracking(run, tmp_path / "second.csv", 2)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert ",".join(rows[0]) == (
        "series,index,tilt_deg,predicted_y_nm,predicted_x_nm,sd_nm,measured_y_nm,measured_x_nm,"
        "applied_y_nm,applied_x_nm,defocus_nm,stage_x_nm,stage_y_nm,stage_z_nm"
    )
    assert list(rows[2].values()) == [
        "series_001", "2", "0", "2", "0", "6", "20", "1", "10", "2", "40", "5", "", "",
    ]  # fmt: skip
    assert [row["measured_x_nm"] for row in rows] == ["-4", "", "1", "", "", ""]
    assert len((tmp_path / "second.csv").read_text().splitlines()) == 2


def test_the_picture_shows_every_series(run_file: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    with open_run(run_file) as run:
        export_tracking(run, tmp_path / "t.png", None)
        export_tracking(run, tmp_path / "one.png", 1)
    both, one = (imread(tmp_path / name)[..., :3] for name in ("t.png", "one.png"))
    assert np.ptp(both) > 0.9
    assert both.shape == one.shape
    assert not np.array_equal(both, one)


def test_what_cannot_be_exported_is_refused(run_file: Path, tmp_path: Path) -> None:
    RunFile(tmp_path / "still.nxs", a_manifest()).close("complete", None, 1.0, "")
    with open_run(tmp_path / "still.nxs") as run, pytest.raises(BadInput, match="did not track"):
        export_tracking(run, tmp_path / "t.csv", None)
    with open_run(run_file) as run, pytest.raises(BadInput, match=r"name a \.csv or a \.png"):
        export_tracking(run, tmp_path / "t.mrc", None)
