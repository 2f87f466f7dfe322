"""A daemon without keys: every client on this machine is admitted, and bounded all the same."""

from __future__ import annotations

import contextlib
import socket
import struct
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from secured_daemon import ControlClient, connect_as, wait_until_closed

from pyrotome.protocols.config.rig import load_rig
from pyrotome.protocols.core.errors import BadInput


def endpoint_of(daemon: Any, where: str) -> tuple[str, bytes]:
    """A public socket's endpoint, and the kind of socket that connects to it."""
    if where == "control":
        return daemon.control, b"DEALER"
    return daemon.endpoint("monitor on"), b"SUB"


def check_it_answers(daemon: Any) -> None:
    with zmq.Context() as context:
        client = ControlClient(context, daemon.control, None)
        client.wait_until_answered()
        client.socket.close()


def memory_bytes(daemon: Any) -> int:
    return psutil.Process(daemon.process.pid).memory_info().rss


@pytest.mark.parametrize("where", ["control", "monitor"])
def test_clients_that_leave_in_the_middle_of_a_message_do_no_harm(keyless: Any, where: str) -> None:
    # libzmq aborts on a heartbeat that follows more than it has room for, if the peer has left.
    endpoint, kind = endpoint_of(keyless, where)
    ping, message = b"\x04\x07\x04PING\x00\x00", b"\x00\x05\x01some"
    for number in range(60):
        with connect_as(endpoint, kind) as connection:
            connection.sendall(message * (5 * number + 5) + ping + message * 3)
            if number % 2:
                at_once = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    check_it_answers(keyless)


def test_a_client_that_does_not_stop_sending_requests_is_disconnected(keyless: Any) -> None:
    before_bytes = memory_bytes(keyless)
    request = b'{"verb":"status"}'
    flood = (b"\x00" + bytes([len(request)]) + request) * 20_000
    for _ in range(3):
        with connect_as(keyless.control, b"DEALER") as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(flood)
            wait_until_closed(connection)
    check_it_answers(keyless)
    assert memory_bytes(keyless) - before_bytes < 40e6


@pytest.mark.parametrize("where", ["control", "monitor"])
def test_a_message_of_a_gibibyte_is_not_received(keyless: Any, where: str) -> None:
    endpoint, kind = endpoint_of(keyless, where)
    before_bytes = memory_bytes(keyless)
    with connect_as(endpoint, kind) as connection:
        header = b"\x02" + (1 << 30).to_bytes(8, "big")
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.sendall(header + b"\x01" + bytes(64 << 20))
        wait_until_closed(connection)
    assert memory_bytes(keyless) - before_bytes < 20e6
    with zmq.Context() as context:
        if where == "control":
            big = context.socket(zmq.DEALER)
            big.set(zmq.LINGER, 0)
            big.connect(endpoint)
            big.send(memoryview(bytearray(1 << 30)), copy=False)
            assert not big.poll(1500)
            big.close()
            assert memory_bytes(keyless) - before_bytes < 20e6
        client = ControlClient(context, keyless.control, None)
        assert client.request("status")["ok"]
        client.socket.close()


def test_a_token_is_not_needed_and_an_id_counts_once(keyless: Any) -> None:
    with zmq.Context() as context:
        client = ControlClient(context, keyless.control, None)
        for _ in range(2):
            client.socket.send(b'{"verb":"status"}')
            assert client.socket.poll(60_000)
            assert client.socket.recv_json()["ok"]
        once = uuid.uuid4().hex
        assert client.request("status", id=once, sent_ns=None)["ok"]
        assert "come before" in client.request("status", id=once, sent_ns=None)["error"]
        assert client.request("lease")["data"]["holder"] == "local"
        assert "nothing to pause" in client.request("pause")["error"], "it needs no token"
        assert "token is not" in client.request("pause", token="wrong")["error"]
        assert client.request("release")["ok"]
        client.socket.close()


def test_sockets_on_other_addresses_need_keys(commands: Any, tmp_path: Path) -> None:
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
