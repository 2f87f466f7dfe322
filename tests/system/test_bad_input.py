"""Bad input: one clear message, the right exit code, no hardware touched, no file overwritten."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml


def refused(done: Any, code: int, *words: str) -> None:
    """A refusal: exit code, one message with these words, no traceback, nothing on stdout."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr, done.stderr


def changed(cli: Any, path: list[Any], value: Any) -> str:
    """The small recipe with one value replaced, or removed and written under another key."""
    recipe = yaml.safe_load(Path(cli.recipe()).read_text())
    place = recipe
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    target = cli.folder / "changed.yaml"
    target.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(target)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["beam", "curent"], "2 pA", ["beam.curent", "unknown key", "'current'"]),
        (["beam", "current"], "2 nm", ["beam.current", "wrong dimension", "'2 pA'"]),
        (["steps", 0, "heat", "to"], "1500 degC", ["steps[0].heat.to", "beyond the chip's limit"]),
        (
            ["steps", 2, "cycle", "then", 0, "tilt_series", "to"],
            "80 deg",
            ["steps[2].cycle.then[0].tilt_series", "80 deg", "stage's limits of -60 to 60"],
        ),
        (["limits", "dose"], "5 e/nm^2", ["limits.dose", "5.9 e/nm^2", "budget of 5 e/nm^2"]),
        (["analysis"], [{"sharpen": {}}], ["analysis[0].sharpen", "unknown analysis step"]),
    ],
    ids=["misspelt", "dimension", "temperature", "angle", "dose", "analysis"],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_recipe_that_cannot_be_run_is_refused_before_anything_starts(
    cli: Any, command: str, path: list[Any], value: Any, words: list[str]
) -> None:
    recipe = changed(cli, path, value)
    output = ["-o", "run.nxs"] if command == "run" else []
    refused(cli(command, recipe, "--rig", cli.rig(), *output), 2, "changed.yaml", *words)
    assert not (cli.folder / "run.nxs").exists()


def test_an_unknown_driver_is_refused_with_the_installed_ones(cli: Any) -> None:
    heater = {"driver": "dens-impuls", "endpoint": "tcp://127.0.0.1:0"}
    done = cli("run", cli.recipe(), "--rig", cli.rig(heater=heater), "-o", "run.nxs")
    refused(done, 2, "heater.driver", "'dens-impuls'", "did you mean 'dens-impulse'?")


def test_an_unknown_driver_option_is_refused(cli: Any) -> None:
    heater = {
        "driver": "dens-impulse", "endpoint": "tcp://127.0.0.1:0", "options": {"dta": "x"},
    }  # fmt: skip
    done = cli("check", cli.recipe(), "--rig", cli.rig(heater=heater))
    refused(done, 2, "heater.options.dta", "data_endpoint")


def test_an_endpoint_nothing_listens_on_is_a_lost_device(cli: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rig = yaml.safe_load(Path(cli.rig()).read_text())
    del rig["simulator"]
    for role in ("heater", "stage", "beam", "detector"):
        scheme = "http" if role in ("stage", "beam") else "tcp"
        rig[role]["endpoint"] = f"{scheme}://127.0.0.1:{port}"
        if "options" in rig[role]:
            rig[role]["options"]["data_endpoint"] = "tcp://127.0.0.1:9"
    path = cli.folder / "real.yaml"
    path.write_text(yaml.safe_dump(rig))
    done = cli("run", cli.recipe(), "--rig", str(path), "-o", "run.nxs")
    refused(done, 3, "beam (temscript-beam)", f"127.0.0.1:{port}", "nothing listens")
    assert not (cli.folder / "run.nxs").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"title: [unclosed", ["not valid YAML"]),
        (b"just a sentence", ["should be a YAML mapping"]),
        (b"\x89HDF\r\n\x1a\n\xff\xfe", ["is not text"]),
        (b"", ["should be a YAML mapping"]),
    ],
)
def test_a_file_that_is_not_yaml_is_refused(cli: Any, content: bytes, words: list[str]) -> None:
    path = cli.folder / "odd.yaml"
    path.write_bytes(content)
    refused(cli("check", str(path)), 2, "odd.yaml", *words)
    refused(cli("run", str(path)), 2, "odd.yaml", *words)


def test_a_recipe_that_is_not_there_is_refused(cli: Any) -> None:
    refused(cli("check", "nowhere.yaml"), 2, "nowhere.yaml: no such file")


def test_a_file_that_exists_is_never_overwritten(cli: Any) -> None:
    precious = cli.folder / "precious.nxs"
    precious.write_bytes(b"my data")
    done = cli("run", cli.recipe(), "--rig", cli.rig(), "-o", "precious.nxs")
    refused(done, 2, "precious.nxs", "exists already")
    assert precious.read_bytes() == b"my data"
    done = cli(
        "run", cli.recipe(), "--rig", cli.rig(), "-o", "run.nxs",
        "--simulator-log", "precious.nxs",
    )  # fmt: skip
    refused(done, 2, "precious.nxs", "exists already")
    assert precious.read_bytes() == b"my data"
    assert not (cli.folder / "run.nxs").exists()
    done = cli("run", cli.recipe(), "--rig", cli.rig(), "-o", "no/such/folder.nxs")
    refused(done, 2, "its folder does not exist")


def test_speed_is_for_simulated_rigs(cli: Any) -> None:
    text = Path(cli.rig()).read_text().replace("127.0.0.1:0", "127.0.0.1:9")
    rig = yaml.safe_load(text)
    del rig["simulator"]
    for role in ("heater", "detector"):
        rig[role]["options"]["data_endpoint"] = "tcp://127.0.0.1:10"
    path = cli.folder / "real.yaml"
    path.write_text(yaml.safe_dump(rig))
    done = cli("run", cli.recipe(), "--rig", str(path), "--speed", "20")
    refused(done, 2, "--speed works with simulated time only")
    done = cli("run", cli.recipe(), "--rig", cli.rig(), "--speed", "-1")
    refused(done, 2, "--speed")


def test_a_stream_port_in_use_is_named(cli: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        rig = cli.rig(streams={"monitor": endpoint, "control": "tcp://127.0.0.1:*"})
        done = cli("run", cli.recipe(), "--rig", rig, "-o", "run.nxs")
    refused(done, 2, "streams.monitor", endpoint, "in use")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nowhere.nxs"], ["nowhere.nxs"]),
        (["inspect", "."], ["."]),
        (["status", "--endpoint", "not an address"], ["is not a ZeroMQ address"]),
        (["watch", "--endpoint", "http://x"], ["is not a ZeroMQ address"]),
        (["simulate", "--rig", "nowhere.yaml"], ["nowhere.yaml: no such file"]),
        (["submit", "nowhere.yaml"], ["nowhere.yaml: no such file"]),
        (["resume", "--at", "12 nm"], ["--at: '12 nm' is no Y,X; write it as in"]),
        (["resume", "--at", "12,13"], ["--at: '12' has no unit", "or both in px"]),
        (["resume", "--at", "12 px,1 nm"], ["'12 px,1 nm' is in px by half"]),
        (["resume", "--at", "nan px,1 px"], ["is no place in a picture"]),
    ],
)
def test_wrong_arguments_are_refused(cli: Any, arguments: list[str], words: list[str]) -> None:
    refused(cli(*arguments), 2, *words)


def test_an_absent_daemon_is_reported(cli: Any) -> None:
    done = cli("status", "--endpoint", "tcp://127.0.0.1:9")
    refused(done, 3, "no daemon answered on tcp://127.0.0.1:9")


def test_the_right_recipe_is_planned_without_hardware(cli: Any) -> None:
    done = cli("check", cli.recipe(), "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["frames"] == 12
    assert [s["name"] for s in plan["series"]] == ["series_001", "series_002"]
    assert plan["holds"] == [1.0, 2.0]
    assert cli("check", cli.recipe()).returncode == 0


def test_every_command_has_help_with_an_example(cli: Any) -> None:
    listing = cli("--help").stdout
    for command in (
        "run", "check", "serve", "submit", "status", "pause", "resume", "abort", "safe", "watch",
        "simulate", "inspect", "import", "process", "export", "drivers", "steps",
    ):  # fmt: skip
        assert command in listing
        done = cli(command, "--help")
        assert done.returncode == 0
        assert f"pyrotome {command}" in done.stdout, done.stdout
