"""A run file while it grows: what it costs does not grow with it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the filter of the frames
import numpy as np
import psutil
import pytest
from recorder_link import T0, S, a_manifest

from pyrotome.daemon.recording.recovery import recover
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.messages.manifest import Interruption
from pyrotome.protocols.runfile.holds import interruptions_of

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


def test_what_the_disk_has_refused_is_never_called_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel drops what it could not write, tells it once, and is content the next time.
    answers = iter([OSError(errno.EIO, os.strerror(errno.EIO)), None])

    def disk(_: int) -> None:
        if (answer := next(answers)) is not None:
            raise answer

    file = RunFile(tmp_path / "run.nxs", a_manifest())
    monkeypatch.setattr(os, "fdatasync", disk)
    for said in ("Input/output error", "refused what was written: Input/output", "refused"):
        with pytest.raises(OSError, match=said) as refused:
            file.flush()
        assert refused.value.errno == errno.EIO
    with pytest.raises(OSError, match="refused what was written"):
        file.close("complete", None, 1.0, "")


@pytest.mark.parametrize("side", [24, 64, 200])
def test_frames_of_any_size_are_there_after_a_kill(tmp_path: Path, side: int) -> None:
    """Also those that are filled up to the end of their last page."""
    path, left = tmp_path / "run.nxs", tmp_path / "left.nxs"
    manifest = a_manifest()
    beam = manifest.beam.model_copy(update={"frame": (side, side)})
    file = RunFile(path, manifest.model_copy(update={"beam": beam}))
    noise = np.random.default_rng(side).integers(0, 60_000, (5, side, side), dtype=np.uint16)
    encoder = Bitshuffle()
    for index, frame in enumerate(noise):
        header = {"series": "series_001", "index": index, "t_ns": T0 + index * S}
        file.write_frame(header, frame, encoder.compress(frame))
    file.flush()
    shutil.copy(path, left)  # as a kill would leave it
    file.close("complete", None, 1.0, "")
    found = recover(left)
    assert not found.lost
    assert found.report["frames"] == 5
    with h5py.File(left) as there:
        assert np.array_equal(there["series_001/data/data"], noise)


def test_an_interruption_that_nobody_ended_is_recorded_once(tmp_path: Path) -> None:
    path, manifest = tmp_path / "run.nxs", a_manifest()
    RunFile(path, manifest).close("interrupted", None, 0.0, "killed")
    # The first two were killed before the journal knew that the run goes on.
    for until_s, number in ((3, 1), (5, 1), (9, 1), (20, 2)):
        gap = Interruption(
            from_ns=T0 + S, until_ns=T0 + until_s * S, hot_s=0.5, reason="killed", number=number
        )
        RunFile(path, manifest, gap).close("interrupted", None, 0.0, "killed")
    with h5py.File(path) as file:
        found = interruptions_of(file)
    assert [(i.from_ns - T0) // S for i in found] == [1, 9]
    assert [(i.until_ns - T0) // S for i in found] == [9, 20]
