"""Atoms in a run file: recorded by `process`, read in Python, inspected, and exported."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyrotome
from pyrotome.analysis.atoms import match_atoms
from pyrotome.analysis.commands.import_ import import_stack
from pyrotome.analysis.commands.process import process_file
from pyrotome.protocols.config.pipeline import AnalysisStep
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.steps.tables import ATOM_COLUMNS
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

TILTS = np.arange(-75.0, 91.0, 9.0)
TRUTH_A = amorphous_particle(40, np.random.default_rng(3))


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with atoms that `process` has found."""
    folder = tmp_path_factory.mktemp("atoms")
    imaging = Imaging(0.35, (56, 56), dose_e_per_a2=6e4, pedestal=0.5)
    made = simulated_series(TRUTH_A, TILTS, imaging, np.random.default_rng(4))
    np.savez(folder / "counts.npz", counts=made.counts, tilt_deg=TILTS, pixel_nm=0.035)
    path = folder / "run.nxs"
    import_stack(folder / "counts.npz", path)
    step = AnalysisStep.model_validate({"trace": {"species": "Zr", "live_time": "0 s"}})
    (outcome,) = process_file(path, [AnalysisStep.model_validate({"correct": "off"}), step])
    assert outcome.results == ["atoms", "atom_views"], outcome.notes
    return path


def test_the_reader_gives_places_with_their_errors(run_file: Path) -> None:
    with pyrotome.open(run_file) as run:
        atoms = run.series[1].atoms
        assert atoms is not None
        match = match_atoms(atoms.positions_a, TRUTH_A)
        assert (match.recall, match.precision) == (1, 1)
        assert len(atoms) == len(atoms.species) == 40
        assert set(atoms.species) == {"Zr"}
        assert atoms.positions_nm == pytest.approx(atoms.positions_a / 10)
        trace = np.trace(atoms.covariance_nm2, axis1=1, axis2=2)
        assert np.sqrt(trace) == pytest.approx(atoms.position_error_nm)
        assert atoms.sigma_a**2 == pytest.approx(np.diagonal(atoms.covariance_a2, axis1=1, axis2=2))
        assert atoms.figures["atoms"] == 40
        assert atoms.figures["seed"] == 0
        assert repr(atoms).startswith("<40 atoms of Zr, position error ")
        stored = run.series[1].result("atoms")
        assert stored.columns == ATOM_COLUMNS
        assert stored.data.shape[0] > 40


def test_inspect_tells_the_atoms(run_file: Path, command: Any) -> None:
    done = command("inspect", run_file, "--json")
    (series,) = json.loads(done.stdout)["series"]
    assert series["atoms"]["count"] == 40
    assert 0 < series["atoms"]["position_error_median_nm"] < 0.02
    assert "40 atoms of Zr, position error" in command("inspect", run_file).stdout


def test_xyz_has_the_columns_of_the_contract(run_file: Path, tmp_path: Path, command: Any) -> None:
    target = tmp_path / "atoms.xyz"
    done = command("export", run_file, "--what", "atoms", "--to", target)
    assert (done.returncode, done.stdout.strip()) == (0, str(target))
    lines = target.read_text().splitlines()
    assert lines[0] == "40"
    assert "species:S:1:pos:R:3:sigma:R:3:peak:R:1" in lines[1]
    places = np.array([line.split()[1:4] for line in lines[2:]], float)
    assert match_atoms(places, TRUTH_A).recall == 1
    assert np.abs(places.mean(axis=0)).max() < 1e-4
    again = command("export", run_file, "--to", target)
    assert again.returncode == 2
    assert "exists" in again.stderr or "there already" in again.stderr


def test_csv_and_cif_hold_the_same_atoms(run_file: Path, tmp_path: Path, command: Any) -> None:
    gemmi = pytest.importorskip("gemmi")
    table, crystal = tmp_path / "atoms.csv", tmp_path / "atoms.cif"
    assert command("export", run_file, "--what", "atoms", "--to", table).returncode == 0
    assert command("export", run_file, "--to", crystal).returncode == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = np.array([[float(row[f"{axis}_a"]) for axis in "xyz"] for row in rows])
    errors = np.array([[float(row[f"sigma_{axis}_a"]) for axis in "xyz"] for row in rows])
    structure = gemmi.read_small_structure(str(crystal))
    box = np.array([structure.cell.a, structure.cell.b, structure.cell.c])
    found = np.array([site.fract.tolist() for site in structure.sites]) * box
    assert [site.type_symbol for site in structure.sites] == ["Zr"] * 40
    assert found - found.mean(axis=0) == pytest.approx(places - places.mean(axis=0), abs=0.01)
    loop = gemmi.cif.read(str(crystal)).sole_block().find_loop("_atom_site_fract_x")
    first = gemmi.cif.as_number(loop[0]), float(loop[0].split("(")[1].rstrip(")"))
    digits = len(loop[0].split("(")[0].split(".")[1])
    assert first[1] * 10.0**-digits * box[0] == pytest.approx(errors[0, 0], rel=0.06)


def test_what_cannot_be_written_is_told(run_file: Path, tmp_path: Path, command: Any) -> None:
    done = command("export", run_file, "--what", "atoms", "--to", tmp_path / "atoms.pdb")
    assert done.returncode == 2
    assert "use .xyz, .csv, .cif" in done.stderr


def test_a_file_without_atoms_says_how_to_find_them(make_run: Any, command: Any) -> None:
    path = make_run()
    done = command("export", path, "--what", "atoms", "--to", path.with_suffix(".xyz"))
    assert done.returncode == 2
    assert "a step 'trace' finds them" in done.stderr
    with pyrotome.open(path) as run:
        assert run.series[1].atoms is None


def test_columns_of_another_version_are_refused(run_file: Path, monkeypatch: Any) -> None:
    from pyrotome.protocols.runfile import recorded_atoms

    monkeypatch.setattr(recorded_atoms, "ATOM_COLUMNS", ("x_nm",))
    with pyrotome.open(run_file) as run, pytest.raises(BadInput, match="Another version"):
        _ = run.series[1].atoms
