"""Keys on a served daemon while it acquires: unknown, foreign and revoked ones are rejected."""

from __future__ import annotations

import time
from pathlib import Path

from secured_daemon import (
    GREETING,
    ControlClient,
    SecuredDaemon,
    address_of,
    connect_bare,
    wait_until_closed,
)

from pyrotome.daemon.access.keys import add_person, load_client, make_server_keys, revoke


def test_clients_without_a_key_are_rejected_on_both_sockets(secured: SecuredDaemon) -> None:
    for endpoint, command in ((secured.control, "status"), (secured.monitor, "watch")):
        done = secured.cli(command, "--endpoint", endpoint)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert "a key" in done.stderr
    # The address of a client that leaves as fast as these may be gone before it is read.
    for what, endpoint in (("control", secured.control), ("the monitor", secured.monitor)):
        secured.forget_events()
        with connect_bare(endpoint) as connection:
            time.sleep(1.0)
            connection.sendall(GREETING)
            address = address_of(connection)
            wait_until_closed(connection)
        event = secured.wait_for_event(f"{what} from {address}")
        assert event["level"] == "warning"
        assert event["source"] == "security"
        assert event["who"] == f"{what} from {address}"
        assert event["why"] == "it came without a key"
    secured.check_acquisition_continues()


def test_unknown_keys_are_rejected_and_named_by_their_first_characters(
    secured: SecuredDaemon, tmp_path: Path
) -> None:
    make_server_keys(tmp_path / "elsewhere")
    path = add_person(tmp_path / "elsewhere", "mallory", "admin", tmp_path / "mallory")
    ours, theirs = secured.keys["ada"].server, load_client(path).server
    text = path.read_text()
    # A client with the public key of another daemon fails in the handshake.
    done = secured.cli("status", "--endpoint", secured.control, "--key", str(path))
    assert done.returncode in (2, 3)
    assert "not for that daemon" in done.stderr
    secured.wait_for_event("it does not know this daemon's public key")
    secured.forget_events()
    path.write_text(text.replace(theirs.decode(), ours.decode()))
    done = secured.cli("status", "--endpoint", secured.control, "--key", str(path))
    assert done.returncode == 2, done.stderr
    assert "does not know this key" in done.stderr
    secured.wait_for_event("127.0.0.1", load_client(path).public[:8].decode())
    secured.check_acquisition_continues()


def test_a_revoked_key_is_disconnected_and_a_new_one_admitted_while_the_daemon_runs(
    secured: SecuredDaemon, tmp_path: Path
) -> None:
    name = f"guest-{time.monotonic_ns()}"
    key = load_client(add_person(secured.key_folder, name, "observer", tmp_path / "guest"))
    guest = ControlClient(secured.context, secured.control, key)
    assert guest.request("status")["ok"]
    revoke(secured.key_folder, name)
    secured.wait_for_event(f"the key of '{name}' was revoked")
    guest.send("status")
    assert not guest.socket.poll(1000), "a revoked key is not admitted again"
    guest.socket.close()
    secured.check_acquisition_continues()


def test_a_key_file_that_others_can_read_is_not_used(
    secured: SecuredDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "readable"
    path.write_bytes((secured.cli.folder / "otto").read_bytes())
    path.chmod(0o644)
    done = secured.cli("status", "--endpoint", secured.control, "--key", str(path))
    assert done.returncode == 2
    assert f"chmod 600 {path}" in done.stderr
