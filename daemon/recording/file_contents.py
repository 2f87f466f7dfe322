"""What there is in an open run file that may be damaged: its objects, chunks, logs and times."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import h5py.h5o
import numpy as np
from numpy.typing import NDArray

from ...protocols.runfile import layout

# What h5py raises on what it cannot read.
H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


def walk(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every object by its path; None for one that cannot be opened. Names of links come twice."""
    yield path or "/", group
    for name in list(group):
        inside = f"{path}/{name}"
        if inside.count("/") > 12:  # a loop of links, which a run file does not have
            yield inside, None
            continue
        try:
            item = group[name]
        except H5_ERRORS:
            item = None
        if isinstance(item, h5py.Group):
            yield from walk(item, inside)
        else:
            yield inside, item


def is_large(dataset: object) -> bool:
    """Whether it holds frames or a result."""
    if not isinstance(dataset, h5py.Dataset) or dataset.chunks is None:
        return False
    return dataset.maxshape == dataset.shape


def address_of(item: Any) -> int:
    """Address of an object in the file."""
    return int(h5py.h5o.get_info(item.id).addr)


def chunks_of(dataset: Any) -> list[Any]:
    """Stored chunks of a dataset, as h5py describes them."""
    found: list[Any] = []
    if dataset.chunks is not None and dataset.id.get_num_chunks():
        dataset.id.chunk_iter(found.append)
    return found


def logs_of(file: Any) -> Iterator[tuple[str, list[Any]]]:
    """Tables whose columns grow together, by name."""
    if layout.TELEMETRY in file:
        for device, channels in file[layout.TELEMETRY].items():
            logs = list(channels.values())
            if logs:
                yield f"the log of {device}", [logs[0]["time"], *(log["value"] for log in logs)]
    tables = {
        "the events": (layout.EVENTS, ("time", *layout.EVENT_TEXT)),
        "the dose": (layout.DOSE, ("time", "value")),
        "the clock readings": (layout.CLOCK, layout.CLOCK_COLUMNS),
    }
    for name, (path, columns) in tables.items():
        if path in file:
            yield name, [file[f"{path}/{column}"] for column in columns]


def is_fill(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are what stands where nothing was written."""
    return values == (b"" if values.dtype.kind in "SO" else 0)


def last_moment_ns(file: Any) -> int:
    """Latest moment recorded in a run file, UTC nanoseconds; 0 where there is none."""
    last = 0
    times = [logs[0] for name, logs in logs_of(file) if name != "the clock readings"]
    for stack in file:
        path = layout.column_path(stack, layout.TIME_COLUMN.key)
        if path in file:
            times.append(file[path])
    for data in times:
        values = data[...]
        values = values[np.isfinite(values)]
        if "start_ns" in data.attrs:
            start_ns = int(data.attrs["start_ns"])
            # As integers: nanoseconds since 1970 have more digits than a float.
            last = max(last, start_ns, start_ns + round(float(max(values, default=0.0)) * 1e9))
    for name in layout.HOLD_TIMES:
        path = f"{layout.HOLDS}/{name}"
        if path in file:
            last = max(last, int(max(file[path][...], default=0)))
    path = f"{layout.INTERRUPTIONS}/until_ns"
    if path in file:
        last = max(last, int(max(file[path][...], default=0)))
    return last


def text_of(dataset: Any) -> str:
    """Text of a dataset."""
    value = dataset[()]
    return value.decode() if isinstance(value, bytes) else str(value)


def frames_in_words(indices: NDArray[Any]) -> str:
    """Name frames by their indices, at most eight of them."""
    shown = ", ".join(str(index) for index in indices[:8])
    more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
    return f"frame{'s' if len(indices) > 1 else ''} {shown}{more}"
