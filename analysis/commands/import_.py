"""``pyrotome import``: a tilt series from elsewhere as a run file.

Whole numbers are stored as they are where they fit 16 bits without sign, else with a
``value_offset`` added. Fractions are rounded to 65535 equal steps between the lowest and the
highest value of the stack: value = (recorded - value_offset) * value_scale, to within half a
step. What an image stack does not know (dose, temperature, times, beam) stays empty.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...protocols.config.recipe import BeamSettings, Sample
from ...protocols.core.clock import iso_utc
from ...protocols.core.errors import BadInput
from ...protocols.core.units import parse_quantity
from ...protocols.messages.manifest import RunManifest, StackPlan
from ...protocols.runfile import layout
from ...protocols.runfile import nexus as nexus_tree
from ..io.safe_output import new_file
from ..io.tilt_angles import read_tilts
from ..io.tilt_series_readers import Floats, TiltStack, open_stack
from .interrupts import notify

SERIES = "series_001"
_DTYPE = np.uint16
_HIGHEST = np.iinfo(_DTYPE).max
# What a run records and an import does not know.
_UNKNOWN = (
    layout.MANIFEST, f"{layout.RUN}/recipe", f"{layout.RUN}/rig", f"{layout.RUN}/speed",
    layout.holds_before_path(SERIES),
)  # fmt: skip


@dataclass(frozen=True)
class Encoding:
    """How values become 16 bits without sign: recorded = value / scale + offset, rounded."""

    offset: int = 0
    scale: float = 1.0

    def encoded(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Values as they are recorded."""
        if self.scale == 1:
            # Python's integers where 64 bits with an offset would not do.
            wide = values.astype(object if values.dtype.itemsize > 4 else np.int64)
            return (wide + self.offset).astype(_DTYPE)
        steps = np.rint(values.astype(np.float64) / self.scale) + self.offset
        return np.clip(steps, 0, _HIGHEST).astype(_DTYPE)


def encoding_for(low: float, high: float, whole: bool) -> Encoding:
    """Choose how values are recorded.

    Parameters
    ----------
    low, high : number
        Lowest and highest value of the stack.
    whole : bool
        Whether all values are whole numbers of a type for such.

    Returns
    -------
    Encoding

    Raises
    ------
    ValueError
        If whole numbers span more than 16 bits, or fractions span more than 16 bits can represent.
    """
    if whole:
        if low >= 0 and high <= _HIGHEST:
            return Encoding()
        if high - low > _HIGHEST:
            raise ValueError(
                f"its values run from {low:g} to {high:g}, a span of more than 16 bits; "
                "bin or scale them, or save them as floating point (kept in 65535 steps)"
            )
        return Encoding(-int(low))
    # One step less than there are, since both ends are rounded.
    scale = (high - low) / (_HIGHEST - 1) or abs(high) or 1.0
    if not math.isfinite(scale) or scale < np.finfo(np.float32).tiny:
        raise ValueError(f"its values run from {low:g} to {high:g}, which 16 bits cannot represent")
    return Encoding(-round(low / scale), scale)


def survey(stack: TiltStack, there: NDArray[np.bool_], path: Path) -> Encoding:
    """Read every image once and choose the encoding; warn of images that show nothing.

    Raises
    ------
    BadInput
        If an image holds NaN or infinity, or the values cannot be recorded.
    """
    if stack.value_scale != 1 or stack.value_offset:
        # A file of this software: its recorded values are taken over as they stand.
        if stack.dtype != np.dtype(_DTYPE):
            raise BadInput(
                str(path),
                f"has values encoded as {stack.dtype}; this software encodes them as uint16",
            )
        return Encoding(stack.value_offset, stack.value_scale)
    lows: list[float] = []
    highs: list[float] = []
    dark: list[str] = []
    whole = True
    for index in np.flatnonzero(there):
        image = stack.read(int(index))
        if stack.dtype.kind == "f":
            if not np.isfinite(image).all():
                raise BadInput(
                    f"{path}: image {index} (the first is 0)",
                    "holds NaN or infinity; correct it, or remove image and angle from the stack",
                )
            whole = whole and bool((image == np.rint(image)).all())
        lows.append(image.min().item())
        highs.append(image.max().item())
        if lows[-1] == highs[-1]:
            dark.append(str(index))
    low, high = min(lows), max(highs)
    if dark:
        notify(
            f"{path}: {len(dark)} of {len(lows)} images have one value everywhere (beam blanked, "
            f"or detector off): {', '.join(dark)} (the first is 0); they are kept, but the "
            "analysis does not use them"
        )
    # Whole numbers in floating point beyond 16 bits are kept as fractions are.
    if stack.dtype.kind == "f" and high - low > _HIGHEST:
        whole = False
    try:
        return encoding_for(low, high, whole)
    except ValueError as error:
        raise BadInput(str(path), str(error)) from None


def nodes(
    stack: TiltStack, tilts: Floats, pixel_nm: float, encoding: Encoding, source: Path, title: str
) -> Iterator[layout.Node]:
    """Everything in the file of an import, without the frames.

    Parameters
    ----------
    stack : TiltStack
        What is imported.
    tilts : ndarray of shape (images,)
        Angles in deg.
    pixel_nm : float
        Sampling.
    encoding : Encoding
        How values are recorded.
    source : Path
        The file that they come from.
    title : str
        Of the run file.
    """
    now_ns = time.time_ns()
    angles = tuple(float(angle) for angle in tilts)
    beam = BeamSettings.model_construct(
        voltage_kv=math.nan if stack.voltage_kv is None else stack.voltage_kv,
        current_pa=math.nan, dwell_s=math.nan, frame=stack.shape[1:], pixel_nm=pixel_nm,
    )  # fmt: skip
    manifest = RunManifest(
        run=f"import-{now_ns // 1_000_000}", title=title, software=f"pyrotome {__version__}",
        started_ns=now_ns, speed=1.0, simulated=False, recipe_text="", rig_text="",
        rig_name="unknown", sample=Sample(name=title[:200], elements=[]), beam=beam,
        detector="unknown", value_offset=encoding.offset, holds=(), holds_before={}, telemetry={},
        stacks=(StackPlan(name=SERIES, kind="series", frames=len(angles), tilt_deg=angles),),
    )  # fmt: skip
    for node in layout.tree(manifest):
        if node.path.startswith(_UNKNOWN):
            continue
        value = getattr(node, "value", None)
        if isinstance(value, float) and math.isnan(value):
            continue
        yield node
    if encoding.scale != 1:
        yield layout.Dataset(layout.value_scale_path(SERIES), np.float64(encoding.scale))
        # NXdata's own word for it: value = (data + offset) * factor.
        factor = f"/{SERIES}/data/data_scaling_factor"
        yield layout.Dataset(factor, np.float64(encoding.scale))
    yield layout.Group(layout.SOURCE, "NXnote")
    yield layout.Dataset(f"{layout.SOURCE}/file_name", source.name)
    yield layout.Dataset(f"{layout.SOURCE}/type", stack.form)
    sides = " x ".join(str(side) for side in stack.shape)
    described = f"{sides} {stack.dtype.name}; the start of this run is the moment of the import"
    yield layout.Dataset(f"{layout.SOURCE}/description", described)


def import_stack(
    source: Path,
    target: Path,
    tilts: Path | None = None,
    pixel_nm: float | None = None,
    title: str | None = None,
    entry: str | None = None,
) -> tuple[int, Encoding]:
    """Write a run file with one tilt series from elsewhere.

    Parameters
    ----------
    source : Path
        MRC, npz, EMD, NXtomo or TIFF.
    target : Path
        The run file; nothing may be there.
    tilts : Path, optional
        Text file of angles; else the source must hold them.
    pixel_nm : float, optional
        Pixel size in nm; else that of the source.
    title : str, optional
        Else the name of the source.
    entry : str, optional
        Which stack of an HDF5 file with several.

    Returns
    -------
    frames : int
        How many were recorded.
    encoding : Encoding
        How.

    Raises
    ------
    BadInput
        If something is missing, disagrees, or cannot be recorded exactly.
    """
    given = None if tilts is None else read_tilts(tilts)
    with open_stack(source, entry) as stack:
        angles, there = _checked_angles(stack, source, tilts, given)
        sampling = pixel_nm if pixel_nm is not None else stack.pixel_nm
        if sampling is None:
            raise BadInput(str(source), "has no pixel size; give it as in --pixel-size '3.36 nm'")
        with new_file(target) as partial:
            encoding = survey(stack, there, source)
            planned = nodes(stack, angles, sampling, encoding, source, title or source.stem)
            file = nexus_tree.create_file(partial, planned)
            with file:
                _fill(file, stack, angles, there, encoding)
            nexus_tree.finalise(partial)
    for index in np.flatnonzero(~there):
        notify(f"{source}: image {index} ({angles[index]:g} deg) is missing, also in the run file")
    return int(there.sum()), encoding


def _checked_angles(
    stack: TiltStack, source: Path, tilts: Path | None, given: Floats | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Angle of each image in deg, and which images are there; BadInput if they do not fit."""
    angles = stack.tilt_deg if given is None else given
    if angles is None:
        raise BadInput(str(source), "holds no angles; give a file of them with --tilts")
    where = str(tilts or source)
    if len(angles) != stack.shape[0]:
        raise BadInput(
            where,
            f"{len(angles)} angles for the {stack.shape[0]} images of {source.name}; "
            "one angle for each image is needed",
        )
    there = np.ones(len(angles), np.bool_) if stack.there is None else stack.there
    unknown = np.flatnonzero(~np.isfinite(angles) & there)
    if unknown.size:
        raise BadInput(
            f"{where}: image {unknown[0]} (the first is 0)",
            f"its angle is {angles[unknown[0]]:g}; give all angles with --tilts",
        )
    if not there.any():
        raise BadInput(str(source), "all its images are marked as missing")
    return angles, there


def _fill(
    file: Any, stack: TiltStack, angles: Floats, there: NDArray[np.bool_], encoding: Encoding
) -> None:
    frames = file[layout.frames_path(SERIES)]
    taken_over = stack.value_scale != 1 or stack.value_offset
    for index in np.flatnonzero(there):
        image = stack.read(int(index))
        frames[index] = image if taken_over else encoding.encoded(image)
    file[layout.column_path(SERIES, "tilt_deg")][...] = angles
    keys = np.where(there, layout.RECORDED, layout.MISSING)
    file[layout.image_key_path(SERIES)][...] = keys
    ended = iso_utc(time.time_ns())
    file[layout.END_TIME][()] = ended.encode()
    file[layout.STATUS][()] = b"complete"


def import_command(
    source: Path,
    target: Path,
    tilts: Path | None,
    pixel_size: str | None,
    title: str | None,
    entry: str | None,
) -> None:
    """Carry out ``pyrotome import``; arguments as those of `import_stack`."""
    pixel_nm = None
    if pixel_size is not None:
        try:
            pixel_nm = parse_quantity(pixel_size, "nm", "3.36 nm")
        except ValueError as error:
            raise BadInput("--pixel-size", str(error)) from None
        if pixel_nm <= 0:
            raise BadInput(
                "--pixel-size", f"'{pixel_size}' is not above zero; write it as in '3.36 nm'"
            )
    frames, encoding = import_stack(source, target, tilts, pixel_nm, title, entry)
    if encoding.scale != 1:
        notify(f"fractions are kept in 16 bits, in steps of {encoding.scale:.6g} (value_scale)")
    print(f"{target}: {frames} frames in {SERIES}")
