"""How many requests are let in, and none of them twice. Pure; the time is given."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# A request is at most so old, or so far ahead, by the daemon's clock.
WINDOW_S = 30.0
# Requests a second, and at once: of one key (or connection, where there are no keys), and in all.
RATE_EACH, BURST_EACH = 20.0, 40.0
RATE_ALL, BURST_ALL = 200.0, 400.0
# The share of `safe`, which nothing else can use up.
SAFE_EACH, SAFE_BURST_EACH = 2.0, 5.0
SAFE_ALL, SAFE_BURST_ALL = 50.0, 100.0
# Refusals of one connection before it is cut; a long request counts as one more for each 10 kB.
REFUSALS, BURST_REFUSALS, REFUSAL_BYTES = 200.0, 2000.0, 10_000
# Those whose rates are remembered.
MOST_COUNTED = 1000
# Enough for every request that the rates let in while one could come again.
MOST_REMEMBERED = int(2 * (2 * WINDOW_S * (RATE_ALL + SAFE_ALL) + BURST_ALL + SAFE_BURST_ALL))


@dataclass
class TokenBucket:
    """So many a second in the long run, so many at once."""

    rate: float
    burst: float
    _left: float = -1.0
    _at_s: float = 0.0

    def take(self, now_s: float, amount: float = 1.0) -> bool:
        """Whether one more, or so much, may pass now."""
        if self._left < 0:
            self._left, self._at_s = self.burst, now_s
        self._left = min(self.burst, self._left + max(0.0, now_s - self._at_s) * self.rate)
        self._at_s = now_s
        if self._left < amount:
            return False
        self._left -= amount
        return True


class Buckets:
    """A bucket for each; of those that are remembered, who has been silent for the longest goes."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[object, TokenBucket] = OrderedDict()

    def take(self, who: object, now_s: float, amount: float = 1.0) -> bool:
        """Whether one more of theirs, or so much, may pass now."""
        bucket = self._buckets.pop(who, None) or TokenBucket(self._rate, self._burst)
        self._buckets[who] = bucket
        while len(self._buckets) > MOST_COUNTED:
            self._buckets.popitem(last=False)
        return bucket.take(now_s, amount)

    def forget(self, who: object) -> None:
        """Begin anew with somebody."""
        self._buckets.pop(who, None)


class Rates:
    """One bucket for each, and one for all of them together.

    Parameters
    ----------
    each, burst_each : float
        What one may ask in a second, and at once.
    in_all, burst_all : float
        The same for all of them together.
    """

    def __init__(self, each: float, burst_each: float, in_all: float, burst_all: float) -> None:
        self._each = Buckets(each, burst_each)
        self._all = TokenBucket(in_all, burst_all)

    def take(self, who: object, now_s: float) -> bool:
        """Whether one more of theirs may pass now."""
        # Their own comes first: who asks too much uses up nothing of the others' share.
        return self._each.take(who, now_s) and self._all.take(now_s)


class Replayed(Exception):
    """A request that has come before, or is too old to know."""


class Memory:
    """Which requests have come, for as long as they could come again; bounded.

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
        """Let a request in once.

        Parameters
        ----------
        name : str
            Whose it is.
        request : str
            Its id.
        sent_ns : int or None
            When it was sent, UTC nanoseconds by its own account.
        now_ns : int
            UTC nanoseconds here.
        strict : bool
            Whether an id and a time are demanded, and the time has to be now: with keys, and for
            all but `safe`, which a wrong clock must not keep from working.

        Raises
        ------
        Replayed
            Saying why.
        """
        if strict and not request:
            raise Replayed("a request needs an `id` of its own")
        if strict:
            if sent_ns is None:
                raise Replayed("a request needs `sent_ns`, when it was sent (UTC nanoseconds)")
            off_s = (now_ns - sent_ns) * 1e-9
            if abs(off_s) > WINDOW_S:
                which = "behind" if off_s > 0 else "ahead"
                raise Replayed(
                    f"it was sent {abs(off_s):.0f} s {which} of the daemon's clock, at most "
                    f"{WINDOW_S:g} s are allowed: set the clock of the machine that sends"
                )
        if not request:
            return
        key = (name, request)
        if key in self._seen:
            raise Replayed(f"request {request!r} has come before")
        self._seen[key] = now_ns
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)
