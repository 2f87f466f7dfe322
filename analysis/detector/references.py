"""Dark and gain reference of a detector, and the pixels that it tells to leave out."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py, mrcfile and tifffile carry no types.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class References:
    """What is known of a detector before the first frame.

    A corrected frame is ``(counts - dark) / gain``.

    Parameters
    ----------
    dark : ndarray, optional
        Mean frame without beam, in counts, shape (rows, columns).
    gain : ndarray, optional
        Relative sensitivity of each pixel, shape (rows, columns); any scale, it is divided by its
        median. A frame of even illumination, with its dark taken away, will do.
    mask : ndarray, optional
        True where a pixel must be left out, shape (rows, columns).

    Raises
    ------
    ValueError
        If the shapes differ, or the gain has no positive value.

    Examples
    --------
    >>> import numpy as np
    >>> known = References(dark=np.full((2, 2), 10.0), gain=np.array([[1.0, 2.0], [1.0, 0.0]]))
    >>> known.applied(np.full((2, 2), 30.0, np.float32))
    array([[20., 10.],
           [20., 20.]], dtype=float32)
    >>> known.left_out
    array([[False, False],
           [False,  True]])
    """

    dark: NDArray[Any] | None = None
    gain: NDArray[Any] | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        given = {"dark": self.dark, "gain": self.gain, "mask": self.mask}
        shapes = {name: array.shape for name, array in given.items() if array is not None}
        if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
            told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(
                f"the references have the shapes {told}; one of (rows, columns) is due"
            )
        if self.gain is not None and not (self._sensitivity > 0).any():
            raise ValueError("the gain reference has no positive value")

    @property
    def shape(self) -> tuple[int, int] | None:
        """Rows and columns; None if there is no reference."""
        for array in (self.dark, self.gain, self.mask):
            if array is not None:
                return array.shape[0], array.shape[1]
        return None

    @property
    def _sensitivity(self) -> Floats:
        gain = np.asarray(self.gain, np.float32)
        return np.where(np.isfinite(gain), gain, np.float32(0))

    @property
    def left_out(self) -> Mask | None:
        """Pixels that cannot be used: masked, without dark, or without gain; None if none."""
        out: Mask | None = None if self.mask is None else np.array(self.mask, np.bool_)
        if self.dark is not None:
            bad = ~np.isfinite(self.dark)
            out = bad if out is None else out | bad
        if self.gain is not None:
            bad = self._sensitivity <= 0
            out = bad if out is None else out | bad
        return out if out is not None and out.any() else None

    def applied(self, counts: Floats) -> Floats:
        """Take dark and gain away.

        Parameters
        ----------
        counts : ndarray
            Float32, shape (rows, columns).

        Returns
        -------
        ndarray
            Float32; `counts` itself if there is neither dark nor gain. Pixels of `left_out` hold
            no measured value.

        Raises
        ------
        ValueError
            If the frame has another shape than the references.
        """
        if self.shape is not None and self.shape != counts.shape:
            raise ValueError(
                f"the references have the shape {self.shape}, the frame {counts.shape}"
            )
        if self.dark is not None:
            dark = np.asarray(self.dark, np.float32)
            known = np.where(np.isfinite(dark), dark, np.float32(0)).astype(np.float32)
            counts = np.subtract(counts, known, dtype=np.float32)
        if self.gain is not None:
            gain = self._sensitivity
            good = gain > 0
            middle = np.float32(np.median(gain[good]))
            relative = np.where(good, gain / middle, np.float32(1))
            counts = np.divide(counts, relative, dtype=np.float32)
        return counts


def read_reference(path: Path) -> NDArray[Any]:
    """Read a reference frame; a stack of frames gives its mean.

    Parameters
    ----------
    path : Path
        ``.npy``, ``.npz`` (its array ``data``, or the only one), ``.mrc`` or ``.tif``.

    Returns
    -------
    ndarray
        Float32, shape (rows, columns).

    Raises
    ------
    ValueError
        If the file cannot be read, is of another kind, or holds no image.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: a reference is read from {', '.join(_READERS)}")
    try:
        data = np.asarray(reader(path))
    except Exception as error:  # each reader has its own errors
        raise ValueError(f"{path} cannot be read as a reference: {error}") from None
    if data.ndim == 3:
        data = data.mean(axis=0, dtype=np.float64)
    if data.ndim != 2 or data.size == 0 or data.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds an array of shape {data.shape}; (rows, columns) is needed")
    return data.astype(np.float32)


def _npy(path: Path) -> NDArray[Any]:
    return np.load(path, allow_pickle=False)


def _npz(path: Path) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        if "data" not in names and len(names) != 1:
            raise ValueError(f"it holds {', '.join(names)}; name the array 'data'")
        return arrays["data" if "data" in names else names[0]]


def _mrc(path: Path) -> NDArray[Any]:
    import mrcfile

    with mrcfile.open(path, permissive=False) as opened:
        return np.array(opened.data)


def _tiff(path: Path) -> NDArray[Any]:
    import tifffile

    return tifffile.imread(path)


_READERS: dict[str, Callable[[Path], NDArray[Any]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".mrc": _mrc,
    ".mrcs": _mrc,
    ".st": _mrc,
    ".tif": _tiff,
    ".tiff": _tiff,
}
