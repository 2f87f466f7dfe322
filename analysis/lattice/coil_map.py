"""One scan map from pictures of silicon at several scan rotations.

The scan coils distort every scan in their own axes: a picture at the scan rotation t shows
``Q C R(t)`` of a pixel, where C is theirs, R(t) turns the picture into their axes, and Q is how the
crystal lies. What pictures tell is ``A^T A = R(t)^T C^T C R(t)``; C is taken as its symmetric root,
for a turn of the whole scan cannot be told from one of the crystal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .silicon import CHECKED_FROM, LatticeMap, NoLattice, lattice_map
from .spots import find_spots

Floats = NDArray[np.float64]

# A drift or a distortion of less than this part is not worth a word.
_WORTH = 0.005
_TURN_OFF_DEG = 0.5
# Places of spots that lie off by more than their fits allow, and maps that differ by more.
_STRAINED, _DIFFERENT = 3.0, 3.0
_LEAST_HALF_PX = 96
_STEP = 1e-6


@dataclass(frozen=True)
class Rotated:
    """The map of one picture, and how the scan was turned.

    Attributes
    ----------
    lattice : LatticeMap
        With the drift taken out, where it is known.
    rotation_deg : float
        Of the scan, as the microscope tells it.
    varies : float
        Largest relative difference of the maps of the quarters of the picture, beyond their errors.
    """

    lattice: LatticeMap
    rotation_deg: float
    varies: float = 0.0


@dataclass(frozen=True)
class ScanMap:
    """What a pixel is worth, in the axes of the scan coils.

    Attributes
    ----------
    matrix_a : ndarray
        Shape (2, 2), symmetric: displacement (y, x) of the probe in angstrom for a row and a column
        (columns of the matrix) of a scan without rotation.
    covariance_a2 : ndarray
        Shape (4, 4): of its elements, row by row.
    pixel_a, pixel_sd_a : float
        Root of its determinant: the side of a square of the same area; and its standard deviation.
    distortion : float
        How much longer a pixel is in the direction where it is longest than where it is shortest,
        as a part of `pixel_a`.
    strained : float
        How much larger the maps of the pictures differ than their errors allow; 1 where they do
        not, or where there is one alone.
    turn_off_deg : float
        Largest departure of the crystal's turns from the scan rotations.
    doubts : tuple of str
        What should be known of it.
    """

    matrix_a: Floats
    covariance_a2: Floats
    pixel_a: float
    pixel_sd_a: float
    distortion: float
    strained: float
    turn_off_deg: float
    doubts: tuple[str, ...]


def rotated_map(
    picture: NDArray[Any],
    pixel_a: float,
    rotation_deg: float = 0.0,
    drift: tuple[Floats, Floats] | None = None,
    pixel_s: tuple[float, float] = (0.0, 0.0),
) -> Rotated:
    """The map of one picture.

    Parameters
    ----------
    picture : ndarray
        Counts, shape (rows, columns).
    pixel_a : float
        Pixel size as it is told.
    rotation_deg : float
        Of the scan.
    drift : tuple of ndarray, optional
        Drift (y, x) in pixels a second, and its standard deviation.
    pixel_s : tuple of float
        Time from one row to the next, and from one column to the next.

    Returns
    -------
    Rotated
        With the drift taken out, where it is told.

    Raises
    ------
    NoLattice
        If it does not show silicon along [110].

    Examples
    --------
    >>> from pyrotome.analysis.lattice.silicon import BASIS_PER_A
    >>> y, x = np.mgrid[:128, :128]
    >>> waves = np.array([[1, 0], [0, 1], [1, -1], [2, 1]]) @ BASIS_PER_A * 0.358
    >>> silicon = sum(2 + np.cos(2 * np.pi * (wave[0] * y + wave[1] * x)) for wave in waves)
    >>> found = rotated_map(silicon, 0.36)
    >>> np.round(found.lattice.pixel_a, 3).tolist()
    [0.358, 0.358]
    """
    lattice = lattice_map(find_spots(picture), pixel_a)
    if drift is not None:
        lattice = _without_drift(lattice, *drift, pixel_s)
    return Rotated(lattice, rotation_deg, _varies(picture, lattice, pixel_a))


def scan_map(pictures: Sequence[Rotated]) -> ScanMap:
    """Put the maps of pictures together.

    Parameters
    ----------
    pictures : sequence of Rotated
        At least one.

    Returns
    -------
    ScanMap
        With a covariance that is inflated where the pictures contradict each other.

    Raises
    ------
    ValueError
        Without pictures.

    Examples
    --------
    >>> true = 0.358 * np.array([[1.01, 0.005], [0.005, 0.99]])
    >>> spots = np.array([[1, 0], [0, 1], [1, -1], [2, 1], [1, 2]])
    >>> one = LatticeMap(true, 1e-10 * np.eye(4), spots, np.zeros((5, 2)), np.ones((5, 2)), 1.0)
    >>> found = scan_map([Rotated(one, 0.0)])
    >>> np.allclose(found.matrix_a, true), round(found.pixel_a, 4)
    (True, 0.358)
    """
    if not pictures:
        raise ValueError("a scan map needs a picture")
    designs: list[Floats] = []
    values: list[Floats] = []
    for one in pictures:
        turn = _turn(one.rotation_deg)
        metric = _packed(one.lattice.metric_a2)
        jacobian = _jacobian(lambda a: _packed(a.reshape(2, 2).T @ a.reshape(2, 2)),
                             one.lattice.matrix_a.ravel())  # fmt: skip
        spread = np.linalg.cholesky(
            jacobian @ one.lattice.covariance_a2 @ jacobian.T + 1e-18 * np.eye(3)
        )
        # metric = turn^T M turn, linear in the three elements of M.
        design = np.stack([_packed(turn.T @ _unpacked(unit) @ turn) for unit in np.eye(3)], axis=1)
        designs.append(np.asarray(np.linalg.solve(spread, design), np.float64))
        values.append(np.asarray(np.linalg.solve(spread, metric), np.float64))
    whole, wanted = np.concatenate(designs), np.concatenate(values)
    found = np.asarray(np.linalg.lstsq(whole, wanted, rcond=None)[0], np.float64)
    freedom = len(wanted) - 3
    excess = float(((wanted - whole @ found) ** 2).sum()) / freedom if freedom else 1.0
    strained = math.sqrt(max(1.0, excess))
    covariance = np.linalg.inv(whole.T @ whole) * strained**2
    root = _jacobian(lambda m: _root(_unpacked(m)).ravel(), found)
    matrix = _root(_unpacked(found))
    size = _jacobian(lambda m: np.array([np.linalg.det(_unpacked(m)) ** 0.25]), found)
    widths = np.linalg.eigvalsh(matrix)
    pixel_a = float(math.sqrt(np.linalg.det(matrix)))
    result = ScanMap(
        matrix,
        root @ covariance @ root.T,
        pixel_a,
        float(math.sqrt(max(0.0, (size @ covariance @ size.T).item()))),
        float(widths[1] - widths[0]) / pixel_a,
        strained,
        _turn_off_deg(pictures),
        (),
    )
    return replace(result, doubts=tuple(_doubts(pictures, result)))


def _doubts(pictures: Sequence[Rotated], found: ScanMap) -> list[str]:
    said: list[str] = []
    if len({round(one.rotation_deg % 180.0, 1) for one in pictures}) < 2:
        said.append(
            "one scan rotation alone: what the scan distorts cannot be told from a drift that is "
            "not known, and nothing checks the map at other rotations"
        )
    fewest = min(len(one.lattice.indices) for one in pictures)
    if fewest < CHECKED_FROM:
        said.append(
            f"a picture shows {fewest} spots of the crystal alone, and nothing checks its map: "
            "take more counts"
        )
    if found.distortion > _WORTH:
        sizes = np.linalg.eigvalsh(found.matrix_a)
        said.append(
            f"the scan is distorted: a pixel is {sizes[0]:.4g} to {sizes[1]:.4g} A long, by its "
            "direction; one number for the pixel size is wrong by up to "
            f"{50 * found.distortion:.2g} %"
        )
    strained = max(one.lattice.strained for one in pictures)
    if strained > _STRAINED:
        said.append(
            f"the spots lie {strained:.1f} times as far off as their fits allow: no affine map is "
            "right for the whole picture, and the errors were inflated by that"
        )
    varies = max(one.varies for one in pictures)
    if varies > _WORTH:
        said.append(
            f"quarters of a picture differ by {100 * varies:.2g} % in their maps: the scan is not "
            "the same all over the field"
        )
    if found.strained > _DIFFERENT:
        said.append(
            f"pictures at different scan rotations differ {found.strained:.1f} times as much as "
            "their errors allow: what distorts them does not turn with the scan as coils do"
        )
    if found.turn_off_deg > _TURN_OFF_DEG:
        said.append(
            f"the crystal turns otherwise than the scan rotation, by up to "
            f"{found.turn_off_deg:.2g} deg"
        )
    return said


def _without_drift(
    lattice: LatticeMap, drift_px_per_s: Floats, sd_px_per_s: Floats, pixel_s: tuple[float, float]
) -> LatticeMap:
    """The map of a picture whose specimen stands still: what moved while it was scanned goes."""
    step_s = np.array(pixel_s)
    matrix = lattice.matrix_a
    moved = np.outer(matrix @ drift_px_per_s, step_s)
    spread = np.abs(matrix) @ np.nan_to_num(sd_px_per_s, posinf=0.0)
    more = np.outer(spread, step_s).ravel()
    covariance = lattice.covariance_a2 + np.diag(more**2)
    return replace(lattice, matrix_a=matrix + moved, covariance_a2=covariance)


def _varies(picture: NDArray[Any], whole: LatticeMap, pixel_a: float) -> float:
    """How much the maps of the quarters differ from the whole, beyond twice their errors."""
    rows, columns = np.asarray(picture).shape
    half_r, half_c = rows // 2, columns // 2
    if min(half_r, half_c) < _LEAST_HALF_PX:
        return 0.0
    size = float(np.linalg.det(whole.metric_a2)) ** 0.25
    largest = 0.0
    for top in (0, half_r):
        for left in (0, half_c):
            quarter = np.asarray(picture)[top : top + half_r, left : left + half_c]
            try:
                found = lattice_map(find_spots(quarter), pixel_a)
            except NoLattice:
                continue
            off = np.abs(_root(found.metric_a2) - _root(whole.metric_a2)).max() / size
            error = math.sqrt(float(np.diag(found.covariance_a2).max())) / size
            largest = max(largest, float(off) - 2 * error)
    return largest


def _turn_off_deg(pictures: Sequence[Rotated]) -> float:
    """How far the crystal turns otherwise than the scan rotation says."""
    turns: list[float] = []
    for one in pictures:
        matrix = one.lattice.matrix_a
        turn = matrix @ np.linalg.inv(_root(one.lattice.metric_a2))
        lies_deg = math.degrees(math.atan2(float(turn[1, 0]), float(turn[0, 0])))
        turns.append(lies_deg + one.rotation_deg)
    # The crystal looks alike after half a turn.
    off = [(turn - turns[0] + 90.0) % 180.0 - 90.0 for turn in turns]
    return 0.5 * (max(off) - min(off))


def _turn(rotation_deg: float) -> Floats:
    """From the axes (y, x) of a picture to those of the coils."""
    cos, sin = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    return np.array([[cos, sin], [-sin, cos]])


def _packed(metric: Floats) -> Floats:
    return np.array([metric[0, 0], metric[1, 1], 0.5 * (metric[0, 1] + metric[1, 0])])


def _unpacked(packed: Floats) -> Floats:
    yy, xx, yx = packed
    return np.array([[yy, yx], [yx, xx]])


def _root(metric: Floats) -> Floats:
    """Symmetric root of a symmetric, positive matrix."""
    values, vectors = np.linalg.eigh(metric)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T, np.float64)


def _jacobian(function: Callable[[Floats], Floats], at: Floats) -> Floats:
    """Derivatives of a smooth function of a few numbers, by central differences."""
    columns: list[Floats] = []
    step = _STEP * max(1e-12, float(np.abs(at).max()))
    for k in range(len(at)):
        by = np.zeros(len(at))
        by[k] = step
        columns.append((function(at + by) - function(at - by)) / (2 * step))
    return np.stack(columns, axis=1)
