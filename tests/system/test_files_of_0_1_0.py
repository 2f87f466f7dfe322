"""Files that version 0.1.0 recorded are inspected, processed and resumed as before."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the frames' filter
import numpy as np
import pytest

from pyrotome.protocols.messages.manifest import RunManifest
from pyrotome.protocols.runfile import layout

DATA = Path(__file__).resolve().parents[1] / "data"
# What the pipeline of the complete run gives, and the number of the process that holds it.
RESULTS = {"aligned": 1, "shifts": 1, "volume": 2, "slice_y": 2, "labels": 3, "necks": 4}
SERIES = ("series_001", "series_002")


def unpacked(name: str, folder: Path) -> Path:
    """Copy a file of 0.1.0, and its journal if it has one, into a folder."""
    path = folder / f"{name}.nxs"
    path.write_bytes(lzma.decompress((DATA / f"{name}_0_1_0.nxs.xz").read_bytes()))
    journal = DATA / f"{name}_0_1_0.nxs.journal"
    if journal.exists():
        shutil.copy(journal, folder / f"{name}.nxs.journal")
    return path


@pytest.mark.parametrize("name", ["complete", "interrupted"])
def test_inspect_says_what_it_said(cli: Any, name: str) -> None:
    before = unpacked(name, cli.folder).read_bytes()
    expected = json.loads((DATA / f"{name}_0_1_0.json").read_text())
    found = cli.inspect(f"{name}.nxs")
    for key, value in expected.items():
        if key == "series":
            assert len(found[key]) == len(value)
            pairs = zip(found[key], value, strict=True)
            assert [{k: now[k] for k in was} for now, was in pairs] == value
        else:
            assert found[key] == value, key
    assert (cli.folder / f"{name}.nxs").read_bytes() == before


@pytest.mark.parametrize("name", ["complete", "interrupted"])
def test_the_manifest_is_still_understood(tmp_path: Path, name: str) -> None:
    with h5py.File(unpacked(name, tmp_path), "r", swmr=name == "interrupted") as file:
        manifest = RunManifest.model_validate_json(file[layout.MANIFEST][()])
        planned = [node.path for node in layout.tree(manifest)]
        # Tidying has taken out of the complete file what stayed empty.
        optional = (layout.TELEMETRY, layout.EVENTS, layout.DOSE, layout.CLOCK, layout.END_TIME)
        missing = [p for p in planned if p not in file and not p.startswith(optional)]
    assert missing == []
    assert [stack.name for stack in manifest.stacks] == [
        "reference_001", "series_001", "series_002",
    ]  # fmt: skip


def test_processing_gives_results_of_the_same_form(cli: Any) -> None:
    # Their numbers may differ: the alignment of so few views does not settle, and then the rounding
    # of a processor decides.
    unpacked("complete", cli.folder)
    done = cli("process", "complete.nxs")
    assert done.returncode == 0, done.stderr
    with h5py.File(cli.folder / "complete.nxs") as file:
        for series in SERIES:
            for result, process in RESULTS.items():
                before, after = (
                    file[f"{series}/process_{number:03d}/{result}"]
                    for number in (process, process + len(set(RESULTS.values())))
                )
                assert list(before) == list(after)
                assert before["data"].dtype == after["data"].dtype
                assert before["data"].shape == after["data"].shape
                for axis in set(before) - {"data"}:
                    assert np.array_equal(before[axis][...], after[axis][...]), (result, axis)


def test_a_volume_is_the_one_that_0_1_0_made(cli: Any) -> None:
    """Total variation of the frames as they were recorded."""
    unpacked("complete", cli.folder)
    (cli.folder / "tv.yaml").write_text(
        "- reconstruct: {method: tv, iterations: 30, binning: 2}\n- segment: {}\n"
    )
    done = cli("process", "complete.nxs", "--pipeline", "tv.yaml")
    assert done.returncode == 0, done.stderr
    first = max(RESULTS.values()) + 1
    with (
        h5py.File(cli.folder / "complete.nxs") as file,
        np.load(DATA / "complete_0_1_0_tv.npz") as was,
    ):
        for series in SERIES:
            volume = file[f"{series}/process_{first:03d}/volume/data"][()]
            before = was[f"{series}_volume"].astype(np.float32)
            np.testing.assert_allclose(volume, before, rtol=0, atol=2e-3 * before.max())
            labels = file[f"{series}/process_{first + 1:03d}/labels/data"][()]
            assert np.mean(labels != was[f"{series}_labels"]) < 0.01


def test_the_interrupted_run_is_resumed_to_its_end(cli: Any) -> None:
    unpacked("interrupted", cli.folder)
    done = cli("run", "--resume", "interrupted.nxs", timeout_s=170)
    assert done.returncode == 0, done.stderr
    found = cli.inspect("interrupted.nxs")
    before = json.loads((DATA / "interrupted_0_1_0.json").read_text())
    assert (found["status"], found["frames"], found["lost_frames"]) == ("complete", 14, 0)
    assert [series["frames"] for series in found["series"]] == [6, 6]
    # What was measured before the interruption stands; what was missing has come.
    assert found["holds"][0] == before["holds"][0]
    assert found["holds"][1]["achieved_s"] == pytest.approx(2.0, abs=0.5)
    recorded = before["series"][0]["tilt_deg"]
    assert found["series"][0]["tilt_deg"][: len(recorded)] == recorded
    assert len(found["interruptions"]) == 1
    assert not (cli.folder / "interrupted.nxs.journal").exists()
