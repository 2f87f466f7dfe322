"""Balls of perfect lattices, and an oxidised particle whose parts are known."""

import numpy as np
from scipy.spatial import KDTree

# Edge of the cube (hcp: distance of neighbours), places in the cell, atoms in the cube.
_CUBES = {
    "sc": [[0, 0, 0]],
    "bcc": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "fcc": [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
}
_CUBES["diamond"] = [[*np.add(p, q)] for p in _CUBES["fcc"] for q in ([0, 0, 0], [0.25] * 3)]
METAL_EDGE, OXIDE_EDGE = 4.667, 5.1


def ball(kind, edge, radius, centre=(0.0, 0.0, 0.0)):
    """Atoms of a lattice within a radius of a place."""
    if kind == "hcp":
        height = edge * np.sqrt(8 / 3)
        cell = np.array([[edge, 0, 0], [-edge / 2, edge * np.sqrt(3) / 2, 0], [0, 0, height]])
        places = np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
    else:
        cell, places = edge * np.eye(3), np.array(_CUBES[kind], float)
    reach = int(2 * radius / edge) + 3
    grid = np.stack(np.mgrid[[slice(-reach, reach + 1)] * 3], -1).reshape(-1, 3)
    points = np.concatenate([(grid + place) @ cell for place in places])
    return points[np.linalg.norm(points - centre, axis=1) < radius]


def fluorite(radius):
    """Cubic ZrO2: positions of Zr and of O."""
    zr = ball("fcc", OXIDE_EDGE, radius)
    oxygen = OXIDE_EDGE / 4 + ball("sc", OXIDE_EDGE / 2, radius + 3)
    return zr, oxygen[np.linalg.norm(oxygen, axis=1) < radius]


def oxidised_particle(core=12.0, radius=24.0, seed=0, thermal=0.05):
    """Metal core in an oxide that is cubic at x > 0, amorphous elsewhere; radii of all atoms."""
    rng = np.random.default_rng(seed)
    oxide = ball("fcc", OXIDE_EDGE, radius)
    oxide = oxide[np.linalg.norm(oxide, axis=1) > core + 1]
    crystal, glass = oxide[oxide[:, 0] > 0], oxide[oxide[:, 0] <= 0]
    glass = glass + rng.normal(0, 0.8, glass.shape)
    for _ in range(80):
        pairs = KDTree(glass).query_pairs(3.4, output_type="ndarray")
        vectors = glass[pairs[:, 0]] - glass[pairs[:, 1]]
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        push = 0.25 * (3.4 - length) * vectors / length
        np.add.at(glass, pairs[:, 0], push)
        np.add.at(glass, pairs[:, 1], -push)
    atoms = np.concatenate([ball("fcc", METAL_EDGE, core), crystal, glass])
    clashes = KDTree(atoms).query_pairs(2.6, output_type="ndarray")
    atoms = np.delete(atoms, np.unique(clashes[:, 1]), axis=0)
    return atoms + rng.normal(0, thermal, atoms.shape)


def inner(points, depth=9.0):
    """Which atoms are deep inside of a ball about the origin."""
    radius = np.linalg.norm(points, axis=1)
    return radius < radius.max() - depth


def same_errors(points, sigma):
    """Covariances of atoms that are all known alike."""
    return np.tile(sigma**2 * np.eye(3), (len(points), 1, 1))


def write_extended_xyz(path, points, sigma=None, species="Zr", probability=None):
    """A file as `pyrotome atoms` writes it."""
    head = "species:S:1:pos:R:3"
    head += "" if sigma is None else ":covariance:R:6"
    head += "" if probability is None else ":probability:R:1"
    lines = [str(len(points)), f'Properties={head} pbc="F F F"']
    for n, point in enumerate(points):
        cells = [species, *(f"{x:.6f}" for x in point)]
        if sigma is not None:
            cells += [f"{v:.6e}" for v in (sigma**2, 0, 0, sigma**2, 0, sigma**2)]
        if probability is not None:
            cells.append(f"{probability[n]:.5f}")
        lines.append(" ".join(cells))
    path.write_text("\n".join(lines) + "\n")
