"""The run file of an import: what a tilt series from elsewhere becomes.

What an image stack does not know (dose, temperature, times, beam) stays empty.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from ..io.tilt_series_readers import Floats, TiltStack

SERIES = "series_001"
# What a run records and an import does not know.
_UNKNOWN = (
    layout.MANIFEST, f"{layout.RUN}/recipe", f"{layout.RUN}/rig", f"{layout.RUN}/speed",
    layout.holds_before_path(SERIES),
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
    """

    source: Path
    stack: TiltStack
    tilt_deg: Floats
    there: NDArray[np.bool_]
    pixel_nm: float
    encoding: Encoding
    title: str
    tilt_axis_deg: float | None = None
    warnings: tuple[str, ...] = field(default=())


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
    for node in layout.tree(_manifest(imported)):
        if node.path.startswith(_UNKNOWN):
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
    described = f"{sides} {stack.dtype.name}; the start of this run is the moment of the import"
    yield layout.Dataset(f"{layout.SOURCE}/description", described)


def _manifest(imported: Imported) -> RunManifest:
    stack = imported.stack
    now_ns = time.time_ns()
    angles = tuple(float(angle) for angle in imported.tilt_deg)
    beam = BeamSettings.model_construct(
        voltage_kv=math.nan if stack.voltage_kv is None else stack.voltage_kv,
        current_pa=math.nan, dwell_s=math.nan, frame=stack.shape[1:], pixel_nm=imported.pixel_nm,
    )  # fmt: skip
    return RunManifest(
        run=f"import-{now_ns // 1_000_000}", title=imported.title,
        software=f"pyrotome {__version__}", started_ns=now_ns, speed=1.0, simulated=False,
        recipe_text="", rig_text="", rig_name="unknown",
        sample=Sample(name=imported.title[:200], elements=[]), beam=beam,
        detector="unknown", value_offset=imported.encoding.offset, holds=(), holds_before={},
        telemetry={},
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
    ended = iso_utc(time.time_ns())
    file[layout.END_TIME][()] = ended.encode()
    file[layout.STATUS][()] = b"complete"


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
            text = {**texts, "message": warning, "json": body}[name]
            group[name][row] = layout.fit_text(text, size)
