"""Two lists of atoms compared."""

import numpy as np
import pytest

from pyrotome.analysis.atoms import match_atoms


def test_a_displaced_list_with_a_ghost_and_a_gap():
    rng = np.random.default_rng(0)
    reference = np.stack(np.mgrid[:4, :4, :4], -1).reshape(-1, 3) * 2.5
    errors = rng.normal(0, 0.05, (63, 3))
    found = np.vstack([reference[1:] + errors + [0.7, -0.2, 0.1], [[30.0, 0, 0]]])
    match = match_atoms(found, reference)
    assert match.recall == 63 / 64
    assert match.precision == 63 / 64
    assert np.array_equal(match.pairs[:, 0] + 1, match.pairs[:, 1])
    assert match.rmsd_a == pytest.approx(np.sqrt(errors.var(axis=0).sum()))


def test_two_atoms_never_share_a_partner():
    match = match_atoms(np.array([[0.0, 0, 0], [0.4, 0, 0]]), np.array([[0.1, 0, 0]]))
    assert match.recall == 1
    assert match.precision == 0.5


def test_empty_lists_are_refused():
    with pytest.raises(ValueError, match="atoms in both lists"):
        match_atoms(np.zeros((0, 3)), np.zeros((2, 3)))
