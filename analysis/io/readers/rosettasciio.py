"""Reader of vendors' files through RosettaSciIO: Digital Micrograph, FEI, Velox, HyperSpy."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false
# RosettaSciIO carries no types and is an optional extra.

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ....protocols.core.errors import BadInput
from .tilt_stack import INSTALL_FORMATS, Floats, TiltStack, check_square, length_nm

# Suffix to the name of the format and the module of RosettaSciIO that reads it.
_MODULES = {
    ".dm3": ("Digital Micrograph", "digitalmicrograph"),
    ".dm4": ("Digital Micrograph", "digitalmicrograph"),
    ".ser": ("FEI SER", "tia"),
    ".emi": ("FEI EMI", "tia"),
    ".emd": ("Velox EMD", "emd"),
    ".hspy": ("HyperSpy", "hspy"),
}
ROSETTASCIIO_SUFFIXES = tuple(suffix for suffix in _MODULES if suffix != ".emd")
_DEGREES = {"deg", "degree", "degrees", "°"}
_RADIANS = {"rad", "radian", "radians"}
_VOLTAGE_KV = "Acquisition_instrument.TEM.beam_energy"


@contextmanager
def open_with_rosettasciio(path: Path, name: str | None = None) -> Iterator[TiltStack]:
    """Open a tilt series in a format that RosettaSciIO reads.

    Parameters
    ----------
    path : Path
        The file; its suffix selects the format.
    name : str, optional
        Title of the stack, if the file holds several.

    Yields
    ------
    TiltStack

    Raises
    ------
    BadInput
        If RosettaSciIO is missing, cannot read the file, or finds no stack of images.
    """
    form, module = _MODULES[path.suffix.lower()]
    try:
        reader: Any = importlib.import_module(f"rsciio.{module}")
    except ImportError:
        raise BadInput(
            str(path), f"is {form}, which needs the package rosettasciio; {INSTALL_FORMATS}"
        ) from None
    signals = _read(path, form, reader)
    images = [_Signal(signal) for signal in signals]
    stacks = [signal for signal in images if signal.is_stack]
    if not stacks:
        shapes = ", ".join(f"'{s.title}' {s.shape}" for s in images) or "nothing"
        problem = f"{form} holds no stack of images (and no single one); it holds {shapes}"
        raise BadInput(str(path), problem)
    chosen = _chosen(path, stacks, name)
    yield chosen.stack(path, form)


def _read(path: Path, form: str, reader: Any) -> Sequence[Mapping[str, Any]]:
    # RosettaSciIO tells on its log and by warnings what it does not know; none of it is for users.
    logger = logging.getLogger("rsciio")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader.file_reader(str(path))
    except MemoryError:
        raise BadInput(str(path), f"{form}: there is not enough memory to read it") from None
    except Exception as error:  # what it raises on a damaged file is not documented
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise BadInput(str(path), f"is not a readable {form} file ({what})") from None
    finally:
        logger.setLevel(level)


def _chosen(path: Path, stacks: Sequence[_Signal], name: str | None) -> _Signal:
    # Velox keeps the image of the last frame beside the stack.
    several = [s for s in stacks if len(s.shape) == 3] or stacks
    names = ", ".join(s.title for s in stacks)
    if name is not None:
        several = [s for s in stacks if s.title == name]
        if not several:
            raise BadInput("--entry", f"{path} has no stack '{name}'; it has {names}")
    elif len(several) > 1:
        raise BadInput(str(path), f"holds several stacks; choose one with --entry: {names}")
    return several[0]


class _Signal:
    """One signal as RosettaSciIO gives it: array, axes and metadata."""

    def __init__(self, signal: Mapping[str, Any]) -> None:
        self._signal = signal
        self._axes: Sequence[Mapping[str, Any]] = signal.get("axes", ())
        self.data: Any = signal["data"]

    @property
    def title(self) -> str:
        return str(self._metadata("General.title") or "untitled")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def is_stack(self) -> bool:
        """Whether it is one image or a stack of them: two axes of lengths, and another."""
        if len(self.shape) not in {2, 3} or len(self._axes) != len(self.shape):
            return False
        return all(self._axis_nm(axis) is not None for axis in self._axes[-2:]) and not any(
            str(axis.get("units", "")).lower() in {"ev", "kev"} for axis in self._axes
        )

    def stack(self, path: Path, form: str) -> TiltStack:
        """The signal as a tilt series."""
        data = self.data if len(self.shape) == 3 else self.data[np.newaxis]
        rows_nm, columns_nm = (self._axis_nm(axis) for axis in self._axes[-2:])
        pixel_nm = columns_nm
        if rows_nm and columns_nm:
            check_square(path, columns_nm, rows_nm)
        voltage = self._metadata(_VOLTAGE_KV)
        return TiltStack(
            form,
            tuple(data.shape),
            np.dtype(data.dtype),
            lambda index: np.asarray(data[index]),
            tilt_deg=self._angles() if len(self.shape) == 3 else None,
            pixel_nm=pixel_nm or None,
            voltage_kv=float(voltage) if isinstance(voltage, int | float) and voltage > 0 else None,
        )

    def _angles(self) -> Floats | None:
        axis = self._axes[0]
        units, name = str(axis.get("units", "")).lower(), str(axis.get("name", "")).lower()
        if units not in _DEGREES | _RADIANS and not re.search(r"tilt|angle|alpha", name):
            return None
        if "axis" in axis:
            angles = np.array(axis["axis"], dtype=float)
        else:
            first, step = float(axis.get("offset", 0)), float(axis.get("scale", 1))
            angles = np.array([first + step * index for index in range(self.shape[0])])
        return angles * (180 / np.pi) if units in _RADIANS else angles

    def _axis_nm(self, axis: Mapping[str, Any]) -> float | None:
        """Step of an axis in nm; 0 where it has no unit, None where it is no length."""
        units = str(axis.get("units", "") or "").replace("µ", "u")
        if not units or units.lower() in {"px", "pixel", "pixels", "<undefined>"}:
            return 0.0
        return length_nm(abs(float(axis.get("scale", 0.0))), units)

    def _metadata(self, place: str) -> Any:
        found: Any = self._signal.get("metadata", {})
        for key in place.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found
