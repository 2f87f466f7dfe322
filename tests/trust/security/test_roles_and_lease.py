"""Roles and the control lease on a served daemon while it acquires."""

from __future__ import annotations

import time
from typing import Any

import pytest
from secured_daemon import LEASE_S, SecuredDaemon


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "safe", "lease", "release"])
def test_an_observer_controls_nothing(secured: SecuredDaemon, verb: str) -> None:
    reply = secured.client("olga").request(verb)
    assert reply["ok"] is False
    assert reply["code"] == 2
    assert "'olga' is an observer" in reply["error"]
    event = secured.wait_for_event("'olga'", verb)
    assert "127.0.0.1:" in event["who"]
    assert secured.client("olga").request("latest", topics=["telemetry/"])["ok"]
    assert secured.status()["state"] == "running"


def test_control_needs_a_lease_that_has_not_expired(secured: SecuredDaemon) -> None:
    otto, oskar = secured.client("otto"), secured.client("oskar")
    assert "nobody holds it" in otto.request("pause")["error"]
    token = otto.take_lease()
    reply = oskar.request("lease")
    assert reply["ok"] is False
    assert "'otto' has held" in reply["error"]
    assert "'otto' has held" in oskar.request("pause", token=token)["error"]
    assert "token is not" in otto.request("pause", token="guess")["error"]
    held = secured.status()["lease"]
    assert held["holder"] == "otto"
    assert 0 < held["left_s"] <= LEASE_S
    secured.wait_until(lambda: secured.status()["lease"] is None)
    secured.forget_events()
    reply = otto.request("abort", token=token)
    assert "your control lease expired" in reply["error"]
    secured.wait_for_event("'otto'", "expired")
    assert secured.status()["state"] == "running"


def test_an_admin_takes_the_lease_over_and_an_event_says_so(secured: SecuredDaemon) -> None:
    otto, ada = secured.client("otto"), secured.client("ada")
    token = otto.take_lease()
    assert "an admin can" in secured.client("oskar").request("lease", take_over=True)["error"]
    assert "'otto' has held" in ada.request("lease")["error"]
    new = ada.take_lease(take_over=True)
    secured.wait_for_event("'ada' took the control lease over from 'otto'")
    assert "'ada' has held" in otto.request("abort", token=token)["error"]
    assert ada.request("pause", token=new)["ok"]
    assert ada.request("resume", token=new)["ok"]
    assert ada.request("release", token=new)["ok"]
    assert secured.status()["lease"] is None


def test_the_command_line_takes_the_lease_by_itself(secured: SecuredDaemon) -> None:
    def run(command: str, name: str, *more: str) -> Any:
        key = str(secured.cli.folder / name)
        return secured.cli(command, "--endpoint", secured.control, "--key", key, *more)

    # Another operator holds the lease for as long as this command tries.
    key = str(secured.cli.folder / "oskar")
    secured.client("otto").take_lease()
    refused = secured.cli.start("pause", "--endpoint", secured.control, "--key", key)
    while refused.process.poll() is None:
        secured.client("otto").take_lease()
        time.sleep(0.2)
    assert refused.process.returncode == 2
    assert "'otto' has held" in refused.text()
    assert run("lease", "ada", "--take-over").returncode == 0
    assert run("lease", "ada", "--release").returncode == 0
    assert run("pause", "oskar").returncode == 0
    assert run("resume", "oskar").returncode == 0
    secured.check_acquisition_continues()
