"""Requests that are repeated, too old, too many or never read, and bytes that are no requests."""

from __future__ import annotations

import time
import uuid

import pytest
import zmq
from secured_daemon import (
    GREETING,
    ControlClient,
    SecuredDaemon,
    connect_bare,
    use_key,
    wait_until_closed,
)


def test_a_request_is_carried_out_once_and_only_if_it_is_new(secured: SecuredDaemon) -> None:
    otto = secured.client("otto")
    first = {"id": uuid.uuid4().hex, "sent_ns": time.time_ns()}
    assert otto.request("status", **first)["ok"]
    assert "has come before" in otto.request("status", **first)["error"]
    assert "has come before" in otto.request("safe", **first)["error"]
    secured.wait_for_event("'otto'", "has come before")
    old = otto.request("status", sent_ns=time.time_ns() - 120 * 10**9)
    assert "set the client's clock" in old["error"]
    otto.send("status", id=None)
    assert otto.socket.poll(60_000)
    assert "has no `id`" in otto.socket.recv_json()["error"]
    assert "sent_ns" in otto.request("status", sent_ns=None)["error"]
    assert secured.status()["state"] == "running"


def test_a_client_that_sends_too_many_requests_is_refused_and_others_are_answered(
    secured: SecuredDaemon,
) -> None:
    greedy = ControlClient(secured.context, secured.control, secured.keys["oskar"])
    for _ in range(1000):
        greedy.send("status")
    assert secured.status("otto")["state"] == "running"
    secured.wait_for_event("'oskar'", "too many requests")
    replies = {True: 0, False: 0}
    while sum(replies.values()) < 200 and greedy.socket.poll(60_000):
        replies[greedy.socket.recv_json()["ok"]] += 1
    assert replies[False] > 0
    assert replies[True] <= 100
    greedy.socket.close()
    secured.check_acquisition_continues()


def test_a_client_that_never_reads_its_replies_takes_no_memory(secured: SecuredDaemon) -> None:
    deaf = secured.context.socket(zmq.DEALER)
    deaf.set(zmq.LINGER, 0)
    deaf.set(zmq.RCVHWM, 1)
    use_key(deaf, secured.keys["oskar"])
    deaf.connect(secured.control)
    assert deaf.poll(60_000, zmq.POLLOUT)
    before_bytes = secured.memory_bytes()
    end, most = time.monotonic() + 20, 5_000
    sent = 0
    # It is disconnected some time after its replies are no longer sent; it comes back and goes on.
    while sent < most and time.monotonic() < end:
        if deaf.poll(10, zmq.POLLOUT):
            body = {"id": uuid.uuid4().hex, "sent_ns": time.time_ns(), "verb": "latest"}
            deaf.send_json({**body, "topics": [""]}, zmq.NOBLOCK)
            sent += 1
    assert sent > 1000
    assert secured.memory_bytes() - before_bytes < 40e6
    deaf.close()
    secured.check_acquisition_continues()


@pytest.mark.parametrize("where", ["control", "monitor"])
def test_a_port_scanner_does_no_harm(secured: SecuredDaemon, where: str) -> None:
    endpoint = getattr(secured, where)
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
    connections = [connect_bare(endpoint) for _ in attempts]
    for connection, sent in zip(connections, attempts, strict=True):
        connection.sendall(sent)
    secured.wait_for_event(f"{where} from 127.0.0.1:")
    for connection in connections:
        wait_until_closed(connection)
        connection.close()
    secured.check_acquisition_continues()
