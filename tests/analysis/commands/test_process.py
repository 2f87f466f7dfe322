"""The pipeline offline: results are added, nothing is lost, wrong things are said."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the frames' filter
import numpy as np
import pytest

from pyrotome.analysis.commands import interrupts
from pyrotome.analysis.commands.interrupts import interruptible, uninterrupted
from pyrotome.analysis.commands.process import process_file, steps_of
from pyrotome.analysis.commands.process_display import ProcessWatcher
from pyrotome.analysis.core.arrays import binned
from pyrotome.analysis.pipeline.pipeline import Progress
from pyrotome.analysis.tomography.image_levels import without_vacuum
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.projector import project
from pyrotome.protocols.config.pipeline import AnalysisStep
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile.reader import open_run
from pyrotome.protocols.runfile.summary import inspect_file

SIRT = {"reconstruct": {"method": "sirt", "iterations": 30, "binning": 2}}


def steps(*written: Any) -> list[AnalysisStep]:
    return [AnalysisStep.model_validate(step) for step in written]


def run_module(*arguments: str | Path) -> Any:
    return subprocess.run(
        [sys.executable, "-P", "-m", "pyrotome.daemon", "process", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def snapshot(path: Path) -> dict[str, Any]:
    """Everything in a file, by its path."""
    found: dict[str, Any] = {}

    def look(name: str, item: Any) -> None:
        found[name] = (dict(item.attrs), item[()] if isinstance(item, h5py.Dataset) else None)

    with h5py.File(path) as file:
        file.visititems(look)
    return found


def same(first: dict[str, Any], second: dict[str, Any]) -> None:
    """All of the first is in the second, unchanged."""
    for name, (attrs, value) in first.items():
        assert name in second
        for key, attribute in attrs.items():
            assert np.array_equal(second[name][0][key], attribute), (name, key)
        if value is not None:
            equal_nan = np.asarray(value).dtype.kind == "f"
            assert np.array_equal(second[name][1], value, equal_nan=equal_nan), name


def test_the_volume_is_that_of_the_frames(make_run: Any) -> None:
    path = make_run(value_offset=5)
    (outcome,) = process_file(path, steps({"correct": False}, SIRT))
    assert outcome.name == "series_001"
    assert not outcome.failed
    with open_run(path) as run:
        stack = run.stacks["series_001"]
        frames = [binned(stack.frame_values(i), 2) for i in range(5)]
        images = without_vacuum(np.stack(frames))
        volume = stack.result("volume")
        expected = sirt(images, stack.tilt_deg, 30, slice_shape=(16, 16)).volume
        made = volume.data
        assert np.array_equal(made, expected)
        # An answer to the right question: the frames come out of it again.
        misfit = np.abs(project(made, stack.tilt_deg) - images).sum() / np.abs(images).sum()
        assert misfit < 0.2, misfit
    with h5py.File(path) as file:
        process = file["series_001/process_001"]
        assert process["program"][()] == b"pyrotome reconstruct"
        assert process["date"][()].startswith(b"20")
        assert process["parameters/views"][()] == 5
        assert 0 < process["parameters/misfit"][()] < 0.3
        data = process["volume"]
        assert [data[axis].shape[0] for axis in data.attrs["axes"]] == list(data["data"].shape)


def test_results_are_numbered_on_and_nothing_else_changes(make_run: Any) -> None:
    path = make_run(series=2)
    before = snapshot(path)
    process_file(path, steps(SIRT))
    once = snapshot(path)
    same(before, once)
    process_file(path, steps(SIRT), only=2)
    twice = snapshot(path)
    same(once, twice)
    added = set(twice) - set(once)
    assert added
    assert all(name.startswith("series_002/process_002") for name in added)
    assert inspect_file(path)["series"][0]["results"].count("volume") == 1


def test_every_stack_is_processed_as_online(make_run: Any) -> None:
    pytest.importorskip("bm3d")
    path = make_run()
    pipeline = steps({"denoise": {"method": "bm3d", "variance": 137}}, SIRT)
    made = {outcome.name: outcome.results for outcome in process_file(path, pipeline)}
    assert made["reference_001"] == ["denoised"]
    assert made["series_001"][:2] == ["denoised", "volume"]
    with open_run(path) as run:
        numbers = {r.name: r.process for r in run.series[1].all_results()}
    assert numbers["denoised"] == 1
    assert numbers["volume"] == 2


def test_a_missing_tilt_is_done_without_and_recorded(make_run: Any) -> None:
    path = make_run(lost=(2,))
    (outcome,) = process_file(path, steps(SIRT))
    assert not outcome.failed
    with h5py.File(path) as file:
        process = file["series_001/process_001"]
        assert process["parameters/views"][()] == 4
        assert b"frame 2 (0 deg) is lost" in process["notes/data"][()]
        assert np.isfinite(process["volume/data"]).all()


def test_a_dark_frame_is_left_out_and_recorded(make_run: Any) -> None:
    path = make_run(dark=(0,))
    (outcome,) = process_file(path, steps(SIRT))
    assert not outcome.failed
    with h5py.File(path) as file:
        assert file["series_001/process_001/parameters/views"][()] == 4
        assert b"0 everywhere" in file["series_001/process_001/notes/data"][()]


def test_a_series_without_light_is_an_error_and_nothing_is_written(make_run: Any) -> None:
    path = make_run(dark=(0, 1, 2, 3, 4))
    before = path.read_bytes()
    done = run_module(path)
    assert done.returncode == 1
    assert "needs two or more" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before


def test_values_that_are_no_numbers(make_run: Any) -> None:
    path = make_run()
    with h5py.File(path, "r+") as file:
        # As a stack of floats of somebody else's making.
        data = file["series_001/instrument/detector/data"][...].astype(np.float32)
        data[1, 3, 3] = np.nan
        del file["series_001/instrument/detector/data"]
        file["series_001/instrument/detector/data"] = data
    (outcome,) = process_file(path, steps(SIRT))
    assert outcome.failed
    assert any("frame 1 holds NaN" in note for note in outcome.notes)
    with h5py.File(path) as file:
        assert file["series_001/process_001/parameters/views"][()] == 4


def test_angles_and_images_differ_in_number(make_run: Any) -> None:
    path = make_run()
    with h5py.File(path, "r+") as file:
        del file["series_001/sample/rotation_angle"]
        file["series_001/sample/rotation_angle"] = [0.0, 1.0]
    with pytest.raises(BadInput, match="series_001: has 5 frames and 2 angles"):
        process_file(path, steps(SIRT))


def test_a_file_that_is_being_written_is_refused(make_run: Any) -> None:
    path = make_run(close=False)
    done = run_module(path)
    assert done.returncode == 2
    assert "still being written" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- reconstruct: {method: sirt, iterations: 2, binning: 2}", ""),
        ("analysis:\n  - reconstruct: {method: sirt, iterations: 2, binning: 2}", ""),
        ("title: whole recipe\nanalysis: [{reconstruct: {iterations: 2, binning: 2}}]", ""),
        ("- reconstruct: {}\n- sharpen: {}", r"p.yaml:2: analysis\[1\].sharpen: unknown analysis"),
        (
            "- reconstruct: {}\n- denoise: {}",
            r"p.yaml:2: .*'denoise' must come before",
        ),
        ("- measure: necks", "'measure' needs the step 'segment'"),
        ("- reconstruct: {iterations: 0}", r"analysis\[0\].reconstruct.iterations"),
        ("[]", "at least 1 item"),
        ("steps: []", "analysis"),
        ("- [", "not valid YAML"),
        ("sirt", "should be a YAML mapping"),
    ],
)
def test_pipelines_of_a_file(make_run: Any, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with open_run(make_run()) as run:
        if not words:
            first, second = steps_of(run, file)
            assert (first.kind, second.kind) == ("correct", "reconstruct")
            return
        with pytest.raises(BadInput, match=words):
            steps_of(run, file)


def test_a_run_without_a_pipeline_asks_for_one(make_run: Any) -> None:
    with (
        open_run(make_run(analysis=None)) as run,
        pytest.raises(BadInput, match="--pipeline"),
    ):
        steps_of(run, None)


def test_a_copy_leaves_the_run_alone(make_run: Any, tmp_path: Path) -> None:
    path = make_run()
    before = path.read_bytes()
    done = run_module(path, "--output", tmp_path / "copy.nxs", "--series", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "series_001: volume, mask, outliers\n"
    assert path.read_bytes() == before
    assert "volume" in inspect_file(tmp_path / "copy.nxs")["series"][0]["results"]
    again = run_module(path, "--output", tmp_path / "copy.nxs")
    assert again.returncode == 2
    assert "not overwritten" in again.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.nxs", "run.nxs"]


def test_necks_leave_a_table_and_plots_beside_the_run(
    make_pair_run: Any, command: Any, tmp_path: Path
) -> None:
    path = make_pair_run()
    done = command("process", path)
    assert done.returncode == 0, done.stderr
    table, growth, model = (tmp_path / f"run_{n}" for n in ("necks.csv", "growth.png", "model.png"))
    assert done.stdout.splitlines() == [
        "series_001: volume, labels, necks, mask, outliers",
        "series_002: volume, labels, necks, mask, outliers",
        str(table), str(growth), str(model),
    ]  # fmt: skip
    with table.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["series"], second["series"]) == ("series_001", "series_002")
    assert float(first["hold_total_s"]) == 0.0
    assert float(second["hold_total_s"]) == pytest.approx(5.0, abs=1e-3)
    assert float(second["neck_to_particle"]) > float(first["neck_to_particle"])
    assert float(second["distance_nm"]) < float(first["distance_nm"])
    assert growth.stat().st_size > 10_000
    assert model.stat().st_size > 10_000
    before = table.read_bytes()
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    for arguments, names in (
        (("--series", "2"), {"run_2_necks.csv", "run_2_growth.png", "run_2_model.png"}),
        (("--tables", elsewhere), set[str]()),
        (("--no-tables",), set[str]()),
        (
            ("--output", tmp_path / "copy.nxs"),
            {"copy.nxs", "copy_necks.csv", "copy_growth.png", "copy_model.png"},
        ),
    ):
        there = {p.name for p in tmp_path.iterdir()}
        done = command("process", path, *arguments)
        assert done.returncode == 0, done.stderr
        assert {p.name for p in tmp_path.iterdir()} - there == names
    assert {p.name for p in elsewhere.iterdir()} == {
        "run_necks.csv", "run_growth.png", "run_model.png"
    }  # fmt: skip
    assert table.read_bytes() == before
    with (tmp_path / "run_2_necks.csv").open(newline="") as file:
        assert [row["series"] for row in csv.DictReader(file)] == ["series_002"]


def test_a_folder_that_is_not_there_is_refused_before_the_work(
    make_pair_run: Any, command: Any, tmp_path: Path
) -> None:
    path = make_pair_run()
    before = path.read_bytes()
    done = command("process", path, "--tables", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "--tables: " in done.stderr
    assert path.read_bytes() == before


def test_a_run_without_necks_leaves_no_table(make_run: Any, command: Any, tmp_path: Path) -> None:
    done = command("process", make_run())
    assert done.returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["run.nxs"]


def test_what_is_done_can_be_watched(make_pair_run: Any) -> None:
    class Notes(ProcessWatcher):
        def __init__(self) -> None:
            self.seen: list[tuple[str, Any]] = []

        def frame_done(self, name: str, frames: int) -> None:
            self.seen.append((name, frames))

        def progress(self, name: str, progress: Progress) -> None:
            assert 0 <= progress.fraction <= 1
            self.seen.append((name, progress.what))

        def stack_done(self, name: str) -> None:
            self.seen.append((name, "done"))

    notes = Notes()
    path = make_pair_run(lost=(1,))
    with open_run(path) as run:
        pipeline = steps_of(run, None)
    process_file(path, pipeline, only=2, watcher=notes)
    assert notes.seen[-1] == ("series_002", "done")
    assert notes.seen.count(("series_002", 9)) == 9, "lost frames count too"


def test_stacks_come_in_the_order_of_their_exposure(make_run: Any) -> None:
    path = make_run(series=2)
    with h5py.File(path, "r+") as file:
        times = file["series_001/frames/time"]
        times[...] = times[...] + 100.0
    assert [o.name for o in process_file(path, steps(SIRT))] == ["series_002", "series_001"]


def test_a_denoiser_that_cannot_be_tuned_says_so(
    make_run: Any, command: Any, tmp_path: Path
) -> None:
    path = make_run(analysis=None)
    with h5py.File(path, "r+") as file:
        del file["reference_001"]
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text("- denoise: {noise: auto}\n")
    done = command("process", path, "--pipeline", pipeline)
    assert done.returncode == 0, done.stderr
    assert "holds no reference frames to tune the denoiser by" in done.stderr


@pytest.mark.parametrize("copy", [False, True])
def test_ctrl_c_leaves_the_file_as_it_was(make_run: Any, tmp_path: Path, copy: bool) -> None:
    path = make_run()
    before = path.read_bytes()
    (tmp_path / "p.yaml").write_text("- reconstruct: {iterations: 10000, binning: 1}\n")
    command = [sys.executable, "-P", "-m", "pyrotome.daemon", "process", path]
    command += ["--pipeline", tmp_path / "p.yaml"]
    if copy:
        command += ["--output", tmp_path / "copy.nxs"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.glob(".pyrotome-*/results.h5")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted" in errors
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.yaml", "run.nxs"]


@pytest.fixture
def usual_ctrl_c() -> Iterator[None]:
    """The signal as in a terminal: jobs in the background of a shell start with it ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("usual_ctrl_c")
def test_ctrl_c_waits_while_results_go_into_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_received", [])
    reached = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        reached = True
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # And one that a library has swallowed is not forgotten.
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        pytest.fail("results were written after Ctrl-C")


@pytest.mark.usefixtures("usual_ctrl_c")
def test_ctrl_c_that_a_library_turned_into_an_error_still_ends_with_130(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with pytest.raises(SystemExit) as left, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)
        except KeyboardInterrupt:
            raise RuntimeError("a callback failed") from None
    assert left.value.code == 130
    assert capsys.readouterr().err == "pyrotome: interrupted\n"
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == (handler, hook)


def test_ctrl_c_in_code_made_on_the_way_ends_with_130_and_not_by_the_signal(
    tmp_path: Path,
) -> None:
    (tmp_path / "command.py").write_text(
        "import os, signal\n"
        "from pyrotome.analysis.commands.interrupts import interruptible\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with interruptible():\n"
        "    exec('os.kill(os.getpid(), signal.SIGINT)\\nwhile True: pass')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "command"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "pyrotome: interrupted\n")


def test_an_error_of_its_own_goes_through() -> None:
    with pytest.raises(BadInput), interruptible():
        raise BadInput("run.nxs", "no such file")
