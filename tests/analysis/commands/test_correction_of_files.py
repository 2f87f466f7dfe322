"""Correction of counts by the commands: warnings in the file, the mask as an image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pyrotome.protocols.runfile.reader import open_run

CASES = Path(__file__).resolve().parents[3].parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason="the cases of ../shared/cases are not here"
)
WORDS = "pixel (row 30, column 12)"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyrotome.daemon", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_stuck_pixel_is_told_and_kept_in_the_file(tmp_path: Path) -> None:
    path, pipeline = tmp_path / "stuck.nxs", tmp_path / "p.yaml"
    pipeline.write_text("- reconstruct: {method: wbp, binning: 2}\n")
    done = command("import", CASES / "one_stuck_pixel.npz", "-o", path)
    assert done.returncode == 0, done.stderr
    done = command("process", path, "--pipeline", pipeline)
    assert done.returncode == 0, done.stderr
    assert WORDS in " ".join(done.stderr.split())
    (series,) = json.loads(command("inspect", path, "--json").stdout)["series"]
    assert len(series["warnings"]) == 1
    assert WORDS in series["warnings"][0]
    with open_run(path) as run:
        assert [event.level for event in run.events if WORDS in event.message] == ["warning"]
        assert run.stacks["series_001"].frame_values(0)[30, 12] == 65535, "the frames stay"
    done = command("export", path, "--what", "mask", "--to", tmp_path / "mask.tif")
    assert done.returncode == 0, done.stderr
    mask = tifffile.imread(tmp_path / "mask.tif")
    assert np.argwhere(mask).tolist() == [[30, 12]]


def test_a_clean_series_has_no_warning(tmp_path: Path) -> None:
    path, pipeline = tmp_path / "clean.nxs", tmp_path / "p.yaml"
    pipeline.write_text("- reconstruct: {method: wbp, binning: 2}\n")
    assert command("import", CASES / "clean_with_drift.npz", "-o", path).returncode == 0
    done = command("process", path, "--pipeline", pipeline)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    (series,) = json.loads(command("inspect", path, "--json").stdout)["series"]
    assert series["warnings"] == []
