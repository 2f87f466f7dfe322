"""Loop over the voxels of a volume: which are greater than all their neighbours."""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import numba


@numba.njit(nogil=True, cache=True)
def mark_maxima(volume, y, above, marks):
    """Mark the voxels of layer `y` that exceed `above` and all 26 neighbours.

    Of equal neighbours the first counts as greater.
    """
    _, high, broad = volume.shape
    for i in range(1, high - 1):
        for j in range(1, broad - 1):
            value = volume[y, i, j]
            if value <= above:
                continue
            highest = True
            for a in range(-1, 2):
                for b in range(-1, 2):
                    for c in range(-1, 2):
                        other = volume[y + a, i + b, j + c]
                        before = a * 9 + b * 3 + c < 0
                        if other > value or (other == value and before):
                            highest = False
            if highest:
                marks[i, j] = 1
