"""MRC files byte by byte: modes, signs, byte orders, and what extended headers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mrcfile.dtypes import HEADER_DTYPE, get_ext_header_dtype

from pyrotome.analysis.io.readers.mrc import open_mrc
from pyrotome.protocols.core.errors import BadInput

IMOD_STAMP = 1146047817
TILTS = [-40.0, -20.0, 0.0, 20.5, 40.0]


def header_bytes(shape: tuple[int, int, int], mode: int, order: str = "<", **more: Any) -> bytes:
    """A header of 1024 bytes; `more` sets fields of mrcfile by name, and IMOD's flags."""
    raw = np.zeros((), np.dtype(HEADER_DTYPE).newbyteorder(order))
    raw["nz"], raw["ny"], raw["nx"] = shape
    raw["mz"], raw["my"], raw["mx"] = shape
    raw["mode"] = mode
    raw["cella"] = tuple(25.0 * side for side in shape[::-1])
    raw["map"], raw["machst"] = b"MAP ", (0x44, 0x44, 0, 0) if order == "<" else (0x11, 0x11, 0, 0)
    flags, counts = more.pop("flags", None), more.pop("counts", (0, 0))
    for name, value in more.items():
        raw[name] = value
    data = bytearray(raw.tobytes())
    data[128:132] = np.array(counts, f"{order}i2").tobytes()
    if flags is not None:
        data[152:160] = np.array([IMOD_STAMP, flags], f"{order}i4").tobytes()
    return bytes(data)


def written(folder: Path, *parts: bytes) -> Path:
    path = folder / "stack.mrc"
    path.write_bytes(b"".join(parts))
    return path


def images_of(path: Path) -> np.ndarray[Any, Any]:
    with open_mrc(path) as stack:
        return np.stack([stack.read(index) for index in range(stack.shape[0])])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("mode", "dtype"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")]
)
def test_modes_in_both_byte_orders(tmp_path: Path, order: str, mode: int, dtype: str) -> None:
    values = np.arange(24).reshape(2, 3, 4) - (3 if mode < 2 else 0)
    values = values.astype(f"{order}{dtype}")
    path = written(tmp_path, header_bytes((2, 3, 4), mode, order), values.tobytes())
    assert np.array_equal(images_of(path), values)
    with mrcfile.open(path) as theirs:
        assert np.array_equal(theirs.data, values)


@pytest.mark.parametrize(
    ("more", "signed"),
    [
        ({}, True),  # MRC2014
        ({"dmax": 200.0}, False),
        ({"flags": 0}, False),
        ({"flags": 1}, True),
        ({"flags": 0, "dmax": 3.0}, False),
    ],
)
def test_the_sign_of_mode_0(tmp_path: Path, more: dict[str, Any], signed: bool) -> None:
    raw = np.array([[[0, 127, 128, 255]]], np.uint8)
    path = written(tmp_path, header_bytes((1, 1, 4), 0, **more), raw.tobytes())
    assert np.array_equal(images_of(path), raw.view(np.int8) if signed else raw)


@pytest.mark.parametrize("halved", [False, True])
@given(columns=st.integers(1, 9), data=st.data())
@settings(max_examples=20)
def test_four_bits(
    tmp_path_factory: pytest.TempPathFactory, halved: bool, columns: int, data: st.DataObject
) -> None:
    if halved:
        columns += columns % 2
    values = np.array(
        data.draw(st.lists(st.integers(0, 15), min_size=2 * columns, max_size=2 * columns)),
        np.uint8,
    ).reshape(1, 2, columns)
    padded = np.pad(values, ((0, 0), (0, 0), (0, columns % 2)))
    packed = padded[..., ::2] | padded[..., 1::2] << 4
    if halved:  # IMOD's flag: mode 0, and the size in x is that of the bytes
        header = header_bytes((1, 2, columns // 2), 0, flags=16)
    else:
        header = header_bytes((1, 2, columns), 101)
    path = written(tmp_path_factory.mktemp("four"), header, packed.tobytes())
    assert np.array_equal(images_of(path), values)


def fei_rows(kind: bytes, mask: int, order: str = "<", **values: Any) -> bytes:
    rows = np.zeros(5, get_ext_header_dtype(kind, order))  # type: ignore[arg-type]
    rows["Metadata size"], rows["Bitmask 1"] = rows.dtype.itemsize, mask
    rows["Alpha tilt"], rows["Pixel size X"], rows["HT"] = TILTS, 1.25e-9, 300_000
    rows["Timestamp"] = 46_000.5 + np.arange(5) / 86_400
    for name, value in values.items():
        rows[name.replace("_", " ")] = value
    return rows.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [b"FEI1", b"FEI2"])
def test_fei_1_and_2(tmp_path: Path, kind: bytes, order: str) -> None:
    extended = fei_rows(kind, 0xFFFFFFFF, order, Tilt_axis_angle=-84.8)
    header = header_bytes((5, 1, 2), 1, order, exttyp=kind, nsymbt=len(extended))
    with open_mrc(written(tmp_path, header, extended, bytes(20))) as stack:
        assert stack.tilt_deg is not None
        assert stack.tilt_deg.tolist() == TILTS
        assert stack.pixel_nm == 1.25
        assert stack.voltage_kv == 300
        assert stack.tilt_axis_deg == 84.8, "IMOD turns the sign of FEI's axis"
        assert stack.times is not None
        assert str(stack.times[0]) == "2025-12-09T12:00:00.000"
        assert (np.diff(stack.times) == np.timedelta64(1000, "ms")).all()


def test_fields_that_fei_says_are_not_set(tmp_path: Path) -> None:
    extended = fei_rows(b"FEI1", 1 << 7, Tilt_axis_angle=-84.8)  # the tilt alone
    header = header_bytes((5, 1, 2), 1, exttyp=b"FEI1", nsymbt=len(extended))
    with open_mrc(written(tmp_path, header, extended, bytes(20))) as stack:
        assert stack.tilt_deg is not None
        assert stack.tilt_axis_deg is None
        assert stack.times is None
        assert stack.pixel_nm == 2.5, "that of the cell"


def test_a_version_of_fei_that_converted_twice(tmp_path: Path) -> None:
    extended = fei_rows(
        b"FEI1", 0xFFFFFFFF, Application_version=b"4.4.0.4981",
        Alpha_tilt=np.degrees(TILTS), Tilt_axis_angle=0,
    )  # fmt: skip
    header = header_bytes((5, 1, 2), 1, exttyp=b"FEI1", nsymbt=len(extended))
    with open_mrc(written(tmp_path, header, extended, bytes(20))) as stack:
        assert stack.tilt_deg is not None
        assert np.allclose(stack.tilt_deg, TILTS)


@pytest.mark.parametrize("exttyp", [b"SERI", b""])
def test_serialem(tmp_path: Path, exttyp: bytes) -> None:
    # Tilt (2 bytes) and stage position (4 bytes).
    extended = b"".join(
        np.array([round(100 * tilt), 7, 7], "<i2").tobytes() for tilt in TILTS
    ) + bytes(34)
    header = bytearray(
        header_bytes((5, 1, 2), 1, exttyp=exttyp, nsymbt=len(extended), counts=(6, 5))
    )
    title = b"    Tilt axis angle = 84.8, binning = 2  spot = 7  camera = 0"
    header[224 + 80 : 224 + 80 + len(title)] = title
    with open_mrc(written(tmp_path, bytes(header), extended, bytes(20))) as stack:
        assert stack.tilt_deg is not None
        assert stack.tilt_deg.tolist() == TILTS
        assert stack.tilt_axis_deg == 84.8


@pytest.mark.parametrize(
    ("exttyp", "label", "axis_deg"), [(b"AGAR", b"somebody", 84.8), (b"", b"Fei Company", -84.8)]
)
def test_agard(tmp_path: Path, exttyp: bytes, label: bytes, axis_deg: float) -> None:
    rows = np.zeros((5, 1 + 16), "<f4")
    rows[:, 1], rows[:, 1 + 10], rows[:, 1 + 11] = TILTS, 84.8, 1.25e-9
    header = bytearray(
        header_bytes((5, 1, 2), 1, exttyp=exttyp, nsymbt=rows.nbytes, counts=(1, 16))
    )
    header[224 : 224 + len(label)] = label
    with open_mrc(written(tmp_path, bytes(header), rows.tobytes(), bytes(20))) as stack:
        assert stack.tilt_deg is not None
        assert stack.tilt_deg.tolist() == TILTS
        assert stack.tilt_axis_deg == pytest.approx(axis_deg)
        assert stack.pixel_nm == 1.25


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((b"short",), "5 bytes are shorter than the header"),
        ((header_bytes((2, 2, 2), 4), bytes(64)), r"mode 4 \(complex numbers\); readable modes: 0"),
        ((header_bytes((2, 2, 2), 99), bytes(64)), "mode 99"),
        ((header_bytes((2, 2, 2), 1), bytes(15)), r"cut off: .* need 1040 bytes.* 1039 \(1 whole"),
        ((header_bytes((2, 2, 2), 1, nsymbt=999), bytes(16)), "extended header of 999 bytes"),
        ((header_bytes((-2, 2, 2), 1), bytes(16)), "its header says -2 images"),
        ((bytes(2000),), "its header says 0 images"),
    ],
)
def test_what_is_no_stack(tmp_path: Path, parts: tuple[bytes, ...], words: str) -> None:
    with pytest.raises(BadInput, match=words), open_mrc(written(tmp_path, *parts)):
        pass


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(noise=st.binary(min_size=0, max_size=3000), data=st.data())
@settings(max_examples=60)
def test_nonsense_in_the_header_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, data: st.DataObject
) -> None:
    header = bytearray(header_bytes((2, 2, 2), 1, exttyp=b"FEI1", nsymbt=min(len(noise), 800)))
    for _ in range(data.draw(st.integers(0, 6))):
        header[data.draw(st.integers(0, 1023))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.mktemp("noise"), bytes(header), noise)
    try:
        with open_mrc(path) as stack:
            stack.read(0)
    except BadInput:
        pass
