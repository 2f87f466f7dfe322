"""Files of a structure, read back by the programs they are for."""

import numpy as np
import pytest
from lattices import OXIDE_EDGE, ball, same_errors

from pyrotome.analysis.report.structure_figure import draw_structure
from pyrotome.analysis.report.structure_tables import as_ase, write_cif, write_xyz
from pyrotome.analysis.structure import StructureSettings, Templates, analyse_structure, atom_list

SIGMA = 0.06


@pytest.fixture(scope="module")
def found():
    atoms = ball("fcc", OXIDE_EDGE, 11.0)
    probability = np.linspace(0.6, 1.0, len(atoms))
    listed = atom_list(atoms, "Zr", same_errors(atoms, SIGMA), probability)
    return analyse_structure(listed, StructureSettings(draws=2))


def test_ase_reads_the_columns(found, tmp_path):
    from ase.io import read

    templates = Templates(np.ones(len(found.index), np.intp), np.zeros(len(found.index)))
    write_xyz(tmp_path / "s.xyz", found, templates)
    again = read(tmp_path / "s.xyz")
    assert again.positions == pytest.approx(found.atoms.positions_a, abs=1e-6)
    assert again.arrays["order"] == pytest.approx(found.measurement.per_atom["order"], abs=1e-6)
    assert again.arrays["covariance"].shape == (len(found.index), 6)
    assert (again.arrays["template"] == 1).all()
    assert again.info["phases"] == "0=amorphous 1=crystalline 2=core"


def test_the_hand_over_holds_errors_beside_values(found):
    atoms = as_ase(found)
    names = set(atoms.arrays)
    assert {"order", "order_sd", "concentration", "oxidation", "phase", "probability"} <= names
    assert "template" not in names


def test_gemmi_reads_positions_and_their_uncertainties(found, tmp_path):
    cif = pytest.importorskip("gemmi").cif
    write_cif(tmp_path / "s.cif", found, "my particle")
    block = cif.read(str(tmp_path / "s.cif")).sole_block()
    assert block.name == "my_particle"
    table = block.find("_atom_site_", ["label", "fract_x", "occupancy"])
    assert len(table) == len(found.index)
    side = float(block.find_value("_cell_length_a"))
    x = np.array([cif.as_number(row[1]) for row in table]) * side
    assert np.ptp(x) == pytest.approx(np.ptp(found.atoms.positions_a[:, 0]), abs=0.02)
    brackets = table[0][1].partition("(")
    digits = len(brackets[0].partition(".")[2])
    assert int(brackets[2].rstrip(")")) * 10**-digits * side == pytest.approx(SIGMA, rel=0.05)
    assert float(table[0][2]) == pytest.approx(0.6)


def test_a_particle_without_core_or_voids_is_drawn(found, tmp_path):
    draw_structure(tmp_path / "s.png", found)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
