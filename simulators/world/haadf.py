"""From a specimen to counts: line integrals of spheres and necks, the HAADF law, Poisson noise.

Geometry. Specimen coordinates are (x, y, z); the tilt axis is y and runs along image axis 0, so
that each image row is one slice. At tilt angle a the beam sees

    x' = x cos a + z sin a,    z' = -x sin a + z cos a

and integrates along z'. The pixel (row, column) of an image of (rows, columns) looks at

    y = (row - (rows - 1) / 2) pixel - shift_y,    x' = (column - (columns - 1) / 2) pixel - shift_x

as a scanned probe does: at a point, not over an area. Where the tilt axis does not run along image
axis 0, (x', y) are turned about the beam first. Along each ray the intervals inside spheres
and cylinders are united, and the length of the union is the thickness.

HAADF law: of the electrons of a pixel a fraction ``0.01 + min(0.25 t / 150 nm, 0.6)`` is counted.
"""
# numba's decorators are untyped.
# pyright: basic

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .copper import Truth

BACKGROUND = 0.01
PER_NM = 0.25 / 150.0
SATURATION = 0.6
# Disjoint intervals that one ray can hold; a film of particles holds a handful.
_MAX_INTERVALS = 64
# Above this mean a draw by rejection is faster than waiting for each electron.
_MANY = 16.0


def thickness_nm(
    truth: Truth,
    shape: tuple[int, int],
    pixel_nm: float,
    tilt_deg: float,
    shift_nm: tuple[float, float] | NDArray[np.float64] = (0.0, 0.0),
    axis_deg: float = 0.0,
    pitch_nm: float | None = None,
) -> NDArray[np.float32]:
    """Thickness along the beam at every pixel.

    Parameters
    ----------
    truth : Truth
        The specimen.
    shape : tuple of int
        Rows and columns.
    pixel_nm : float
        Distance of neighbouring pixels.
    tilt_deg : float
        Tilt angle.
    shift_nm : tuple of float, or ndarray of float64 of shape (rows, 2)
        Displacement (y, x) of the image, or of each of its rows, positive towards higher rows and
        columns.
    axis_deg : float
        Direction of the tilt axis, counter-clockwise from the columns in a picture with its first
        row at the bottom.
    pitch_nm : float, optional
        At which the specimen repeats itself on all sides, in x and y.

    Returns
    -------
    ndarray of float32, shape `shape`
        In nm.
    """
    out = np.zeros(shape, np.float32)
    tilt = math.radians(tilt_deg)
    spheres = np.column_stack([truth.centres_nm, truth.radii_nm])
    necks = _necks(truth)
    if pitch_nm is not None:
        spheres, necks = _repeated(spheres, pitch_nm, (0,)), _repeated(necks, pitch_nm, (0, 3))
    spheres, necks = _rotate(spheres, tilt, (0,)), _rotate(necks, tilt, (0, 3))
    if axis_deg:
        turn = math.radians(axis_deg)
        spheres, necks = _turn(spheres, turn, (0,)), _turn(necks, turn, (0, 3))
    rows_nm = np.broadcast_to(np.asarray(shift_nm, np.float64), (shape[0], 2))
    _project(spheres, necks, pixel_nm, rows_nm[:, 0].copy(), rows_nm[:, 1].copy(), out)
    return out


def as_thickness(thickness: NDArray[np.float32]) -> NDArray[np.float32]:
    """Thickness as the HAADF law sees it: what is beyond saturation counts as much as that."""
    return np.minimum(thickness, np.float32(SATURATION / PER_NM))


def expected_fraction(thickness: NDArray[np.floating]) -> NDArray[np.float64]:
    """Fraction of the electrons that is counted: the HAADF law above, thickness in nm."""
    return BACKGROUND + np.minimum(PER_NM * np.asarray(thickness, np.float64), SATURATION)


def draw_counts(
    thickness: NDArray[np.float32],
    electrons_per_pixel: NDArray[np.float32],
    rng: np.random.Generator,
    dtype: type[np.unsignedinteger] = np.uint16,
) -> NDArray[np.unsignedinteger]:
    """Poisson counts of a frame.

    Parameters
    ----------
    thickness : ndarray of float32, shape (rows, columns)
        In nm.
    electrons_per_pixel : ndarray of float32, shape (rows,)
        Electrons that hit each pixel of a row.
    rng : numpy.random.Generator
        The same state gives the same frame.
    dtype : type
        Unsigned integers of the result, in whose range the counts are clipped.

    Returns
    -------
    ndarray of `dtype`, shape (rows, columns)
    """
    out = np.empty(thickness.shape, dtype)
    _draw(thickness, electrons_per_pixel, rng, int(np.iinfo(dtype).max), out)
    return out


def _necks(truth: Truth) -> NDArray[np.float64]:
    """Cylinders as (start xyz, end xyz, radius), each from sphere surface to sphere surface."""
    start, end = (truth.centres_nm[truth.pairs[:, k]] for k in (0, 1))
    length = truth.distances_nm
    radius = truth.neck_radii_nm
    along = (end - start) / length[:, None]
    # A trifle inside the spheres: the ends of the cylinder then never show.
    inside = 0.999 * np.sqrt(truth.radii_nm[truth.pairs] ** 2 - radius[:, None] ** 2)
    begin = start + along * inside[:, :1]
    stop = end - along * inside[:, 1:]
    return np.column_stack([begin, stop, radius])


def _rotate(
    bodies: NDArray[np.float64], tilt: float, columns: tuple[int, ...]
) -> NDArray[np.float64]:
    turned = bodies.copy()
    for c in columns:
        x, z = bodies[:, c], bodies[:, c + 2]
        turned[:, c] = x * math.cos(tilt) + z * math.sin(tilt)
        turned[:, c + 2] = z * math.cos(tilt) - x * math.sin(tilt)
    return turned


def _turn(
    bodies: NDArray[np.float64], turn: float, columns: tuple[int, ...]
) -> NDArray[np.float64]:
    """Bodies turned about the beam: x' in column c, y beside it."""
    turned = bodies.copy()
    for c in columns:
        x, y = bodies[:, c], bodies[:, c + 1]
        turned[:, c] = x * math.cos(turn) - y * math.sin(turn)
        turned[:, c + 1] = x * math.sin(turn) + y * math.cos(turn)
    return turned


def _repeated(
    bodies: NDArray[np.float64], pitch_nm: float, columns: tuple[int, ...]
) -> NDArray[np.float64]:
    """Bodies, and their eight neighbours at a pitch in x and y."""
    found: list[NDArray[np.float64]] = []
    for across in (0.0, -pitch_nm, pitch_nm):
        for along in (0.0, -pitch_nm, pitch_nm):
            moved = bodies.copy()
            for c in columns:
                moved[:, c] += across
                moved[:, c + 1] += along
            found.append(moved)
    return np.concatenate(found)


@njit(cache=True, nogil=True)
def _unite(low, high, count, c, a, b):
    """Add an interval to the disjoint ones of a column."""
    n = count[c]
    k = 0
    while k < n:
        if low[c, k] <= b and high[c, k] >= a:
            a = min(a, low[c, k])
            b = max(b, high[c, k])
            n -= 1
            low[c, k] = low[c, n]
            high[c, k] = high[c, n]
        else:
            k += 1
    if n < _MAX_INTERVALS:
        low[c, n] = a
        high[c, n] = b
        n += 1
    count[c] = n


@njit(cache=True, nogil=True)
def _columns(low_x, high_x, left, pixel, columns):
    """First column and one past the last whose centre lies within."""
    first = max(0, math.ceil((low_x - left) / pixel))
    last = min(columns, math.floor((high_x - left) / pixel) + 1)
    return first, last


@njit(cache=True, nogil=True)
def _project(spheres, necks, pixel, shift_y, shift_x, out):
    rows, columns = out.shape
    low = np.empty((columns, _MAX_INTERVALS))
    high = np.empty((columns, _MAX_INTERVALS))
    count = np.zeros(columns, np.int64)
    for row in range(rows):
        left = -0.5 * (columns - 1) * pixel - shift_x[row]
        y = (row - 0.5 * (rows - 1)) * pixel - shift_y[row]
        touched_from, touched_to = columns, 0
        for s in range(len(spheres)):
            across = spheres[s, 3] ** 2 - (y - spheres[s, 1]) ** 2
            if across <= 0.0:
                continue
            reach = math.sqrt(across)
            x, z = spheres[s, 0], spheres[s, 2]
            first, last = _columns(x - reach, x + reach, left, pixel, columns)
            for c in range(first, last):
                half = math.sqrt(max(0.0, across - (left + c * pixel - x) ** 2))
                _unite(low, high, count, c, z - half, z + half)
            touched_from, touched_to = min(touched_from, first), max(touched_to, last)
        for k in range(len(necks)):
            r = necks[k, 6]
            ay, by = necks[k, 1], necks[k, 4]
            if not min(ay, by) - r < y < max(ay, by) + r:
                continue
            ax, bx = necks[k, 0], necks[k, 3]
            first, last = _columns(min(ax, bx) - r, max(ax, bx) + r, left, pixel, columns)
            for c in range(first, last):
                a, b = _through_cylinder(necks[k], left + c * pixel - ax, y - ay)
                if b > a:
                    _unite(low, high, count, c, a, b)
            touched_from, touched_to = min(touched_from, first), max(touched_to, last)
        for c in range(touched_from, touched_to):
            total = 0.0
            for k in range(count[c]):
                total += high[c, k] - low[c, k]
            out[row, c] = total
            count[c] = 0


@njit(cache=True, nogil=True)
def _through_cylinder(neck, dx, dy):
    """Interval of z inside a capped cylinder, for a ray at (dx, dy) from its start."""
    vx, vy, vz = neck[3] - neck[0], neck[4] - neck[1], neck[5] - neck[2]
    length = math.sqrt(vx * vx + vy * vy + vz * vz)
    if length <= 0.0:
        return 0.0, 0.0
    wx, wy, wz = vx / length, vy / length, vz / length
    along = dx * wx + dy * wy
    # |q|^2 - (q.w)^2 <= r^2 for q = (dx, dy, s): a quadratic in s.
    qa = 1.0 - wz * wz
    qc = dx * dx + dy * dy - along * along - neck[6] ** 2
    first, last = -1e9, 1e9
    if qa > 1e-12:
        qb = along * wz
        under = qb * qb - qa * qc
        if under <= 0.0:
            return 0.0, 0.0
        root = math.sqrt(under)
        first, last = (qb - root) / qa, (qb + root) / qa
    elif qc >= 0.0:
        return 0.0, 0.0
    # 0 <= q.w <= length: the caps.
    if abs(wz) > 1e-12:
        t0, t1 = -along / wz, (length - along) / wz
        first, last = max(first, min(t0, t1)), min(last, max(t0, t1))
    elif along < 0.0 or along > length:
        return 0.0, 0.0
    return neck[2] + first, neck[2] + last


@njit(cache=True, nogil=True)
def _draw(thickness, electrons, rng, most, out):
    """Counts of all pixels as the arrivals of one Poisson process.

    Arrivals of a process of unit rate, laid along the accumulated means of the pixels, fall into
    each pixel by Poisson's law; where means are small that takes one draw per electron counted.
    """
    rows, columns = thickness.shape
    gap = rng.standard_exponential()
    for row in range(rows):
        scale = electrons[row]
        for c in range(columns):
            mean = scale * (BACKGROUND + min(PER_NM * thickness[row, c], SATURATION))
            if mean > _MANY:
                out[row, c] = min(rng.poisson(mean), most)
                continue
            n = 0
            while gap <= mean:
                mean -= gap
                gap = rng.standard_exponential()
                n += 1
            gap -= mean
            out[row, c] = n
