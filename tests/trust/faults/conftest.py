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
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from experiment_bench import Bench
from microscope import RIG, Microscope


class Reaction:
    """Stopwatch between a fault and what must follow it."""

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self.took_s: float | None = None
        self._began_s: float | None = None

    def begins(self) -> None:
        """The fault strikes now."""
        self._began_s = time.monotonic()

    @property
    def left_s(self) -> float:
        """Wall seconds in which it must still happen."""
        assert self._began_s is not None, "the fault has not struck yet"
        return self._began_s + self.within_s - time.monotonic()

    def ends(self, took_s: float | None = None) -> None:
        """What must follow has been seen: now, or so long after the fault by a better clock."""
        assert self._began_s is not None, "the fault has not struck yet"
        self.took_s = time.monotonic() - self._began_s if took_s is None else took_s
        assert self.took_s <= self.within_s, f"{self.took_s:.2f} s, at most {self.within_s:g} s"


@pytest.fixture
def reaction(request: pytest.FixtureRequest) -> Iterator[Reaction]:
    """The row's stopwatch; a row that never stops it fails."""
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "a test in this folder is a row: give it pytest.mark.fault"
    reaction = Reaction(marker.kwargs["within_s"])
    yield reaction
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
