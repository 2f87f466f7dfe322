"""The table of adaptive holds in a run file: one row for each choice, and one for the last series.

``/entry/steering`` is there where the recipe has adaptive holds. Columns are datasets of equal
length: when the row was made, the series before, what was measured of it, what the model expects of
the next one, and the hold that was chosen. The last series of a cycle has a row without a hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..core.clock import iso_utc
from ..messages.manifest import RunManifest
from .layout import ENTRY, Dataset, Group, Node, epoch_ns, fit_text

STEERING = f"{ENTRY}/steering"
# Column: unit of what its name does not tell; texts have a size in bytes instead.
NUMBERS: Mapping[str, str] = {
    "hold_s": "s",
    "temperature_c": "degC",
    "measured": "",
    "measured_error": "",
    "fitted": "",
    "predicted": "",
    "predicted_low": "",
    "predicted_high": "",
    "exponent": "",
    "exponent_sd": "",
    "activation_j_per_mol": "J/mol",
    "activation_sd_j_per_mol": "J/mol",
}
COUNTS = ("hold", "pairs")
TEXTS: Mapping[str, int] = {"series": 48, "quantity": 132, "statistic": 8, "chosen_by": 12}
COLUMNS = ("time", *COUNTS, *NUMBERS, *TEXTS)


def steering_nodes(manifest: RunManifest) -> Iterator[Node]:
    """The empty table, for a run whose holds are chosen."""
    if not manifest.adaptive_holds:
        return
    start = epoch_ns(manifest.started_ns)
    time_attrs = {"units": "s", "start": iso_utc(start), "start_ns": start}
    yield Group(STEERING, "NXdata", {"signal": "measured", "axes": "time"})
    yield _growing("time", "float64", time_attrs)
    for name in COUNTS:
        yield _growing(name, "int64", {})
    for name, unit in NUMBERS.items():
        yield _growing(name, "float64", {"units": unit} if unit else {})
    for name, size in TEXTS.items():
        yield _growing(name, f"S{size}", {})


def _growing(name: str, dtype: str, attrs: Mapping[str, Any]) -> Dataset:
    return Dataset(f"{STEERING}/{name}", dtype=dtype, shape=(0,), storage="growing", attrs=attrs)


def steering_row(header: Mapping[str, Any], time_s: float) -> dict[str, Any]:
    """One row of the table from a message of the topic ``steering``.

    Parameters
    ----------
    header : mapping
        Of the message; what is missing or not a number becomes NaN, 0 or an empty text.
    time_s : float
        Since the start of the file.
    """
    row: dict[str, Any] = {"time": time_s}
    for name in COUNTS:
        value = header.get(name)
        row[name] = value if type(value) is int and 0 <= value < 1 << 31 else 0
    for name in NUMBERS:
        value: Any = header.get(name)
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        row[name] = float(value) if known else float("nan")
    for name, size in TEXTS.items():
        row[name] = fit_text(str(header.get(name) or ""), size)
    return row


def read_table(file: Any) -> dict[str, Any] | None:
    """Columns of the table, each of shape (rows,); None where a run had no adaptive holds.

    Parameters
    ----------
    file : h5py.File
        A run file, complete or still growing.
    """
    if STEERING not in file:
        return None
    group = file[STEERING]
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        values: Any = group[name][...] if name in group else np.empty(0)
        if name in TEXTS:
            texts = [bytes(v).rstrip(b"\0").decode(errors="replace") for v in values.tolist()]
            values = np.array(texts)
        columns[name] = values
    rows = min(len(values) for values in columns.values())
    return {name: values[:rows] for name, values in columns.items()}
