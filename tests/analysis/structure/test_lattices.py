"""Values of perfect lattices, and of libraries, to six digits."""

import numpy as np
import pytest
from lattices import ball, inner
from scipy.spatial import ConvexHull, KDTree
from scipy.special import sph_harm_y

from pyrotome.analysis.structure import bond_order, bonds_of, concentration_of, tetrahedra_of
from pyrotome.simulators.world.atoms.particle import amorphous_particle

# Lattice, edge, atoms in a cube (hcp: volume of an atom is d^3 / sqrt 2), cutoff, Q4, Q6.
# Q4, Q6: Mickel et al., J. Chem. Phys. 138, 044501, 2013; those of bcc with 14 neighbours.
ORDERS = [
    ("fcc", 4.6, 4.0, 0.1909406, 0.5745243),
    ("bcc", 3.6, 4.0, 0.0363696, 0.5106882),
    ("hcp", 3.3, 4.0, 0.0972222, 0.4847617),
    ("diamond", 5.4, 3.0, 0.5091751, 0.6285394),
]


def atom_volume(kind, edge):
    return edge**3 / {"fcc": 4, "bcc": 2, "diamond": 8, "hcp": np.sqrt(2)}[kind]


@pytest.mark.parametrize(("kind", "edge", "cutoff", "q4", "q6"), ORDERS)
def test_order_of_lattices(kind, edge, cutoff, q4, q6):
    atoms = ball(kind, edge, 14.0)
    found = bond_order(atoms, cutoff)
    deep = inner(atoms)
    assert deep.sum() > 10
    assert found.q4[deep] == pytest.approx(q4, abs=1e-6)
    assert found.q6[deep] == pytest.approx(q6, abs=1e-6)
    assert found.normalised[deep] == pytest.approx(
        np.hypot(q4, q6) / np.hypot(0.190941, 0.574524), abs=2e-6
    )


@pytest.mark.parametrize(
    ("kind", "edge", "cutoff", "faces"),
    [
        ("fcc", 4.6, 4.5, 12),
        ("bcc", 3.6, 4.5, 14),
        ("hcp", 3.3, 4.5, 12),
        ("diamond", 5.4, 4.5, 16),
    ],
)
def test_concentration_of_lattices(kind, edge, cutoff, faces):
    atoms = ball(kind, edge, 14.0)
    found = concentration_of(atoms, bonds_of(atoms, cutoff))
    deep = inner(atoms)
    assert found.per_a3[deep] * atom_volume(kind, edge) == pytest.approx(1, abs=1e-6)
    assert set(found.faces[deep]) == {faces}
    outermost = np.argmax(np.linalg.norm(atoms, axis=1))
    assert np.isnan(found.per_a3[outermost])


@pytest.fixture(scope="module")
def glass():
    return amorphous_particle(400, np.random.default_rng(7))


def averaged_by_hand(atoms, cutoff, degree):
    """Lechner and Dellago, equations 5 and 6, by spherical harmonics of scipy."""
    near = [
        [j for j in found if j != i]
        for i, found in enumerate(KDTree(atoms).query_ball_point(atoms, cutoff))
    ]
    table = np.zeros((len(atoms), 2 * degree + 1), complex)
    for i, others in enumerate(near):
        x, y, z = (atoms[others] - atoms[i]).T
        polar, around = np.arccos(z / np.sqrt(x * x + y * y + z * z)), np.arctan2(y, x)
        for m in range(-degree, degree + 1):
            table[i, m + degree] = sph_harm_y(degree, m, polar, around).mean()
    means = np.array([table[[i, *others]].mean(axis=0) for i, others in enumerate(near)])
    return np.sqrt(4 * np.pi / (2 * degree + 1) * (abs(means) ** 2).sum(axis=1))


def test_order_is_that_of_its_formula(glass):
    found = bond_order(glass, 4.0)
    assert found.q4 == pytest.approx(averaged_by_hand(glass, 4.0, 4), abs=1e-6)
    assert found.q6 == pytest.approx(averaged_by_hand(glass, 4.0, 6), abs=1e-6)


def test_order_is_that_of_freud_as_far_as_its_single_precision_goes(glass):
    freud = pytest.importorskip("freud")
    steinhardt = freud.order.Steinhardt(l=6, average=True)
    steinhardt.compute((freud.box.Box.cube(200), glass), neighbors={"r_max": 4.0})
    assert bond_order(glass, 4.0).q6 == pytest.approx(steinhardt.particle_order, abs=2e-4)


def test_volumes_are_those_of_voro(glass):
    pyvoro2 = pytest.importorskip("pyvoro2")
    domain = pyvoro2.Box(bounds=((-40, 40),) * 3)
    cells = pyvoro2.compute(glass, domain=domain, output="cells")
    volumes = np.array([cell["volume"] for cell in sorted(cells, key=lambda cell: cell["id"])])
    found = concentration_of(glass, bonds_of(glass, 9.0), least_face=0.0)
    deep = inner(glass, 5.0) & np.isfinite(found.per_a3)
    assert deep.sum() > 50
    assert 1 / found.per_a3[deep] == pytest.approx(volumes[deep], rel=1e-6)


def test_a_small_face_is_dropped_and_the_cell_is_made_again(glass):
    bonds = bonds_of(glass, 9.0)
    whole = concentration_of(glass, bonds, least_face=0.0)
    cut = concentration_of(glass, bonds)
    deep = inner(glass, 5.0) & np.isfinite(whole.per_a3) & np.isfinite(cut.per_a3)
    assert (cut.faces[deep] <= whole.faces[deep]).all()
    fewer = deep & (cut.faces < whole.faces)
    assert fewer.sum() > 20
    # A cell grows where a face is gone.
    assert (cut.per_a3[fewer] <= whole.per_a3[fewer] * (1 + 1e-12)).all()
    assert cut.per_a3[fewer].mean() < whole.per_a3[fewer].mean()
    assert cut.per_a3[fewer] == pytest.approx(whole.per_a3[fewer], rel=0.05)


def test_tetrahedra_fill_the_hull_and_have_the_spheres_of_the_lattice():
    atoms = ball("fcc", 4.6, 12.0)
    found = tetrahedra_of(atoms, 1e9)
    assert found.volumes_a3.sum() == pytest.approx(ConvexHull(atoms).volume, rel=1e-9)
    deep = inner(atoms, 4.0)[found.corners].all(axis=1)
    spacing = 4.6 / np.sqrt(2)
    radii = found.radii_a[deep] / spacing
    regular = np.abs(radii - np.sqrt(3 / 8)) < 1e-6
    octahedral = np.abs(radii - np.sqrt(1 / 2)) < 1e-6
    assert (regular | octahedral).all()
    assert regular.any() and octahedral.any()
