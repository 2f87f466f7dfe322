"""Readers of tilt series of other programs: MRC (also old FEI headers), npz, EMD, NXtomo, TIFF."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py, mrcfile and tifffile carry no types.

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import hdf5plugin  # pyright: ignore[reportUnusedImport]  # noqa: F401 - registers the frames' filter
import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput
from ...protocols.core.units import parse_quantity
from ...protocols.runfile import layout

Floats = NDArray[np.float64]

MRC_SUFFIXES = (".mrc", ".mrcs", ".st", ".ali", ".rec")
HDF5_SUFFIXES = (".emd", ".nxs", ".nx", ".h5", ".hdf5", ".hdf")
TIFF_SUFFIXES = (".tif", ".tiff")
_IMAGE_KEYS = ("images", "counts", "data", "stack", "projections")
_ANGLE_KEYS = ("tilt_deg", "angles_deg", "angles", "tilts", "rotation_angle")
_PIXEL_KEYS = ("pixel_nm", "pixel_size_nm")
_BYTE_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
# The extended header of FEI before 2014: for each image 32 floats, 4 bytes each.
_FEI_FLOATS = 32
_FEI_TILT, _FEI_PIXEL_M, _FEI_VOLTAGE_V = 0, 11, 13
_MAX_UNEQUAL = 1e-3  # relative difference of the sides of a pixel


@dataclass(frozen=True)
class TiltStack:
    """A tilt series in an open file.

    Attributes
    ----------
    form : str
        File format.
    shape : tuple of int
        (images, rows, columns).
    dtype : dtype
        Type of the stored values.
    read : callable
        Reads one image by its index, shape (rows, columns).
    tilt_deg : ndarray or None
        Angles in degrees, shape (images,), if the file has them.
    pixel_nm : float or None
        Pixel size, if the file has it.
    voltage_kv : float or None
        Acceleration voltage, if the file has it.
    there : ndarray or None
        Bool, shape (images,): the images that were recorded; None if all were.
    value_offset, value_scale : int, float
        value = (stored - value_offset) * value_scale.
    """

    form: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    read: Callable[[int], NDArray[Any]]
    tilt_deg: Floats | None = None
    pixel_nm: float | None = None
    voltage_kv: float | None = None
    there: NDArray[np.bool_] | None = None
    value_offset: int = 0
    value_scale: float = 1.0


@contextmanager
def open_stack(path: Path, name: str | None = None) -> Iterator[TiltStack]:
    """Open a tilt series; the suffix of the file selects the reader.

    Parameters
    ----------
    path : Path
        The file.
    name : str, optional
        Name of the stack, if an HDF5 file holds several.

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
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "series.npz"
    ...     np.savez(path, images=np.zeros((3, 8, 8)), tilt_deg=[-1.0, 0.0, 1.0])
    ...     with open_stack(path) as stack:
    ...         stack.shape
    (3, 8, 8)
    """
    suffix = path.suffix.lower()
    readers: list[tuple[tuple[str, ...], Callable[[Path], Any]]] = [
        (MRC_SUFFIXES, _open_mrc),
        ((".npz",), _open_npz),
        (HDF5_SUFFIXES, partial(_open_hdf5, name=name)),
        (TIFF_SUFFIXES, _open_tiff),
    ]
    reader = next((reader for suffixes, reader in readers if suffix in suffixes), None)
    if not path.exists():
        raise BadInput(str(path), "no such file")
    if path.is_dir():
        raise BadInput(str(path), "is a folder; give the file of a tilt series")
    if reader is None:
        known = ", ".join(s for suffixes, _ in readers for s in suffixes)
        raise BadInput(str(path), f"the format '{suffix}' is unknown; known formats: {known}")
    with reader(path) as stack:
        if len(stack.shape) != 3 or 0 in stack.shape:
            raise BadInput(
                str(path), f"holds an array of shape {stack.shape}; a stack of images is expected"
            )
        if stack.dtype.kind not in "uif":
            raise BadInput(str(path), f"holds {stack.dtype}; only plain numbers can be imported")
        yield stack


@contextmanager
def _open_mrc(path: Path) -> Iterator[TiltStack]:
    import mrcfile

    try:
        # mrcfile trusts the length of the extended header and allocates it before reading:
        # gigabytes for a file that is not MRC.
        with path.open("rb") as raw:
            header = raw.read(1024)
        lengths = [int.from_bytes(header[92:96], order, signed=True) for order in _BYTE_ORDERS]
        if not any(0 <= n <= path.stat().st_size - 1024 for n in lengths):
            raise ValueError("it is shorter than its header says")
        with warnings.catch_warnings():
            # Old FEI files lack the map identifier; mrcfile warns and reads them.
            warnings.simplefilter("ignore")
            opened: Any = mrcfile.mmap(path, "r", permissive=True)
    except (OSError, ValueError) as error:
        raise BadInput(str(path), f"is not a readable MRC file: {error}") from None
    with opened as file:
        data = file.data
        if data is None:
            raise BadInput(str(path), "is an MRC file without a readable image")
        fei = _fei_header(file, len(data))
        size = file.voxel_size
        pixel_nm = None
        # Programs write 1 A if they do not know the pixel size.
        if size.x > 0 and size.x != 1.0:
            _check_square(path, float(size.x), float(size.y))
            pixel_nm = float(size.x) / 10
        yield TiltStack(
            "MRC with an FEI extended header" if fei else "MRC",
            data.shape,
            data.dtype,
            lambda index: np.asarray(data[index]),
            tilt_deg=fei.get("tilt_deg"),
            pixel_nm=fei.get("pixel_nm", pixel_nm),
            voltage_kv=fei.get("voltage_kv"),
        )


def _fei_header(file: Any, images: int) -> dict[str, Any]:
    """Values of an FEI extended header; empty without one."""
    raw = bytes(file.extended_header.tobytes())
    fei = any(b"fei" in bytes(label).lower() for label in file.header.label)
    if not fei or len(raw) < images * _FEI_FLOATS * 4:
        return {}
    order = file.header.nx.dtype.byteorder
    rows = np.frombuffer(raw, np.dtype("f4").newbyteorder(order))
    rows = rows[: images * _FEI_FLOATS].reshape(images, _FEI_FLOATS)
    tilt_deg = rows[:, _FEI_TILT].astype(np.float64)
    pixel_nm, voltage_kv = rows[0, _FEI_PIXEL_M] * 1e9, rows[0, _FEI_VOLTAGE_V] / 1000
    if not np.isfinite(tilt_deg).all() or np.abs(tilt_deg).max() > 360:
        return {}
    found: dict[str, Any] = {"tilt_deg": tilt_deg} if np.ptp(tilt_deg) > 0 else {}
    # Single precision, so that 3.36 nm stays 3.36 nm.
    if 1e-3 < pixel_nm < 1e6:
        found["pixel_nm"] = float(f"{pixel_nm:.6g}")
    if 1 <= voltage_kv <= 1500:
        found["voltage_kv"] = float(f"{voltage_kv:.6g}")
    return found


@contextmanager
def _open_npz(path: Path) -> Iterator[TiltStack]:
    try:
        with np.load(path, allow_pickle=False) as file:
            stacks = {name: file[name] for name in file.files if file[name].ndim == 3}
            tilts = next((file[name] for name in _ANGLE_KEYS if name in file.files), None)
            pixel = next((file[name] for name in _PIXEL_KEYS if name in file.files), None)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(str(path), f"is not a readable npz file: {error}") from None
    named = [name for name in _IMAGE_KEYS if name in stacks] or list(stacks)
    if not named or (len(stacks) > 1 and named[0] not in _IMAGE_KEYS):
        raise BadInput(
            str(path),
            f"no array with three axes has one of the names {', '.join(_IMAGE_KEYS)}; arrays with "
            f"three axes: {', '.join(stacks) or 'none'}",
        )
    data = stacks[named[0]]
    yield TiltStack(
        f"npz ({named[0]})",
        data.shape,
        data.dtype,
        lambda index: data[index],
        tilt_deg=None if tilts is None else np.asarray(tilts, np.float64).ravel(),
        pixel_nm=None if pixel is None else float(np.ravel(pixel)[0]),
    )


@contextmanager
def _open_tiff(path: Path) -> Iterator[TiltStack]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            data = file.series[0].asarray().squeeze()
            pixel_nm = _tiff_pixel_nm(file)
    except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
        raise BadInput(str(path), f"is not a readable TIFF file: {error}") from None
    yield TiltStack("TIFF", data.shape, data.dtype, lambda index: data[index], pixel_nm=pixel_nm)


def _tiff_pixel_nm(file: Any) -> float | None:
    """Pixel size of ImageJ or OME metadata; the plain resolution tag is for printers."""
    if file.is_ome:
        size = re.search(r'PhysicalSizeX="([^"]+)"', file.ome_metadata)
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', file.ome_metadata)
        return _nm(size.group(1), unit.group(1) if unit else "um") if size else None
    if file.is_imagej:
        unit = (file.imagej_metadata or {}).get("unit")
        tag = file.pages[0].tags.get("XResolution")
        if unit and tag is not None and tag.value[0]:
            return _nm(tag.value[1] / tag.value[0], str(unit))
    return None


@contextmanager
def _open_hdf5(path: Path, *, name: str | None) -> Iterator[TiltStack]:
    if not h5py.is_hdf5(path):
        raise BadInput(str(path), "is not an HDF5 file")
    try:
        opened: Any = h5py.File(path, "r")
    except OSError as error:
        raise BadInput(str(path), f"HDF5 cannot open the file: {error}") from None
    with opened as file:
        found: dict[str, Callable[[], TiltStack]] = {}

        def look(place: str, item: Any) -> None:
            if not isinstance(item, h5py.Group):
                return
            if "data" in item and "emd_group_type" in item.attrs:
                if getattr(item["data"], "ndim", 0) == 3:
                    found[place] = lambda: _emd(path, item)
            elif layout.frames_path("x")[3:] in item and _is_nxtomo(item):
                found[place] = lambda: _nxtomo(path, item)

        file.visititems(look)
        if not found:
            hint = " (EMD of Velox is not supported)" if "Version" in file else ""
            raise BadInput(str(path), f"holds neither an EMD nor an NXtomo tilt series{hint}")
        if name is None and len(found) > 1:
            raise BadInput(
                str(path), f"holds several stacks; choose one with --entry: {', '.join(found)}"
            )
        if name is not None and name.strip("/") not in found:
            raise BadInput("--entry", f"{path} has no stack '{name}'; it has {', '.join(found)}")
        try:
            stack = found[name.strip("/") if name is not None else next(iter(found))]()
        except (KeyError, ValueError, OSError, RuntimeError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(str(path), f"is damaged or incomplete: {error}") from None
        yield stack


def _is_nxtomo(entry: Any) -> bool:
    definition = entry.get("definition")
    return definition is not None and _text(definition[()]).strip() == "NXtomo"


def _nxtomo(path: Path, entry: Any) -> TiltStack:
    """Projections of an NXtomo entry, without flat and dark fields; missing images stay missing."""
    detector = entry["instrument/detector"]
    data = detector["data"]
    keys = np.asarray(detector["image_key"][...]) if "image_key" in detector else None
    if keys is None:
        keys = np.zeros(len(data), np.int64)
    if keys.shape != data.shape[:1]:
        raise BadInput(str(path), f"{data.name} has {len(data)} images and {keys.size} image keys")
    used = np.flatnonzero((keys == layout.RECORDED) | (keys == layout.MISSING))
    angle = entry["sample/rotation_angle"]
    angles = np.asarray(angle[...], np.float64).ravel()
    if angles.shape != data.shape[:1]:
        raise BadInput(str(path), f"{data.name} has {len(data)} images and {angles.size} angles")
    nominal = entry.get("frames/nominal_tilt")
    if nominal is not None and nominal.shape == angles.shape:
        angles = np.where(np.isfinite(angles), angles, nominal[...])
    if "rad" in str(angle.attrs.get("units", "")):
        angles = np.degrees(angles)
    pixel_nm = None
    if "x_pixel_size" in detector:
        sizes = [
            detector[f"{axis}_pixel_size"] for axis in "xy" if f"{axis}_pixel_size" in detector
        ]
        in_nm = [_nm(float(np.ravel(s[()])[0]), _text(s.attrs.get("units", "m"))) for s in sizes]
        pixel_nm = in_nm[0]
        if pixel_nm is not None and in_nm[-1] is not None:
            _check_square(path, pixel_nm, in_nm[-1])
    offset, scale = (detector.get(f"encoding/value_{what}") for what in ("offset", "scale"))
    return TiltStack(
        "NXtomo",
        (len(used), *data.shape[1:]),
        data.dtype,
        lambda index: np.asarray(data[used[index]]),
        tilt_deg=angles[used],
        pixel_nm=pixel_nm,
        there=keys[used] == layout.RECORDED,
        value_offset=0 if offset is None else int(offset[()]),
        value_scale=1.0 if scale is None else float(scale[()]),
    )


def _emd(path: Path, group: Any) -> TiltStack:
    """A Berkeley EMD group; names and units identify the axes, not their order."""
    data = group["data"]
    first = 0 if "dim0" in group else 1
    axes = [_EmdAxis.of(group.get(f"dim{first + axis}"), data.shape[axis]) for axis in range(3)]
    turned = [number for number, axis in enumerate(axes) if axis.is_angle]
    if len(turned) > 1:
        raise BadInput(str(path), f"{group.name} has {len(turned)} axes of angles")
    along = turned[0] if turned else 0
    rows, columns = (number for number in range(3) if number != along)
    # Some programs store the axes in the opposite order, x before y.
    if axes[rows].name.startswith("x") and axes[columns].name.startswith("y"):
        rows, columns = columns, rows
    images = np.transpose(data[...], (along, rows, columns))
    pixels = [axes[columns].pixel_nm, axes[rows].pixel_nm]
    if pixels[0] is not None and pixels[1] is not None:
        _check_square(path, pixels[0], pixels[1])
    return TiltStack(
        "EMD (Berkeley)",
        images.shape,
        images.dtype,
        lambda index: np.ascontiguousarray(images[index]),
        tilt_deg=axes[along].angles_deg if turned else None,
        pixel_nm=pixels[0],
    )


@dataclass(frozen=True)
class _EmdAxis:
    """One ``dim`` of an EMD group."""

    name: str
    is_angle: bool = False
    angles_deg: Floats | None = None
    pixel_nm: float | None = None

    @classmethod
    def of(cls, dim: Any, size: int) -> _EmdAxis:
        if dim is None:
            return cls("")
        values = np.asarray(dim[...], np.float64).ravel()
        if values.size == 2 < size:  # an even axis may be given by its first two values
            values = values[0] + np.arange(size) * (values[1] - values[0])
        name = _text(dim.attrs.get("name", "")).lower()
        # "[n_m]" is how EMD 0.2 writes nm.
        units = re.sub(r"[\[\]_]", "", _text(dim.attrs.get("units", "")))
        if units in {"deg", "degree", "degrees", "°", "rad", "radian"} or (
            not units and re.search(r"angle|tilt|alpha", name)
        ):
            if units.startswith("rad"):
                values = np.degrees(values)
            return cls(name, True, values if values.size == size else None)
        step = abs(values[1] - values[0]) if values.size > 1 else 0.0
        return cls(name, pixel_nm=_nm(step, units) if step > 0 else None)


def _nm(value: float | str, unit: str) -> float | None:
    """Length in nm with the digits of single precision; None without a unit of length."""
    # ImageJ writes the micro sign as an escape; the unit "pixel" means an uncalibrated image.
    unit = unit.replace("\\u00B5", "u").replace("micron", "um").replace("Angstroem", "angstrom")
    unit = {"A": "angstrom", "Å": "angstrom"}.get(unit, unit)
    if unit.lower() in {"", "pixel", "pixels", "px"}:
        return None
    try:
        return float(f"{parse_quantity(f'{float(value)!r} {unit}', 'nm', '1 nm'):.7g}")
    except ValueError:
        return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _check_square(path: Path, x: float, y: float) -> None:
    if abs(x - y) > _MAX_UNEQUAL * x:
        raise BadInput(str(path), f"the pixels are {x:g} by {y:g} nm; square pixels are expected")
