"""A storm of connections to a daemon that acquires, and the record of clients it rejected.

``PYROTOME_CONNECTIONS`` sets how many connections the storm keeps open or opening at a time (10000,
unless it is set); a process needs as many file descriptors.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import uuid

import h5py
import psutil
import pytest
from secured_daemon import (
    GREETING,
    ControlClient,
    SecuredDaemon,
    connect_bare,
    wait_until_closed,
)

CONNECTIONS = int(os.environ.get("PYROTOME_CONNECTIONS", "10000"))

_STORM = """
import resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
host, port, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
open_, made, end = [], 0, time.monotonic() + seconds
while time.monotonic() < end:
    kept = []
    for one in open_:  # one that was disconnected is opened again
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


@pytest.mark.timeout(900)
def test_a_storm_of_connections_does_not_keep_safe_from_working(own_secured: SecuredDaemon) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < CONNECTIONS + 200:
        pytest.skip(f"a process may open {hard} files, {CONNECTIONS} connections need more")

    own_secured.check_acquisition_continues()
    ada, before_bytes = own_secured.client("ada"), own_secured.memory_bytes()
    host, _, port = own_secured.control.removeprefix("tcp://").rpartition(":")
    storm = subprocess.Popen(
        [sys.executable, "-c", _STORM, host, port, str(CONNECTIONS), "850"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert storm.stdout is not None
        assert storm.stdout.readline() == "all there\n"
        assert ada.request("status")["ok"], "a client from before the storm is answered"
        own_secured.check_acquisition_continues()
        own_secured.wait_for_event("control from 127.0.0.1:", "oldest")
        assert psutil.Process(own_secured.running.process.pid).num_fds() < 3000
        assert own_secured.memory_bytes() - before_bytes < 100e6
        # A client that connects during the storm uses the emergency stop.
        newcomer = ControlClient(
            own_secured.context, own_secured.control, own_secured.keys["oskar"]
        )
        reply = newcomer.request("safe", timeout_s=300)
        assert reply["ok"], reply
        newcomer.socket.close()
    finally:
        storm.send_signal(signal.SIGKILL)
        storm.wait()
        assert storm.stdout is not None
        storm.stdout.close()
    own_secured.wait_until(lambda: own_secured.status()["state"] == "idle")


def test_the_file_has_every_frame_and_names_the_clients_that_were_rejected(
    own_secured: SecuredDaemon,
) -> None:
    otto = own_secured.client("otto")
    with connect_bare(own_secured.control) as connection:
        time.sleep(1.0)
        connection.sendall(GREETING)
        wait_until_closed(connection)
    own_secured.wait_for_event("it came without a key")
    assert not own_secured.client("olga").request("pause")["ok"]
    own_secured.wait_for_event("is an observer")
    once = {"id": uuid.uuid4().hex, "sent_ns": time.time_ns()}
    assert otto.request("status", **once)["ok"]
    assert not otto.request("status", **once)["ok"]
    own_secured.wait_for_event("has come before")
    token = otto.take_lease()
    own_secured.wait_until(lambda: own_secured.status()["lease"] is None)
    assert not otto.request("abort", token=token)["ok"]
    own_secured.wait_for_event("expired")
    own_secured.wait_until(lambda: own_secured.frames() > 50)
    own_secured.abort_run()
    found = own_secured.cli.inspect(own_secured.file)
    assert found["status"] == "aborted"
    assert found["frames"] > 50
    assert found["lost_frames"] == 0
    with h5py.File(own_secured.file) as file:
        text = repr(list(file["entry/events/message"].asstr()[:]))
    for expected in ("it came without a key", "is an observer", "has come before", "expired"):
        assert expected in text
