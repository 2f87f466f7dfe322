"""Tilt series from elsewhere become run files, exactly, or are refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the frames' filter
import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.analysis.commands.export import export_images
from pyrotome.analysis.commands.import_ import import_stack
from pyrotome.analysis.io.encoding import encoding_for
from pyrotome.analysis.io.tilt_angles import read_tilts
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile.reader import open_run
from pyrotome.protocols.runfile.summary import inspect_file

RNG = np.random.default_rng(3)
COUNTS = RNG.poisson(20, (5, 8, 11)).astype(np.uint16)
TILTS = np.array([-40.0, -20.0, 0.0, 20.5, 40.0])


def values_of(path: Path) -> np.ndarray[Any, Any]:
    """All frames of series_001 in the values of their source."""
    with open_run(path) as run:
        stack = run.stacks["series_001"]
        return np.stack([stack.frame_values(index) for index in range(stack.frame_count)])


def tilts_of(path: Path) -> np.ndarray[Any, Any]:
    with open_run(path) as run:
        return run.stacks["series_001"].tilt_deg


def pixel_of(path: Path) -> float:
    with open_run(path) as run:
        return run.stacks["series_001"].pixel_nm


def tilt_file(folder: Path, tilts: Any = TILTS) -> Path:
    path = folder / "tilts.rawtlt"
    np.savetxt(path, tilts)
    return path


def an_npz(folder: Path, name: str = "stack.npz", **arrays: Any) -> Path:
    path = folder / name
    np.savez(path, **arrays)
    return path


def nexus_errors(path: Path, entry: str) -> int:
    """Errors that nxvalidate counts; its exit code is always 0."""
    tool = Path(sys.executable).with_name("nxvalidate")
    answer = subprocess.run(
        [tool, "-e", "-p", entry, path], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    found = re.search(r"Total number of errors: (\d+)", answer)
    assert found is not None, answer
    return int(found.group(1))


def test_the_needle_comes_in_and_goes_out_unchanged(measured_data: Path, tmp_path: Path) -> None:
    source = measured_data / "needle_haadf" / "HAADF.mrc"
    angles = measured_data / "needle_haadf" / "HAADF.rawtlt"
    target = tmp_path / "needle.nxs"
    frames, encoding = import_stack(source, target, angles, 3.36)
    assert (frames, encoding.scale) == (77, 1)
    report = inspect_file(target)
    assert report["status"] == "complete"
    assert report["dose_e_per_nm2"] is None
    (series,) = report["series"]
    assert series["dose_e_per_nm2"] is None
    assert series["tilt_deg"] == list(np.arange(-76.0, 77.0, 2.0))
    assert nexus_errors(target, "entry") == 0
    assert nexus_errors(target, "series_001") == 0
    with pytest.warns(RuntimeWarning), mrcfile.open(source, permissive=True) as file:
        original = file.data.copy()
    assert np.array_equal(values_of(target), original)
    with open_run(target) as run:
        export_images(run, tmp_path / "needle.mrc", "frames", None)
    with mrcfile.open(tmp_path / "needle.mrc") as file:
        assert file.data.dtype == original.dtype
        assert np.array_equal(file.data, original)
        assert file.voxel_size.x == pytest.approx(33.6)
    assert np.array_equal(read_tilts(tmp_path / "needle.rawtlt"), read_tilts(angles))


def test_an_fei_header_tells_angles_and_pixel_size(measured_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "needle.nxs"
    import_stack(measured_data / "needle_haadf" / "HAADF.mrc", target)
    assert pixel_of(target) == 3.36
    assert np.array_equal(tilts_of(target), np.arange(-76.0, 77.0, 2.0))
    with h5py.File(target) as file:
        assert file["entry/instrument/source/voltage"][()] == 300
        assert "current" not in file["entry/instrument/source"], "nobody knows it"


def test_a_simulated_series_of_counts(measured_data: Path, tmp_path: Path) -> None:
    source = measured_data / "asi_multislice" / "asi_2nm_dose_8p0e3.npz"
    target = tmp_path / "asi.nxs"
    import_stack(source, target, None, 0.0195)
    with np.load(source) as file, h5py.File(target) as made:
        assert np.array_equal(made["series_001/instrument/detector/data"], file["counts"])
        assert np.array_equal(made["series_001/sample/rotation_angle"], file["tilt_deg"])


@pytest.mark.parametrize("suffix", [".mrc", ".st", ".ali"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16"])
def test_every_mrc_of_whole_numbers_is_exact(tmp_path: Path, suffix: str, dtype: str) -> None:
    data = COUNTS.astype(dtype)
    data[0, 0, 0], data[0, 0, 1] = np.iinfo(dtype).min, np.iinfo(dtype).max
    source = tmp_path / f"stack{suffix}"
    with mrcfile.new(source) as file:
        file.set_data(data)
        file.voxel_size = 25.0
    import_stack(source, tmp_path / "run.nxs", tilt_file(tmp_path))
    assert np.array_equal(values_of(tmp_path / "run.nxs"), data)
    assert np.array_equal(tilts_of(tmp_path / "run.nxs"), TILTS)
    assert pixel_of(tmp_path / "run.nxs") == 2.5


def test_fractions_keep_to_half_a_step_and_say_so(tmp_path: Path) -> None:
    data = RNG.normal(900.0, 3.0, COUNTS.shape).astype(np.float32)
    source, target = tmp_path / "stack.tif", tmp_path / "run.nxs"
    tifffile.imwrite(
        source, data, imagej=True, resolution=(4.0, 4.0), metadata={"unit": "um", "axes": "ZYX"}
    )
    _, encoding = import_stack(source, target, tilt_file(tmp_path))
    assert encoding.scale == pytest.approx(np.ptp(data) / 65534, rel=1e-6)
    assert np.abs(values_of(target) - data).max() <= 0.5 * encoding.scale + np.spacing(
        np.float32(900)
    )
    assert pixel_of(target) == pytest.approx(250.0)
    with h5py.File(target) as file:
        detector, shown = file["series_001/instrument/detector"], file["series_001/data"]
        assert detector["encoding/value_scale"][()] == encoding.scale
        # NXdata's rule for a viewer: (data + offset) * factor.
        seen = (shown["data"][...] + shown["data_offset"][()]) * shown["data_scaling_factor"][()]
        assert np.allclose(seen, data, atol=0.51 * encoding.scale, rtol=1e-7)
    assert nexus_errors(target, "series_001") == 0


@given(low=st.integers(-(2**40), 2**40), span=st.integers(0, 65_535))
def test_whole_numbers_within_16_bits_are_exact(low: int, span: int) -> None:
    values = np.array([low, low + span // 2, low + span])
    encoding = encoding_for(low, low + span, whole=True)
    recorded = encoding.encoded(values)
    assert np.array_equal(recorded.astype(np.int64) - encoding.offset, values)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_fractions_are_within_half_a_step(low: float, span: float) -> None:
    values = np.linspace(low, low + span, 999)
    encoding = encoding_for(values[0], values[-1], whole=False)
    recorded = encoding.encoded(values).astype(np.float64)
    error = np.abs((recorded - encoding.offset) * encoding.scale - values)
    assert error.max() <= 0.501 * encoding.scale + 1e-15 * abs(low)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("turned", [False, True], ids=["angle-first", "x-first"])
def test_an_emd_file_of_somebody_else(tmp_path: Path, turned: bool) -> None:
    from rsciio.emd import file_writer

    axes = [
        {"name": "angle", "units": "deg", "scale": 10.0, "offset": -20.0, "size": 5},
        {"name": "y", "units": "nm", "scale": 0.5, "offset": 0.0, "size": 8},
        {"name": "x", "units": "nm", "scale": 0.5, "offset": 0.0, "size": 11},
    ]
    data = COUNTS
    if turned:
        axes, data = axes[::-1], COUNTS.T
    for index, axis in enumerate(axes):
        axis |= {"index_in_array": index, "navigate": False, "_type": "UniformDataAxis"}
    signal = {
        "data": data, "axes": axes, "original_metadata": {}, "learning_results": {},
        "metadata": {"General": {"title": "needle"}, "Signal": {"signal_type": ""}},
        "attributes": {}, "package": "", "package_version": "",
    }  # fmt: skip
    source, target = tmp_path / "stack.emd", tmp_path / "run.nxs"
    file_writer(str(source), signal)
    import_stack(source, target)
    assert np.array_equal(values_of(target), COUNTS)
    assert np.allclose(tilts_of(target), [-20, -10, 0, 10, 20])
    assert pixel_of(target) == pytest.approx(0.5)


def an_nxtomo(path: Path, entries: tuple[str, ...] = ("entry",)) -> Path:
    """As a beamline would write it: flat field first, radians, micrometres, one frame missing."""
    with h5py.File(path, "w") as file:
        for name in entries:
            entry = file.create_group(name)
            entry["definition"] = "NXtomo"
            entry["instrument/detector/data"] = np.concatenate([COUNTS[:1] * 0 + 999, COUNTS])
            entry["instrument/detector/image_key"] = [1, 0, 0, 3, 0, 0]
            pixel = entry["instrument/detector"].create_dataset("x_pixel_size", data=0.002)
            pixel.attrs["units"] = "um"
            angles = np.radians([0.0, *TILTS])
            entry.create_dataset("sample/rotation_angle", data=angles).attrs["units"] = "rad"
    return path


def test_an_nxtomo_file_of_somebody_else(tmp_path: Path) -> None:
    target = tmp_path / "run.nxs"
    frames, _ = import_stack(an_nxtomo(tmp_path / "beamline.h5"), target)
    assert frames == 4
    with open_run(target) as run:
        stack = run.stacks["series_001"]
        assert list(stack.recorded) == [True, True, False, True, True]
    kept = [0, 1, 3, 4]
    assert np.array_equal(values_of(target)[kept], COUNTS[kept])
    assert np.allclose(tilts_of(target), TILTS)
    assert pixel_of(target) == 2.0


def test_which_of_several_stacks(tmp_path: Path) -> None:
    source = an_nxtomo(tmp_path / "beamline.h5", ("first", "second"))
    with pytest.raises(BadInput, match=r"several stacks; .*--entry: first, second"):
        import_stack(source, tmp_path / "run.nxs")
    with pytest.raises(BadInput, match="has no stack 'third'"):
        import_stack(source, tmp_path / "run.nxs", entry="third")
    import_stack(source, tmp_path / "run.nxs", entry="/second")
    assert np.allclose(tilts_of(tmp_path / "run.nxs"), TILTS)


def test_one_of_our_own_runs(make_run: Any, tmp_path: Path) -> None:
    source = make_run(lost=(2,), value_offset=5)
    target = tmp_path / "copy.nxs"
    import_stack(source, target)
    with open_run(source) as ours, open_run(target) as copy:
        before, after = ours.stacks["series_001"], copy.stacks["series_001"]
        assert np.array_equal(before.recorded, after.recorded)
        assert after.value_offset == 5
        assert np.array_equal(before.frame_values(4), after.frame_values(4))
        assert after.tilt_deg[2] == 0.0, "the asked angle stands in for one that was not read"


@pytest.mark.parametrize(
    ("arrays", "tilts", "words"),
    [
        ({"counts": COUNTS}, TILTS[:-1], "4 angles for the 5 images"),
        ({"counts": COUNTS}, [*TILTS[:-1], np.nan], r"tilts.rawtlt:5: 'nan' is not an angle"),
        ({"counts": COUNTS}, None, "holds no angles"),
        ({"counts": COUNTS[0]}, TILTS, "arrays with three axes: none"),
        ({"a": COUNTS, "b": COUNTS}, TILTS, "arrays with three axes: a, b"),
        ({"counts": COUNTS.astype(complex)}, TILTS, "only plain numbers"),
        ({"counts": np.full(COUNTS.shape, np.nan)}, TILTS, "values are NaN or infinity .the first"),
        ({"counts": COUNTS * 4000}, TILTS, ""),
        ({"counts": COUNTS.astype(np.int64) * 10_000_000}, TILTS, "more than 16 bits"),
    ],
)
def test_what_cannot_be_used_is_refused_and_leaves_nothing(
    tmp_path: Path, arrays: dict[str, Any], tilts: Any, words: str
) -> None:
    source, target = an_npz(tmp_path, **arrays), tmp_path / "run.nxs"
    angles = None if tilts is None else tilt_file(tmp_path, tilts)
    if not words:
        import_stack(source, target, angles, 1.0)
        return
    before = set(tmp_path.iterdir())
    with pytest.raises(BadInput, match=words):
        import_stack(source, target, angles, 1.0)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_values_that_are_no_number_are_kept_and_told(tmp_path: Path, scale: float) -> None:
    counts = COUNTS * np.float32(scale)
    counts[3, 2, 4], counts[3, 5, 5], counts[1, 0, 0] = np.nan, np.inf, -np.inf
    target = tmp_path / "run.nxs"
    import_stack(an_npz(tmp_path, counts=counts), target, tilt_file(tmp_path, TILTS), 1.0)
    with open_run(target) as run:
        frames = run.stacks["series_001"].frames
        whole = frames[...]
        assert np.array_equal(np.isfinite(whole), np.isfinite(counts))
        step = 0.0 if scale == 1 else np.ptp(counts[np.isfinite(counts)]) / 65534
        kept = np.isfinite(counts)
        np.testing.assert_allclose(whole[kept], counts[kept], atol=0.51 * step)
        assert whole[3, 5, 5] == np.inf
        for key in (3, (3, 2), (3, 2, 4), slice(1, 4), (..., 4), (slice(None, None, 2), 2)):
            assert np.array_equal(frames[key], whole[key], equal_nan=True), key
        said = [event.message for event in run.events]
    assert any("3 values are NaN or infinity (the first in image 1 at row 0" in s for s in said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-40\n-20, \n# the middle\n0\n20.5\n\n40\n", ""),
        ("-40 -20 0 20.5 40\n", ""),
        ("-40\nminus\n", r"tilts.txt:2: 'minus' is not an angle; one angle in deg per line"),
        ("-40 1\n-20 2\n", r"tilts.txt:1: '-40 1' is not one angle"),
        ("-40\ninf\n", r"tilts.txt:2: 'inf' is not an angle"),
        ("# nothing\n", "is empty"),
        (b"\xff\xfe", "is not text"),
    ],
)
def test_lists_of_angles(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "tilts.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if not words:
        assert np.array_equal(read_tilts(path), TILTS)
        return
    with pytest.raises(BadInput, match=words):
        read_tilts(path)


def test_a_pixel_size_must_be_known(tmp_path: Path) -> None:
    source = an_npz(tmp_path, counts=COUNTS, tilt_deg=TILTS)
    with pytest.raises(BadInput, match=r"--pixel-size '3\.36 nm'"):
        import_stack(source, tmp_path / "run.nxs")


@pytest.mark.parametrize("suffix", [".mrc", ".st", ".npz", ".emd", ".nxs", ".tif", ".png", ".h5"])
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"stack{suffix}"
    source.write_bytes(RNG.bytes(5000))
    with pytest.raises(BadInput):
        import_stack(source, tmp_path / "run.nxs", tilt_file(tmp_path), 1.0)
    assert not (tmp_path / "run.nxs").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source = an_npz(tmp_path, counts=COUNTS, tilt_deg=TILTS)
    target = tmp_path / "run.nxs"
    target.write_bytes(b"precious")
    with pytest.raises(BadInput, match="not overwritten"):
        import_stack(source, target, None, 1.0)
    assert target.read_bytes() == b"precious"
