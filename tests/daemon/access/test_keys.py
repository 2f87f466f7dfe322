"""Key files: nobody else can read them, nothing is overwritten, pyzmq reads them too."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import zmq.auth

from pyrotome.daemon.access.keys import (
    KeyRing,
    add_person,
    load_client,
    load_server,
    make_server_keys,
    people,
    revoke,
)
from pyrotome.daemon.access.people import Person
from pyrotome.protocols.core.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_server_keys(tmp_path / "keys")
    return tmp_path / "keys"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_client_key_holds_the_pair_and_the_server_and_only_the_public_half_is_filed(
    folder: Path, tmp_path: Path
) -> None:
    path = add_person(folder, "anna", "operator", tmp_path / "anna")
    key, server = load_client(path), load_server(folder)
    assert key.server == server.public
    assert zmq.auth.load_certificate(path) == (key.public, key.secret)
    filed = folder / "clients" / "anna.key"
    assert zmq.auth.load_certificate(filed) == (key.public, None)
    assert key.secret.decode() not in filed.read_text()
    assert mode(path) == mode(folder / "server.key_secret") == 0o600
    assert people(folder) == [Person("anna", "operator")]
    assert zmq.auth.load_certificates(folder / "clients") == {key.public: True}


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    path = add_person(folder, "anna", "observer", tmp_path / "anna")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for again in (
        lambda: make_server_keys(folder),
        lambda: add_person(folder, "anna", "admin", tmp_path / "other"),
        lambda: add_person(folder, "bert", "admin", path),
    ):
        with pytest.raises(BadInput, match="exists already"):
            again()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "local", "server"])
def test_a_name_is_a_word(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="should be 1 to 64"):
        add_person(folder, name, "admin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_secret_that_others_can_read_is_refused(folder: Path, tmp_path: Path) -> None:
    path = add_person(folder, "anna", "admin", tmp_path / "anna")
    path.chmod(0o640)
    with pytest.raises(BadInput, match=f"chmod 600 {path}"):
        load_client(path)
    secret = folder / "server.key_secret"
    secret.chmod(0o644)
    with pytest.raises(BadInput, match=f"chmod 600 {secret}"):
        load_server(folder)
    secret.chmod(0o600)
    (folder / "clients").chmod(0o777)
    with pytest.raises(BadInput, match="chmod go-w"):
        load_server(folder)


def test_the_ring_follows_the_files(folder: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    ring = KeyRing(folder / "clients", problems.append)
    path = add_person(folder, "anna", "operator", tmp_path / "anna")
    public = load_client(path).public
    assert ring.person(public) == Person("anna", "operator")
    filed = folder / "clients" / "anna.key"
    filed.write_text(filed.read_text().replace("role = operator", "role = observer"))
    assert ring.person(public) == Person("anna", "observer")
    revoke(folder, "anna")
    assert ring.person(public) is None
    assert ring.named("anna") is None
    with pytest.raises(BadInput, match="no such key"):
        revoke(folder, "anna")
    add_person(folder, "anna", "operator", tmp_path / "anna2")
    revoke(folder, "anna")
    assert len(list((folder / "revoked").iterdir())) == 2
    (folder / "clients" / "bad.key").write_text("nothing like it")
    (folder / "clients" / "twice.key").write_text(filed_text(public, "admin"))
    (folder / "clients" / "thrice.key").write_text(filed_text(public, "observer"))
    assert ring.person(public) == Person("thrice", "observer")
    assert len(problems) == 2, problems


def filed_text(public: bytes, role: str) -> str:
    return f'metadata\n    role = {role}\ncurve\n    public-key = "{public.decode()}"\n'


def test_files_that_are_no_keys_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for text in ("", "curve\n", "public-key\n", '    public-key = "short"\n', "\xff" * 20_000):
        other.write_text(text)
        with pytest.raises(BadInput, match=str(other)):
            load_client(other)
    with pytest.raises(BadInput, match="keys init"):
        load_server(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="server-key"):
        load_client(folder / "server.key_secret")


def test_the_command_line_makes_lists_and_revokes(cli: Any) -> None:
    assert cli("keys", "init", "keys").returncode == 0
    done = cli("keys", "add", "keys", "anna", "--role", "operator")
    assert done.returncode == 0, done.stderr
    assert "anna.key_secret" in done.stdout
    assert "operator" in cli("keys", "list", "keys").stdout
    assert cli("keys", "add", "keys", "bert", "--role", "king").returncode == 2
    assert cli("keys", "init", "keys").returncode == 2
    assert cli("keys", "revoke", "keys", "anna").returncode == 0
    assert "anna" not in cli("keys", "list", "keys").stdout
    assert cli("keys", "list", "nowhere").returncode == 2
