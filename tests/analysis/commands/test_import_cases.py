"""Files that once went wrong: each is imported with the right values, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyrotome.analysis.commands.import_ import ImportRequest, carry_out
from pyrotome.analysis.io.tilt_series_readers import open_stack
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile.reader import open_run
from pyrotome.protocols.runfile.summary import inspect_file

TILTS = [-40.0, -20.0, 0.0, 20.5, 40.0]


def imported(folder: Path, target: Path, name: str, tilts: str | None = None, **more: Any) -> Any:
    angles = None if tilts is None else folder / tilts
    return carry_out(ImportRequest(folder / name, target / "run.nxs", angles, **more))


@pytest.mark.parametrize(
    ("name", "tilts", "pixel_nm"),
    [
        ("mode0_imod_unsigned.mrc", "t.rawtlt", 2.5),
        ("mode101.mrc", "t.rawtlt", 2.5),
        ("fei1_pad0.mrc", None, 2.5),
        ("seri_tilt.mrc", None, 2.5),
        ("mode101.mrc", "stack.mrc.mdoc", 2.5),
        ("append.tif", "bom.rawtlt", 2.0),
        ("pil_tiff_lzw.tif", "stack.mrc.mdoc", 2.5),
        ("tomviz_style_array_attributes.emd", None, 2.5),
        ("def_arr.nxs", None, 2.5),
        ("darkflat.nxs", None, 2.5),
    ],
)
def test_what_can_be_read(
    shared_cases: Path, tmp_path: Path, name: str, tilts: str | None, pixel_nm: float
) -> None:
    if "lzw" in name:
        pytest.importorskip("imagecodecs")
    given = 2.0 if name == "append.tif" else None
    imported(shared_cases, tmp_path, name, tilts, pixel_nm=given)
    with open_run(tmp_path / "run.nxs") as run, open_stack(shared_cases / name) as source:
        series = run.series[1]
        assert series.tilt_deg.tolist() == TILTS
        assert series.pixel_nm == pixel_nm
        assert series.frame_count == 5
        for index in range(5):
            assert np.array_equal(series.frames[index], source.read(index))


@pytest.mark.parametrize(
    ("name", "tilts", "words"),
    [
        ("trunc.mrc", "t.rawtlt", r"cut off: 5 images of 8 x 11 .* need 1904 bytes.* 1854"),
        ("m0_cell.mrc", "t.rawtlt", "pixels are inf nm; give the right size"),
        ("pxzero.npz", None, "pixels are 0 nm"),
        ("pxneg.npz", None, "pixels are -2.5 nm"),
        ("pxnan.npz", None, "pixels are nan nm"),
        ("px_zero.nxs", None, "pixels are 0 nm"),
        ("ij_aniso.tif", "t.rawtlt", "pixels are 2.5 by 5 nm; square"),
        ("ome_aniso.ome.tif", "t.rawtlt", "pixels are 2.5 by 5 nm; square"),
    ],
)
def test_what_is_refused(
    shared_cases: Path, tmp_path: Path, name: str, tilts: str | None, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        imported(shared_cases, tmp_path, name, tilts)
    assert not list(tmp_path.iterdir()), "no half of a file"


def test_a_right_pixel_size_mends_a_wrong_one(shared_cases: Path, tmp_path: Path) -> None:
    imported(shared_cases, tmp_path, "pxzero.npz", pixel_nm=2.5)
    with open_run(tmp_path / "run.nxs") as run:
        assert run.series[1].pixel_nm == 2.5


def test_bytes_without_sign(shared_cases: Path, tmp_path: Path) -> None:
    imported(shared_cases, tmp_path, "mode0_imod_unsigned.mrc", "t.rawtlt")
    with open_run(tmp_path / "run.nxs") as run:
        values = run.series[1].frames[...]
    assert (values.min(), values.max()) == (0, 199)


def test_a_stack_of_one_image(shared_cases: Path, tmp_path: Path) -> None:
    report = imported(shared_cases, tmp_path, "one.mrc", "one.rawtlt")
    assert report.frames == 1
    with open_run(tmp_path / "run.nxs") as run:
        assert run.series[1].frame_count == 1


def test_an_outlier_does_not_set_the_steps(shared_cases: Path, tmp_path: Path) -> None:
    name = "float_outlier_1e9.npz"
    imported(shared_cases, tmp_path, name)
    with np.load(shared_cases / name) as file, open_run(tmp_path / "run.nxs") as run:
        series, values = run.series[1], file["data"]
        assert np.array_equal(series.frames[...], values)
        assert np.array_equal(series.frames[3, 5, 2:9], values[3, 5, 2:9])
        assert np.array_equal(series.frames[:, 5, 5], values[:, 5, 5])
        assert series.frames[3, 5, 5] == 1e9
        assert np.array_equal(series.frame_values(3), values[3])
        (event,) = run.events
        assert (event.level, event.source) == ("warning", "import")
        assert "1e+09 in image 3 at row 5, column 5" in event.message
    # What was imported can be imported again.
    again = ImportRequest(tmp_path / "run.nxs", tmp_path / "again.nxs")
    carry_out(again)
    with open_run(tmp_path / "again.nxs") as run:
        assert np.array_equal(run.series[1].frames[...], values)


def test_dark_and_flat_frames_are_kept(shared_cases: Path, tmp_path: Path) -> None:
    import h5py

    report = imported(shared_cases, tmp_path, "darkflat.nxs")
    assert any("mean of 1 dark frame kept" in line for line in report.read)
    with h5py.File(shared_cases / "darkflat.nxs") as file:
        data = file["entry/instrument/detector/data"][...]
        keys = file["entry/instrument/detector/image_key"][...]
    with open_run(tmp_path / "run.nxs") as run:
        references = run.series[1].references
        assert references is not None
        assert (references.dark_frames, references.flat_frames) == (1, 2)
        assert np.allclose(references.dark, data[keys == 2].mean(axis=0))
        assert np.allclose(references.flat, data[keys == 1].mean(axis=0))


def test_dark_and_flat_frames_are_taken_out_by_process(tmp_path: Path) -> None:
    import h5py

    from pyrotome.analysis.commands.stack_references import references_of

    rng = np.random.default_rng(5)
    truth = rng.uniform(100, 900, (5, 8, 11))
    gain, dark = rng.uniform(0.5, 1.5, (8, 11)), rng.uniform(10, 90, (8, 11))
    gain /= np.median(gain)
    with h5py.File(tmp_path / "beamline.nxs", "w") as file:
        entry = file.create_group("entry")
        entry["definition"] = "NXtomo"
        frames = [truth * gain + dark, [dark], [1000 * gain + dark]]
        entry["instrument/detector/data"] = np.rint(np.concatenate(frames)).astype(np.uint16)
        entry["instrument/detector/image_key"] = [0] * 5 + [2, 1]
        entry["sample/rotation_angle"] = [*TILTS, 0, 0]
        entry["sample/rotation_angle"].attrs["units"] = "deg"
    carry_out(ImportRequest(tmp_path / "beamline.nxs", tmp_path / "run.nxs", pixel_nm=2.0))
    with open_run(tmp_path / "run.nxs") as run:
        (known,) = references_of(run.series)
        corrected = known.applied(run.series[1].frame_values(2))
    assert np.allclose(corrected, truth[2], atol=3)


def test_a_warning_stands_beside_its_series(shared_cases: Path, tmp_path: Path) -> None:
    imported(shared_cases, tmp_path, "float_outlier_1e9.npz")
    (series,) = inspect_file(tmp_path / "run.nxs")["series"]
    assert "1e+09 in image 3" in series["warnings"][0]


@pytest.mark.parametrize("given", ["mdoc", "option"])
def test_the_tilt_axis_stands_in_the_file(shared_cases: Path, tmp_path: Path, given: str) -> None:
    import h5py

    mdoc = tmp_path / "stack.mdoc"
    text = (shared_cases / "stack.mrc.mdoc").read_text()
    mdoc.write_text(text + "\n[T =     Tilt axis angle = -88.7, binning = 2  spot = 7]\n")
    target = tmp_path / "out"
    target.mkdir()
    told = 84.8 if given == "option" else None
    report = imported(shared_cases, target, "mode101.mrc", str(mdoc), tilt_axis_deg=told)
    right = 84.8 if given == "option" else -88.7
    assert any(line.startswith(f"tilt axis {right} deg") for line in report.read)
    with h5py.File(target / "run.nxs") as file:
        assert file["series_001"].attrs["tilt_axis_deg"] == right
