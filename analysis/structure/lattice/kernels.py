"""Loop over the faces of Voronoi cells: areas, volume, and whether the cell is closed.

Each face is the polygon that the planes of all other neighbours leave of its own plane.
"""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import math

import numba
import numpy as np

_MOST_CORNERS = 96


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _clip(polygon, count, a, b, c, scratch):
    """Keep the part of a polygon where ``a u + b v <= c``; returns its number of corners."""
    kept = 0
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        here = a * polygon[i, 0] + b * polygon[i, 1] - c
        there = a * polygon[j, 0] + b * polygon[j, 1] - c
        if here <= 0 and kept < _MOST_CORNERS:
            scratch[kept, 0], scratch[kept, 1] = polygon[i, 0], polygon[i, 1]
            kept += 1
        if (here < 0 < there or there < 0 < here) and kept < _MOST_CORNERS:
            part = here / (here - there)
            for k in range(2):
                scratch[kept, k] = polygon[i, k] + part * (polygon[j, k] - polygon[i, k])
            kept += 1
    for i in range(kept):
        polygon[i, 0], polygon[i, 1] = scratch[i, 0], scratch[i, 1]
    return kept


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _face(normals, heights, used, count, i, reach, polygon, scratch):
    """Area of a face, and the distance of its farthest corner from the atom."""
    n = normals[i]
    axis = 0
    for k in range(1, 3):
        if abs(n[k]) < abs(n[axis]):
            axis = k
    u = np.zeros(3)
    u[axis] = 1.0
    along = n[axis]
    for k in range(3):
        u[k] -= along * n[k]
    length = math.sqrt(u[0] * u[0] + u[1] * u[1] + u[2] * u[2])
    u /= length
    v = np.empty(3)
    v[0] = n[1] * u[2] - n[2] * u[1]
    v[1] = n[2] * u[0] - n[0] * u[2]
    v[2] = n[0] * u[1] - n[1] * u[0]
    polygon[0, 0], polygon[0, 1] = -reach, -reach
    polygon[1, 0], polygon[1, 1] = reach, -reach
    polygon[2, 0], polygon[2, 1] = reach, reach
    polygon[3, 0], polygon[3, 1] = -reach, reach
    corners = 4
    for j in range(count):
        if j == i or not used[j]:
            continue
        m = normals[j]
        cosine = m[0] * n[0] + m[1] * n[1] + m[2] * n[2]
        a = m[0] * u[0] + m[1] * u[1] + m[2] * u[2]
        b = m[0] * v[0] + m[1] * v[1] + m[2] * v[2]
        corners = _clip(polygon, corners, a, b, heights[j] - heights[i] * cosine, scratch)
        if corners < 3:
            return 0.0, 0.0
    twice, farthest = 0.0, 0.0
    for p in range(corners):
        q = p + 1 if p + 1 < corners else 0
        twice += polygon[p, 0] * polygon[q, 1] - polygon[q, 0] * polygon[p, 1]
        farthest = max(farthest, polygon[p, 0] ** 2 + polygon[p, 1] ** 2)
    return 0.5 * abs(twice), math.sqrt(farthest + heights[i] ** 2)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def cells(positions, starts, neighbours, least_part, reach):
    """Volume of each cell (NaN where it is open) and its number of faces.

    The neighbours of atom a are ``neighbours[starts[a]:starts[a + 1]]``. Faces below `least_part`
    of the surface are left out, and the cell is made again without them. A cell with a corner
    farther than `reach` is open.
    """
    atoms = len(positions)
    volumes, faces = np.full(atoms, np.nan), np.zeros(atoms, np.int64)
    polygon, scratch = np.empty((_MOST_CORNERS, 2)), np.empty((_MOST_CORNERS, 2))
    for atom in range(atoms):
        count = starts[atom + 1] - starts[atom]
        normals, heights = np.empty((count, 3)), np.empty(count)
        used, areas = np.ones(count, np.bool_), np.zeros(count)
        for j in range(count):
            other = neighbours[starts[atom] + j]
            square = 0.0
            for k in range(3):
                normals[j, k] = positions[other, k] - positions[atom, k]
                square += normals[j, k] ** 2
            distance = math.sqrt(square)
            normals[j] /= distance
            heights[j] = 0.5 * distance
        for turn in range(2):
            farthest, total, volume = 0.0, 0.0, 0.0
            for i in range(count):
                if not used[i]:
                    areas[i] = 0.0
                    continue
                areas[i], far = _face(normals, heights, used, count, i, 4 * reach, polygon, scratch)
                farthest = max(farthest, far)
                total += areas[i]
                volume += areas[i] * heights[i] / 3
            if turn == 0:
                for i in range(count):
                    used[i] = areas[i] > 0.0 and areas[i] >= least_part * total
        faces[atom] = used.sum()
        if faces[atom] >= 4 and farthest <= reach:
            volumes[atom] = volume
    return volumes, faces
