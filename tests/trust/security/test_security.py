"""Nobody in who should not be: attacks on a served daemon while it acquires, which loses nothing.

``PYROTOME_CONNECTIONS`` sets how many connections the storm keeps open or opening at a time (10000,
unless it is set); a process needs as many file descriptors.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest
import zmq

from pyrotome.daemon.access.gate import EVENTS_PER_S
from pyrotome.daemon.access.keys import ClientKey, add_person, load_client, make_server_keys, revoke
from pyrotome.protocols.config.rig import load_rig
from pyrotome.protocols.core.errors import BadInput

CONNECTIONS = int(os.environ.get("PYROTOME_CONNECTIONS", "10000"))
LEASE_S = 3.0
# Frames of 41 ms each, more than these tests take; the last test ends them.
STEPS = [{"heat": {"to": "60 degC", "rate": "300 degC/s"}}, {"reference": {"frames": 20_000}}]


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)


class Caller:
    """A client of the control socket, with plain pyzmq."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, key: ClientKey | None) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.CONNECT_TIMEOUT, 1000)
        use(self.socket, key)
        self.socket.connect(endpoint)

    def send(self, verb: str, **fields: Any) -> str:
        body = {"id": uuid.uuid4().hex, "sent_ns": time.time_ns(), "verb": verb, **fields}
        body = {name: value for name, value in body.items() if value is not None}
        self.socket.send_json(body)
        return str(body.get("id", ""))

    def ask(self, verb: str, timeout_s: float = 30.0, **fields: Any) -> dict[str, Any]:
        asked = self.send(verb, **fields)
        end = time.monotonic() + timeout_s
        while self.socket.poll(max(0, int((end - time.monotonic()) * 1000))):
            reply = self.socket.recv_json()
            if reply["id"] == asked:
                return reply
        pytest.fail(f"no answer to {verb}")

    def token(self, **fields: Any) -> str:
        reply = self.ask("lease", **fields)
        assert reply["ok"], reply
        return reply["data"]["token"]


def use(zsocket: zmq.Socket[Any], key: ClientKey | None) -> None:
    if key is not None:
        zsocket.set(zmq.CURVE_PUBLICKEY, key.public)
        zsocket.set(zmq.CURVE_SECRETKEY, key.secret)
        zsocket.set(zmq.CURVE_SERVERKEY, key.server)


class Site:
    """A served daemon that demands keys, with a run under way and an observer who listens."""

    def __init__(self, cli: Any) -> None:
        self.cli, self.context = cli, zmq.Context()
        self.folder = cli.folder / "keys"
        make_server_keys(self.folder)
        self.keys = {
            name: load_client(add_person(self.folder, name, role, cli.folder / name))
            for name, role in {
                "olga": "observer", "otto": "operator", "oskar": "operator", "ada": "admin",
            }.items()
        }  # fmt: skip
        rig = cli.rig(security={"keys": "keys", "lease": f"{LEASE_S} s"})
        self.running = cli.start("serve", "--rig", rig)
        self.running.wait_for("monitor on", 120)
        self.control = self.running.endpoint("control on")
        self.monitor = self.running.endpoint("monitor on")
        self.events: list[dict[str, Any]] = []
        self._listener = self.context.socket(zmq.SUB)
        self._listener.set(zmq.LINGER, 0)
        use(self._listener, self.keys["olga"])
        self._listener.connect(self.monitor)
        self._listener.subscribe("event")
        self._listener.subscribe("last/event")
        self._callers: dict[str, Caller] = {}
        self.file = str(cli.folder / "run.nxs")

    def begin_run(self) -> None:
        recipe = self.cli.recipe(steps=STEPS, analysis=[], limits={"temperature": "900 degC"})
        key = str(self.cli.folder / "otto")
        done = self.cli("submit", recipe, "-o", self.file, "--endpoint", self.control, "--key", key)
        assert done.returncode == 0, done.stderr
        self.wait(lambda: self.frames() > 0)

    def caller(self, name: str) -> Caller:
        """The connection of somebody, kept for all tests."""
        if name not in self._callers:
            self._callers[name] = Caller(self.context, self.control, self.keys[name])
        return self._callers[name]

    def status(self, name: str = "ada") -> dict[str, Any]:
        reply = self.caller(name).ask("status")
        assert reply["ok"], reply
        return reply["data"]

    def frames(self) -> int:
        return int(self.status().get("frames_done") or 0)

    def wait(self, true: Callable[[], bool], timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < end, self.running.text()
            time.sleep(0.1)

    def event(self, *texts: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait for a security event with these texts in it."""
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

    def undisturbed(self) -> None:
        """Frames go on coming, and none was lost."""
        before = self.frames()
        self.wait(lambda: self.frames() > before + 3)
        assert self.status()["frames_lost"] == 0

    def memory(self) -> int:
        return psutil.Process(self.running.process.pid).memory_info().rss

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.cli.close()


@pytest.fixture(scope="module")
def site(commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(commands.Cli(tmp_path_factory.mktemp("site")))
    try:
        site.begin_run()
        yield site
    finally:
        site.close()


def calm(site: Site) -> None:
    """Nobody is turned away for long enough that the next one is told by name."""
    time.sleep(2 / EVENTS_PER_S)
    site.events.clear()


@pytest.fixture
def told(site: Site) -> None:
    calm(site)


def raw(endpoint: str) -> socket.socket:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def hung_up(connection: socket.socket, timeout_s: float = 30.0) -> None:
    """Wait until the other end closes."""
    connection.settimeout(timeout_s)
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass


def port_of(connection: socket.socket) -> str:
    return f"127.0.0.1:{connection.getsockname()[1]}"


# --- who is let in ------------------------------------------------------------------------------


@pytest.mark.usefixtures("told")
def test_without_a_key_nobody_is_let_in_on_either_socket(site: Site) -> None:
    for endpoint, command in ((site.control, "status"), (site.monitor, "watch")):
        done = site.cli(command, "--endpoint", endpoint)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert "a key" in done.stderr
    # One who leaves as fast as these may be gone before the address is read; this one is not.
    for what, endpoint in (("control", site.control), ("the monitor", site.monitor)):
        with raw(endpoint) as connection:
            time.sleep(1.0)
            connection.sendall(GREETING)
            address = port_of(connection)
            hung_up(connection)
        event = site.event(f"{what} from {address}")
        assert event["level"] == "warning"
        assert event["source"] == "security"
        assert event["who"] == f"{what} from {address}"
        assert event["why"] == "it came without a key"
    site.undisturbed()


@pytest.mark.usefixtures("told")
def test_a_key_that_is_not_filed_is_refused_and_told_by_its_first_characters(
    site: Site, tmp_path: Path
) -> None:
    make_server_keys(tmp_path / "elsewhere")
    path = add_person(tmp_path / "elsewhere", "mallory", "admin", tmp_path / "mallory")
    ours, theirs = site.keys["ada"].server, load_client(path).server
    text = path.read_text()
    # That of another daemon does not even greet this one.
    done = site.cli("status", "--endpoint", site.control, "--key", str(path))
    assert done.returncode in (2, 3)
    assert "not for that daemon" in done.stderr
    site.event("it does not know this daemon's public key")
    calm(site)
    path.write_text(text.replace(theirs.decode(), ours.decode()))
    done = site.cli("status", "--endpoint", site.control, "--key", str(path))
    assert done.returncode == 2, done.stderr
    assert "does not know this key" in done.stderr
    site.event("127.0.0.1", load_client(path).public[:8].decode())
    site.undisturbed()


@pytest.mark.usefixtures("told")
def test_a_revoked_key_is_cut_and_a_new_one_let_in_while_the_daemon_runs(
    site: Site, tmp_path: Path
) -> None:
    key = load_client(add_person(site.folder, "gast", "observer", tmp_path / "gast"))
    guest = Caller(site.context, site.control, key)
    assert guest.ask("status")["ok"]
    revoke(site.folder, "gast")
    site.event("the key of 'gast' was revoked")
    guest.send("status")
    assert not guest.socket.poll(1000), "cut, and not let in again"
    guest.socket.close()
    site.undisturbed()


def test_a_key_that_others_can_read_is_not_used(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "open"
    path.write_bytes((site.cli.folder / "otto").read_bytes())
    path.chmod(0o644)
    done = site.cli("status", "--endpoint", site.control, "--key", str(path))
    assert done.returncode == 2
    assert f"chmod 600 {path}" in done.stderr


# --- who may do what ----------------------------------------------------------------------------


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "safe", "lease", "release"])
def test_an_observer_controls_nothing(site: Site, verb: str) -> None:
    reply = site.caller("olga").ask(verb)
    assert reply["ok"] is False
    assert reply["code"] == 2
    assert "'olga' is an observer" in reply["error"]
    event = site.event("'olga'", verb)
    assert "127.0.0.1:" in event["who"]
    assert site.caller("olga").ask("latest", topics=["telemetry/"])["ok"]
    assert site.status()["state"] == "running"


@pytest.mark.usefixtures("told")
def test_control_needs_the_lease_and_an_expired_one_is_none(site: Site) -> None:
    otto, oskar = site.caller("otto"), site.caller("oskar")
    site.wait(lambda: site.status()["lease"] is None)
    assert "nobody holds it" in otto.ask("pause")["error"]
    token = otto.token()
    reply = oskar.ask("lease")
    assert reply["ok"] is False
    assert "'otto' has held" in reply["error"]
    assert "'otto' has held" in oskar.ask("pause", token=token)["error"]
    assert "token is not" in otto.ask("pause", token="guess")["error"]
    held = site.status()["lease"]
    assert held["holder"] == "otto"
    assert 0 < held["left_s"] <= LEASE_S
    site.wait(lambda: site.status()["lease"] is None)
    reply = otto.ask("abort", token=token)
    assert "your control lease expired" in reply["error"]
    site.event("'otto'", "expired")
    assert site.status()["state"] == "running"


@pytest.mark.usefixtures("told")
def test_an_admin_takes_over_and_everyone_is_told(site: Site) -> None:
    otto, ada = site.caller("otto"), site.caller("ada")
    site.wait(lambda: site.status()["lease"] is None)
    token = otto.token()
    assert "an admin can" in site.caller("oskar").ask("lease", take_over=True)["error"]
    assert "'otto' has held" in ada.ask("lease")["error"]
    new = ada.token(take_over=True)
    site.event("'ada' took the control lease over from 'otto'")
    assert "'ada' has held" in otto.ask("abort", token=token)["error"]
    assert ada.ask("pause", token=new)["ok"]
    assert ada.ask("resume", token=new)["ok"]
    assert ada.ask("release", token=new)["ok"]
    assert site.status()["lease"] is None


def test_the_command_line_takes_the_lease_by_itself(site: Site) -> None:
    site.wait(lambda: site.status()["lease"] is None)

    def run(command: str, name: str, *more: str) -> Any:
        key = str(site.cli.folder / name)
        return site.cli(command, "--endpoint", site.control, "--key", key, *more)

    # Somebody else holds it all the while.
    key = str(site.cli.folder / "oskar")
    refused = site.cli.start("pause", "--endpoint", site.control, "--key", key)
    while refused.process.poll() is None:
        site.caller("otto").token()
        time.sleep(0.2)
    assert refused.process.returncode == 2
    assert "'otto' has held" in refused.text()
    assert run("lease", "ada", "--take-over").returncode == 0
    assert run("lease", "ada", "--release").returncode == 0
    assert run("pause", "oskar").returncode == 0
    assert run("resume", "oskar").returncode == 0
    site.undisturbed()


# --- what is let in -----------------------------------------------------------------------------


@pytest.mark.usefixtures("told")
def test_a_request_is_carried_out_once_and_only_if_it_is_new(site: Site) -> None:
    otto = site.caller("otto")
    first = {"id": uuid.uuid4().hex, "sent_ns": time.time_ns()}
    assert otto.ask("status", **first)["ok"]
    assert "has come before" in otto.ask("status", **first)["error"]
    assert "has come before" in otto.ask("safe", **first)["error"]
    site.event("'otto'", "has come before")
    old = otto.ask("status", sent_ns=time.time_ns() - 120 * 10**9)
    assert "set the clock" in old["error"]
    otto.send("status", id=None)
    assert otto.socket.poll(10_000)
    assert "needs an `id`" in otto.socket.recv_json()["error"]
    assert "sent_ns" in otto.ask("status", sent_ns=None)["error"]
    assert site.status()["state"] == "running"


@pytest.mark.usefixtures("told")
def test_who_asks_too_much_is_refused_and_the_others_are_answered(site: Site) -> None:
    greedy = Caller(site.context, site.control, site.keys["oskar"])
    for _ in range(1000):
        greedy.send("status")
    assert site.status("otto")["state"] == "running"
    site.event("'oskar'", "too many requests")
    seen = {True: 0, False: 0}
    while sum(seen.values()) < 200 and greedy.socket.poll(5000):
        seen[greedy.socket.recv_json()["ok"]] += 1
    assert seen[False] > 0
    assert seen[True] <= 100
    greedy.socket.close()
    site.undisturbed()


def test_who_never_reads_its_replies_costs_nothing(site: Site) -> None:
    deaf = site.context.socket(zmq.DEALER)
    deaf.set(zmq.LINGER, 0)
    deaf.set(zmq.RCVHWM, 1)
    use(deaf, site.keys["oskar"])
    deaf.connect(site.control)
    time.sleep(2.0)
    before = site.memory()
    end = time.monotonic() + 3
    sent = 0
    while time.monotonic() < end:
        if deaf.poll(10, zmq.POLLOUT):
            body = {"id": uuid.uuid4().hex, "sent_ns": time.time_ns(), "verb": "latest"}
            deaf.send_json({**body, "topics": [""]}, zmq.NOBLOCK)
            sent += 1
    assert sent > 1000
    assert site.memory() - before < 40e6
    deaf.close()
    site.undisturbed()


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("where", ["control", "monitor"])
def test_a_port_scanner_harms_nothing(site: Site, where: str) -> None:
    endpoint = getattr(site, where)
    attempts = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        bytes(range(256)) * 40,
        b"\xff" * 5000,
        GREETING[:20],
        GREETING.replace(b"NULL".ljust(20, b"\x00"), b"CURVE".ljust(20, b"\x00"))
        + b"\x04\xff" * 90,
        b"",
    ]
    connections = [raw(endpoint) for _ in attempts]
    for connection, sent in zip(connections, attempts, strict=True):
        connection.sendall(sent)
    site.event(f"{where} from 127.0.0.1:")
    for connection in connections:
        hung_up(connection, 60)
        connection.close()
    site.undisturbed()


# --- without keys: anybody on this machine is let in, and bounded all the same ------------------


@pytest.fixture(scope="module")
def plain(commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    cli = commands.Cli(tmp_path_factory.mktemp("plain"))
    running = cli.start("serve", "--rig", cli.rig())
    running.wait_for("monitor on", 120)
    yield running
    cli.close()


def public(plain: Any, where: str) -> tuple[str, bytes]:
    """Endpoint of a public socket, and what connects to it."""
    if where == "control":
        return plain.control, b"DEALER"
    return plain.endpoint("monitor on"), b"SUB"


def shaken(endpoint: str, kind: bytes) -> socket.socket:
    """A bare connection after a handshake in ZMTP 3."""
    connection = raw(endpoint)
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    connection.sendall(GREETING + b"\x04" + bytes([len(ready)]) + ready)
    assert connection.recv(64)
    return connection


def answers(plain: Any) -> None:
    """Wait until the daemon answers again; others may just have used up what all may ask."""
    with zmq.Context() as context:
        caller = Caller(context, plain.control, None)
        for _ in range(20):
            if caller.ask("status")["ok"]:
                break
            time.sleep(0.1)
        else:
            pytest.fail("it does not answer any more")
        caller.socket.close()


@pytest.mark.parametrize("where", ["control", "monitor"])
def test_who_leaves_in_the_middle_of_what_they_say_harms_nothing(plain: Any, where: str) -> None:
    # libzmq aborts on a heartbeat behind what it has no room for, of a peer that is gone.
    endpoint, kind = public(plain, where)
    ping, said = b"\x04\x07\x04PING\x00\x00", b"\x00\x05\x01some"
    for number in range(60):
        with shaken(endpoint, kind) as connection:
            connection.sendall(said * (5 * number + 5) + ping + said * 3)
            if number % 2:
                at_once = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    answers(plain)


def test_who_does_not_stop_asking_is_cut(plain: Any) -> None:
    before = psutil.Process(plain.process.pid).memory_info().rss
    request = b'{"verb":"status"}'
    flood = (b"\x00" + bytes([len(request)]) + request) * 20_000
    for _ in range(3):
        with shaken(plain.control, b"DEALER") as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(flood)
            hung_up(connection, 10)
    answers(plain)
    assert psutil.Process(plain.process.pid).memory_info().rss - before < 40e6


@pytest.mark.parametrize("where", ["control", "monitor"])
def test_a_gibibyte_is_not_taken_in(plain: Any, where: str) -> None:
    endpoint, kind = public(plain, where)
    before = psutil.Process(plain.process.pid).memory_info().rss
    with shaken(endpoint, kind) as connection:
        announced = b"\x02" + (1 << 30).to_bytes(8, "big")
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.sendall(announced + b"\x01" + bytes(64 << 20))
        hung_up(connection)
    assert psutil.Process(plain.process.pid).memory_info().rss - before < 20e6
    with zmq.Context() as context:
        if where == "control":
            big = context.socket(zmq.DEALER)
            big.set(zmq.LINGER, 0)
            big.connect(endpoint)
            big.send(memoryview(bytearray(1 << 30)), copy=False)
            assert not big.poll(1500)
            big.close()
            assert psutil.Process(plain.process.pid).memory_info().rss - before < 20e6
        caller = Caller(context, plain.control, None)
        assert caller.ask("status")["ok"]
        caller.socket.close()


def test_without_keys_a_token_is_not_needed_and_an_id_counts_once(plain: Any) -> None:
    with zmq.Context() as context:
        caller = Caller(context, plain.control, None)
        for _ in range(2):
            caller.socket.send(b'{"verb":"status"}')
            assert caller.socket.poll(10_000)
            assert caller.socket.recv_json()["ok"]
        assert caller.ask("status", id="only once", sent_ns=None)["ok"]
        assert "come before" in caller.ask("status", id="only once", sent_ns=None)["error"]
        assert caller.ask("lease")["data"]["holder"] == "local"
        assert "nothing to pause" in caller.ask("pause")["error"], "the lease was no obstacle"
        assert "token is not" in caller.ask("pause", token="wrong")["error"]
        assert caller.ask("release")["ok"]
        caller.socket.close()


def test_other_addresses_need_keys(commands: Any, tmp_path: Path) -> None:
    cli = commands.Cli(tmp_path)
    for streams in (
        {"monitor": "tcp://*:5571"},
        {"control": "tcp://microscope:5570"},
        {"control": "tcp://[::]:5570"},
        {"control": "tcp://eth0:5570"},
        {"control": "tcp://0.0.0.0:5570"},
    ):
        rig = cli.rig(streams=streams)
        with pytest.raises(BadInput, match=rf"streams.{next(iter(streams))}: .*pyrotome keys init"):
            load_rig(Path(rig))
    for local in ("tcp://127.3.2.1:5570", "tcp://[::1]:5570", "ipc:///run/pyrotome"):
        load_rig(Path(cli.rig(streams={"control": local})))
    for refused in (rig, cli.rig(security={"keys": "nowhere"})):
        done = cli("serve", "--rig", refused)
        assert done.returncode == 2
        assert "pyrotome keys init" in done.stderr


# --- the storm, and the end of the run ----------------------------------------------------------

_STORM = """
import resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
host, port, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
open_, made, end = [], 0, time.monotonic() + seconds
while time.monotonic() < end:
    kept = []
    for one in open_:  # whoever was cut comes again
        try:
            if one.recv(64) == b"":
                one.close()
                continue
        except BlockingIOError:
            pass
        except OSError:
            one.close()
            continue
        kept.append(one)
    open_ = kept
    while len(open_) < count and time.monotonic() < end:
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((host, port))
        made += 1
        open_.append(one)
        if made == count:
            print("all there", flush=True)
    for one in open_[::2]:
        try:
            one.send(b"\\xff\\x00\\x00")
        except OSError:
            pass
print(made, flush=True)
"""


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("told")
def test_a_storm_of_connections_does_not_keep_safe_from_working(site: Site) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < CONNECTIONS + 200:
        pytest.skip(f"a process may open {hard} files, {CONNECTIONS} connections need more")

    site.undisturbed()
    ada, memory = site.caller("ada"), site.memory()
    host, _, port = site.control.removeprefix("tcp://").rpartition(":")
    storm = subprocess.Popen(
        [sys.executable, "-c", _STORM, host, port, str(CONNECTIONS), "600"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert storm.stdout is not None
        assert storm.stdout.readline() == "all there\n"
        assert ada.ask("status")["ok"], "who was connected before is answered"
        site.undisturbed()
        site.event("control from 127.0.0.1:", "oldest")
        process = psutil.Process(site.running.process.pid)
        assert process.num_fds() < 3000
        assert site.memory() - memory < 100e6
        # Somebody new presses the emergency stop while the storm goes on.
        asked = time.monotonic()
        newcomer = Caller(site.context, site.control, site.keys["oskar"])
        reply = newcomer.ask("safe", timeout_s=150)
        took_s = time.monotonic() - asked
        assert reply["ok"], reply
        newcomer.socket.close()
        print(f"safe under {CONNECTIONS} connections: {took_s:.2f} s")
    finally:
        storm.send_signal(signal.SIGKILL)
        storm.wait()
        assert storm.stdout is not None
        storm.stdout.close()
    site.wait(lambda: site.status()["state"] == "idle")


def test_the_file_has_every_frame_and_says_who_was_turned_away(site: Site) -> None:
    found = site.cli.inspect(site.file)
    assert found["status"] == "aborted"
    assert found["frames"] > 100
    assert found["lost_frames"] == 0
    with h5py.File(site.file) as file:
        text = repr(list(file["entry/events/message"].asstr()[:]))
    for expected in ("it came without a key", "is an observer", "has come before", "expired"):
        assert expected in text
