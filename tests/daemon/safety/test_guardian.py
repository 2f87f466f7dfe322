"""The guardian process: what it imports, and what the daemon and it tell each other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.daemon.safety.guardian import devices, safe_state
from pyrotome.daemon.safety.guardian.config import GuardianConfig
from pyrotome.daemon.safety.guardian.messages import (
    EXIT_ENDED,
    EXIT_NOT_STARTED,
    HEARTBEAT,
    end_line,
    journal_line,
    parse_line,
)
from pyrotome.protocols.config.rig import BeamRig, simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock

MODULE = "pyrotome.daemon.safety.guardian"
HEAVY = {
    "zmq",
    "h5py",
    "hdf5plugin",
    "scipy",
    "numpy",
    "numba",
    "pint",
    "aiohttp",
    "pydantic",
    "rich",
}
IMPORTED = (
    f"import sys, {MODULE}.__main__; print(*{{name.partition('.')[0] for name in sys.modules}})"
)


def test_the_process_starts_with_the_standard_library_alone() -> None:
    output = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    ).stdout
    loaded = set(output.split())
    assert "pyrotome" in loaded
    assert not loaded & HEAVY
    foreign = {name for name in loaded - sys.stdlib_module_names if not name.startswith("_")}
    assert foreign == {"pyrotome"} | (foreign & {"distutils", "sitecustomize"})


def run_process(text: str, *drivers: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", MODULE, *drivers]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def config_line(**changes: object) -> str:
    config = GuardianConfig.of(simulated_rig(), ExperimentClock(), kill=False)
    return config.model_copy(update=changes).model_dump_json(by_alias=True) + "\n"


def test_an_orderly_end_touches_nothing() -> None:
    ended = run_process(
        config_line() + HEARTBEAT + end_line(unsafe=False), "dens-impulse", "temscript-beam"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (EXIT_ENDED, "{}\n", "")


def test_without_a_configuration_it_ends() -> None:
    assert run_process("").returncode == EXIT_ENDED


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{}\n", "Field required"),
        (config_line(beam=BeamRig(driver="none-such", endpoint="x")), "no driver has the name"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(line: str, problem: str) -> None:
    # The driver of the beam cannot be imported early; the configuration's check says why.
    ended = run_process(line, "dens-impulse", "none-such")
    assert ended.returncode == EXIT_NOT_STARTED
    assert problem in ended.stdout


def test_the_configuration_carries_what_the_rig_says() -> None:
    rig = simulated_rig()
    guarded = devices.configured(config_line().encode())
    assert guarded.heater.rig == rig.heater
    assert guarded.beam.rig == rig.beam
    assert guarded.timeout_s == rig.guardian.timeout_s


@given(st.binary(max_size=50))
def test_a_damaged_line_tells_nothing_and_breaks_nothing(line: bytes) -> None:
    assert isinstance(parse_line(line), dict)


@given(st.one_of(st.none(), st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)))
def test_the_journal_arrives(name: str | None) -> None:
    line = journal_line(None if name is None else Path("/") / name)
    assert line.endswith("\n")
    assert parse_line(line.encode().rstrip(b"\n")) == {
        "journal": None if name is None else str(Path("/") / name)
    }


async def test_what_is_refused_is_tried_again_and_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(safe_state, "FIRST_RETRY_S", 0.001)
    problems = ["busy", "busy", "", "off"]
    reported: list[str] = []

    async def act() -> None:
        await asyncio.sleep(0)
        if problems:
            raise OSError(problems.pop(0))

    assert await safe_state.confirmed("beam blanked", act, 5.0, 60.0, reported.append)
    assert reported == [
        "NOT beam blanked: busy",
        "NOT beam blanked: not confirmed in time",
        "NOT beam blanked: off",
    ]


async def test_what_is_never_confirmed_is_given_up() -> None:
    async def act() -> None:
        await asyncio.sleep(0)
        raise OSError("off")

    assert not await safe_state.confirmed("beam blanked", act, 5.0, 0.0, lambda _: None)
