"""Delaunay tetrahedra of a particle: volumes, circumspheres, and which lie inside of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay, QhullError

from .atom_list import Floats64

# Below this part of the cube of its longest edge a tetrahedron is flat, but for rounding.
_FLAT = 1e-6
_FACES = ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2))
_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@dataclass(frozen=True)
class Tetrahedra:
    """Delaunay tetrahedra.

    Attributes
    ----------
    corners : ndarray
        Shape (tetrahedra, 4): indices of atoms.
    neighbours : ndarray
        Shape (tetrahedra, 4): the tetrahedron across the face opposite to each corner; -1: none.
    volumes_a3 : ndarray
        Shape (tetrahedra,).
    radii_a : ndarray
        Shape (tetrahedra,): of the spheres through the corners.
    edges_a : ndarray
        Shape (tetrahedra, 6): lengths.
    inside : ndarray of bool
        Shape (tetrahedra,): not reached from outside by a ball of radius `alpha`.
    """

    corners: NDArray[np.intp]
    neighbours: NDArray[np.intp]
    volumes_a3: Floats64
    radii_a: Floats64
    edges_a: Floats64
    inside: NDArray[np.bool_]


def tetrahedra_of(positions_a: NDArray[Any], alpha_a: float) -> Tetrahedra:
    """Make the Delaunay tetrahedra of a particle, and find its surface by the alpha shape.

    A ball of radius `alpha_a` comes from outside (Edelsbrunner and Muecke, ACM Trans. Graph. 13,
    43, 1994). It passes a triangle whose circumcircle is wider. What it does not reach is inside,
    enclosed pores of any size too.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    alpha_a : float
        Radius of the ball, in angstrom.

    Returns
    -------
    Tetrahedra
        All tetrahedra of the convex hull.

    Raises
    ------
    ValueError
        If the atoms span no volume.

    Examples
    --------
    >>> import numpy as np
    >>> corners = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    >>> one = tetrahedra_of(corners, 2.0)
    >>> one.inside.tolist(), one.volumes_a3.round(3).tolist(), one.radii_a.round(3).tolist()
    ([True], [2.667], [1.732])
    """
    positions = np.asarray(positions_a, np.float64)
    try:
        made = Delaunay(positions)
    except QhullError:
        raise ValueError("the atoms span no volume") from None
    corners = np.asarray(made.simplices, np.intp)
    neighbours = np.asarray(made.neighbors, np.intp)
    points = positions[corners]
    edges = np.stack([_length(points[:, i] - points[:, j]) for i, j in _EDGES], axis=1)
    volumes, radii = _spheres(points, edges)
    open_faces = np.stack([_circumradius(points[:, face]) > alpha_a for face in _FACES], axis=1)
    return Tetrahedra(corners, neighbours, volumes, radii, edges, ~_reached(neighbours, open_faces))


def _length(vectors: Floats64) -> Floats64:
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))


def _spheres(points: Floats64, edges: Floats64) -> tuple[Floats64, Floats64]:
    """Volumes and circumradii."""
    a, b, c = (points[:, i] - points[:, 0] for i in (1, 2, 3))
    bc, ca, ab = np.cross(b, c), np.cross(c, a), np.cross(a, b)
    six = np.einsum("ti,ti->t", a, bc)
    squares = [np.einsum("ti,ti->t", v, v)[:, None] for v in (a, b, c)]
    flat = np.abs(six) < _FLAT * edges.max(axis=1) ** 3
    centre = (squares[0] * bc + squares[1] * ca + squares[2] * ab) / np.where(flat, 1.0, 2 * six)[
        :, None
    ]
    radii = _length(centre)
    if flat.any():
        # Four atoms of a perfect lattice on one circle: the smallest sphere through them.
        sides = np.stack([a, b, c], axis=1)[flat]
        halves = 0.5 * np.concatenate(squares, axis=1)[flat]
        inverse = np.linalg.pinv(sides, rcond=1e-4)
        radii[flat] = _length(np.einsum("tij,tj->ti", inverse, halves))
    return np.abs(six) / 6, radii


def _circumradius(triangles: Floats64) -> Floats64:
    one, two, three = (triangles[:, i] - triangles[:, j] for i, j in ((1, 0), (2, 1), (0, 2)))
    twice_area = _length(np.cross(one, two))
    product = _length(one) * _length(two) * _length(three)
    return np.divide(
        product, 2 * twice_area, out=np.full(len(product), np.inf), where=twice_area > 0
    )


def _reached(neighbours: NDArray[np.intp], open_faces: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which tetrahedra a ball that passes the open faces reaches from outside."""
    count = len(neighbours)
    one, face = np.nonzero(open_faces)
    other = neighbours[one, face]
    other = np.where(other < 0, count, other)  # the outside is one more node
    links = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count + 1, count + 1))
    labels = np.asarray(connected_components(links, directed=False)[1])
    return labels[:count] == labels[count]


def surface_corners(tetrahedra: Tetrahedra, atoms: int) -> NDArray[np.intp]:
    """How many corners of each tetrahedron are atoms of the particle's surface."""
    inside, neighbours = tetrahedra.inside, tetrahedra.neighbours
    outer = inside[:, None] & ((neighbours < 0) | ~inside[neighbours])
    on_surface = np.zeros(atoms, np.bool_)
    for k, face in enumerate(_FACES):
        on_surface[tetrahedra.corners[outer[:, k]][:, face]] = True
    return on_surface[tetrahedra.corners].sum(axis=1)


def joined_across_faces(
    neighbours: NDArray[np.intp], chosen: NDArray[np.bool_]
) -> tuple[int, NDArray[np.intp]]:
    """Number of groups of chosen tetrahedra that share faces, and the group of each (-1: none)."""
    one, face = np.nonzero(chosen[:, None] & (neighbours >= 0))
    other = neighbours[one, face]
    both = chosen[other]
    number = np.cumsum(chosen) - 1
    size = int(chosen.sum())
    links = coo_array(
        (np.ones(int(both.sum()), np.int8), (number[one[both]], number[other[both]])),
        shape=(size, size),
    )
    groups = np.full(len(chosen), -1, np.intp)
    if not size:
        return 0, groups
    found, labels = connected_components(links, directed=False)
    groups[chosen] = labels
    return int(found), groups
