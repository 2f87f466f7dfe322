"""Where the pictures of scouts stand in a run file, before anything is written.

``/scouts_001`` belongs to ``/series_001``. Its table ``scouts`` has one row for each scout, in the
order in which they were taken. The pictures stand in one NXdata group for each grid of positions
(``field_64``: 64 positions along a row, over the field of a frame; ``search``: over a wider field),
so that the pictures of a stack have the same shape and the same pixel size. All of it is created
before the first frame and grows; what stayed empty is removed when the file is closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.clock import iso_utc
from ...messages.manifest import RunManifest, ScoutGrid
from .nodes import DOSE_UNIT, Dataset, Group, Node, epoch_ns

# Of one grid in one series. A series of 41 frames takes some 60. More are told and left out: so
# many keep the index of the pictures within blocks that a kill cannot tear (decision 10).
MOST_PICTURES = 1000
# The sum of several short scans has more counts than the detector's type may hold.
PICTURE_DTYPE = "uint32"
TEXT_BYTES = 16
_PREFIX = "scouts_"


@dataclass(frozen=True)
class ScoutColumn:
    """One value a scout; `text` says what it is."""

    name: str
    dtype: str
    units: str = ""
    text: str = ""


TIME = "time"
COLUMNS = (
    ScoutColumn("kind", f"S{TEXT_BYTES}", text="scout: of the field of a frame; wide: a search"),
    ScoutColumn("tilt", "float64", "degree", "angle that was asked for"),
    ScoutColumn("dose", "float64", DOSE_UNIT, "electrons per area of the scanned field"),
    ScoutColumn("shift_y", "float64", "nm", "beam shift, y"),
    ScoutColumn("shift_x", "float64", "nm", "beam shift, x"),
    ScoutColumn("defocus", "float64", "nm", "change of the focus"),
    ScoutColumn("grid", f"S{TEXT_BYTES}", text="group of its picture"),
    ScoutColumn("picture", "int64", text="index of its picture in data of that group"),
    # The last one: who reads by time finds the others written.
    ScoutColumn(TIME, "float64", "s", "middle of the exposure"),
)


def scouts_path(account: str) -> str:
    """Group of the scouts of a series, or of another account that scouts are charged to.

    Examples
    --------
    >>> scouts_path("series_003"), scouts_path("height_001")
    ('/scouts_003', '/scouts_height_001')
    """
    return f"/{_PREFIX}{account.removeprefix('series_')}"


def is_scouts(name: str) -> bool:
    """Whether a group of the root, by its name, holds scouts."""
    return name.startswith(_PREFIX)


def account_of(name: str) -> str:
    """Series, or other account, whose scouts a group of the root holds.

    Examples
    --------
    >>> account_of("scouts_003"), account_of("scouts_height_001")
    ('series_003', 'height_001')
    """
    rest = name.removeprefix(_PREFIX)
    return f"series_{rest}" if rest.isdigit() else rest


def column_path(account: str, column: str) -> str:
    """One column of the table."""
    return f"{scouts_path(account)}/scouts/{column}"


def pictures_path(account: str, grid: str) -> str:
    """Pictures of one grid, (pictures, rows, columns)."""
    return f"{scouts_path(account)}/{grid}/data"


def scout_nodes(manifest: RunManifest) -> Iterator[Node]:
    """Tables and stacks of pictures of a run that takes scouts, without rows."""
    plan = None if manifest.tracking is None else manifest.tracking.scouts
    if plan is None:
        return
    start = epoch_ns(manifest.started_ns)
    time_attrs = {"start": iso_utc(start), "start_ns": np.int64(start)}
    for account in plan.accounts:
        base = scouts_path(account)
        yield Group(base, "NXentry", {"default": plan.grids[0].name})
        yield Dataset(f"{base}/title", f"{manifest.title}: scouts of {account}")
        yield Group(f"{base}/scouts", "NXcollection")
        for column in COLUMNS:
            attrs: Mapping[str, Any] = {"long_name": column.text}
            attrs |= {"units": column.units} if column.units else {}
            attrs |= time_attrs if column.name == TIME else {}
            yield Dataset(
                column_path(account, column.name), dtype=column.dtype, shape=(0,),
                storage="growing", attrs=attrs,
            )  # fmt: skip
        for grid in plan.grids:
            yield from _pictures(base, grid, manifest.value_offset)


def _pictures(base: str, grid: ScoutGrid, value_offset: int) -> Iterator[Node]:
    group, (rows, columns) = f"{base}/{grid.name}", grid.shape
    yield Group(group, "NXdata", {"signal": "data", "axes": [".", "y", "x"]})
    yield Dataset(
        f"{group}/data", dtype=PICTURE_DTYPE, shape=(0, rows, columns), fill=0, storage="pictures"
    )
    for name, size in (("y", rows), ("x", columns)):
        yield Dataset(f"{group}/{name}", np.arange(size) * grid.pixel_nm, attrs={"units": "nm"})
    if value_offset:
        yield Dataset(f"{group}/data_offset", np.float64(-value_offset))
