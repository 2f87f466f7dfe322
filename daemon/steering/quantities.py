"""What of a result steers a cycle: a scalar, or a statistic of a table's column; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.steering import Quantity, Statistic
from ...protocols.messages.journal import Measured
from .kinetics import spread, statistic_of

Floats = NDArray[np.float64]
Key = tuple[int, ...]

# Columns that say which object a row is about, and so which rows of two series belong together.
_LABELS = ("particle_a", "particle_b", "particle", "label")
# Rows at most that are kept one by one; the statistic is of all of them.
MAX_ROWS = 1000


@dataclass(frozen=True)
class Measurement:
    """What was measured of one quantity in one series.

    Parameters
    ----------
    series : str
        Name of the series.
    value, error : float or None
        The statistic, or the scalar, and its standard error; None where there is none.
    rows : mapping of tuple of int to float
        Values of the column by the labels of their rows; empty where rows have none.
    count : int
        Number of values.
    """

    series: str
    value: float | None
    error: float | None
    rows: Mapping[Key, float]
    count: int

    @property
    def text(self) -> str:
        """For people: value, error and number of values."""
        if self.value is None:
            return f"nothing in {self.series}"
        error = "" if self.error is None else f" ± {self.error:.2g}"
        of = f", {self.count} values" if self.count > 1 else ""
        return f"{self.value:.4g}{error} ({self.series}{of})"


def standard_error(values: Floats, statistic: Statistic) -> float | None:
    """Standard error of a statistic of values that scatter about each other; None for too few.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Finite values.
    statistic : str
        Median, mean or std; extremes have none that their sample tells.

    Returns
    -------
    float or None
        sqrt(pi/2) s / sqrt(n) for the median (s robust), s / sqrt(n) for the mean,
        s / sqrt(2 (n - 1)) for the standard deviation.
    """
    n = len(values)
    if n < 3 or statistic in ("max", "min"):
        return None
    if statistic == "median":
        return math.sqrt(math.pi / 2 / n) * spread(values)
    scatter = float(np.std(values, ddof=1))
    return scatter / math.sqrt(n if statistic == "mean" else 2 * (n - 1))


def measure(
    series: str,
    data: NDArray[np.float64],
    columns: Sequence[str],
    column: str | None,
    statistic: Statistic,
) -> Measurement:
    """Take a quantity out of a result.

    Parameters
    ----------
    series : str
        Name of the series.
    data : ndarray, shape (rows, columns) or of a single element
        The result; rows of NaN are empty.
    columns : sequence of str
        Names of the columns of a table.
    column : str or None
        The one that is meant; None for a scalar.
    statistic : str
        Of the column.

    Returns
    -------
    Measurement
        Without a value where nothing finite is there.
    """
    if column is None:
        scalar = float(data.reshape(-1)[0]) if data.size == 1 else math.nan
        known = scalar if math.isfinite(scalar) else None
        return Measurement(series, known, None, {}, 0 if known is None else 1)
    if data.ndim != 2 or data.shape[1] != len(columns) or column not in columns:
        return Measurement(series, None, None, {}, 0)
    values = data[:, columns.index(column)]
    there = np.isfinite(values)
    values = values[there]
    if not values.size:
        return Measurement(series, None, None, {}, 0)
    labels = [columns.index(name) for name in _LABELS if name in columns]
    rows: dict[Key, float] = {}
    if labels and len(values) <= MAX_ROWS and np.isfinite(data[there][:, labels]).all():
        keys = data[there][:, labels].astype(np.int64).tolist()
        rows = {tuple(key): float(v) for key, v in zip(keys, values, strict=True)}
    value = float(statistic_of(values, statistic))
    return Measurement(series, value, standard_error(values, statistic), rows, len(values))


def followed(measurements: Sequence[Measurement]) -> Floats:
    """Values of the objects that the latest series has, over all series.

    Where rows have no labels the statistic itself stands for the one object.

    Returns
    -------
    ndarray, shape (objects, series)
        NaN where an object was not measured.
    """
    keys = list(measurements[-1].rows)
    if keys:
        return np.array([[m.rows.get(key, math.nan) for m in measurements] for key in keys])
    return np.array([[math.nan if m.value is None else m.value for m in measurements]])


def measured_entry(quantity: Quantity, found: Measurement) -> Measured:
    """A measurement as the journal has it."""
    return Measured(
        series=found.series,
        quantity=quantity.name,
        statistic=quantity.statistic,
        value=found.value,
        error=found.error,
        count=found.count,
        keys=tuple(found.rows),
        values=tuple(found.rows.values()),
    )


def measurement_of(entry: Measured) -> Measurement:
    """A measurement of the journal."""
    rows = dict(zip(entry.keys, entry.values, strict=False))
    return Measurement(entry.series, entry.value, entry.error, rows, entry.count)
