"""MQTT telemetry seen by a client that is not ours, from a broker that is not ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiomqtt
import pytest

from pyrotome.daemon.runtime.event_bus import Event, EventBus
from pyrotome.daemon.streaming import mqtt
from pyrotome.daemon.streaming.mqtt import MqttReport
from pyrotome.protocols.config.rig import Mqtt, load_rig
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.stream import Message

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """A mosquitto on a free port of the loopback."""
    if MOSQUITTO is None or shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto and mosquitto_sub are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end, "mosquitto did not start"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(60)


class Guarded:
    """A mosquitto with TLS, a password, and certificates on both sides, made by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                      "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
        for name in ("broker", "client"):
            self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                          "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
            (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
            self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey",
                          "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names",
                          "-out", f"{name}.pem")  # fmt: skip
            (folder / f"{name}.key").chmod(0o600)
        (folder / "password").write_text("open sesame\n")
        (folder / "password").chmod(0o600)
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", "passwords", "lab", "open sesame"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "guarded.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npersistence false\nuser root\n"
            f"password_file {folder}/passwords\ncafile {folder}/ca.pem\n"
            f"certfile {folder}/broker.pem\nkeyfile {folder}/broker.key\nrequire_certificate true\n"
        )
        self.process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(folder / "guarded.conf")], stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            assert time.monotonic() < end, "mosquitto did not start"
            time.sleep(0.05)

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def rig(self, **changes: Any) -> dict[str, Any]:
        """What a rig says of it, files relative to the rig."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "topic": "lab/pyrotome",
            "username": "lab",
            "password_file": "password",
            "tls": {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"},
            **changes,
        }

    def listen(self, *more: str, topic: str = "lab/#") -> list[str]:
        """The command of a subscriber."""
        return [
            "mosquitto_sub", "-p", str(self.port), "-h", "127.0.0.1", "-t", topic, "-v", "-q", "1",
            "-u", "lab", "-P", "open sesame", "--cafile", str(self.folder / "ca.pem"),
            "--cert", str(self.folder / "client.pem"), "--key", str(self.folder / "client.key"),
            *more,
        ]  # fmt: skip

    def retained(self) -> dict[str, str]:
        """What the broker keeps for whoever comes next."""
        done = subprocess.run(
            self.listen("--retained-only", "-W", "2"),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    if MOSQUITTO is None or not all(map(shutil.which, ("mosquitto_sub", "mosquitto_passwd"))):
        pytest.skip("mosquitto, mosquitto_sub and mosquitto_passwd are not installed")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    broker = Guarded(tmp_path)
    try:
        yield broker
    finally:
        broker.process.terminate()
        broker.process.wait(60)


def test_tls_password_last_will_and_nothing_retained_but_status_and_state(
    cli: Any, guarded: Guarded
) -> None:
    running = cli.start("serve", "--rig", cli.rig(mqtt=guarded.rig()))
    running.wait_for("monitor on", 120)
    seen = subprocess.run(
        guarded.listen("-C", "20", "-W", "60"), capture_output=True, text=True, check=False
    ).stdout
    assert "lab/pyrotome/heater/setpoint_c" in seen
    kept = guarded.retained()
    assert set(kept) == {"lab/pyrotome/status", "lab/pyrotome/state"}
    assert kept["lab/pyrotome/status"] == "online"
    assert json.loads(kept["lab/pyrotome/state"])["v"] == "idle"
    # A command by MQTT is heard by nobody.
    for topic in ("lab/pyrotome/heater/setpoint_c", "lab/pyrotome/safe", "lab/pyrotome/status/set"):
        publish = ["mosquitto_pub", *guarded.listen("-m", '{"v": 900}', "-r", topic=topic)[1:]]
        publish.remove("-v")
        subprocess.run(publish, check=True, timeout=60)
    status = json.loads(cli("status", "--json", "--endpoint", running.control).stdout)
    assert abs(status["temperature_c"] - 25) < 2
    # It dies without a word: the broker says so for it.
    running.process.kill()
    running.wait()
    end = time.monotonic() + 60
    while guarded.retained().get("lab/pyrotome/status") != "offline":
        assert time.monotonic() < end


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"username": "thief"}, "broker 127.0.0.1"),
        ({"tls": None}, "broker 127.0.0.1"),
        ({"tls": {"ca_file": "client.pem"}}, "broker 127.0.0.1"),
    ],
)
def test_a_broker_that_refuses_disturbs_nothing(
    cli: Any, guarded: Guarded, change: dict[str, Any], told: str
) -> None:
    rig = cli.rig(mqtt=guarded.rig(**change))
    done = cli("run", cli.short_recipe(), "--rig", rig, "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(told) == 1
    assert "sesame" not in done.stderr


def test_secrets_that_others_can_read_are_refused_at_the_start(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame")
    for broker, told in (
        ({"username": "lab", "password_file": "password"}, f"chmod 600 {tmp_path}/password"),
        ({"username": "lab", "password_file": "nowhere"}, "nowhere"),
        ({"password_file": "password"}, "needs a username"),
        ({"tls": {"ca_file": "nowhere.pem"}}, "no such file"),
        ({"tls": {"ca_file": "password"}}, "is not a certificate"),
        ({"tls": {"ca_file": "a", "cert_file": "b"}}, "belong together"),
    ):
        with pytest.raises(BadInput) as refused:
            MqttReport(load_rig(Path(cli.rig(mqtt=broker)))[0].mqtt or Mqtt())
        assert told in str(refused.value)
        assert "sesame" not in str(refused.value)
    done = cli("serve", "--rig", cli.rig(mqtt={"username": "lab", "password_file": "password"}))
    assert done.returncode == 2, done.stderr
    assert f"chmod 600 {tmp_path}/password" in done.stderr


class Hanging:
    """Takes connections; answers nothing, or the first packet alone and reads no more after it."""

    def __init__(self, greets: bool) -> None:
        self._greets, self._taken = greets, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.came = 0

    def _serve(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            self.came += 1
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            self._taken.append(taken)
            if self._greets:
                taken.recv(1000)
                taken.sendall(b"\x20\x02\x00\x00")  # CONNACK

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for taken in self._taken:
            taken.close()


@pytest.mark.parametrize("greets", [False, True])
def test_a_broker_that_hangs_disturbs_nothing(cli: Any, greets: bool) -> None:
    broker = Hanging(greets)
    try:
        rig = cli.rig(mqtt={"host": "127.0.0.1", "port": broker.port, "interval": "0.02 s"})
        running = cli.start("run", cli.short_recipe(), "--rig", rig, "-o", "run.nxs")
        assert running.wait() == 0, running.text()
        assert broker.came >= 1
        assert "Traceback" not in running.text()
        assert "Warning" not in running.text()
        assert cli.inspect("run.nxs")["lost_frames"] == 0
    finally:
        broker.close()


def test_mosquitto_sub_sees_the_telemetry_and_the_end(cli: Any, broker: int) -> None:
    rig = cli.rig(mqtt={"host": "127.0.0.1", "port": broker, "topic": "lab/pyrotome"})
    seen = cli.folder / "seen.txt"
    with seen.open("w") as out:
        listener = subprocess.Popen(
            ["mosquitto_sub", "-p", str(broker), "-t", "lab/#", "-v", "-q", "1"], stdout=out
        )
        try:
            done = cli("run", cli.short_recipe(), "--rig", rig, "-o", "run.nxs")
            assert done.returncode == 0, done.stderr
            time.sleep(0.5)
        finally:
            listener.terminate()
            listener.wait(60)
    lines = [line.split(" ", 1) for line in seen.read_text().splitlines()]
    values: dict[str, list[str]] = {}
    for topic, payload in lines:
        values.setdefault(topic, []).append(payload)
    temperatures = [json.loads(p)["v"] for p in values["lab/pyrotome/heater/temperature_c"]]
    assert max(temperatures) > 95
    assert all(abs(json.loads(p)["t"] - time.time()) < 300 for p in values["lab/pyrotome/state"])
    assert values["lab/pyrotome/status"][0] == "online"
    assert values["lab/pyrotome/status"][-1] == "offline"
    assert "lab/pyrotome/stage/tilt_deg" in values


def test_a_broker_that_is_absent_changes_nothing(cli: Any) -> None:
    rig = cli.rig(mqtt={"host": "127.0.0.1", "port": 9})
    done = cli("run", cli.short_recipe(), "--rig", rig, "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    assert "broker 127.0.0.1:9" in done.stderr
    assert done.stderr.count("broker 127.0.0.1:9") == 1


def test_an_experiment_does_not_notice_a_broker_that_dies(cli: Any, broker: int) -> None:
    rig = cli.rig(mqtt={"host": "127.0.0.1", "port": broker})
    running = cli.start("run", cli.short_recipe(), "--rig", rig, "-o", "run.nxs")
    running.wait_for("reference_001")
    subprocess.run(["pkill", "-f", f"mosquitto -c {cli.folder}"], check=True)
    assert running.wait() == 0, running.text()
    assert cli.inspect("run.nxs")["status"] == "complete"


@contextlib.contextmanager
def mosquitto(folder: Path, port: int) -> Iterator[None]:
    """A broker that forgets everything when it ends."""
    config = folder / "restarted.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


async def kept_state(port: int) -> str:
    """What somebody who subscribes late is told at once."""
    while True:
        try:
            async with aiomqtt.Client("127.0.0.1", port) as client:
                await client.subscribe("pyrotome/state")
                async for message in client.messages:
                    assert message.retain
                    return str(json.loads(bytes(message.payload))["v"])
        except aiomqtt.MqttError:
            await asyncio.sleep(0.1)


async def test_every_loss_and_every_return_is_told_and_the_state_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    monkeypatch.setattr(mqtt, "_RECONNECT_S", 0.2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state = Message("state", {"seq": 1, "t_ns": 1, "state": "idle"})
    publisher: Any = SimpleNamespace(last={"state": state})
    bus, told = EventBus(), list[tuple[str, str]]()
    bus.subscribe(Event, lambda event: told.append((event.level, event.message)))

    async def until(count: int) -> None:
        async with asyncio.timeout(60):
            while len(told) < count:
                await asyncio.sleep(0.05)

    report = MqttReport(Mqtt(host="127.0.0.1", port=port))
    task = asyncio.create_task(report.report(publisher, bus))
    try:
        for outage in range(3):
            await until(2 * outage + 1)
            assert told[-1][0] == "warning"
            assert f"broker 127.0.0.1:{port}" in told[-1][1]
            with mosquitto(tmp_path, port):
                await until(2 * outage + 2)
                assert told[-1] == ("info", f"broker 127.0.0.1:{port}: connected again")
                async with asyncio.timeout(60):
                    assert await kept_state(port) == "idle"
        await until(7)
        assert [level for level, _ in told] == ["warning", "info"] * 3 + ["warning"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
