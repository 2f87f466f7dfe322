"""The fault catalogue: each test is a row that says what is broken, what must happen, how soon.

    @pytest.mark.fault(
        broken="the daemon is killed", must="the heater is at its safe level", within_s=1.0
    )
    def test_killed_daemon(reaction, cli):
        ...
        reaction.begins()  # the fault strikes
        ...                # wait until what must happen has happened
        reaction.ends()

The table of all rows, with the time that each took, stands at the end of pytest's report.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from experiment_bench import Bench
from microscope import RIG, Microscope
from reaction import Reaction

PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether a row has passed, for the fixture that ends after it."""
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def reaction(request: pytest.FixtureRequest) -> Iterator[Reaction]:
    """Measures the row's time; a row that never calls `ends` fails."""
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "a test in this folder is a row: give it pytest.mark.fault"
    reaction = Reaction(marker.kwargs["within_s"])
    yield reaction
    if request.node.stash.get(PASSED, False):
        reaction.check_ended()
    request.node.user_properties.append(("fault", {**marker.kwargs, "took_s": reaction.took_s}))


@pytest.fixture(scope="session")
def microscope(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[Microscope]:
    """A simulated microscope beside the daemon, shared by rows; its wires are well at first."""
    # Stage and column on servers of their own: the fault of one is not that of the other.
    stage = {**RIG["stage"], "endpoint": f"http://127.0.0.1:{free_port}"}
    microscope = Microscope(tmp_path_factory.mktemp("microscope"), stage=stage)
    yield microscope
    microscope.close()


@pytest.fixture
def own_microscope(tmp_path: Path) -> Iterator[Microscope]:
    """A simulated microscope for one row, which may be killed."""
    microscope = Microscope(tmp_path)
    yield microscope
    microscope.close()


@pytest.fixture
def well(microscope: Microscope) -> Iterator[Microscope]:
    """The shared microscope, without faults and with its log counted from here."""
    if not microscope.alive:
        microscope.start()
    microscope.well()
    microscope.mark()
    yield microscope
    if microscope.alive:
        microscope.well()


@pytest.fixture
def bench(well: Microscope, reaction: Reaction, tmp_path: Path) -> Bench:
    """A small experiment on the shared microscope, see ``bench.py``."""
    return Bench(well, reaction, tmp_path)


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
