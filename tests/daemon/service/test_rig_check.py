"""The dry run of a rig: every driver and every endpoint option with every wrong form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pyrotome.daemon.access.keys import make_server_keys
from pyrotome.daemon.cli.options import rig_of
from pyrotome.daemon.service.rig_check import rig_problems
from pyrotome.drivers.registry import driver_class, installed
from pyrotome.protocols.config.rig import ROLES, Rig, load_rig
from pyrotome.protocols.core.errors import BadInput

CALIBRATION = Path(__file__).resolve().parents[3] / "examples" / "rigs" / "chip_calibration.json"
REAL: dict[str, Any] = {
    "name": "a real microscope",
    "heater": {
        "driver": "dens-impulse",
        "endpoint": "tcp://impulse:5557",
        "options": {"data_endpoint": "tcp://impulse:5556"},
    },
    "stage": {"driver": "temscript-stage", "endpoint": "http://scope:8080"},
    "beam": {"driver": "temscript-beam", "endpoint": "http://scope:8080"},
    "detector": {
        "driver": "merlin",
        "endpoint": "tcp://merlin:6341",
        "options": {"data_endpoint": "tcp://merlin:6342"},
    },
}
WRONG = [
    "",
    "COM3",
    "GPIB0::24::INSTR",
    "TCPIP0::192.168.0.24::5025::SOCKET",
    "udp://192.168.0.24:5025",
    "192.168.0.24:5025",
    "tcp://192.168.0.24",
    "http://192.168.0.24",
    "tcp://192.168.0.24:99999",
    "http://192.168.0.24:99999",
    "tcp://192.168.0.24:0",
    "tcp://192.168.0.300:5025",
    "tcp://:5025",
    "http://scope:8080/v1",
    "serial:///etc/passwd",
    "serial://ttyUSB0",
    "/dev/ttyUSB0",
    "tcp://the scope:80",
]


def roles() -> dict[str, str]:
    """Each driver of ours to its role."""
    found: dict[str, str] = {}
    for name, point in installed().items():
        for role in ROLES:
            if point.value.startswith("pyrotome."):
                try:
                    driver_class(name, role)
                except BadInput:
                    continue
                found[name] = role
    return found


def rig_with(driver: str, role: str, option: str, endpoint: str) -> dict[str, Any]:
    """A real rig with one address of one driver replaced."""
    forms = driver_class(driver, role).endpoints
    usual = {name: examples[0].replace("HOST", "instrument") for name, examples in forms.items()}
    options: dict[str, Any] = {name: text for name, text in usual.items() if name != "endpoint"}
    if driver.startswith("keithley"):
        options["calibration_file"] = str(CALIBRATION)
    entry = {"driver": driver, "endpoint": usual["endpoint"], "options": options}
    (entry if option == "endpoint" else options)[option] = endpoint
    return {**REAL, role: entry}


WALK = [
    (driver, role, option)
    for driver, role in roles().items()
    for option in driver_class(driver, role).endpoints
]


def test_every_driver_of_ours_names_its_addresses():
    for driver, role in roles().items():
        found = driver_class(driver, role)
        addresses = {name for name in found.Options.model_fields if name.endswith("endpoint")}
        assert set(found.endpoints) == {"endpoint", *addresses}, driver


@pytest.mark.parametrize(("driver", "role", "option"), WALK)
@pytest.mark.parametrize("wrong", WRONG)
def test_every_wrong_address_is_refused_with_its_line(
    tmp_path: Path, driver: str, role: str, option: str, wrong: str
) -> None:
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(rig_with(driver, role, option, wrong), sort_keys=False))
    with pytest.raises(BadInput) as caught:
        rig_of(path)
    where = f"{role}.endpoint" if option == "endpoint" else f"{role}.options.{option}"
    key = f"{option}: "
    numbers = [
        number
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip().startswith(key)
    ]
    said = str(caught.value)
    assert any(f"{path}:{number}: {where}: " in said for number in numbers)
    assert wrong in said
    assert "; write '" in said
    assert "\n" not in said


@pytest.mark.parametrize(("driver", "role", "option"), WALK)
def test_the_usual_address_of_every_driver_is_accepted(driver: str, role: str, option: str) -> None:
    example = driver_class(driver, role).endpoints[option][0].replace("HOST", "instrument")
    assert rig_problems(Rig.model_validate(rig_with(driver, role, option, example))) == []


def test_all_problems_are_told_at_once(tmp_path: Path):
    stage = {**REAL["stage"], "endpoint": "COM3"}
    detector = {**REAL["detector"], "options": {"data_endpoint": "tcp://merlin:6341"}}
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump({**REAL, "stage": stage, "detector": detector}))
    with pytest.raises(BadInput) as caught:
        rig_of(path)
    first, second = str(caught.value).splitlines()
    assert "stage.endpoint" in first
    assert "'tcp://merlin:6341' is detector.endpoint already" in second


def test_a_driver_that_names_no_addresses_works_as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver_class("merlin", "detector"), "endpoints", {})
    detector = {**REAL["detector"], "endpoint": "camera link 3"}
    assert rig_problems(Rig.model_validate({**REAL, "detector": detector})) == []
    detector = {**REAL["detector"], "endpoint": ""}
    problems = rig_problems(Rig.model_validate({**REAL, "detector": detector}))
    assert [error.where for error in problems] == ["detector.endpoint"]


def written(tmp_path: Path, **changes: Any) -> list[BadInput]:
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump({**REAL, **changes}))
    return rig_problems(load_rig(path)[0])


def test_files_that_are_not_there(tmp_path: Path):
    heater = {
        "driver": "keithley-2450",
        "endpoint": "tcp://smu:5025",
        "options": {"calibration_file": "chip.json"},
    }
    (problem,) = written(tmp_path, heater=heater)
    assert str(problem).startswith("heater.options.calibration_file: ")
    assert f"'{tmp_path}/chip.json': there is no such file" in str(problem)
    (tmp_path / "chip.json").write_text("{}")
    (problem,) = written(tmp_path, heater=heater)
    assert "heater.options.calibration_file" in str(problem)
    (problem,) = written(tmp_path, security={"keys": "keys"})
    assert str(problem).startswith("security.keys: ")
    assert "pyrotome keys init" in str(problem)
    make_server_keys(tmp_path / "keys")
    assert written(tmp_path, security={"keys": "keys"}) == []
    (problem,) = written(tmp_path, mqtt={"username": "me", "password_file": "secret"})
    assert "secret: cannot be read" in str(problem)


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"streams": {"monitor": "COM3"}}, "streams.monitor", "does not begin with tcp://"),
        ({"streams": {"control": "tcp://127.0.0.1:99999"}}, "streams.control", "port '99999'"),
        ({"streams": {"control": "tcp://127.0.0.1"}}, "streams.control", "and a port"),
        ({"streams": {"control": "tcp://127.0.0.1:5571"}}, "streams.control", "monitor's already"),
        ({"mqtt": {"host": "tcp://broker:1883"}}, "mqtt.host", "name or address of the broker"),
    ],
)
def test_addresses_of_streams_and_broker(
    tmp_path: Path, changes: dict[str, Any], where: str, words: str
) -> None:
    if "keys" not in changes:
        make_server_keys(tmp_path / "keys")
    (problem,) = written(tmp_path, security={"keys": "keys"}, **changes)
    assert problem.where == where
    assert words in problem.problem


def test_the_command_refuses_with_exit_code_2(cli: Any) -> None:
    path = cli.folder / "rig.yaml"
    path.write_text(yaml.safe_dump(rig_with("temscript-stage", "stage", "endpoint", "COM3")))
    for command in (["check", cli.recipe()], ["run", cli.recipe(), "-o", "x.nxs"], ["serve"]):
        done = cli(*command, "--rig", str(path))
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "stage.endpoint: 'COM3' is a serial port of Windows" in done.stderr
    assert not (cli.folder / "x.nxs").exists()


def test_the_case_that_hung(cli: Any) -> None:
    cases = Path(__file__).resolve().parents[4] / "shared" / "cases"
    if not cases.is_dir():
        pytest.skip("the shared cases are not beside this checkout")
    recipe, rig = cases / "recipe_ok.yaml", cases / "rig_bad_stage_endpoint.yaml"
    for command in (["check", str(recipe)], ["run", str(recipe), "-o", "x.nxs"], ["serve"]):
        done = cli(*command, "--rig", str(rig))
        assert done.returncode == 2
        assert f"{rig.name}:3: stage.endpoint: '127.0.0.1:8080'" in done.stderr
        assert "write 'http://127.0.0.1:8080'" in done.stderr
