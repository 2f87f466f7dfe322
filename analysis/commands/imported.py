"""The run file of an import: what a tilt series from elsewhere becomes.

What an image stack does not know (dose, temperature, times, beam) stays empty.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...protocols.config.recipe import BeamSettings, Sample
from ...protocols.core.clock import iso_utc
from ...protocols.messages.manifest import RunManifest, StackPlan
from ...protocols.runfile import layout
from ...protocols.runfile import nexus as nexus_tree
from ...protocols.runfile.frames import Outliers, outliers_paths
from ...protocols.runfile.references import StackReferences
from ..io.encoding import Encoding
from ..io.heat_history import HeatHistory
from ..io.tilt_series_readers import Floats, TiltStack

SERIES = "series_001"
# What a run records and an import does not know.
_UNKNOWN = (
    layout.MANIFEST, f"{layout.RUN}/recipe", f"{layout.RUN}/rig", f"{layout.RUN}/speed",
)  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """A tilt series from elsewhere, and all that is known of it.

    Attributes
    ----------
    source : Path
        The file that it comes from.
    stack : TiltStack
        Readable.
    tilt_deg : ndarray of shape (images,)
        Angles.
    there : ndarray of bool, shape (images,)
        The images that were recorded.
    pixel_nm : float
        Sampling.
    encoding : Encoding
        How values are recorded.
    title : str
        Of the run file.
    tilt_axis_deg : float or None
        Direction of the tilt axis.
    warnings : tuple of str
        What the user was told of doubtful data.
    heat : HeatHistory or None
        Times of the frames and the log of a heater, as far as they are known.
    """

    source: Path
    stack: TiltStack
    tilt_deg: Floats
    there: NDArray[np.bool_]
    pixel_nm: float
    encoding: Encoding
    title: str
    tilt_axis_deg: float | None = None
    warnings: tuple[str, ...] = ()
    heat: HeatHistory | None = None

    @property
    def telemetry(self) -> Mapping[str, tuple[str, Floats]]:
        """Channels of the heater by name: unit and values; empty without a log."""
        log = self.heat.log if self.heat is not None else None
        if log is None:
            return {}
        found = {layout.TEMPERATURE_CHANNELS[0]: ("degC", log.temperature_c)}
        if log.setpoint_c is not None:
            found["setpoint_c"] = ("degC", log.setpoint_c)
        return found


def write_imported(path: Path, imported: Imported) -> None:
    """Write the run file.

    Parameters
    ----------
    path : Path
        Nothing may be there.
    imported : Imported
        What it holds.
    """
    file = nexus_tree.create_file(path, nodes(imported))
    with file:
        _fill(file, imported)
    nexus_tree.finalise(path)


def nodes(imported: Imported) -> Iterator[layout.Node]:
    """Everything in the file of an import, without the frames.

    Parameters
    ----------
    imported : Imported
        What will be there.

    Yields
    ------
    Node
        Groups before what they hold.
    """
    unknown = _UNKNOWN if imported.telemetry else (*_UNKNOWN, layout.holds_before_path(SERIES))
    for node in layout.tree(_manifest(imported)):
        if node.path.startswith(unknown):
            continue
        value = getattr(node, "value", None)
        if isinstance(value, float) and math.isnan(value):
            continue
        yield node
    stack, scale = imported.stack, imported.encoding.scale
    if scale != 1:
        yield layout.Dataset(layout.value_scale_path(SERIES), np.float64(scale))
        # NXdata's own word for it: value = (data + offset) * factor.
        factor = f"/{SERIES}/data/data_scaling_factor"
        yield layout.Dataset(factor, np.float64(scale))
    references = StackReferences(stack.dark, stack.flat, stack.dark_frames, stack.flat_frames)
    yield from references.nodes(SERIES)
    yield layout.Group(layout.SOURCE, "NXnote")
    yield layout.Dataset(f"{layout.SOURCE}/file_name", imported.source.name)
    yield layout.Dataset(f"{layout.SOURCE}/type", stack.form)
    sides = " x ".join(str(side) for side in stack.shape)
    described = f"{sides} {stack.dtype.name}; {_start_described(imported)}"
    yield layout.Dataset(f"{layout.SOURCE}/description", described)


def _start_described(imported: Imported) -> str:
    heat = imported.heat
    if heat is None:
        return "the start of this run is the moment of the import"
    known = "taken for local times of the computer that made the import"
    if heat.started is None:
        known = "the start of this run is the moment of the import"
    return f"{heat.told}; {known}"


def _manifest(imported: Imported) -> RunManifest:
    stack = imported.stack
    now_ns = time.time_ns()
    heat = imported.heat
    started_ns = now_ns
    if heat is not None and heat.started is not None:
        started_ns = round(heat.started.timestamp() * 1000) * 1_000_000
    angles = tuple(float(angle) for angle in imported.tilt_deg)
    beam = BeamSettings.model_construct(
        voltage_kv=math.nan if stack.voltage_kv is None else stack.voltage_kv,
        current_pa=math.nan, dwell_s=math.nan, frame=stack.shape[1:], pixel_nm=imported.pixel_nm,
    )  # fmt: skip
    return RunManifest(
        run=f"import-{now_ns // 1_000_000}", title=imported.title,
        software=f"pyrotome {__version__}", started_ns=started_ns, speed=1.0, simulated=False,
        recipe_text="", rig_text="", rig_name="unknown",
        sample=Sample(name=imported.title[:200], elements=[]), beam=beam,
        detector="unknown", value_offset=imported.encoding.offset,
        holds=() if heat is None else heat.holds,
        holds_before={SERIES: 0 if heat is None else heat.holds_before},
        telemetry={layout.HEATER: {name: unit for name, (unit, _) in imported.telemetry.items()}}
        if imported.telemetry else {},
        stacks=(StackPlan(name=SERIES, kind="series", frames=len(angles), tilt_deg=angles),),
    )  # fmt: skip


def _fill(file: Any, imported: Imported) -> None:
    frames = file[layout.frames_path(SERIES)]
    stack, encoding = imported.stack, imported.encoding
    places: list[tuple[int, int, int]] = []
    values: list[float] = []
    for index in np.flatnonzero(imported.there):
        image = stack.read(int(index))
        frames[index] = image if stack.encoded else encoding.encoded(image)
        for row, column in encoding.outliers(image):
            places.append((int(index), int(row), int(column)))
            values.append(float(image[row, column]))
    outliers = stack.outliers
    if places:
        outliers = Outliers(np.array(places, np.int64), np.array(values, np.float64))
    if outliers is not None:
        for path, array in zip(
            outliers_paths(SERIES), (outliers.places, outliers.values), strict=True
        ):
            file[path] = array
    if imported.tilt_axis_deg is not None:
        file[f"/{SERIES}"].attrs[layout.TILT_AXIS] = float(imported.tilt_axis_deg)
    file[layout.column_path(SERIES, "tilt_deg")][...] = imported.tilt_deg
    keys = np.where(imported.there, layout.RECORDED, layout.MISSING)
    file[layout.image_key_path(SERIES)][...] = keys
    _add_events(file, imported.warnings)
    ended_ns = time.time_ns()
    if imported.heat is not None:
        ended_ns = _add_heat(file, imported, imported.heat, ended_ns)
    file[layout.END_TIME][()] = iso_utc(ended_ns).encode()
    file[layout.STATUS][()] = b"complete"


def _add_heat(file: Any, imported: Imported, heat: HeatHistory, now_ns: int) -> int:
    """Write times, temperatures and telemetry; when the experiment ended, in UTC nanoseconds."""
    times = file[layout.column_path(SERIES, layout.TIME_COLUMN.key)]
    times[...] = heat.frame_s
    file[layout.column_path(SERIES, "temperature_c")][...] = heat.temperature_c
    for name, (_, values) in imported.telemetry.items():
        log = file[layout.telemetry_path(layout.HEATER, name)]
        for dataset, column in ((log["time"], heat.log_s), (log["value"], values)):
            dataset.resize((len(column),))
            dataset[...] = column
    if heat.started is None:
        return now_ns
    every = np.concatenate([heat.log_s, heat.frame_s[np.isfinite(heat.frame_s)]])
    return int(times.attrs["start_ns"]) + round(float(every.max()) * 1e9)


def _add_events(file: Any, warnings: tuple[str, ...]) -> None:
    """Each warning as an event, as a run would record it."""
    group = file[layout.EVENTS]
    texts = {"level": "warning", "source": "import"}
    for dataset in group.values():
        dataset.resize((len(warnings),))
    for row, warning in enumerate(warnings):
        body = f'{{"series": "{SERIES}"}}'
        group["time"][row] = 0.0
        for name, size in layout.EVENT_TEXT.items():
            text = {**texts, "message": f"{SERIES}: {warning}", "json": body}[name]
            group[name][row] = layout.fit_text(text, size)
