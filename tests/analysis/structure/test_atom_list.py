"""Lists of atoms that cannot be right."""

import numpy as np
import pytest
from lattices import ball, same_errors

from pyrotome.analysis.structure import atom_list

ATOMS = ball("fcc", 4.6, 8.0)


def changed(index, value):
    atoms = ATOMS.copy()
    atoms[index] = value
    return atoms


@pytest.mark.parametrize(
    ("atoms", "options", "message"),
    [
        (ATOMS[:9], {}, "9 atoms are too few"),
        (changed(3, np.nan), {}, "atom 4 is NaN"),
        (changed(3, ATOMS[7]), {}, "atoms 4 and 8 stand at the same place"),
        (ATOMS * (1, 1, 0.0001) + np.arange(len(ATOMS))[:, None] * (0.1, 0, 0), {}, "one plane"),
        (ATOMS[:, :2], {}, "x, y, z"),
        (ATOMS, {"probability": np.full(len(ATOMS), 1.2)}, "not between 0 and 1"),
        (ATOMS, {"probability": np.ones(3)}, "one for each atom"),
        (ATOMS, {"covariance_a2": -same_errors(ATOMS, 0.1)}, "negative variance"),
        (ATOMS, {"covariance_a2": same_errors(ATOMS, np.nan)}, "covariance of atom 1 is NaN"),
        (ATOMS, {"covariance_a2": same_errors(ATOMS[:4], 0.1)}, "3 x 3"),
    ],
)
def test_it_is_refused_in_one_sentence(atoms, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        atom_list(atoms, "Zr", **options)
    assert "\n" not in str(refused.value)
