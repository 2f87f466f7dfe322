"""Rate limits of requests, and a guard against replays. Pure; the time is given."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# A request is at most so old, or so far ahead, by the daemon's clock.
WINDOW_S = 30.0
# Requests a second, and at once: of one key (of one connection, without keys), and in all.
RATE_EACH, BURST_EACH = 20.0, 40.0
RATE_ALL, BURST_ALL = 200.0, 400.0
# Of `safe`, whose share no other request can use up.
SAFE_EACH, SAFE_BURST_EACH = 2.0, 5.0
SAFE_ALL, SAFE_BURST_ALL = 50.0, 100.0
# Refusals of one connection before it is disconnected; each 10 kB of a request count as one more.
REFUSALS, BURST_REFUSALS, REFUSAL_BYTES = 200.0, 2000.0, 10_000
# Clients whose rates are remembered.
MOST_COUNTED = 1000
# Enough for every request that the rates allow while a replay would be within the window.
MOST_REMEMBERED = int(2 * (2 * WINDOW_S * (RATE_ALL + SAFE_ALL) + BURST_ALL + SAFE_BURST_ALL))


@dataclass
class TokenBucket:
    """Allows `rate` a second in the long run, `burst` at once."""

    rate: float
    burst: float
    _left: float = -1.0
    _at_s: float = 0.0

    def take(self, now_s: float, amount: float = 1.0) -> bool:
        """Whether `amount` more may pass at `now_s` (monotonic seconds)."""
        if self._left < 0:
            self._left, self._at_s = self.burst, now_s
        self._left = min(self.burst, self._left + max(0.0, now_s - self._at_s) * self.rate)
        self._at_s = now_s
        if self._left < amount:
            return False
        self._left -= amount
        return True


class TokenBuckets:
    """A bucket for each client; the one that was silent for the longest is forgotten first."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[object, TokenBucket] = OrderedDict()

    def take(self, who: object, now_s: float, amount: float = 1.0) -> bool:
        """Whether `amount` more of a client may pass now."""
        bucket = self._buckets.pop(who, None) or TokenBucket(self._rate, self._burst)
        self._buckets[who] = bucket
        while len(self._buckets) > MOST_COUNTED:
            self._buckets.popitem(last=False)
        return bucket.take(now_s, amount)

    def forget(self, who: object) -> None:
        """Start a client with a full bucket again."""
        self._buckets.pop(who, None)


class RateLimits:
    """One bucket for each client, and one for all together.

    Parameters
    ----------
    each, burst_each : float
        Requests of one client in a second, and at once.
    in_all, burst_all : float
        The same for all clients together.
    """

    def __init__(self, each: float, burst_each: float, in_all: float, burst_all: float) -> None:
        self._each = TokenBuckets(each, burst_each)
        self._all = TokenBucket(in_all, burst_all)

    def take(self, who: object, now_s: float) -> bool:
        """Whether one more request of a client may pass now."""
        # Its own bucket first: a client that sends too much uses up nothing of the others' share.
        return self._each.take(who, now_s) and self._all.take(now_s)


class Replayed(Exception):
    """A request that has come before, or may have: it is too old."""


class ReplayGuard:
    """Remembers requests for as long as a replay would be within the window; bounded.

    Parameters
    ----------
    most : int
        Requests remembered at most; the oldest are forgotten first.
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def admit(
        self, name: str, request: str, sent_ns: int | None, now_ns: int, strict: bool
    ) -> None:
        """Accept a request once.

        Parameters
        ----------
        name : str
            Name of the client.
        request : str
            Its id.
        sent_ns : int or None
            When it was sent, UTC nanoseconds by the client's clock.
        now_ns : int
            UTC nanoseconds by this daemon's clock.
        strict : bool
            Whether an id and a recent time are required: with keys, and for all requests but
            `safe`, which must work with a wrong clock as well.

        Raises
        ------
        Replayed
            With the reason.
        """
        if strict and not request:
            raise Replayed("the request has no `id`; give each request its own")
        if strict:
            if sent_ns is None:
                raise Replayed("the request has no `sent_ns`, the UTC nanoseconds when it was sent")
            off_s = (now_ns - sent_ns) * 1e-9
            if abs(off_s) > WINDOW_S:
                which = "behind" if off_s > 0 else "ahead of"
                raise Replayed(
                    f"the clock of the client is {abs(off_s):.0f} s {which} the daemon's; at "
                    f"most {WINDOW_S:g} s are allowed: set the client's clock"
                )
        if not request:
            return
        key = (name, request)
        if key in self._seen:
            raise Replayed(f"request {request!r} has come before")
        self._seen[key] = now_ns
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)
