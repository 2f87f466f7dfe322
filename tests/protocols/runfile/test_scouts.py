"""Pictures of scouts in a run file: recorded, killed, resumed, read, and bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 the filter of the pictures
import numpy as np
import pytest
from nexusformat.nexus import nxload
from recorder_link import T0, S, a_manifest, picture, scout, scouted
from rsciio.nexus import file_reader

import pyrotome
from pyrotome.analysis.commands.export import export_command
from pyrotome.daemon.recording import scout_record
from pyrotome.daemon.recording.buffers import BadRecord
from pyrotome.daemon.recording.recovery import recover
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.manifest import Interruption
from pyrotome.protocols.runfile.summary import inspect_file

SERIES = "series_001"
SCOUTED = a_manifest(tracking=scouted("height_001", SERIES, "series_002"), value_offset=1)


def frame(file: RunFile, index: int, *scouts: tuple[dict[str, Any], np.ndarray]) -> None:
    """Scouts and the frame after them."""
    header: dict[str, Any] = {"series": SERIES, "index": index, "t_ns": T0 + index * S}
    for told, seen in scouts:
        file.write_scout(told, seen)
        header["scout_t_ns"] = told["t_ns"]
    header["scouts"] = len(scouts)
    file.write_frame(header, picture(SERIES, index))


def test_pictures_go_through_a_kill_and_a_resumed_run(tmp_path: Path) -> None:
    path, left = tmp_path / "run.nxs", tmp_path / "left.nxs"
    file = RunFile(path, SCOUTED)
    file.write_scout(*scout("height_001", 0))
    frame(file, 0)
    frame(file, 1, scout(SERIES, 0), scout(SERIES, 1, grid=2), scout(SERIES, 2))
    file.flush()
    with pyrotome.open(path, growing=True) as run:
        assert len(run.series[1].scouts) == 3, "while it grows"
    left.write_bytes(path.read_bytes())  # as a kill would leave it
    file.close("aborted", None, 1.0, "")
    assert not recover(left).lost
    with h5py.File(left) as raw:
        assert set(raw["scouts_001"]) == {"title", "scouts", "field_8", "search"}
        assert "scouts_002" not in raw, "nothing was taken"
    file = RunFile(left, SCOUTED, Interruption(from_ns=T0 + 3 * S, until_ns=T0 + 9 * S))
    frame(file, 2, scout(SERIES, 3, grid=1))
    frame(file, 3)
    file.close("complete", None, 1.0, "")
    with pyrotome.open(left) as run:
        told, scouts = run.series[1].tracking, run.series[1].scouts
        assert list(run.scouts) == ["series_001", "height_001"]
        assert scouts.kind == ("scout", "wide", "scout", "scout")
        assert scouts.grid == ("field_8", "search", "field_8", "field_4")
        assert scouts.tilt_deg.tolist() == [0, 2, 4, 6]
        assert scouts.shift_nm[1].tolist() == [10, -1]
        assert scouts.pixel_nm(3) == 8.32
        for row, grid in enumerate((0, 2, 0, 1)):
            seen = scout(SERIES, row, grid)[1]
            assert np.array_equal(scouts.picture(row), seen.astype(int) - 1)
        with pytest.raises(IndexError, match="has 4 scouts, not -1"):
            scouts.picture(-1)
        assert [stack.grid for stack in scouts.stacks] == ["field_4", "field_8", "search"]
        assert scouts.stacks[1].rows.tolist() == [0, 2]
    assert told.scout.tolist() == [-1, 2, 3, -1, -1]
    assert inspect_file(left)["series"][0]["tracking"]["scout_pictures"] == 4
    group = nxload(left)["scouts_001"]
    assert group[group.attrs["default"]].check("warning") == (0, 0)
    shown = [s for s in file_reader(str(left)) if s["data"].shape == (2, 6, 8)]
    (axes,) = (signal["axes"] for signal in shown)
    assert [(axis["scale"], axis["units"]) for axis in axes[1:]] == [(4.16, "nm")] * 2


def test_a_picture_without_room_is_refused_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scout_record, "MOST_PICTURES", 2)
    path = tmp_path / "run.nxs"
    file = RunFile(path, SCOUTED)
    told, seen = scout(SERIES, 0)
    for header, counts, why in (
        (told | {"series": "ramp_001"}, seen, "no room for scouts of 'ramp_001'"),
        (told | {"series": None}, seen, "no room"),
        (told | {"scan": "frame"}, seen, r"takes scouts of scout 6 x 8, .*, not 'frame'"),
        (told | {"scan": "wide"}, seen, r"not 'wide' \(6, 8\)"),
        (told, seen.astype(float), "takes scouts of"),
    ):
        with pytest.raises(BadRecord, match=why):
            file.write_scout(header, counts)
    for number in range(2):
        file.write_scout(*scout(SERIES, number))
    with pytest.raises(BadRecord, match="2 pictures of 'field_8' are recorded"):
        frame(file, 0, scout(SERIES, 2))
    frame(file, 0)
    file.write_scout(*scout(SERIES, 3, grid=1))
    file.close("complete", None, 1.0, "")
    with pyrotome.open(path) as run:
        assert len(run.series[1].scouts) == 3
        assert run.series[1].tracking.scout[0] == -1


def test_a_run_that_takes_none_has_no_groups(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    file = RunFile(path, a_manifest())
    with pytest.raises(BadRecord, match="no room"):
        file.write_scout(*scout(SERIES, 0))
    file.close("complete", None, 1.0, "")
    with pyrotome.open(path) as run:
        assert run.scouts == {}
        assert run.series[1].scouts is None
    with pytest.raises(BadInput, match=r"series_001 of .* holds no scouts"):
        export_command(path, tmp_path / "s.tif", 1, "scouts")


def test_pictures_are_exported_with_their_angles_one_file_a_grid(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "run.nxs"
    file = RunFile(path, SCOUTED)
    frame(file, 0, scout(SERIES, 0), scout(SERIES, 1))
    file.flush()
    file.close("aborted", None, 1.0, "")
    export_command(path, tmp_path / "one.tif", 1, "scouts")
    file = RunFile(path, SCOUTED, Interruption(from_ns=T0 + 3 * S, until_ns=T0 + 9 * S))
    frame(file, 1, scout(SERIES, 2, grid=2))
    file.close("complete", None, 1.0, "")
    export_command(path, tmp_path / "two.tif", 1, "scouts")
    stack = tifffile.imread(tmp_path / "one.tif")
    assert np.array_equal(stack[1], scout(SERIES, 1)[1].astype(int) - 1)
    assert (tmp_path / "one.rawtlt").read_text().split() == ["0", "2"]
    assert np.array_equal(tifffile.imread(tmp_path / "two-field_8.tif"), stack)
    assert tifffile.imread(tmp_path / "two-search.tif").shape == (18, 24)
