"""The angles of a tilt series in the order of acquisition."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from ...protocols.config.recipe import TiltSeries


def tilt_angles(series: TiltSeries) -> tuple[float, ...]:
    """Angles of a tilt series in the order of acquisition.

    ``bidirectional`` goes from the angle nearest to zero to `to`, then from zero to `from`;
    ``dose-symmetric`` alternates around the angle nearest to zero (Hagen et al., J. Struct.
    Biol. 2017, 197, 191), so that low tilts are taken at low dose.

    Returns
    -------
    tuple of float
        Degrees; each angle once.
    """
    low, high = sorted((series.from_deg, series.to_deg))
    count = round((high - low) / series.step_deg)
    ascending = [round(low + i * series.step_deg, 9) + 0.0 for i in range(count)]
    ascending.append(high)
    if series.order == "ascending":
        return tuple(ascending)
    if series.order == "descending":
        return tuple(reversed(ascending))
    start = min(range(len(ascending)), key=lambda i: abs(ascending[i]))
    upper, lower = ascending[start:], ascending[:start][::-1]
    if series.order == "bidirectional":
        if series.from_deg <= series.to_deg:
            return (*upper, *lower)
        return (ascending[start], *lower, *upper[1:])
    order = [ascending[start]]
    plus, minus = upper[1:], lower
    while plus or minus:
        if plus:
            order.append(plus.pop(0))
        if minus:
            order.append(minus.pop(0))
    return tuple(order)


def arrivals(tilt_deg: Sequence[float]) -> tuple[bool, ...]:
    """For each frame whether the stage comes to its angle; it stands there for those that follow.

    Examples
    --------
    >>> arrivals((0.0, 0.0, 2.0))
    (True, False, True)
    """
    return tuple(k == 0 or angle != tilt_deg[k - 1] for k, angle in enumerate(tilt_deg))


def frames_per_angle(tilt_deg: Sequence[float]) -> int:
    """How many frames follow each other at every angle; 1 where that is not the same everywhere.

    Examples
    --------
    >>> frames_per_angle((0.0, 0.0, 2.0, 2.0)), frames_per_angle((0.0, 0.0, 2.0))
    (2, 1)
    """
    counts = {len(list(group)) for _, group in itertools.groupby(tilt_deg)}
    return counts.pop() if len(counts) == 1 else 1


def angles_text(tilt_deg: Iterable[float], most: int) -> str:
    """Angles of frames for people, each once with how often it is there, and how many are left out.

    Examples
    --------
    >>> angles_text((2.0, 2.0, 4.0, 6.0), 2)
    '+2° (2 frames), +4° and 1 more'
    """
    counts = Counter(tilt_deg)
    shown = [
        f"{angle:+g}°" + (f" ({count} frames)" if count > 1 else "")
        for angle, count in itertools.islice(counts.items(), most)
    ]
    more = sum(itertools.islice(counts.values(), most, None))
    return ", ".join(shown) + (f" and {more} more" if more else "")
