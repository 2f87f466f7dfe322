"""The control lease: one operator at a time. Pure; the time is given."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_S = 60.0


class LeaseRefused(Exception):
    """Another person holds the lease, or the token is not valid; the message says who holds it."""


@dataclass(frozen=True)
class Grant:
    """The lease as its holder receives it.

    Attributes
    ----------
    token : str
        To be sent with each request.
    seconds : float
        How long it is valid from now on.
    renewed : bool
        Whether the person held it already.
    taken_from : str or None
        Who held it until now.
    """

    token: str
    seconds: float
    renewed: bool
    taken_from: str | None = None


@dataclass
class _Held:
    holder: str
    token: str
    since_s: float
    until_s: float


class Lease:
    """Who may control at present.

    Parameters
    ----------
    seconds : float
        How long a lease is valid without being renewed.
    new_token : callable
        Makes a token that cannot be guessed.
    """

    def __init__(
        self,
        seconds: float = DEFAULT_S,
        new_token: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self.seconds, self._new_token = seconds, new_token
        self._held: _Held | None = None

    def _now_held(self, now_s: float) -> _Held | None:
        return self._held if self._held is not None and now_s < self._held.until_s else None

    def holder(self, now_s: float) -> str | None:
        """Who holds it; None if it is free."""
        held = self._now_held(now_s)
        return held.holder if held is not None else None

    def state(self, now_s: float) -> dict[str, str | float] | None:
        """Holder, since how many seconds and for how many more; None if it is free."""
        held = self._now_held(now_s)
        if held is None:
            return None
        return {
            "holder": held.holder,
            "held_s": round(now_s - held.since_s, 1),
            "left_s": round(held.until_s - now_s, 1),
        }

    def take(self, name: str, now_s: float, take_over: bool = False) -> Grant:
        """Take the lease if it is free, or renew it.

        Parameters
        ----------
        name : str
            The person.
        now_s : float
            Monotonic seconds.
        take_over : bool
            Take it from its holder, whose token is not valid any more.

        Raises
        ------
        LeaseRefused
            If another person holds it and it is not taken over.
        """
        held = self._now_held(now_s)
        until_s = now_s + self.seconds
        if held is not None and held.holder == name:
            held.until_s = until_s
            return Grant(held.token, self.seconds, renewed=True)
        if held is not None and not take_over:
            raise LeaseRefused(f"{_described(held, now_s)}; an admin can take it over")
        self._held = _Held(name, self._new_token(), now_s, until_s)
        taken_from = held.holder if held is not None else None
        return Grant(self._held.token, self.seconds, renewed=False, taken_from=taken_from)

    def release(self, name: str, token: str | None, now_s: float) -> None:
        """Give the lease back; without a token, any program of the holder may.

        Raises
        ------
        LeaseRefused
            If another person holds it.
        """
        held = self._now_held(now_s)
        if held is None:
            return
        if held.holder != name or (token is not None and not _same(token, held.token)):
            raise LeaseRefused(f"the control lease is not yours: {_described(held, now_s)}")
        self._held = None

    def check(self, name: str, token: str | None, now_s: float) -> None:
        """Check that a request may control.

        Raises
        ------
        LeaseRefused
            If it carries no token, a wrong one, or one that has expired or was taken over.
        """
        held = self._held
        if held is not None and held.holder == name and token and _same(token, held.token):
            if now_s < held.until_s:
                return
            raise LeaseRefused(
                f"your control lease expired {now_s - held.until_s:.0f} s ago; take it again "
                "with `pyrotome lease`"
            )
        what = "the token is not that of the control lease" if token else "no control lease"
        held = self._now_held(now_s)
        holder = (
            "nobody holds it; take it with `pyrotome lease`"
            if held is None
            else _described(held, now_s)
        )
        raise LeaseRefused(f"{what}: {holder}")


def _same(token: str, other: str) -> bool:
    return hmac.compare_digest(token.encode(errors="replace"), other.encode())


def _described(held: _Held, now_s: float) -> str:
    return (
        f"'{held.holder}' has held the control lease for {now_s - held.since_s:.0f} s, "
        f"and it expires in {held.until_s - now_s:.0f} s unless renewed"
    )
