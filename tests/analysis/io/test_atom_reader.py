"""Atoms read from files: columns of ``pyrotome atoms``, and of others."""

import numpy as np
import pytest

from pyrotome.analysis.io.atom_reader import read_atoms
from pyrotome.protocols.core.errors import BadInput

ROW = "Zr 1.0 2.0 3.0"


def written(path, head, *rows):
    path.write_text("\n".join([str(len(rows)), head, *rows]) + "\n")
    return path


def test_covariances_and_probabilities_are_read(tmp_path):
    head = "Properties=species:S:1:pos:R:3:covariance:R:6:probability:R:1"
    found = read_atoms(written(tmp_path / "a.xyz", head, f"{ROW} 0.1 0.01 0.02 0.3 0.03 0.5 0.875"))
    assert found.covariance_a2 is not None and found.probability is not None
    assert found.covariance_a2[0].tolist() == [
        [0.1, 0.01, 0.02],
        [0.01, 0.3, 0.03],
        [0.02, 0.03, 0.5],
    ]
    assert found.probability.tolist() == [0.875]
    assert found.numbers == {"Zr": 40}
    assert not found.told


def test_standard_deviations_alone_make_covariances(tmp_path):
    head = "Properties=species:S:1:pos:R:3:sigma:R:3"
    found = read_atoms(written(tmp_path / "a.xyz", head, f"{ROW} 0.1 0.2 0.3"))
    assert found.covariance_a2 is not None
    assert found.covariance_a2[0] == pytest.approx(np.diag([0.01, 0.04, 0.09]))


def test_what_a_person_should_know_is_told(tmp_path):
    head = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 pbc="T T T" doubts="a film"'
    found = read_atoms(written(tmp_path / "a.xyz", head, "X 0 0 0"))
    assert any("periodic" in told for told in found.told)
    assert any("a film" in told for told in found.told)
    assert any("--species" in told for told in found.told)


def test_a_column_of_the_wrong_width_is_refused(tmp_path):
    head = "Properties=species:S:1:pos:R:3:probability:R:2"
    with pytest.raises(BadInput, match="'probability' has"):
        read_atoms(written(tmp_path / "a.xyz", head, f"{ROW} 1 1"))
