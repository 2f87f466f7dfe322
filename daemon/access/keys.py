"""CURVE keys in files: a pair for the daemon, and one for each person, who has a role.

``FOLDER/server.key_secret`` is the daemon's pair, ``FOLDER/server.key`` its public key,
``FOLDER/clients/NAME.key`` the public key and the role of a person, ``FOLDER/revoked`` what was
revoked. What a person gets is one secret file with their pair, their role and the server's public
key. All are certificates as pyzmq writes and reads them (``zmq.auth.load_certificate``).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth

from ...protocols.core.errors import BadInput
from ...protocols.core.secret_file import check_secret
from .people import KEY_ROLES, LOCAL, Person

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_METADATA = re.compile(r"^\s+([\w-]+)\s*=\s*(.*?)\s*$")
_MAX_KEY_FILE_BYTES = 10_000


@dataclass(frozen=True)
class KeyPair:
    """A key pair, Z85-encoded."""

    public: bytes
    secret: bytes


@dataclass(frozen=True)
class ClientKey(KeyPair):
    """The key of one person; `server` is the daemon's public key."""

    server: bytes


def make_server_keys(folder: Path) -> Path:
    """Make the daemon's key pair; returns the secret file.

    Raises
    ------
    BadInput
        If there is one already, or the folder cannot be made.
    """
    secret = folder / "server.key_secret"
    if secret.exists():
        raise BadInput(str(secret), "exists already; nothing is overwritten")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "clients").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BadInput(str(folder), f"cannot be made: {error.strerror}") from None
    public_key, secret_key = zmq.curve_keypair()
    _write(folder / "server.key", {"role": "server"}, public_key)
    _write(secret, {"role": "server"}, public_key, secret_key)
    return secret


def add_person(folder: Path, name: str, role: str, output: Path | None = None) -> Path:
    """Make a key for a person and file its public half; returns the secret file for them.

    Parameters
    ----------
    folder : Path
        Made by :func:`make_server_keys`.
    name : str
        Letters, digits, ``.``, ``_`` and ``-``; events about them carry it.
    role : str
        Observer, operator or admin.
    output : Path, optional
        Where the secret file goes; ``NAME.key_secret`` here by default.

    Raises
    ------
    BadInput
        If the name is taken or not valid, or a file exists already.
    """
    if not _NAME.fullmatch(name) or name in (LOCAL, "server"):
        raise BadInput(
            "NAME", f"'{name}' should be 1 to 64 letters, digits, '.', '_' or '-', and not "
            f"'{LOCAL}' or 'server'"
        )  # fmt: skip
    if role not in KEY_ROLES:
        raise BadInput("--role", f"'{role}' is not one of {', '.join(KEY_ROLES)}")
    server, _ = _load(folder / "server.key", "make it with `pyrotome keys init FOLDER`")
    filed = folder / "clients" / f"{name}.key"
    if filed.exists():
        raise BadInput(
            str(filed), f"exists already; revoke it first (`pyrotome keys revoke {folder} {name}`)"
        )
    path = output if output is not None else Path(f"{name}.key_secret")
    public_key, secret_key = zmq.curve_keypair()
    about = {"name": name, "role": role}
    _write(path, {**about, "server-key": server.decode()}, public_key, secret_key)
    try:
        _write(filed, about, public_key)
    except BadInput:
        path.unlink()
        raise
    return path


def revoke(folder: Path, name: str) -> Path:
    """Revoke a key; returns where its file is now.

    Raises
    ------
    BadInput
        If there is no key of that name.
    """
    filed = folder / "clients" / f"{name}.key"
    if not _NAME.fullmatch(name) or not filed.is_file():
        known = ", ".join(sorted(person.name for person in people(folder))) or "nobody"
        raise BadInput(str(filed), f"no such key; keys exist for: {known}")
    away = folder / "revoked"
    away.mkdir(mode=0o700, exist_ok=True)
    number, moved = 1, away / f"{name}.key"
    while moved.exists():
        number += 1
        moved = away / f"{name}-{number}.key"
    filed.rename(moved)
    return moved


def people(folder: Path) -> list[Person]:
    """Everybody who has a key in a folder, by name; BadInput if it is not a folder of keys."""
    clients = folder / "clients"
    if not clients.is_dir():
        raise BadInput(str(folder), "holds no keys; make them with `pyrotome keys init FOLDER`")
    return sorted(_read_people(clients, lambda _: None).values(), key=lambda person: person.name)


def load_server(folder: Path) -> KeyPair:
    """The daemon's key pair.

    Raises
    ------
    BadInput
        If there is none, or other users could read it or add keys.
    """
    path = folder / "server.key_secret"
    hint = f"make it with `pyrotome keys init {folder}`"
    public, secret = _load(path, hint)
    check_secret(path)
    for place in (folder, folder / "clients"):
        if not place.is_dir():
            raise BadInput(str(place), f"is not a folder; {hint}")
        if stat.S_IMODE(place.stat().st_mode) & 0o022:
            raise BadInput(
                str(place), f"other users could add keys there: run `chmod go-w {place}`"
            )
    if secret is None:
        raise BadInput(str(path), "holds no secret key")
    return KeyPair(public, secret)


def load_client(path: Path) -> ClientKey:
    """The key of one person.

    Raises
    ------
    BadInput
        If it is not a key, or other users could read it.
    """
    public, secret = _load(path, "the operator of the daemon makes one with `pyrotome keys add`")
    check_secret(path)
    server = _about(path).get("server-key", "").encode()
    if secret is None or not _is_key(server):
        raise BadInput(
            str(path), "is not the key of a client: it should hold public-key, secret-key and "
            "server-key (`pyrotome keys add` makes one)"
        )  # fmt: skip
    return ClientKey(public, secret, server)


class KeyRing:
    """The owners of public keys, always as the files in a folder say.

    Parameters
    ----------
    folder : Path
        The folder of the public keys.
    problem : callable
        Called with a message about each file that is not a key.
    """

    def __init__(self, folder: Path, problem: Callable[[str], None]) -> None:
        self._folder, self._problem = folder, problem
        self._as_of: object = None
        self._people: dict[bytes, Person] = {}

    def refresh(self) -> bool:
        """Read the files again if one has changed; returns whether one had."""
        found: list[tuple[object, ...]] = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    at = entry.stat()
                    found.append((entry.name, at.st_ino, at.st_mtime_ns, at.st_size))
        as_of = sorted(found, key=repr)
        if as_of == self._as_of:
            return False
        self._as_of = as_of
        self._people = _read_people(self._folder, self._problem)
        return True

    def person(self, public: bytes) -> Person | None:
        """Owner of a public key; None if it is not filed."""
        self.refresh()
        return self._people.get(public)

    def named(self, name: str) -> Person | None:
        """The person of a name; None if their key was revoked."""
        return next((person for person in self._people.values() if person.name == name), None)


def _read_people(folder: Path, problem: Callable[[str], None]) -> dict[bytes, Person]:
    found: dict[bytes, Person] = {}
    for path in sorted(folder.glob("*.key")):
        try:
            public, _ = _load(path, "")
            role = _about(path).get("role")
        except BadInput as error:
            problem(str(error))
            continue
        if role not in KEY_ROLES or not _NAME.fullmatch(path.stem):
            problem(f"{path}: the role {role!r} is not one of {', '.join(KEY_ROLES)}")
        elif public in found:
            problem(f"{path}: is also the key of '{found[public].name}'; it is ignored")
        else:
            found[public] = Person(path.stem, role)
    return found


def _is_key(text: bytes) -> bool:
    return len(text) == 40


def _load(path: Path, hint: str) -> tuple[bytes, bytes | None]:
    after = f"; {hint}" if hint else ""
    try:
        if path.stat().st_size > _MAX_KEY_FILE_BYTES:
            raise BadInput(str(path), "is too large for a key")
        public, secret = zmq.auth.load_certificate(path)
    except FileNotFoundError:
        raise BadInput(str(path), f"no such file{after}") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror or error}{after}") from None
    except (ValueError, IndexError):
        raise BadInput(str(path), f"is not a key (a ZeroMQ certificate){after}") from None
    if not _is_key(public) or (secret is not None and not _is_key(secret)):
        raise BadInput(str(path), f"does not hold a key of 40 characters (Z85){after}")
    return public, secret


def _about(path: Path) -> dict[str, str]:
    """The metadata of a certificate."""
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip() == "curve":
            break
        if match := _METADATA.match(line):
            found[match[1]] = match[2]
    return found


def _write(path: Path, about: dict[str, str], public: bytes, secret: bytes | None = None) -> None:
    """Write a certificate; a secret one can be read by its owner alone. Overwrites nothing."""
    banner = (
        "#   ZeroMQ CURVE **Secret** Certificate\n#   Keep this file to yourself.\n"
        if secret is not None
        else "#   ZeroMQ CURVE Public Certificate\n"
    )
    lines = [banner, "metadata", *(f"    {name} = {value}" for name, value in about.items())]
    lines += ["curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    mode = 0o600 if secret is not None else 0o644
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError:
        raise BadInput(str(path), "exists already; nothing is overwritten") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be written: {error.strerror}") from None
