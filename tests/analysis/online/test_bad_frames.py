"""What goes wrong with frames, angles and pipelines: what is said, the exit code, what is left.

One table for the command line (import, process, check, run), one for the online worker.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the frames' filter
import numpy as np
import pytest
import yaml
import zmq

from pyrotome.protocols.config.pipeline import AnalysisStep, planned_results
from pyrotome.protocols.config.recipe import BeamSettings, Sample
from pyrotome.protocols.messages.credit_link import parse_upstream
from pyrotome.protocols.messages.manifest import RunManifest, StackPlan
from pyrotome.protocols.messages.parent_pipe import dump_config
from pyrotome.protocols.messages.process import AnalysisConfig
from pyrotome.protocols.messages.stream import Message

COUNTS = np.random.default_rng(3).poisson(20, (5, 8, 11)).astype(np.uint16)
TILTS = (-40.0, -20.0, 0.0, 20.0, 40.0)
RECIPE: dict[str, Any] = {
    "title": "Wrong",
    "sample": {"name": "Cu"},
    "beam": {
        "voltage": "300 kV", "current": "2 pA", "dwell": "10 us", "frame": [64, 64],
        "pixel_size": "16 nm",
    },
    "steps": [{"tilt_series": {"from": "-20 deg", "to": "20 deg", "step": "10 deg"}}],
}  # fmt: skip


@pytest.fixture
def pyrotome(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """The command line, in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def carry_out(name: str, *arguments: str) -> Any:
        if name in ("import", "process"):
            return command(name, *arguments)
        return subprocess.run(
            [sys.executable, "-P", "-m", "pyrotome.daemon", name, *arguments],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return carry_out


def npz(folder: Path, counts: Any = COUNTS) -> None:
    np.savez(folder / "stack.npz", counts=counts, tilt_deg=TILTS)


def with_nan(folder: Path) -> None:
    counts = COUNTS.astype(np.float32)
    counts[3, 2, 2] = np.nan
    npz(folder, counts)


def with_a_dark_image(folder: Path) -> None:
    counts = COUNTS.copy()
    counts[2] = 0
    npz(folder, counts)


def with_angles(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        npz(folder)
        (folder / "angles.rawtlt").write_text(text)

    return make


def with_a_gap(folder: Path) -> None:
    with h5py.File(folder / "stack.h5", "w") as file:
        entry = file.create_group("entry")
        entry["definition"] = "NXtomo"
        entry["instrument/detector/data"] = COUNTS
        entry["instrument/detector/image_key"] = [0, 3, 0, 0, 0]
        entry["sample/rotation_angle"] = TILTS


def recipe(*analysis: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        text = yaml.safe_dump({**RECIPE, "analysis": list(analysis)}, sort_keys=False)
        (folder / "recipe.yaml").write_text(text)

    return make


@dataclass(frozen=True)
class Wrong:
    """A file that is wrong, a command, and what becomes of it."""

    make: Callable[[Path], None]
    command: str
    code: int
    said: tuple[str, ...]


def with_a_mask(folder: Path) -> None:
    np.save(folder / "mask.npy", np.zeros((3, 4)))
    recipe({"correct": {"mask": "mask.npy"}}, {"reconstruct": {}})(folder)


IMPORT = "import stack.npz --pixel-size 5nm -o out.nxs"
COMMANDS = {
    "fewer angles than images": Wrong(
        with_angles("-40\n-20\n0\n20\n"), f"{IMPORT} --tilts angles.rawtlt", 2,
        ("angles.rawtlt: 4 angles for the 5 images of stack.npz", "one angle for each image"),
    ),
    "an angle that is no number": Wrong(
        with_angles("-40\nnan\n0\n20\n40\n"), f"{IMPORT} --tilts angles.rawtlt", 2,
        ("angles.rawtlt:2: 'nan' is not an angle", "one angle in deg per line"),
    ),
    "NaN in an image": Wrong(
        with_nan, IMPORT, 0,
        ("stack.npz: 1 value is NaN or infinity (the first in image 3 at row 2, column 2)",),
    ),
    "a dark image": Wrong(
        with_a_dark_image, IMPORT, 0,
        ("stack.npz: 1 of 5 images have one value everywhere", "beam blanked", ": 2 (the first is"),
    ),
    "a missing tilt": Wrong(
        with_a_gap, IMPORT.replace(".npz", ".h5"), 0,
        ("stack.h5: image 1 (-20 deg) is missing",),
    ),
    "a step that does not exist": Wrong(
        recipe({"reconstruct": {}}, {"sharpen": {}}), "check recipe.yaml", 2,
        (
            "recipe.yaml:19: analysis[1].sharpen: unknown analysis step",
            "installed steps: correct, denoise, merge, background, align, reconstruct, segment, "
            "measure, trace",
        ),
    ),
    "a dark reference that is not there": Wrong(
        recipe({"correct": {"dark": "dark.npy"}}, {"reconstruct": {}}), "check recipe.yaml", 2,
        ("recipe.yaml: analysis: correct: dark.npy cannot be read", "No such file"),
    ),
    "a mask of another shape": Wrong(
        with_a_mask, "run recipe.yaml -o out.nxs", 2,
        ("correct: mask: mask.npy has 3 x 4 pixels; the frames have",),
    ),
    "a step that does not follow": Wrong(
        recipe({"reconstruct": {}}, {"measure": "necks"}), "run recipe.yaml -o out.nxs", 2,
        ("recipe.yaml:19: analysis[1]: step 'measure' needs the step 'segment' before it",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS.values(), ids=COMMANDS)
def test_wrong_files_and_recipes(case: Wrong, pyrotome: Any, tmp_path: Path) -> None:
    case.make(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    done = pyrotome(*case.command.split())
    assert done.returncode == case.code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("pyrotome: ")
    for words in case.said:
        assert words in line
    made = {path.name for path in tmp_path.iterdir()} - before
    assert made == (set() if case.code else {"out.nxs"})


def float_frames(path: Path) -> None:
    """As somebody else's program might rewrite the frames: in floating point, with a NaN."""
    with h5py.File(path, "r+") as file:
        data = file["series_001/instrument/detector/data"][...].astype(np.float32)
        data[1, 3, 3] = np.nan
        del file["series_001/instrument/detector/data"]
        file["series_001/instrument/detector/data"] = data


def two_angles(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["series_001/sample/rotation_angle"]
        file["series_001/sample/rotation_angle"] = [0.0, 1.0]


@dataclass(frozen=True)
class WrongRun:
    """A run file that is wrong, a pipeline, and what `process` says and leaves."""

    frames: dict[str, Any]
    spoil: Callable[[Path], None] | None
    pipeline: str
    code: int
    said: tuple[str, ...]
    views: int  # that the volume is made of; 0 for no volume, and a file as it was


SIRT = "- reconstruct: {method: sirt, iterations: 2, binning: 2}"
RUNS = {
    "angles and frames differ in number": WrongRun(
        {}, two_angles, SIRT, 2,
        ("run.nxs: series_001: has 5 frames and 2 angles", "it needs one for each frame"), 0,
    ),
    "one frame dark": WrongRun(
        {"dark": (0,)}, None, SIRT, 0,
        ("warning series_001 frame 0 is 0 everywhere (beam blanked, detector off?)",), 4,
    ),
    "all frames dark": WrongRun(
        {"dark": (0, 1, 2, 3, 4)}, None, SIRT, 1,
        ("error series_001: 0 usable view(s) of",), 0,
    ),
    "one tilt missing": WrongRun(
        {"lost": (2,)}, None, SIRT, 0, ("warning series_001 frame 2 (0 deg) is lost",), 4,
    ),
    "NaN in a frame": WrongRun(
        {}, float_frames, SIRT, 0,
        ("warning series_001: NaN or the detector's mark", "in 1 place that measures"), 5,
    ),
    "NaN in a frame that is not corrected": WrongRun(
        {}, float_frames, f"- correct: off\n{SIRT}", 1,
        ("error series_001 frame 1 holds NaN", "left out"), 4,
    ),
    "a step that does not exist": WrongRun(
        {}, None, f"{SIRT}\n- sharpen: {{}}", 2,
        ("p.yaml:2: analysis[1].sharpen: unknown analysis step; installed steps: correct,",),
        0,
    ),
    "a method that does not exist": WrongRun(
        {}, None, "- reconstruct: {method: fbp}", 2,
        ("p.yaml:1: analysis[0].reconstruct.method", "'tv', 'wbp' or 'resire', not 'fbp'"), 0,
    ),
    "a step that is no mapping": WrongRun(
        {}, None, "- denoise", 2,
        ("p.yaml:1: analysis[0]: should be a mapping with one or more of the keys correct",), 0,
    ),
    "a step too late": WrongRun(
        {}, None, f"{SIRT}\n- denoise: {{}}", 2,
        ("p.yaml:2: analysis[1]: step 'denoise' must come before 'reconstruct'",), 0,
    ),
    "a step twice": WrongRun(
        {}, None, "- align: {}\n- align: {}", 2,
        ("p.yaml:2: analysis[1]: step 'align' is written twice",), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS.values(), ids=RUNS)
def test_wrong_runs_offline(case: WrongRun, make_run: Any, pyrotome: Any, tmp_path: Path) -> None:
    path = make_run(**case.frames)
    if case.spoil is not None:
        case.spoil(path)
    (tmp_path / "p.yaml").write_text(case.pipeline)
    before = path.read_bytes()
    done = pyrotome("process", "run.nxs", "--pipeline", "p.yaml")
    assert done.returncode == case.code, done.stderr
    assert "Traceback" not in done.stderr
    for words in case.said:
        assert done.stderr.count(words) == 1, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"run.nxs", "p.yaml"}
    if not case.views:
        assert path.read_bytes() == before
        return
    with h5py.File(path) as file:
        process = file["series_001/process_001"]
        assert process["parameters/views"][()] == case.views
        assert np.isfinite(process["volume/data"]).all()
        # What went wrong is kept with the result.
        (said, *_) = case.said
        assert said.split(" ", 1)[1] in process["notes/data"][()].decode()


Frames = list[Any]


def lit() -> Frames:
    return list(np.random.default_rng(7).poisson(20, (5, 16, 16)).astype(np.uint16))


def online_dark() -> Frames:
    frames = lit()
    frames[0] = np.zeros_like(frames[0])
    return frames


def online_lost() -> Frames:
    frames = lit()
    frames[2] = None
    return frames


def online_nan() -> Frames:
    frames: Frames = [frame.astype(np.float32) for frame in lit()]
    frames[1][3, 3] = np.nan
    return frames


def online_too_many() -> Frames:
    return [*lit(), lit()[0]]


def online_too_few() -> Frames:
    return lit()[:4]


# Frames as they arrive (None for a lost one), what is said of them, views in the volume.
ONLINE: dict[str, tuple[Callable[[], Frames], str, int]] = {
    "series_001": (online_dark, "warning: series_001 frame 0 is 0 everywhere", 4),
    "series_002": (online_lost, "warning: series_002 frame 2 .* is lost", 4),
    "series_003": (online_nan, "error: .*series_003 frame 1 holds NaN", 4),
    "series_004": (online_too_many, "error: .*series_004 has 5 frames; none has index 5", 5),
    "series_005": (online_too_few, "warning: series_005: only 4 of 5 frames came", 0),
}


def online_config(link: str) -> AnalysisConfig:
    steps = [AnalysisStep.model_validate(yaml.safe_load(SIRT)[0])]
    planned = tuple(planned_results(steps, "series", 5, (16, 16), 1.0))
    beam = {**RECIPE["beam"], "frame": [16, 16]}
    manifest = RunManifest(
        run="r", title="t", software="test", started_ns=0, speed=1.0, simulated=True,
        recipe_text="", rig_text="", rig_name="rig", detector="test", holds=(), holds_before={},
        telemetry={}, sample=Sample(name="s", elements=[]), analysis=tuple(steps),
        beam=BeamSettings.model_validate(beam),
        stacks=tuple(
            StackPlan(name=name, kind="series", frames=5, tilt_deg=TILTS, results=planned)
            for name in ONLINE
        ),
    )  # fmt: skip
    return AnalysisConfig(link=link, file="none.nxs", manifest=manifest)


def test_wrong_frames_online() -> None:
    """All of them in one run: each is told, none keeps the others from being analysed."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as link:
        link.set(zmq.LINGER, 0)
        port = link.bind_to_random_port("tcp://127.0.0.1")
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "pyrotome.analysis.online.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as worker:  # fmt: skip
            try:
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write(dump_config(online_config(f"tcp://127.0.0.1:{port}")))
                worker.stdin.flush()
                assert json.loads(worker.stdout.readline()) == {}
                events, views = talk(link)
            finally:
                worker.kill()
    for name, (_, words, expected) in ONLINE.items():
        assert len([e for e in events if re.match(words, e)]) == 1, (words, events)
        assert views.get(name, 0) == expected, name


def talk(link: Any) -> tuple[list[str], dict[str, int]]:
    """Play the daemon: send all frames and the end; returns events, and views per volume."""

    def receive() -> tuple[str, dict[str, Any]]:
        assert link.poll(60_000), "the worker has gone silent"
        _, *parts = link.recv_multipart()
        kind, body, _ = parse_upstream(parts)
        return kind, body

    while receive()[0] != "hello":
        pass
    for name, (frames, _, _) in ONLINE.items():
        for index, frame in enumerate(frames()):
            tilt_deg = TILTS[min(index, 4)]
            header: dict[str, Any] = {
                "type": "frame", "series": name, "index": index, "tilt_deg": tilt_deg,
            }  # fmt: skip
            payload: tuple[Any, ...] = ()
            if frame is None:
                header["lost"] = True
            else:
                header |= {"shape": list(frame.shape), "dtype": frame.dtype.name}
                payload = (frame,)
            message = Message("frame/test", header, payload)
            link.send_multipart([b"analysis", *message.parts()])
    link.send_multipart([b"analysis", *Message("end", {}, ()).parts()])
    events: list[str] = []
    views: dict[str, int] = {}
    while True:
        kind, body = receive()
        if kind == "event":
            events.append(f"{body['level']}: {body['message']}")
        elif kind == "result" and body["name"] == "volume":
            views[body["series"]] = body["parameters"]["views"]
        elif kind == "done":
            return events, views
