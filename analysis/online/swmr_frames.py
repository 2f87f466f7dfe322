"""Read single frames from a run file while another process writes it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # pyright: ignore[reportUnusedImport]  # noqa: F401 - registers the frames' filter
import numpy as np
from numpy.typing import NDArray

from ...protocols.runfile import layout

_POLL_S = 0.1


class NotThere(Exception):
    """A frame has not appeared in the file in time, or the file cannot be read."""


class GrowingFile:
    """A run file in SWMR mode, opened when the first frame is asked for.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: h5py.File | None = None

    def frame(self, stack: str, index: int, timeout_s: float = 60.0) -> NDArray[Any]:
        """One frame, as soon as it is in the file.

        Parameters
        ----------
        stack : str
            Such as ``series_001``.
        index : int
            Position in the stack, from 0.
        timeout_s : float
            Wall seconds to wait for the recorder.

        Returns
        -------
        ndarray
            Counts, shape (rows, columns).

        Raises
        ------
        NotThere
            If it does not appear in time, or the file cannot be read.
        """
        end_s = time.monotonic() + timeout_s
        try:
            file = self._opened()
            keys: Any = file[layout.image_key_path(stack)]
            frames: Any = file[layout.frames_path(stack)]
            while keys[index] != layout.RECORDED:
                if time.monotonic() > end_s:
                    raise NotThere(
                        f"{stack} frame {index} did not appear in {self._path} "
                        f"within {timeout_s:g} s"
                    )
                time.sleep(_POLL_S)
                keys.refresh()
            frames.refresh()
            return np.asarray(frames[index])
        except (OSError, KeyError, IndexError, RuntimeError) as error:
            self.close()
            raise NotThere(
                f"{stack} frame {index} cannot be read from {self._path}: {error}"
            ) from None

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> h5py.File:
        if self._file is None:
            self._file = h5py.File(self._path, "r", swmr=True)
        return self._file
