"""Dark and flat frames that came with an imported series, as means, in the run file."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tree.nodes import Dataset, Group, Node

DARK, FLAT = "dark", "flat"
_WHAT = {DARK: "mean of the frames without beam", FLAT: "mean of the frames without specimen"}


@dataclass(frozen=True)
class StackReferences:
    """Mean dark and flat frame of a series, in the counts of its frames.

    Attributes
    ----------
    dark, flat : ndarray of float32 or None
        Shape (rows, columns); None where the series came without.
    dark_frames, flat_frames : int
        How many frames each is the mean of.
    """

    dark: NDArray[np.float32] | None = None
    flat: NDArray[np.float32] | None = None
    dark_frames: int = 0
    flat_frames: int = 0

    def nodes(self, stack: str) -> Iterator[Node]:
        """What the run file holds of them; nothing where there is none."""
        kept = ((DARK, self.dark, self.dark_frames), (FLAT, self.flat, self.flat_frames))
        if self.dark is None and self.flat is None:
            return
        yield Group(references_path(stack), "NXcollection")
        for name, image, frames in kept:
            if image is not None:
                attrs = {"frames": np.int64(frames), "long_name": _WHAT[name]}
                yield Dataset(f"{references_path(stack)}/{name}", image, attrs=attrs)


def references_path(stack: str) -> str:
    """Group of the dark and flat frames of a stack."""
    return f"/{stack}/references"


def references_of(file: Any, stack: str) -> StackReferences | None:
    """Dark and flat frames of a stack of an open run file; None where it has none."""
    path = references_path(stack)
    if path not in file:
        return None
    group = file[path]
    found: dict[str, Any] = {}
    for name in (DARK, FLAT):
        if name in group:
            found[name] = np.asarray(group[name][...], np.float32)
            found[f"{name}_frames"] = int(group[name].attrs.get("frames", 1))
    return StackReferences(**found)
