"""Reader of tilt series in HDF5 files: NXtomo, EMD of Berkeley, and EMD of Velox."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # pyright: ignore[reportUnusedImport]  # noqa: F401 - registers the frames' filter

from ....protocols.core.errors import BadInput
from ....protocols.runfile import layout
from .berkeley_emd import emd_stack
from .nxtomo import is_nxtomo, nxtomo_stack
from .rosettasciio import open_with_rosettasciio
from .tilt_stack import TiltStack

_FRAMES = layout.frames_path("x").removeprefix("/x/")
_VELOX = "Data/Image"


@contextmanager
def open_hdf5(path: Path, name: str | None = None) -> Iterator[TiltStack]:
    """Open the tilt series of an HDF5 file.

    Parameters
    ----------
    path : Path
        The file.
    name : str, optional
        Which one, if there are several.

    Yields
    ------
    TiltStack

    Raises
    ------
    BadInput
        If it holds none, or several and no name is given.
    """
    if not h5py.is_hdf5(path):
        raise BadInput(str(path), "is not an HDF5 file")
    try:
        opened: Any = h5py.File(path, "r")
    except OSError as error:
        raise BadInput(str(path), f"HDF5 cannot open the file: {error}") from None
    with opened as file:
        found = _stacks(path, file)
        velox = not found and _VELOX in file
        if not found and not velox:
            raise BadInput(str(path), "holds neither an EMD nor an NXtomo tilt series")
        if not velox:
            yield _chosen(path, found, name)
            return
    with open_with_rosettasciio(path, name) as stack:
        yield stack


def _stacks(path: Path, file: Any) -> dict[str, Callable[[], TiltStack]]:
    """Tilt series by their place in the file."""
    found: dict[str, Callable[[], TiltStack]] = {}

    def look(place: str, item: Any) -> None:
        if not isinstance(item, h5py.Group):
            return
        if "data" in item and "emd_group_type" in item.attrs:
            if getattr(item["data"], "ndim", 0) in {2, 3}:
                found[place] = lambda: emd_stack(path, item)
        elif _FRAMES in item and is_nxtomo(item):
            found[place] = lambda: nxtomo_stack(path, item)

    try:
        file.visititems(look)
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        raise BadInput(str(path), f"is damaged or incomplete: {error}") from None
    return found


def _chosen(path: Path, found: dict[str, Callable[[], TiltStack]], name: str | None) -> TiltStack:
    if name is None and len(found) > 1:
        raise BadInput(
            str(path), f"holds several stacks; choose one with --entry: {', '.join(found)}"
        )
    if name is not None and name.strip("/") not in found:
        raise BadInput("--entry", f"{path} has no stack '{name}'; it has {', '.join(found)}")
    try:
        return found[name.strip("/") if name is not None else next(iter(found))]()
    except BadInput:
        raise
    except (KeyError, ValueError, TypeError, IndexError, OSError, RuntimeError) as error:
        raise BadInput(str(path), f"is damaged or incomplete: {error}") from None
