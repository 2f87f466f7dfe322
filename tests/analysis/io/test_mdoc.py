"""SerialEM's .mdoc and lists of angles: what they say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyrotome.analysis.io.mdoc import read_mdoc
from pyrotome.analysis.io.tilt_angles import read_tilts
from pyrotome.protocols.core.errors import BadInput

HEAD = "PixelSpacing = 7.88\nVoltage = 300\nImageFile = a.mrc\n\n"


def sections(*angles: float, more: str = "") -> str:
    return "".join(
        f"[ZValue = {n}]\nTiltAngle = {a}\nDateTime = 31-Mar-23  16:24:{15 + n}\n{more}\n"
        for n, a in enumerate(angles)
    )


def test_what_an_mdoc_says() -> None:
    title = "[T =     Tilt axis angle = -88.7, binning = 2  spot = 7  camera = 0]\n\n"
    mdoc = read_mdoc(Path("a.mdoc"), HEAD + title + sections(-2, 0, 2))
    assert mdoc.tilt_deg.tolist() == [-2, 0, 2]
    assert mdoc.pixel_nm == 0.788
    assert mdoc.voltage_kv == 300
    assert mdoc.tilt_axis_deg == -88.7
    assert mdoc.times is not None
    assert str(mdoc.times[0]) == "2023-03-31T16:24:15.000"


@pytest.mark.parametrize(
    ("title", "rotation", "axis_deg"),
    [
        ("", "", None),
        ("", "174.8", 84.8),
        ("Tilt axis angle = 84.8, binning = 1", "11", 84.8),
        ("TiltAxisAngle = -120.0", "30.0", 30.0),  # the case of IMOD's own test of `header`
        ("TiltAxisAngle = 84.8", "174.8", 84.8),
        ("TiltAxisAngle = -84.8", "174.8", 84.8),
        ("TiltAxisAngle = 12.0", "50", None),
        ("TiltAxisAngle = 12.0", "", None),
    ],
)
def test_where_the_axis_stands(title: str, rotation: str, axis_deg: float | None) -> None:
    more = f"RotationAngle = {rotation}\n" if rotation else ""
    text = HEAD + (f"[T = {title}]\n" if title else "") + sections(-2, 0, 2, more=more)
    found = read_mdoc(Path("a.mdoc"), text).tilt_axis_deg
    assert found == (None if axis_deg is None else pytest.approx(axis_deg))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no image"),
        ("[ZValue = 0]\nStageZ = 1\n", "a.mdoc:1: this image has no TiltAngle"),
        ("[ZValue = 0]\nTiltAngle = x\n", "a.mdoc:1: TiltAngle is 'x'"),
        (sections(1, 2).replace("ZValue = 1", "ZValue = 4"), "numbered 0 to 4"),
    ],
)
def test_a_bad_mdoc(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_mdoc(Path("a.mdoc"), text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-400\n0\n400\n", r"a.tlt:1: '-400' is beyond 360 deg"),
        ("1e30\n0\n1\n", r"a.tlt:1: '1e30' is beyond 360 deg"),
        ("3\n3\n3\n", "all 3 angles are 3 deg"),
        ("-1.0472\n-0.5236\n0\n0.5236\n1.0472\n", r"seem to be radians \(in deg: -60.* to 60"),
    ],
)
def test_angles_that_make_no_sense(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.tlt"
    path.write_text(text)
    with pytest.raises(BadInput, match=words):
        read_tilts(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marks_of_windows(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.tlt"
    path.write_text("-1\n0\n1\n", encoding=encoding)
    assert np.array_equal(read_tilts(path), [-1, 0, 1])
