"""The angles of a tilt series in the order of acquisition."""

from __future__ import annotations

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
