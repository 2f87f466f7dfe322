"""What goes out is read by programs that are not ours, and equals what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import tifffile

from pyrotome.analysis.commands.export import export_heater, export_images
from pyrotome.analysis.commands.import_ import import_stack
from pyrotome.analysis.commands.process import process_file
from pyrotome.analysis.io.tilt_angles import read_tilts
from pyrotome.protocols.config.pipeline import AnalysisStep
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile.reader import open_run

TILTS = np.array([-40.0, -20.0, 0.0, 20.0, 40.0])


def export(path: Path, target: Path, what: str = "frames", series: int | None = None) -> list[Path]:
    with open_run(path) as run:
        return export_images(run, target, what, series)


def frames_of(path: Path) -> np.ndarray[Any, Any]:
    with open_run(path) as run:
        stack = run.stacks["series_001"]
        there = np.flatnonzero(stack.recorded)
        return np.stack([stack.frame_values(int(index)) for index in there])


@pytest.fixture
def processed(make_run: Any) -> Path:
    """A run with a volume."""
    path: Path = make_run()
    step = {"reconstruct": {"method": "sirt", "iterations": 2, "binning": 2}}
    (outcome,) = process_file(path, [AnalysisStep.model_validate(step)])
    assert "volume" in outcome.results
    return path


def volume_of(path: Path) -> np.ndarray[Any, Any]:
    with open_run(path) as run:
        return run.series[1].result("volume").data


def test_mrc_is_valid_and_tells_voxel_and_angles(make_run: Any, tmp_path: Path) -> None:
    path = make_run(value_offset=50)
    target = tmp_path / "out.mrc"
    assert export(path, target) == [target, tmp_path / "out.rawtlt"]
    assert mrcfile.validate(target)
    with mrcfile.open(target) as file:
        assert file.data.dtype == np.int16, "counts less than the offset are negative"
        assert np.array_equal(file.data, frames_of(path))
        assert file.voxel_size.y == pytest.approx(10.4)
        assert file.is_image_stack()
    assert np.allclose(read_tilts(tmp_path / "out.rawtlt"), TILTS + 0.01)


def test_a_missing_frame_is_left_out_with_its_angle(
    make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(lost=(1,))
    export(path, tmp_path / "out.mrc")
    assert "1 of 5 frames of series_001 are missing" in capsys.readouterr().err
    with mrcfile.open(tmp_path / "out.mrc") as file:
        assert file.data.shape[0] == 4
    assert np.allclose(read_tilts(tmp_path / "out.rawtlt"), TILTS[[0, 2, 3, 4]] + 0.01)


def test_a_volume_as_mrc(processed: Path, tmp_path: Path) -> None:
    assert export(processed, tmp_path / "volume.mrc", "volume") == [tmp_path / "volume.mrc"]
    assert mrcfile.validate(tmp_path / "volume.mrc")
    with mrcfile.open(tmp_path / "volume.mrc") as file:
        assert np.array_equal(file.data, volume_of(processed))
        assert file.voxel_size.z == pytest.approx(20.8), "binned by two"
        assert file.is_volume()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", ["frames", "volume"])
def test_hyperspys_reader_reads_our_emd(processed: Path, tmp_path: Path, what: str) -> None:
    from rsciio.emd import file_reader

    target = tmp_path / "out.emd"
    assert export(processed, target, what) == [target]
    (signal,) = file_reader(str(target))
    axes = {axis["name"]: axis for axis in signal["axes"]}
    along = "angle" if what == "frames" else "z"
    places = [axes[name]["index_in_array"] for name in ((along, "y", "x"))]
    data = np.transpose(signal["data"], places)
    if what == "frames":
        assert np.array_equal(data, frames_of(processed))
        assert axes["angle"]["units"] == "deg"
        assert axes["angle"]["scale"] == pytest.approx(20)
        assert axes["angle"]["offset"] == pytest.approx(-39.99)
    else:
        assert np.array_equal(data, volume_of(processed).swapaxes(0, 1))
    assert axes["x"]["units"] == "nm"
    assert axes["x"]["scale"] == pytest.approx(1.04 if what == "frames" else 2.08)


@pytest.mark.parametrize("what", ["frames", "volume", "slice_y"])
def test_tifffile_reads_our_tiff(processed: Path, tmp_path: Path, what: str) -> None:
    target = tmp_path / "out.tif"
    export(processed, target, what)
    volume = volume_of(processed)
    expected = {
        "frames": frames_of(processed), "volume": volume, "slice_y": volume[len(volume) // 2]
    }[what]  # fmt: skip
    with tifffile.TiffFile(target) as file:
        assert np.array_equal(file.asarray(), expected)
        meta = file.imagej_metadata
        assert meta is not None
        assert meta["unit"] == "nm"
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert denominator / numerator == pytest.approx(1.04 if what == "frames" else 2.08)
        if what == "frames":
            assert meta["Labels"][0] == "-39.99 deg"


@pytest.mark.parametrize("suffix", ["mrc", "emd", "tif"])
def test_what_goes_out_comes_in_again(make_run: Any, tmp_path: Path, suffix: str) -> None:
    path = make_run()
    target = tmp_path / f"out.{suffix}"
    written = export(path, target)
    again = tmp_path / "again.nxs"
    import_stack(target, again, written[1] if len(written) > 1 else None)
    with open_run(path) as before, open_run(again) as after:
        first, second = before.stacks["series_001"], after.stacks["series_001"]
        assert np.allclose(first.tilt_deg, second.tilt_deg)
        assert first.pixel_nm == pytest.approx(second.pixel_nm, rel=1e-6)
    assert np.array_equal(frames_of(path), frames_of(again))


def test_aligned_images_keep_their_angles(make_run: Any, tmp_path: Path) -> None:
    path = make_run()
    align = {"align": {"method": "centre-of-mass"}}
    reconstruct = {"reconstruct": {"method": "sirt", "iterations": 2, "binning": 2}}
    process_file(path, [AnalysisStep.model_validate(step) for step in (align, reconstruct)])
    export(path, tmp_path / "aligned.mrc", "aligned")
    with mrcfile.open(tmp_path / "aligned.mrc") as file:
        assert file.data.shape == (5, 12, 16)
        assert file.voxel_size.x == pytest.approx(20.8)
    assert np.array_equal(read_tilts(tmp_path / "aligned.rawtlt"), TILTS)
    with pytest.raises(BadInput, match="'shifts' is not an image"):
        export(path, tmp_path / "shifts.mrc", "shifts")


def test_the_newest_of_several_results(processed: Path, tmp_path: Path) -> None:
    step = {"reconstruct": {"method": "sirt", "iterations": 9, "binning": 4}}
    process_file(processed, [AnalysisStep.model_validate(step)])
    export(processed, tmp_path / "volume.mrc", "volume")
    with mrcfile.open(tmp_path / "volume.mrc") as file:
        assert file.data.shape == (6, 8, 8)


def test_the_impulse_reader_reads_our_heater_log(make_run: Any, tmp_path: Path) -> None:
    from rsciio.impulse import file_reader

    with open_run(make_run()) as run:
        table, notes = export_heater(run, tmp_path / "a_run.csv")
    assert table.name == "a_run_Synchronized data.csv"
    assert notes.name == "a_run_Metadata.log"
    signals = {s["metadata"]["General"]["title"]: s for s in file_reader(str(table))}
    temperature = signals["Temperature (°C)"]
    assert np.array_equal(temperature["data"], 20.5 + np.arange(50))
    assert temperature["metadata"]["Signal"]["quantity"] == "°C"
    assert temperature["metadata"]["General"]["date"] == "2027-01-15"
    assert temperature["metadata"]["General"]["time"] == "08:00:00"
    assert temperature["axes"][0]["scale"] == pytest.approx(0.1)
    power = signals["Power mw (mW)"]["data"]
    assert np.isnan(power[3])
    assert np.all(np.delete(power, 3) == 0.25)
    assert temperature["original_metadata"]["Impulse_header"]["Notes"][0] == "Cu"


@pytest.mark.parametrize(
    ("what", "target", "series", "words"),
    [
        ("frames", "out.png", None, "out.png: 'frames' cannot be written as '.png'; use .mrc"),
        ("frames", "out.mrc", None, "holds 2 tilt series .*--series N"),
        ("frames", "out.mrc", 7, "has no series_007"),
        ("volume", "out.mrc", 1, "holds no 'volume'; it has frames, heater"),
        ("frames", "no/out.mrc", 1, "the folder .* does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused(
    make_run: Any, tmp_path: Path, what: str, target: str, series: int | None, words: str
) -> None:
    path = make_run(series=2)
    with pytest.raises(BadInput, match=words):
        export(path, tmp_path / target, what, series)
    assert [p.name for p in tmp_path.iterdir()] == ["run.nxs"]


@pytest.mark.parametrize("taken", ["out.tif", "out.rawtlt"])
def test_nothing_is_overwritten(make_run: Any, tmp_path: Path, taken: str) -> None:
    path = make_run()
    (tmp_path / taken).write_bytes(b"precious")
    with pytest.raises(BadInput, match="not overwritten"):
        export(path, tmp_path / "out.tif")
    assert (tmp_path / taken).read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["run.nxs", taken])


def test_no_log_of_a_heater(make_run: Any, tmp_path: Path) -> None:
    with (
        open_run(make_run(samples=0)) as run,
        pytest.raises(BadInput, match="no log of a heater"),
    ):
        export_heater(run, tmp_path / "x")
