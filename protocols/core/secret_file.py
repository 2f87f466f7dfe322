"""Files that hold a secret: only their owner may read them."""

from __future__ import annotations

import stat
from pathlib import Path

from .errors import BadInput


def check_secret(path: Path) -> None:
    """Refuse a secret that others can read.

    Raises
    ------
    BadInput
        If the file is absent, or its mode lets anyone but its owner read or write it.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise BadInput(str(path), f"is a secret that others can read: chmod 600 {path}")


def read_secret(path: Path) -> str:
    """First line of a secret file, such as a password.

    Raises
    ------
    BadInput
        If it cannot be read, is empty, or others can read it.
    """
    check_secret(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(str(path), f"cannot be read: {error}") from None
    if not lines or not lines[0]:
        raise BadInput(str(path), "is empty; it should hold the secret in its first line")
    return lines[0]
