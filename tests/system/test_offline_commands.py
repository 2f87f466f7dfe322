"""The offline commands on a real run: the same answer as online, and exit codes."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the frames' filter
import mrcfile
import numpy as np


def test_offline_results_equal_online_results(cli: Any) -> None:
    done = cli("run", cli.recipe(), "--rig", cli.rig(), "--speed", "5", "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    done = cli("process", "run.nxs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{series}: volume, mask, outliers" for series in ("series_001", "series_002")
    ]
    with h5py.File(cli.folder / "run.nxs") as file:
        for series in ("series_001", "series_002"):
            online, offline = (file[f"{series}/process_00{n}"] for n in (1, 3))
            assert np.isfinite(online["volume/data"]).all()
            for name in ("volume", "slice_x", "slice_y", "slice_z"):
                first, second = online[name]["data"][...], offline[name]["data"][...]
                assert np.array_equal(first, second), (series, name)
            for name in ("method", "iterations", "binning"):
                assert online["parameters"][name][()] == offline["parameters"][name][()]
    assert cli.inspect("run.nxs")["status"] == "complete"

    arguments = ("--series", "2", "--what", "volume", "--to", "v.mrc")
    done = cli("export", "run.nxs", *arguments)
    assert done.returncode == 0, done.stderr
    with mrcfile.open(cli.folder / "v.mrc") as volume, h5py.File(cli.folder / "run.nxs") as file:
        assert np.array_equal(volume.data, file["series_002/process_003/volume/data"])
    done = cli("export", "run.nxs", "--to", "log.csv")
    assert done.stdout.split("\n")[:2] == ["log_Synchronized data.csv", "log_Metadata.log"]
    done = cli("import", "v.mrc", "-o", "v.nxs")
    assert done.returncode == 2
    assert done.stderr == "pyrotome: v.mrc: holds no angles; give a file of them with --tilts\n"


def a_stack(folder: Path, side: int = 16) -> None:
    counts = np.random.default_rng(1).poisson(9, (3, side, side)).astype(np.uint16)
    np.savez(folder / "stack.npz", counts=counts, tilt_deg=[-5.0, 0.0, 5.0])


def test_arguments_go_through_and_errors_come_back(cli: Any) -> None:
    a_stack(cli.folder)
    done = cli("import", "stack.npz", "--pixel-size", "-1 nm", "-o", "run.nxs")
    assert done.returncode == 2
    problem = "--pixel-size: '-1 nm' is not above zero; write it as in '3.36 nm'"
    assert done.stderr == f"pyrotome: {problem}\n"
    done = cli("import", "stack.npz", "--pixel-size", "5 Å", "-o", "run.nxs", "--title", "-odd")
    assert done.returncode == 0, done.stderr
    assert cli.inspect("run.nxs")["title"] == "-odd"
    (cli.folder / "p.yaml").write_text("- denoise: {method: bm4d}\n")
    done = cli("process", "run.nxs", "--pipeline", "p.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("pyrotome: p.yaml:1: analysis[0].denoise.method")
    done = cli("export", "no.nxs", "--to", "x.tif", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("pyrotome: no.nxs: no such file\n")


def test_ctrl_c_reaches_the_computation(cli: Any) -> None:
    a_stack(cli.folder, 128)
    assert cli("import", "stack.npz", "--pixel-size", "1 nm", "-o", "run.nxs").returncode == 0
    before = (cli.folder / "run.nxs").read_bytes()
    (cli.folder / "p.yaml").write_text("- reconstruct: {iterations: 10000, binning: 1}\n")
    running = cli.start("process", "run.nxs", "--pipeline", "p.yaml")
    end = time.monotonic() + 60
    while not list(cli.folder.glob(".pyrotome-*/results.h5")):
        assert time.monotonic() < end
        time.sleep(0.02)
    running.process.send_signal(signal.SIGINT)
    assert running.wait() == 130
    assert (cli.folder / "run.nxs").read_bytes() == before
    assert not list(cli.folder.glob(".pyrotome-*"))
