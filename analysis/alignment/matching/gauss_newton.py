"""Gauss-Newton step of an alignment: moves and rotation that bring images to reprojections.

The terms of an image are its moves along y and x' and its gain; all images share a rotation and
the two shears by which a volume takes up a part of it.
"""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from ...core.arrays import Floats, in_threads

Floats64 = NDArray[np.float64]

# Common terms whose eigenvalue is below this part of the largest are left alone.
_MIN_EIGENVALUE = 1e-7
# Terms of each image: moves along y and x', and gain; common terms: rotation and two shears.
_LOCAL, _SHARED = 3, 3
_TERMS = _LOCAL + _SHARED + 1


def gauss_newton_step(
    aligned: Floats,
    reprojected: Floats,
    sheared: Sequence[Floats],
    valid: NDArray[np.bool_],
    tilts: Floats64 | None,
) -> tuple[Floats64, float, float]:
    """One Gauss-Newton step: moves (y, x') in the aligned frame, offset, rotation in radians.

    With `tilts` (in degrees) images do not move on their own: the step has an offset of the axis
    and a displacement of the specimen. Without `tilts` the offset is 0.
    """
    count = len(aligned)
    grams = np.zeros((count, _TERMS, _TERMS))

    def one(n: int) -> None:
        _gram(aligned[n], reprojected[n], sheared[0][n], sheared[1][n], valid[n], grams[n])

    in_threads(one, range(count))
    grams += np.tril(grams, -1).transpose(0, 2, 1)
    if tilts is None:
        local, shared = _solve(grams, _LOCAL)
        return local[:, :2], 0.0, float(shared[0])
    # Each image has a gain; common are offset, displacement, rotation and shears.
    cosines, sines = np.cos(np.deg2rad(tilts)), np.sin(np.deg2rad(tilts))
    terms = np.zeros((count, 5 + _SHARED + 1, _TERMS))
    terms[:, 0, 2] = 1.0
    terms[:, 1, 1], terms[:, 2, 1], terms[:, 3, 1] = 1.0, cosines, sines
    terms[:, 4, 0] = 1.0
    terms[:, 5:, _LOCAL:] = np.eye(_SHARED + 1)
    _, common = _solve(terms @ grams @ terms.transpose(0, 2, 1), 1)
    offset, cosine, sine, down, rotation = (float(value) for value in common[:5])
    moves = np.column_stack([np.full(count, down), cosine * cosines + sine * sines])
    return moves, offset, rotation


def _solve(grams: Floats64, own: int) -> tuple[Floats64, Floats64]:
    """Solve the least squares from the Gram matrices of the terms; the last term is the residual.

    The first `own` terms belong to each image (result of shape (n, own)), the others are common.
    The terms of each image are eliminated first.
    """
    # An image without contrast does not move.
    inverse = np.linalg.pinv(grams[:, :own, :own], rcond=1e-9, hermitian=True)
    beside, right = grams[:, :own, own:-1], grams[:, :own, -1:]
    common = grams[:, own:-1, own:-1].sum(axis=0)
    scale = np.sqrt(np.maximum(np.diag(common), 1e-30))
    reduced = common - (beside.transpose(0, 2, 1) @ inverse @ beside).sum(axis=0)
    wanted = grams[:, own:-1, -1].sum(axis=0)
    wanted = wanted - (beside.transpose(0, 2, 1) @ inverse @ right).sum(axis=0)[:, 0]
    shared = (
        np.linalg.pinv(reduced / np.outer(scale, scale), rcond=_MIN_EIGENVALUE, hermitian=True)
        @ (wanted / scale)
        / scale
    )
    return (inverse @ (right - beside @ shared[:, None]))[:, :, 0], shared


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _gram(aligned, reprojected, shear_y, shear_x, valid, gram):
    """Lower triangle of the Gram matrix of the terms of one image; the last is the residual."""
    tall, wide = aligned.shape
    terms = np.empty(7)
    for i in range(1, tall - 1):
        y = i - 0.5 * (tall - 1)
        for j in range(1, wide - 1):
            # Pixels beyond the recorded border are not compared.
            if not valid[i, j]:
                continue
            x = j - 0.5 * (wide - 1)
            # Slopes of the reprojection alone: slopes of the image would share its noise.
            terms[0] = 0.5 * (reprojected[i + 1, j] - reprojected[i - 1, j])
            terms[1] = 0.5 * (reprojected[i, j + 1] - reprojected[i, j - 1])
            terms[2] = reprojected[i, j]
            terms[3] = terms[0] * x - terms[1] * y
            terms[4] = shear_y[i, j]
            terms[5] = shear_x[i, j]
            terms[6] = reprojected[i, j] - aligned[i, j]
            for a in range(7):
                for b in range(a + 1):
                    gram[a, b] += terms[a] * terms[b]
