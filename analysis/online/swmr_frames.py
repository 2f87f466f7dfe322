"""Read single frames from a run file while another process writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...protocols.core.errors import BadInput
from ...protocols.messages.offsets import FrameOffset
from ...protocols.runfile.reader import HDF5_ERRORS, NotRecorded, Run, open_run


class NotThere(Exception):
    """A frame has not appeared in the file in time, or the file cannot be read."""


class GrowingFile:
    """A run file that is being recorded, opened when the first frame is wanted.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run: Run | None = None

    def frame(self, stack: str, index: int, timeout_s: float = 60.0) -> NDArray[Any]:
        """One frame, as soon as it is in the file.

        Parameters
        ----------
        stack : str
            Such as ``series_001``.
        index : int
            Index in the stack, from 0.
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
        try:
            if self._run is None:
                self._run = open_run(self._path, growing=True)
            return self._run.stacks[stack].wait_for_frame(index, timeout_s)
        except NotRecorded as error:
            raise NotThere(str(error)) from None
        except (*HDF5_ERRORS, IndexError, BadInput) as error:
            self.close()
            raise NotThere(f"{self._path}: {stack} frame {index} cannot be read: {error}") from None

    def offset(self, stack: str, index: int) -> list[FrameOffset]:
        """Measured offset of a frame that was read; empty where the file does not have it."""
        try:
            known = None if self._run is None else self._run.stacks[stack].tracking
        except (*HDF5_ERRORS, IndexError, BadInput):
            return []  # the next frame opens the file again
        found = None if known is None else known.measured_nm(index)
        return [] if found is None else [FrameOffset(stack, index, *found)]

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        if self._run is not None:
            self._run.close()
            self._run = None
