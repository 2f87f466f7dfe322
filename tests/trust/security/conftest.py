"""Daemons to attack: two that tests share, restored before each test, and one for a test alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from secured_daemon import ControlClient, SecuredDaemon, connect_as

from pyrotome.daemon.access.rate_limits import BURST_ALL, BURST_EACH, RATE_ALL, RATE_EACH


@pytest.fixture(scope="session")
def shared_secured(commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A daemon with keys for all tests; take `secured`, which restores it."""
    daemon = SecuredDaemon(commands.Cli(tmp_path_factory.mktemp("secured")))
    yield daemon
    daemon.close()


@pytest.fixture
def secured(shared_secured: SecuredDaemon) -> SecuredDaemon:
    """A daemon with keys that acquires; the same before each test, whatever ran before it."""
    shared_secured.restore()
    return shared_secured


@pytest.fixture
def own_secured(commands: Any, tmp_path: Path) -> Iterator[SecuredDaemon]:
    """A daemon with keys that acquires, for one test that ends its run."""
    daemon = SecuredDaemon(commands.Cli(tmp_path))
    try:
        daemon.start_run()
        daemon.forget_events()
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(scope="session")
def shared_open(commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A daemon without keys for all tests; take `keyless`, which restores it."""
    cli = commands.Cli(tmp_path_factory.mktemp("keyless"))
    running = cli.start("serve", "--rig", cli.rig())
    running.wait_for("monitor on", 120)
    yield running
    cli.close()


@pytest.fixture
def keyless(shared_open: Any) -> Any:
    """An idle daemon without keys that answers; what its first connections load is loaded."""
    for endpoint, kind in (
        (shared_open.control, b"DEALER"),
        (shared_open.endpoint("monitor on"), b"SUB"),
    ):
        connect_as(endpoint, kind).close()
    with zmq.Context() as context:
        client = ControlClient(context, shared_open.control, None)
        # What an earlier test has sent may use up the allowed rate for a while.
        answered = 0
        while answered < 10:
            client.wait_until_answered()
            answered = answered + 1 if client.request("status")["ok"] else 0
        client.request("release")
        client.socket.close()
    # A new connection may get the descriptor, and so the rate, of one that has sent too much.
    time.sleep(max(BURST_EACH / RATE_EACH, BURST_ALL / RATE_ALL))
    return shared_open
