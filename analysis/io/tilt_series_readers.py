"""Open a tilt series of another program: the suffix of its file selects the reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...protocols.core.errors import BadInput
from .readers.hdf5 import open_hdf5
from .readers.mrc import open_mrc
from .readers.npz import open_npz
from .readers.rosettasciio import ROSETTASCIIO_SUFFIXES, open_with_rosettasciio
from .readers.tiff import open_tiff
from .readers.tilt_stack import Floats, TiltStack, refuse_shape

__all__ = ["Floats", "TiltStack", "open_stack"]

MRC_SUFFIXES = (".mrc", ".mrcs", ".st", ".ali", ".rec")
HDF5_SUFFIXES = (".emd", ".nxs", ".nx", ".h5", ".hdf5", ".hdf")
TIFF_SUFFIXES = (".tif", ".tiff")


@contextmanager
def open_stack(path: Path, name: str | None = None) -> Iterator[TiltStack]:
    """Open a tilt series; the suffix of the file selects the reader.

    Parameters
    ----------
    path : Path
        The file.
    name : str, optional
        Name of the stack, if an HDF5 file or one of a vendor holds several.

    Yields
    ------
    TiltStack
        Readable within the block.

    Raises
    ------
    BadInput
        If the file is missing or of an unknown format, or does not hold a tilt series.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "series.npz"
    ...     np.savez(path, images=np.zeros((3, 8, 8)), tilt_deg=[-1.0, 0.0, 1.0])
    ...     with open_stack(path) as stack:
    ...         stack.shape
    (3, 8, 8)
    """
    suffix = path.suffix.lower()
    readers: list[tuple[tuple[str, ...], Callable[[], Any]]] = [
        (MRC_SUFFIXES, lambda: open_mrc(path)),
        ((".npz",), lambda: open_npz(path)),
        (HDF5_SUFFIXES, lambda: open_hdf5(path, name)),
        (TIFF_SUFFIXES, lambda: open_tiff(path)),
        (ROSETTASCIIO_SUFFIXES, lambda: open_with_rosettasciio(path, name)),
    ]
    reader = next((reader for suffixes, reader in readers if suffix in suffixes), None)
    if not path.exists():
        raise BadInput(str(path), "no such file")
    if path.is_dir():
        raise BadInput(str(path), "is a folder; give the file of a tilt series")
    if reader is None:
        known = ", ".join(s for suffixes, _ in readers for s in suffixes)
        raise BadInput(str(path), f"the format '{suffix}' is unknown; known formats: {known}")
    with reader() as stack:
        if len(stack.shape) != 3 or 0 in stack.shape:
            raise refuse_shape(path, stack.shape)
        if stack.dtype.kind not in "uif":
            raise BadInput(str(path), f"holds {stack.dtype}; only plain numbers can be imported")
        yield stack
