"""Compiled steps of the total-variation solver, on one block of slices at a time."""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import numba
import numpy as np

from .projector import LANES


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def primal_step(block, target, dual, floor, found):
    """``found = max(floor, target - D^T dual)`` for one block; D is the forward difference."""
    _, height, width, _ = target.shape
    none = np.zeros(LANES, np.float32)
    before = np.zeros(LANES + 1, np.float32)
    for z in range(height):
        for x in range(width):
            goal, out = target[block, z, x], found[block, z, x]
            qz, qx, qy = dual[0, block, z, x], dual[1, block, z, x], dual[2, block, z, x]
            pz = dual[0, block, z - 1, x] if z > 0 else none
            px = dual[1, block, z, x - 1] if x > 0 else none
            before[0] = dual[2, block - 1, z, x, LANES - 1] if block > 0 else np.float32(0)
            for lane in range(LANES):
                before[lane + 1] = qy[lane]
            for lane in range(LANES):
                value = goal[lane] + (qz[lane] - pz[lane]) + (qx[lane] - px[lane])
                value += qy[lane] - before[lane]
                out[lane] = value if value > floor else floor


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def dual_step(block, volume, follows, step, radius, dual):
    """One projected step of the dual: ``dual + step * D volume``, nowhere longer than `radius`."""
    blocks, height, width, _ = volume.shape
    gz, gx = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    gy = np.zeros(LANES, np.float32)
    follow = follows[block]
    for z in range(height):
        for x in range(width):
            here = volume[block, z, x]
            # At the far side the difference is zero: a voxel is its own neighbour.
            below = volume[block, z + 1, x] if z < height - 1 else here
            beside = volume[block, z, x + 1] if x < width - 1 else here
            for lane in range(LANES):
                gz[lane] = below[lane] - here[lane]
                gx[lane] = beside[lane] - here[lane]
            for lane in range(LANES - 1):
                gy[lane] = here[lane + 1] - here[lane]
            gy[LANES - 1] = np.float32(0)
            if block < blocks - 1:
                gy[LANES - 1] = volume[block + 1, z, x, 0] - here[LANES - 1]
            qz, qx, qy = dual[0, block, z, x], dual[1, block, z, x], dual[2, block, z, x]
            for lane in range(LANES):
                a = qz[lane] + step * gz[lane]
                b = qx[lane] + step * gx[lane]
                c = qy[lane] + step * follow[lane] * gy[lane]
                length = np.sqrt(a * a + b * b + c * c)
                scale = radius / (length if length > radius else radius)
                qz[lane] = a * scale
                qx[lane] = b * scale
                qy[lane] = c * scale


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def accelerated_primal_step(block, ahead, dual, floor, momentum, volume):
    """As :func:`primal_step`, with momentum.

    On entry `ahead` holds the target of the step, on return the point of the next gradient.
    """
    _, height, width, _ = volume.shape
    none = np.zeros(LANES, np.float32)
    before = np.zeros(LANES + 1, np.float32)
    for z in range(height):
        for x in range(width):
            goal, old = ahead[block, z, x], volume[block, z, x]
            qz, qx, qy = dual[0, block, z, x], dual[1, block, z, x], dual[2, block, z, x]
            pz = dual[0, block, z - 1, x] if z > 0 else none
            px = dual[1, block, z, x - 1] if x > 0 else none
            before[0] = dual[2, block - 1, z, x, LANES - 1] if block > 0 else np.float32(0)
            for lane in range(LANES):
                before[lane + 1] = qy[lane]
            for lane in range(LANES):
                value = goal[lane] + (qz[lane] - pz[lane]) + (qx[lane] - px[lane])
                value += qy[lane] - before[lane]
                value = value if value > floor else floor
                move = value - old[lane]
                old[lane] = value
                goal[lane] = value + momentum * move
