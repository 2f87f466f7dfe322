"""``pyrotome calibrate-pixel``: pixel size and scan distortion from a picture of silicon."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.scanning.pixel_calibration import save_pixel_calibration
from ...protocols.core.errors import BadInput
from ..io.tilt_series_readers import open_stack
from ..lattice import Rotated, average_frames, rotated_map, scan_map
from ..lattice.process import REACH_A, calibration_of
from ..lattice.silicon import NoLattice
from .import_ import positive_quantity, quantity_of
from .interrupts import notify

_ANGSTROM = 10.0  # in a nanometre


def read_frames(path: Path) -> list[NDArray[Any]]:
    """Pictures of one view: a single image of an npz file, or every image of a stack.

    Raises
    ------
    BadInput
        If the file cannot be read, or holds no picture.
    """
    if path.suffix.lower() == ".npz":
        single = _single_image(path)
        if single is not None:
            return [single]
    with open_stack(path, None) as stack:
        return [np.asarray(stack.read(index), np.float64) for index in range(stack.shape[0])]


def _single_image(path: Path) -> NDArray[Any] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = [file[name] for name in file.files]
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(str(path), f"is not a readable npz file: {error}") from None
    images = [image for image in found if image.ndim == 2 and min(image.shape) >= 32]
    if any(image.ndim == 3 for image in found) or len(images) != 1:
        return None
    return np.asarray(images[0], np.float64)


def spot_text(pictures: list[Rotated]) -> str:
    """What the spots by themselves say, for people."""
    sizes = np.concatenate([one.lattice.spot_pixel_a for one in pictures])
    return (
        f"{len(sizes)} spots, which would give {sizes.min():.5f} to {sizes.max():.5f} Å each by "
        "itself"
    )


def calibrate_pixel_command(
    source: Path, pixel_size: str, voltage: str | None, rotation: str | None, output: Path | None
) -> None:
    """Carry out ``pyrotome calibrate-pixel``; arguments as those of the command."""
    nominal_nm = positive_quantity("--pixel-size", pixel_size, "nm", "0.358 Å")
    rotation_deg = 0.0 if rotation is None else quantity_of("--rotation", rotation, "deg", "90 deg")
    if output is not None and voltage is None:
        raise BadInput("--voltage", "a calibration holds for one high tension: tell it, '300 kV'")
    voltage_kv = 1.0 if voltage is None else positive_quantity("--voltage", voltage, "kV", "300 kV")
    frames = read_frames(source)
    pixel_a = _ANGSTROM * nominal_nm
    try:
        averaged = average_frames(frames, range(len(frames)), REACH_A / pixel_a)
        picture = rotated_map(averaged.picture, pixel_a, rotation_deg)
    except (NoLattice, ValueError) as error:
        raise BadInput(str(source), str(error)) from None
    found = scan_map([picture])
    calibration = calibration_of(
        found, nominal_nm=nominal_nm, field_nm=nominal_nm * averaged.picture.shape[1],
        voltage_kv=voltage_kv, rotations_deg=(rotation_deg,), frames=averaged.used,
    )  # fmt: skip
    for doubt in found.doubts:
        notify(f"{source}: {doubt}")
    for line in (*calibration.text(), spot_text([picture])):
        print(line)
    if output is not None:
        save_pixel_calibration(output, calibration)
        print(f"wrote {output}")
