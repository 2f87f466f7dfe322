"""``pyrotome spectra`` on a file of TofDaq, as a user runs it."""

import csv
from datetime import datetime

import h5py
import numpy as np
import pytest
from spectra_ramp import FAST, event_frame

from pyrotome.protocols.spectra.tofdaq import TofDaqWriter
from pyrotome.simulators.world.spectra.sodium_front import SodiumFront

FOLLOW = ["--follow", "260 degC", "420 degC"]
WHAT = ["--elements", "B,Na,Cr,Fe,Mn,Li", "--stay", "Cr,Fe", "--front", "Na", *FOLLOW]


@pytest.fixture(scope="module")
def ramp_file(tmp_path_factory):
    specimen = SodiumFront(3, counts_per_pixel=20.0, ramp=FAST, pixels=64)
    path = tmp_path_factory.mktemp("ramp") / "ramp.h5"
    rows = np.arange(64)
    with TofDaqWriter(
        path, np.arange(1.0, 201.0), (64, 64), specimen.pixel_um, datetime(2026, 1, 2)
    ) as file:
        for frame in range(FAST.frame_at(160.0), FAST.frame_at(430.0)):
            dense = event_frame(specimen, frame).dense()
            file.append(dense, np.array([specimen.time_s(frame, row) for row in rows]))
    return path, specimen


def heat(specimen):
    return ["--start", f"{specimen.temperature_c(FAST.frame_at(160.0))} degC", "--rate", "3 degC/s"]


def test_a_ramp_gives_table_picture_file_and_both_laws(cli, ramp_file):
    path, specimen = ramp_file
    done = cli("spectra", str(path), "-o", "out.nxs", *WHAT, *heat(specimen), "--boxes", "2",
               "--table", "fronts.csv", "--figure", "ramp.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Na, law fick: Q = " in done.stdout
    assert "law 'paper' takes D(T) (T - T0) / rate" in done.stdout
    rows = list(csv.DictReader((cli.folder / "fronts.csv").read_text().splitlines()))
    assert len(rows) > 25
    assert float(rows[-1]["length_um"]) > float(rows[0]["length_um"]) > 0
    assert (cli.folder / "ramp.png").stat().st_size > 20_000
    with h5py.File(cli.folder / "out.nxs") as file:
        entry = file["entry"]
        assert entry["maps/maps"].shape[1:] == (8, 64, 64)
        assert entry["spectra"].attrs["interpretation"] == "spectrum"
        q, sd = (entry["diffusion_fick"][name][()] for name in
                 ("activation_energy", "activation_energy_errors"))  # fmt: skip
        assert abs(q - 87.2e3) < 5 * sd
        assert entry["front/length"].shape == (len(rows), 2)


def test_a_heater_log_tells_how_hot_it_was(cli, ramp_file):
    path, specimen = ramp_file
    first = FAST.frame_at(160.0)
    lines = ["time_s,temperature_c"]
    lines += [f"{t},{specimen.temperature_c(first) + 3.0 * t}" for t in range(120)]
    (cli.folder / "heater.csv").write_text("\n".join(lines))
    done = cli("spectra", str(path), "-o", "out.nxs", *WHAT, "--heater-log", "heater.csv",
               "--law", "fick")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "law fick" in done.stdout
    assert "law paper" not in done.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--elements", "B,Na,Xx"], "'Cr' is not among the elements"),
        (["--elements", "Cr,Fe,Na,Qq"], "'Qq' is no chemical formula"),
        (["--follow", "400 degC", "260 degC"], "400 degC is not below 260 degC"),
        (["--rate", "fast"], "--rate"),
        (["--law", "arrhenius"], "'arrhenius' is unknown; known: fick, fick-free-source, paper"),
        (["--table", "fronts.txt"], "ends in .csv"),
        (["--boxes", "0"], "0 is less than 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(cli, ramp_file, changes, words):
    path, specimen = ramp_file
    done = cli("spectra", str(path), "-o", "out.nxs", *WHAT, *heat(specimen), *changes)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (cli.folder / "out.nxs").exists()


def test_without_frames_in_the_range_no_law_is_fitted_and_the_maps_are_kept(cli, ramp_file):
    path, specimen = ramp_file
    what = [*WHAT[:-3], "--follow", "700 degC", "800 degC"]
    done = cli("spectra", str(path), "-o", "out.nxs", *what, *heat(specimen),
               "--figure", "ramp.png")  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "no diffusion coefficient: no frame lies between 700 and 800 degC" in done.stderr
    with h5py.File(cli.folder / "out.nxs") as file:
        assert "maps" in file["entry"]
        assert "front" not in file["entry"]
