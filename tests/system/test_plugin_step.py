"""An analysis step of another package, installed for itself: checked, used online and offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filter of the results
import numpy as np
import pytest
import yaml
import zmq
from command_line import RECIPE, RIG
from plugin_packages import install

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin_step"
TILTS = {"tilt_series": {"from": "-60 deg", "to": "60 deg", "step": "20 deg"}}
STEPS = [{"heat": {"to": "100 degC", "rate": "300 degC/s"}}, TILTS, TILTS]
ANALYSIS = [
    {"reconstruct": {"method": "sirt", "iterations": 5, "binning": 2}},
    {"segment": {}},
    {"density": {"smallest": "20 nm"}},
]
OURS = ["volume", "slice_y", "slice_z", "slice_x", "labels", "mask", "outliers"]
THEIRS = ["sharpness", "grains", "solid_fraction"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(PLUGIN, tmp_path_factory.mktemp("step"))


class Lab:
    """A folder with a recipe and a rig, and the command line in it."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder, self.site = folder, site
        self.write(ANALYSIS)
        with zmq.Context() as context, context.socket(zmq.PUB) as probe:
            port = probe.bind_to_random_port("tcp://127.0.0.1")
        self.monitor = f"tcp://127.0.0.1:{port}"
        rig = {**RIG, "streams": {**RIG["streams"], "monitor": self.monitor}}
        (folder / "rig.yaml").write_text(yaml.safe_dump(rig))

    def write(self, analysis: list[dict[str, Any]]) -> None:
        recipe = {**RECIPE, "steps": STEPS, "analysis": analysis}
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def __call__(
        self, *arguments: str, site: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pyrotome.daemon", *arguments],
            cwd=self.folder, capture_output=True, text=True, check=False, timeout=170,
            env={**os.environ, "PYTHONPATH": str(site or self.site), "COLUMNS": "200"},
        )  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path, site: Path) -> Lab:
    return Lab(tmp_path, site)


class Listener:
    """A remote monitor: every result that is published, by topic and stack."""

    def __init__(self, endpoint: str) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._endpoint, self._stop = endpoint, False
        self._thread = Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.subscribe("result/")
            socket.connect(self._endpoint)
            while not self._stop:
                if socket.poll(100):
                    topic, header, *_ = socket.recv_multipart()
                    self.heard.append((topic.decode(), json.loads(header)))

    def close(self) -> None:
        self._stop = True
        self._thread.join()


@pytest.fixture
def listener(lab: Lab) -> Iterator[Listener]:
    made = Listener(lab.monitor)
    yield made
    made.close()


def results_in(path: Path, stack: str) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Arrays of each result of the step, in the order of the process groups."""
    found: dict[str, list[np.ndarray[Any, Any]]] = {}
    with h5py.File(path) as file:
        for process in sorted(name for name in file[stack] if name.startswith("process_")):
            if file[f"{stack}/{process}/program"][()].decode() == "pyrotome density":
                for name, group in file[f"{stack}/{process}"].items():
                    if isinstance(group, h5py.Group) and "data" in group:
                        found.setdefault(name, []).append(group["data"][()])
    return found


def test_it_is_small() -> None:
    lines = (PLUGIN / "pyrotome_density" / "__init__.py").read_text().splitlines()
    assert sum(1 for line in lines if line.strip()) < 100


def test_it_is_used_online_and_offline(lab: Lab, listener: Listener) -> None:
    listed = lab("steps", "--json")
    assert listed.returncode == 0, listed.stderr
    (found,) = [entry for entry in json.loads(listed.stdout) if entry["name"] == "density"]
    assert found["gives"] == "sharpness, grains, solid_fraction, densification"
    assert found["settings"] == "smallest"

    done = lab("run", "recipe.yaml", "--rig", "rig.yaml", "-o", "run.nxs", "--speed", "20")
    assert done.returncode == 0, done.stderr
    report = json.loads(lab("inspect", "run.nxs", "--json").stdout)
    assert report["status"] == "complete"
    assert report["results"] == ["densification"]
    for series in report["series"]:
        assert set(series["results"]) == {*OURS, *THEIRS}
    published = [(topic, header["series"]) for topic, header in listener.heard]
    assert published.count(("result/sharpness", "series_001")) == 7
    assert ("result/grains", "series_002") in published
    assert ("result/densification", "entry") in published

    path = lab.folder / "run.nxs"
    done = lab("process", "run.nxs", "--no-tables")
    assert done.returncode == 0, done.stderr
    for stack in ("series_001", "series_002", "entry"):
        arrays = results_in(path, stack)
        assert set(arrays) == ({"densification"} if stack == "entry" else set(THEIRS))
        for online, offline in arrays.values():
            assert np.array_equal(online, offline, equal_nan=True)
    first = results_in(path, "series_001")
    grains = first["grains"][0]
    assert grains.shape == (256, 3)
    with h5py.File(path) as file:
        labels = file["series_001/process_002/labels/data"][...]
    _, voxels = np.unique(labels[labels > 0], return_counts=True)
    radii_nm = (3 * voxels * 32.0**3 / (4 * np.pi)) ** (1 / 3)
    assert radii_nm.max() >= 20.0
    rows = grains[np.isfinite(grains[:, 0])]
    assert np.allclose(rows[:, 2], radii_nm[radii_nm >= 20.0])
    assert (first["sharpness"][0] > 0).all()
    fraction = float(first["solid_fraction"][0])
    assert 0.0 < fraction < 100.0
    assert results_in(path, "entry")["densification"][0][0] == fraction
    with h5py.File(path) as file:
        process = file["series_001/process_003"]
        assert list(process["grains/data"].attrs["columns"]) == [
            "particle", "volume_nm3", "radius_nm",
        ]  # fmt: skip
        assert process["solid_fraction/data"].attrs["units"] == "percent"
        assert process["parameters/smallest_nm"][()] == 20.0


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        (
            ANALYSIS[:1] + ANALYSIS[2:],
            "step 'density' needs the step 'segment' before it, which gives 'labels'",
        ),
        (
            [*ANALYSIS[:2], {"density": {"smallest": "20 s"}}],
            "analysis[2].density.smallest: '20 s' has the wrong dimension",
        ),
        (
            [*ANALYSIS[:2], {"density": {"smalest": "20 nm"}}],
            "analysis[2].density.smalest: unknown key; did you mean 'smallest'?",
        ),
    ],
    ids=["without its input", "wrong unit", "unknown setting"],
)
def test_a_wrong_recipe_is_refused(lab: Lab, analysis: list[dict[str, Any]], said: str) -> None:
    lab.write(analysis)
    done = lab("check", "recipe.yaml")
    assert done.returncode == 2
    assert said in done.stderr


def test_without_the_package_its_recipe_is_refused(lab: Lab) -> None:
    nothing = lab.folder / "nothing"
    nothing.mkdir()
    done = lab("check", "recipe.yaml", site=nothing)
    assert done.returncode == 2
    assert (
        "analysis[2].density: unknown analysis step; installed steps: correct, denoise, merge, "
        in done.stderr
    )


BROKEN = """
from pyrotome.protocols.steps import ResultSpec, Step


class Broken(Step):
    name = "broken"
    inputs = ("volume",)

    @classmethod
    def outputs(cls, settings):
        return (ResultSpec.scalar("length", "nm"),)

    def series(self, series):
        yield self.result("length", series.results["volume"])
        yield self.result("width", 1.0)
        raise RuntimeError("on purpose")
"""


def test_a_step_that_fails_is_named_and_the_others_go_on(lab: Lab) -> None:
    site = lab.folder / "site"
    information = site / "broken-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[pyrotome.steps]\nbroken = broken:Broken\n")
    (site / "broken.py").write_text(BROKEN)
    lab.write([ANALYSIS[0], {"broken": {}}, {"segment": {}}])
    command = ("run", "recipe.yaml", "--rig", "rig.yaml", "-o", "run.nxs", "--speed", "20")
    done = lab(*command, site=site)
    assert done.returncode == 0, done.stderr
    report = json.loads(lab("inspect", "run.nxs", "--json").stdout)
    assert (report["status"], report["frames"]) == ("complete", 14)
    for series in report["series"]:
        assert set(series["results"]) == set(OURS)
    with h5py.File(lab.folder / "run.nxs") as file:
        messages = [text.decode() for text in file["entry/events/message"][...]]
    for said in (
        "series_001: step 'broken' gave 'length' with shape (32, 32, 32) and dtype float32, but "
        "declares () and float64; it is left out",
        "series_001: step 'broken' gave the result 'width', which it does not declare",
        "series_002: step 'broken' failed (RuntimeError: on purpose); the other steps go on",
    ):
        assert any(said in message for message in messages), (said, messages)
