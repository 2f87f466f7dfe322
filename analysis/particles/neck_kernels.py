"""Kernels of the neck fit: blurred thickness of two spheres and a cylinder, and interpolation."""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FINE = 2  # rays per pixel along either side
PAD = 3  # pixels beyond a pixel that blur into it


def blur_taps(width: float) -> NDArray[np.float32]:
    """Weights of the rays around a pixel for a Gaussian of standard deviation `width` in pixels."""
    away = np.arange(-PAD * FINE, PAD * FINE + 1) / FINE
    weights = np.exp(-0.5 * (away / width) ** 2)
    return (weights / weights.sum()).astype(np.float32)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _thickness(t, s, body, row):
    """Length of the rays at (s, t) in the union of two spheres and a cylinder.

    In single precision and without branches, so that the compiler vectorises over rays. The
    length of the union of three intervals is the sum of their lengths, minus the lengths shared
    by two, plus the length shared by all three.
    """
    zero, tiny, unit = np.float32(0), np.float32(1e-9), np.float32(1)
    at_a, ta, da, ra = s - body[0], body[1], body[2], body[3]
    at_b, tb, db, rb = s - body[4], body[5], body[6], body[7]
    left_a, left_b = ra * ra - at_a * at_a, rb * rb - at_b * at_b
    ws, wt, wd, length = body[9], body[10], body[11], body[12]
    neck2 = body[8] * body[8]
    qa = max(unit - wd * wd, tiny)
    per_qa = unit / qa
    per_wd = unit / wd
    for j in range(t.size):
        u, v = t[j] - ta, t[j] - tb
        half_a = math.sqrt(max(left_a - u * u, zero))
        half_b = math.sqrt(max(left_b - v * v, zero))
        low_a, high_a = da - half_a, da + half_a
        low_b, high_b = db - half_b, db + half_b
        along = at_a * ws + u * wt
        qb = along * wd
        under = qb * qb - qa * (at_a * at_a + u * u - along * along - neck2)
        root = math.sqrt(max(under, zero))
        one, other = -along * per_wd, (length - along) * per_wd
        low_c = max((qb - root) * per_qa, min(one, other)) + da
        high_c = min((qb + root) * per_qa, max(one, other)) + da
        low_ab, high_ab = max(low_a, low_b), min(high_a, high_b)
        # An empty interval, even with its ends exchanged, shares nothing.
        row[j] = (
            high_a - low_a + high_b - low_b - max(high_ab - low_ab, zero)
            + max(high_c - low_c, zero)
            - max(min(high_a, high_c) - max(low_a, low_c), zero)
            - max(min(high_b, high_c) - max(low_b, low_c), zero)
            + max(min(high_ab, high_c) - max(low_ab, low_c), zero)
        )  # fmt: skip


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def render(first_s, first_t, bodies, taps, out):
    """Render two spheres joined by a cylinder, for several views.

    Parameters
    ----------
    first_s, first_t : float
        Position of the first pixel; pixels are 1 apart.
    bodies : ndarray
        For each view s, t, depth and radius of either sphere, and the cylinder's radius.
    taps : ndarray
        From :func:`blur_taps`.
    out : ndarray
        Shape (views, s, t); filled.
    """
    views, tall, wide = out.shape
    reach = taps.size
    columns = wide + 2 * PAD
    t = np.empty((FINE, columns), np.float32)
    for f in range(FINE):
        for j in range(columns):
            t[f, j] = first_t - PAD + j + f / FINE
    row = np.empty((FINE, columns), np.float32)
    sums = np.empty((tall, FINE, columns), np.float32)
    line = np.empty(wide, np.float32)
    body = np.empty(13, np.float32)
    for view in range(views):
        there = bodies[view]
        ws, wt, wd = there[4] - there[0], there[5] - there[1], there[6] - there[2]
        length = math.sqrt(ws * ws + wt * wt + wd * wd)
        for k in range(9):
            body[k] = there[k]
        body[9], body[10], body[12] = ws / length, wt / length, length
        # Rays exactly across the cylinder would meet its ends at infinity.
        upright = wd / length
        body[11] = upright if abs(upright) > 1e-5 else 1e-5
        sums[:] = 0
        for i in range(FINE * (tall - 1) + reach):
            s = np.float32(first_s - PAD + i / FINE)
            for f in range(FINE):
                _thickness(t[f], s, body, row[f])
            for p in range(max(0, -((reach - 1 - i) // FINE)), min(tall - 1, i // FINE) + 1):
                weight = taps[i - FINE * p]
                for f in range(FINE):
                    for j in range(columns):
                        sums[p, f, j] += weight * row[f, j]
        for p in range(tall):
            line[:] = 0
            for k in range(reach):
                f, shift, weight = k % FINE, k // FINE, taps[k]
                for j in range(wide):
                    line[j] += weight * sums[p, f, j + shift]
            for j in range(wide):
                out[view, p, j] = line[j]


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def add_interpolated(images, gain, rows, columns, out):
    """Add `gain` times linearly interpolated images, which are 0 beyond their border.

    `images` are (rows, views, columns); `rows`, `columns` and `out` (views, s, t).
    """
    high, views, broad = images.shape
    for view in range(views):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                place_y, place_x = rows[view, i, j], columns[view, i, j]
                y, x = math.floor(place_y), math.floor(place_x)
                if y < 0 or y >= high - 1 or x < 0 or x >= broad - 1:
                    continue
                part_y, part_x = place_y - y, place_x - x
                upper = images[y, view, x] * (1 - part_x) + images[y, view, x + 1] * part_x
                lower = images[y + 1, view, x] * (1 - part_x) + images[y + 1, view, x + 1] * part_x
                out[view, i, j] += gain * (upper * (1 - part_y) + lower * part_y)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def weighted_squares(weights, data, model):
    """Weighted sum of squared residuals; without BLAS, which would start threads of its own."""
    total = 0.0
    for view in range(data.shape[0]):
        for i in range(data.shape[1]):
            for j in range(data.shape[2]):
                rest = data[view, i, j] - model[view, i, j]
                total += weights[view, i, j] * rest * rest
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def normal_equations(slopes, weights, pull, matrix, force):
    """Fill the matrix and the right side of the normal equations; without BLAS, as above.

    `slopes` is (parameters, n), `weights` and `pull` (weighted residuals) are (n,).
    """
    for a in range(slopes.shape[0]):
        total = 0.0
        for k in range(pull.size):
            total += slopes[a, k] * pull[k]
        force[a] = total
        for b in range(a + 1):
            total = 0.0
            for k in range(pull.size):
                total += slopes[a, k] * slopes[b, k] * weights[k]
            matrix[a, b] = matrix[b, a] = total
