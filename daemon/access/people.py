"""The people who may connect, and their roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

KeyRole = Literal["observer", "operator", "admin"]
KEY_ROLES: tuple[KeyRole, ...] = get_args(KeyRole)
# The name of everybody where there are no keys.
LOCAL = "local"


@dataclass(frozen=True)
class Person:
    """A person who may connect.

    Attributes
    ----------
    name : str
        As on their key.
    role : str
        An ``observer`` watches and requests the status, an ``operator`` controls, an ``admin``
        can also take the control lease from an operator.
    """

    name: str
    role: KeyRole
