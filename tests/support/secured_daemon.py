"""A served daemon that requires keys, clients of its sockets, and connections of bare bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from pyrotome.daemon.access.access_control import EVENTS_PER_S
from pyrotome.daemon.access.keys import ClientKey, add_person, load_client, make_server_keys

LEASE_S = 3.0
ROLES = {"olga": "observer", "otto": "operator", "oskar": "operator", "ada": "admin"}
# Frames of 41 ms each, for about a quarter of an hour; after half of them a new run starts.
FRAMES = 20_000
STEPS = [{"heat": {"to": "60 degC", "rate": "300 degC/s"}}, {"reference": {"frames": FRAMES}}]
# The greeting of ZMTP 3 from a peer without a key.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
# So long after the last rejection several more are reported one by one.
QUIET_S = 3 / EVENTS_PER_S
# Most that a wait may take on a computer that is busy with other work.
PATIENCE_S = 120.0


def use_key(zsocket: zmq.Socket[Any], key: ClientKey | None) -> None:
    """Connect a socket with a client's key, if there is one."""
    if key is not None:
        zsocket.set(zmq.CURVE_PUBLICKEY, key.public)
        zsocket.set(zmq.CURVE_SECRETKEY, key.secret)
        zsocket.set(zmq.CURVE_SERVERKEY, key.server)


class ControlClient:
    """A client of the control socket that uses nothing but pyzmq."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, key: ClientKey | None) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.CONNECT_TIMEOUT, 1000)
        use_key(self.socket, key)
        self.socket.connect(endpoint)

    def send(self, verb: str, **fields: Any) -> str:
        """Send a request; fields that are None are left out. Returns its id."""
        body = {"id": uuid.uuid4().hex, "sent_ns": time.time_ns(), "verb": verb, **fields}
        body = {name: value for name, value in body.items() if value is not None}
        self.socket.send_json(body)
        return str(body.get("id", ""))

    def request(self, verb: str, timeout_s: float = PATIENCE_S, **fields: Any) -> dict[str, Any]:
        """Send a request and return its reply."""
        request_id = self.send(verb, **fields)
        end = time.monotonic() + timeout_s
        while self.socket.poll(max(0, int((end - time.monotonic()) * 1000))):
            reply = self.socket.recv_json()
            if reply["id"] == request_id:
                return reply
        pytest.fail(f"no reply to {verb}")

    def take_lease(self, **fields: Any) -> str:
        """Take the control lease; returns its token."""
        reply = self.request("lease", **fields)
        assert reply["ok"], reply
        return reply["data"]["token"]

    def wait_until_answered(self) -> None:
        """Wait until a request is accepted: others may have used up the allowed rate."""
        end = time.monotonic() + PATIENCE_S
        while not self.request("status")["ok"]:
            assert time.monotonic() < end, "requests are still refused"
            time.sleep(0.1)


class SecuredDaemon:
    """A served daemon that requires keys, with a run in progress and an observer of its events.

    Parameters
    ----------
    cli : command_line.Cli
        Runs the command line in a folder of its own, where the keys are too.
    """

    def __init__(self, cli: Any) -> None:
        self.cli, self.context = cli, zmq.Context()
        self.key_folder = cli.folder / "keys"
        make_server_keys(self.key_folder)
        self.keys = {
            name: load_client(add_person(self.key_folder, name, role, cli.folder / name))
            for name, role in ROLES.items()
        }
        rig = cli.rig(security={"keys": "keys", "lease": f"{LEASE_S} s"})
        self.running = cli.start("serve", "--rig", rig)
        self.running.wait_for("monitor on", PATIENCE_S)
        self.control = self.running.endpoint("control on")
        self.monitor = self.running.endpoint("monitor on")
        self.events: list[dict[str, Any]] = []
        self._listener = self.context.socket(zmq.SUB)
        self._listener.set(zmq.LINGER, 0)
        use_key(self._listener, self.keys["olga"])
        self._listener.connect(self.monitor)
        self._listener.subscribe("event")
        self._listener.subscribe("last/event")
        self._clients: dict[str, ControlClient] = {}
        self.file = ""
        self._runs = 0

    def start_run(self) -> None:
        """Start a run and wait for its first frame."""
        self._runs += 1
        self.file = str(self.cli.folder / f"run-{self._runs}.nxs")
        recipe = self.cli.recipe(steps=STEPS, analysis=[], limits={"temperature": "900 degC"})
        otto = self.client("otto")
        token = otto.take_lease()
        text = Path(recipe).read_text()
        reply = otto.request("submit", recipe=text, output=self.file, token=token)
        assert reply["ok"], reply
        assert otto.request("release", token=token)["ok"]
        self.wait_until(lambda: self.frames() > 0)

    def restore(self) -> None:
        """Whatever the test before has done: a run acquires, no lease is held, requests pass."""
        for name in self.keys:
            self.client(name).wait_until_answered()
        ada = self.client("ada")
        status = self.status()
        if status["state"] == "paused":
            assert ada.request("resume", token=ada.take_lease(take_over=True))["ok"]
        if self.status()["state"] == "running" and self.frames() > FRAMES // 2:
            self.abort_run()
        if self.status()["lease"] is not None:
            token = ada.take_lease(take_over=True)
            assert ada.request("release", token=token)["ok"]
        if self.status()["state"] == "idle":
            self.start_run()
        assert self.status()["state"] == "running"
        self.forget_events()

    def abort_run(self) -> None:
        """End the run and wait until its file is closed."""
        ada = self.client("ada")
        assert ada.request("abort", token=ada.take_lease(take_over=True))["ok"]
        self.wait_until(lambda: self.status()["state"] == "idle")

    def forget_events(self) -> None:
        """Wait until no client is rejected any more; forget what was reported.

        The daemon reports few rejections a second one by one and the others as a number, also
        those of requests that a client sent before it disconnected. When none has been reported
        for a while, the next one is reported by name.
        """
        end = time.monotonic() + PATIENCE_S
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < QUIET_S:
            assert time.monotonic() < end, "clients are still rejected"
            if self._listener.poll(100):
                _, header = self._listener.recv_multipart()
                if json.loads(header)["source"] == "security":
                    quiet_since = time.monotonic()
        self.events.clear()

    def client(self, name: str) -> ControlClient:
        """The connection of a person, kept for all tests."""
        if name not in self._clients:
            self._clients[name] = ControlClient(self.context, self.control, self.keys[name])
        return self._clients[name]

    def status(self, name: str = "ada") -> dict[str, Any]:
        """The daemon's status, requested by a person."""
        reply = self.client(name).request("status")
        assert reply["ok"], reply
        return reply["data"]

    def frames(self) -> int:
        """Number of frames acquired in this run."""
        return int(self.status().get("frames_done") or 0)

    def wait_until(self, true: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until a condition is true."""
        end = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < end, self.running.text()
            time.sleep(0.1)

    def wait_for_event(self, *texts: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for an event whose message holds all these texts; returns it."""
        end = time.monotonic() + timeout_s
        while True:
            for event in self.events:
                if all(text in event["message"] for text in texts):
                    return event
            left_ms = int((end - time.monotonic()) * 1000)
            assert left_ms > 0, (texts, [e["message"] for e in self.events])
            if self._listener.poll(left_ms):
                _, header = self._listener.recv_multipart()
                self.events.append(json.loads(header))

    def check_acquisition_continues(self) -> None:
        """More frames arrive, and none was lost."""
        before = self.frames()
        self.wait_until(lambda: self.frames() > before + 3)
        assert self.status()["frames_lost"] == 0

    def memory_bytes(self) -> int:
        """Resident memory of the daemon."""
        return psutil.Process(self.running.process.pid).memory_info().rss

    def close(self) -> None:
        """End the daemon and every client."""
        self.context.destroy(linger=0)
        self.cli.close()


def connect_bare(endpoint: str) -> socket.socket:
    """A TCP connection to a daemon's socket that has sent nothing yet."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def connect_as(endpoint: str, kind: bytes) -> socket.socket:
    """A TCP connection after the handshake of ZMTP 3 without a key."""
    connection = connect_bare(endpoint)
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    connection.sendall(GREETING + b"\x04" + bytes([len(ready)]) + ready)
    connection.settimeout(PATIENCE_S)
    assert connection.recv(64)
    return connection


def wait_until_closed(connection: socket.socket, timeout_s: float = PATIENCE_S) -> None:
    """Wait until the other end closes the connection."""
    connection.settimeout(timeout_s)
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass


def address_of(connection: socket.socket) -> str:
    """This end's address, as the daemon names it."""
    return f"127.0.0.1:{connection.getsockname()[1]}"
