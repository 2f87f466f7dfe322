"""One experiment on instruments that are not ours, as a user runs it.

The heater is frappy's cryostat, stage and blanker are instamatic's, the detector LiberTEM-live's.
The latter sends its whole recording at the first trigger of an acquisition, so what is compared is
which frame ends up where, not when it was taken.
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (lets h5py read compressed frames)
import numpy as np
import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECIPE = str(EXAMPLES / "recipes" / "foreign_experiment.yaml")
TILTS = [-10.0, -5.0, 0.0, 5.0, 10.0]


@pytest.fixture
def truth() -> np.ndarray:
    """Frames that the detector sends."""
    rng = np.random.default_rng(5)
    return rng.integers(0, 4096, (len(TILTS), 256, 256), np.uint16)


@pytest.fixture
def others(foreign: Any, tmp_path: Path, truth: np.ndarray) -> Any:
    """The three programs, each with the stack that ends it."""
    with contextlib.ExitStack() as all_of_them:

        def begin(context: Any) -> tuple[Any, contextlib.ExitStack]:
            stack = all_of_them.enter_context(contextlib.ExitStack())
            return stack.enter_context(context), stack

        yield {
            "heater": begin(foreign.frappy_server(tmp_path / "frappy")),
            "column": begin(foreign.instamatic_server(tmp_path / "instamatic")),
            "detector": begin(foreign.merlin_server(tmp_path / "merlin", truth)),
        }


def rig_of(cli: Any, others: Any) -> str:
    """The rig of the examples with the ports in use; returns its path."""
    rig = yaml.safe_load((EXAMPLES / "rigs" / "foreign.yaml").read_text())
    rig["heater"]["endpoint"] = others["heater"][0]
    rig["stage"]["endpoint"] = rig["beam"]["endpoint"] = others["column"][0]
    detector = rig["detector"]
    detector["endpoint"], detector["options"]["data_endpoint"] = others["detector"][0]
    rig["streams"] = {"monitor": "tcp://127.0.0.1:*", "control": "tcp://127.0.0.1:*"}
    path = cli.folder / "rig.yaml"
    path.write_text(yaml.safe_dump(rig))
    return str(path)


def asked(endpoint: str, request: bytes) -> bytes:
    """What a program says to a request, without our drivers."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def heater_target_k(endpoint: str) -> float:
    """Target of the cryostat."""
    line = asked(endpoint, b"read T:target\n").decode()
    return json.loads(line.split(" ", 2)[2])[0]


def test_an_experiment_on_foreign_instruments(cli: Any, others: Any, truth: np.ndarray) -> None:
    column = others["column"][0]
    assert json.loads(asked(column, b'{"func_name": "isBeamBlanked"}')) == [200, False]
    done = cli("run", RECIPE, "--rig", rig_of(cli, others), "-o", "out.nxs")
    assert done.returncode == 0, done.stderr
    assert heater_target_k(others["heater"][0]) == pytest.approx(300.15, abs=0.05)
    assert json.loads(asked(column, b'{"func_name": "isBeamBlanked"}')) == [200, True]

    found = cli.inspect("out.nxs")
    assert (found["status"], found["frames"], found["lost_frames"]) == ("complete", 5, 0)
    (series,) = found["series"]
    assert series["tilt_deg"] == pytest.approx(TILTS, abs=0.05)
    assert series["shape"] == [256, 256]
    assert series["temperature_mean_c"] == pytest.approx(30.0, abs=3.0)
    with h5py.File(cli.folder / "out.nxs") as file:
        np.testing.assert_array_equal(file["series_001/data/data"][:], truth)
        names = file["entry/instrument/devices"]
        assert names["heater"][()].decode().startswith("SECoP insitu.test:T FRAPPY")
        assert names["stage"][()] == names["beam"][()] == b"instamatic simulate"
        log = file["entry/telemetry/heater/temperature_c"]
        temperature_c, time_s = log["value"][:], log["time"][:]
    assert temperature_c.min() > 20.0
    assert 32.0 < temperature_c.max() < 37.0
    assert len(temperature_c) > 5 * (time_s[-1] - time_s[0])


def test_a_column_that_dies_leaves_the_heater_safe(cli: Any, others: Any) -> None:
    running = cli.start("run", RECIPE, "--rig", rig_of(cli, others), "-o", "out.nxs")
    running.wait_for("step 2 of 3")
    assert heater_target_k(others["heater"][0]) == pytest.approx(303.15, abs=0.05)
    others["column"][1].close()
    assert running.wait() == 3, running.text()
    assert "NOT beam blanked" in running.text()
    assert heater_target_k(others["heater"][0]) == pytest.approx(300.15, abs=0.05)
    assert cli.inspect("out.nxs")["status"] == "failed"
