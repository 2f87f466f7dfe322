"""Numbers with their standard uncertainties, as crystallographers write them."""

from __future__ import annotations

import math

_MOST_DIGITS = 9


def with_uncertainty(value: float, sd: float, digits: int) -> str:
    """A number with its standard uncertainty in units of its last digits.

    Parameters
    ----------
    value, sd : float
        The number and its standard deviation.
    digits : int
        After the point, where the standard deviation is not above zero or not known.

    Examples
    --------
    >>> with_uncertainty(0.1234, 0.0015, 6), with_uncertainty(0.5, math.nan, 6)
    ('0.1234(15)', '0.500000')
    """
    if not math.isfinite(sd) or sd <= 0:
        return f"{value:.{digits}f}"
    shown = min(_MOST_DIGITS, max(1, 1 - math.floor(math.log10(sd))))
    return f"{value:.{shown}f}({max(1, round(sd * 10**shown))})"
