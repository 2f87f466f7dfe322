"""The plan of the run file, its creation, and its chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.config.pipeline import ResultPlan
from pyrotome.protocols.config.recipe import BeamSettings, Sample
from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.messages.manifest import HoldPlan, RunManifest, StackPlan
from pyrotome.protocols.runfile import layout
from pyrotome.protocols.runfile.nexus import create_run_file, finalise
from pyrotome.protocols.runfile.stack import Stack
from pyrotome.protocols.storage.overlay import PAGE_BYTES


def a_manifest(**changes: Any) -> RunManifest:
    beam = {
        "voltage": "200 kV", "current": "50 pA", "dwell": "1 us", "frame": (16, 12),
        "pixel_size": "0.5 nm",
    }  # fmt: skip
    table = ResultPlan(
        name="necks", step="measure", process=1, parameters={"what": "necks"}, shape=(20,),
        dtype="float64", axes=("pair",), pixel_nm=0.5,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "run": "r", "title": "t", "software": "pyrotome 0.1.0", "started_ns": 1_800 * 10**15,
        "speed": 1.0, "simulated": False, "recipe_text": "a", "rig_text": "b", "rig_name": "c",
        "sample": Sample(name="s", elements=[]), "beam": BeamSettings.model_validate(beam),
        "detector": "merlin", "telemetry": {"heater": {"temperature_c": "degC"}, "beam": {}},
        "stacks": (
            StackPlan(name="ramp_001", kind="ramp", frames=4, tilt_deg=(0.0,) * 4),
            StackPlan(
                name="series_001", kind="series", frames=1, tilt_deg=(0.0,), results=(table,)
            ),
        ),
        "holds": (HoldPlan(index=1, standby_c=20.0, target_c=50.0, requested_s=1.0),),
        "holds_before": {},
    }  # fmt: skip
    return RunManifest(**(fields | changes))


@pytest.mark.parametrize(
    "changes", [{}, {"holds": ()}, {"stacks": ()}, {"telemetry": {}}, {"value_offset": 5}]
)
def test_the_plan_can_be_written_from_top_to_bottom(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    manifest = a_manifest(**changes)
    there: set[str] = {""}
    for node in layout.tree(manifest):
        parent = node.path.rpartition("/")[0]
        assert parent in there, f"{node.path} comes before the group that holds it"
        assert node.path not in there, f"{node.path} comes twice"
        assert not isinstance(node, layout.Link) or node.target in there
        there.add(node.path)
    path = tmp_path / "run.nxs"
    create_run_file(path, manifest).close()
    with h5py.File(path) as file:
        assert all(name in file for name in there if name), "not all of the plan was written"
        assert file.attrs["default"] in file
        entry = file[file.attrs["default"]]
        if "default" in entry.attrs:
            data = entry[entry.attrs["default"]]
            assert data.attrs["NX_class"] == "NXdata"
            axes = [data[name] for name in data.attrs["axes"]]
            assert tuple(len(axis) for axis in axes) == data[data.attrs["signal"]].shape


def test_a_table_names_its_columns_and_a_scalar_its_unit(tmp_path: Path) -> None:
    common: dict[str, Any] = {"step": "pores", "process": 1, "parameters": {}, "pixel_nm": 1.0}
    table = ResultPlan(
        name="pores", shape=(8, 2), dtype="float64", axes=("pore", "column"),
        columns=("pore", "radius_nm"), **common,
    )  # fmt: skip
    scalar = ResultPlan(
        name="porosity", shape=(), dtype="float64", axes=(), unit="percent", **common
    )  # fmt: skip
    stack = StackPlan(
        name="series_001", kind="series", frames=1, tilt_deg=(0.0,), results=(table, scalar)
    )
    path = tmp_path / "run.nxs"
    create_run_file(path, a_manifest(stacks=(stack,))).close()
    with h5py.File(path) as file:
        process = file[layout.process_path("series_001", 1)]
        assert list(process["pores/data"].attrs["columns"]) == ["pore", "radius_nm"]
        data = process["porosity/data"]
        assert data.shape == ()
        assert np.isnan(data[()])
        assert data.attrs["units"] == "percent"


def test_an_existing_file_is_never_opened_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    path.write_bytes(b"x")
    with pytest.raises(FileExistsError):
        create_run_file(path, a_manifest())
    assert path.read_bytes() == b"x"


def test_a_file_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    twice = StackPlan(name="series_001", kind="series", frames=1, tilt_deg=(0.0,))
    with pytest.raises(ValueError, match="already exists"):
        create_run_file(tmp_path / "run.nxs", a_manifest(stacks=(twice, twice)))
    assert not list(tmp_path.iterdir())


def contents(path: Path) -> dict[str, tuple[object, list[str]]]:
    """Each item of a file with its value and attributes; HDF5 itself notes when it was opened."""
    with h5py.File(path) as file:
        found: dict[str, tuple[object, list[str]]] = {}

        def note(name: str, item: Any) -> None:
            value = item[()].tobytes() if isinstance(item, h5py.Dataset) and item.shape else None
            found[name] = value, [f"{key}: {item.attrs[key]}" for key in item.attrs]

        file.visititems(note)
        return found


def test_tidying_twice_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    create_run_file(path, a_manifest()).close()
    finalise(path)
    before = contents(path)
    finalise(path)
    assert contents(path) == before
    with h5py.File(path) as file:
        assert layout.EVENTS not in file
        assert "date" not in file["series_001/process_001"]

    def empty(group: Any) -> Iterator[str]:
        for item in group.values():
            if isinstance(item, h5py.Group):
                yield from empty(item)
            elif item.shape == (0,):
                yield item.name

    with h5py.File(path) as file:
        assert not list(empty(file))


@given(text=st.text(max_size=80), size=st.integers(3, 100))
def test_text_is_cut_visibly_and_stays_utf8(text: str, size: int) -> None:
    raw = layout.fit_text(text, size)
    assert len(raw) <= size
    whole = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")
    if len(whole) <= size:
        assert raw == whole
    else:
        cut = raw.decode("utf-8")
        assert cut.endswith("…")
        assert whole.decode("utf-8").startswith(cut[:-1])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 150),
    dtype=st.sampled_from(["uint8", "uint16", "uint32", "float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_our_chunks_are_those_of_the_filter(rows: int, columns: int, dtype: str, seed: int) -> None:
    encoder = Bitshuffle()
    assert encoder.available
    frames = np.random.default_rng(seed).poisson(2.0, (2, rows, columns)).astype(dtype)
    with h5py.File("memory", "w", driver="core", backing_store=False, libver="v110") as file:
        data = file.create_dataset(
            "data", frames.shape, dtype, chunks=(1, rows, columns), **hdf5plugin.Bitshuffle()
        )
        data[0] = frames[0]
        theirs = data.id.read_direct_chunk((0, 0, 0))[1]
        assert encoder.compress(frames[0]).tobytes() == theirs
        data.id.write_direct_chunk((1, 0, 0), encoder.compress(frames[1]))
        assert np.array_equal(data[1], frames[1])


def test_a_frame_fills_its_pages(tmp_path: Path) -> None:
    # HDF5 keeps account in memory of the rest of each page: of every frame, for as long as it runs.
    stack = StackPlan(name="series_001", kind="series", frames=60, tilt_deg=(0.0,) * 60)
    beam = a_manifest().beam.model_copy(update={"frame": (64, 64)})
    path = tmp_path / "run.nxs"
    file = RunFile(path, a_manifest(stacks=(stack,), beam=beam))
    encoder, rng = Bitshuffle(), np.random.default_rng(0)
    frames = rng.poisson(rng.uniform(0.5, 2000, (60, 1, 1)), (60, 64, 64)).astype("<u2")
    for index, frame in enumerate(frames):
        header = {"series": "series_001", "index": index, "t_ns": 1_800 * 10**15 + index}
        file.write_frame(header, frame, encoder.compress(frame))
    file.close("complete", None, 0.0, "")
    with h5py.File(path) as found:
        data = found["series_001/instrument/detector/data"]
        assert np.array_equal(data, frames)
        pages = [data.id.get_chunk_info(index).size / PAGE_BYTES for index in range(60)]
    assert {1.0, 2.0} <= set(pages)
    assert all(number.is_integer() for number in pages if number > 0.5)


def test_the_temperature_of_a_heater() -> None:
    assert layout.temperature_channel({"setpoint_c": "degC", "temperature_c": "degC"}) == (
        "temperature_c"
    )
    assert layout.temperature_channel({"power": "mW"}) is None


@pytest.mark.parametrize("told", [84.8, None])
def test_the_tilt_axis_that_a_rig_tells_stands_at_its_series(
    told: float | None, tmp_path: Path
) -> None:
    series = StackPlan(
        name="series_001", kind="series", frames=1, tilt_deg=(0.0,), tilt_axis_deg=told
    )
    path = tmp_path / "run.nxs"
    create_run_file(path, a_manifest(stacks=(series,))).close()
    with h5py.File(path) as file:
        assert file["/series_001"].attrs.get("tilt_axis_deg") == told
        stack = Stack(file, str(path), "series_001")
        assert stack.tilt_axis_deg == told


@pytest.mark.parametrize(("written", "read"), [([84.8], 84.8), (np.nan, None)])
def test_the_tilt_axis_of_other_programs_is_read(
    written: object, read: float | None, tmp_path: Path
) -> None:
    path = tmp_path / "run.nxs"
    create_run_file(path, a_manifest()).close()
    with h5py.File(path, "r+") as file:
        file["/series_001"].attrs["tilt_axis_deg"] = written
        assert Stack(file, str(path), "series_001").tilt_axis_deg == read


@pytest.mark.parametrize(("marked", "read"), [(65_535, 65_528.0), (None, None)])
def test_what_a_detector_marks_as_not_measured_is_above_the_highest_valid_value(
    marked: int | None, read: float | None, tmp_path: Path
) -> None:
    path = tmp_path / "run.nxs"
    create_run_file(path, a_manifest(marked_value=marked, value_offset=7)).close()
    with h5py.File(path) as file:
        written = file["/series_001/instrument/detector"].get("saturation_value")
        assert (None if written is None else written[()]) == (None if marked is None else 65_534)
        assert Stack(file, str(path), "series_001").marked_value == read
