"""A run file while it grows: what it costs does not grow with it."""

from __future__ import annotations

from pathlib import Path

import h5py
import psutil
from recording import T0, S, a_manifest

from pyrotome.daemon.runfile import RunFile

COLUMNS = tuple("abcdefgh")


def test_hours_of_telemetry_stay_on_the_disk_and_not_in_memory(tmp_path: Path) -> None:
    manifest = a_manifest(telemetry={"heater": dict.fromkeys(COLUMNS, "V")})
    file = RunFile(tmp_path / "run.nxs", manifest)
    flushes, rows, warm = 80, 2000, 10
    grown = 0
    for flush in range(flushes):
        for row in range(flush * rows, (flush + 1) * rows):
            file.add_telemetry("heater", T0 + row * S // 10, dict.fromkeys(COLUMNS, row * 1.0))
        file.flush()
        if flush == warm - 1:
            grown = -psutil.Process().memory_info().rss
    grown += psutil.Process().memory_info().rss
    written = (flushes - warm) * rows * 8 * (len(COLUMNS) + 1)
    assert grown < written / 3
    file.close("complete", None, 1.0, "")
    with h5py.File(tmp_path / "run.nxs") as done:
        assert done["entry/telemetry/heater/a/value"][-1] == flushes * rows - 1
