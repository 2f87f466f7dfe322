"""Rates, and requests that come twice: bounded, whatever is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.daemon.access.rate_limits import (
    MOST_REMEMBERED,
    RateLimits,
    Replayed,
    ReplayGuard,
    TokenBucket,
)

NOW_NS = 1_800_000_000 * 10**9


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    steps=st.lists(st.floats(-1, 2), max_size=200),
)
def test_a_bucket_lets_no_more_through_than_rate_and_burst_allow(
    rate: float, burst: int, steps: list[float]
) -> None:
    bucket, now_s, passed, latest_s = TokenBucket(rate, burst), 0.0, 0, 0.0
    for step_s in steps:
        now_s += step_s  # a clock that goes back gives nothing away
        latest_s = max(latest_s, now_s)
        passed += bucket.take(now_s)
    gone_forward = sum(step for step in steps if step > 0)
    assert passed <= burst + rate * gone_forward + 1e-6


def test_who_asks_too_much_uses_up_nothing_of_the_others() -> None:
    rates = RateLimits(1.0, 5.0, 10.0, 20.0)
    assert sum(rates.take("greedy", 0.0) for _ in range(1000)) == 5
    assert [rates.take("modest", 0.0) for _ in range(5)] == [True] * 5
    assert sum(rates.take(f"one of many {n}", 0.0) for n in range(5000)) == 10, "20 in all"


def test_a_request_is_let_in_once() -> None:
    guard = ReplayGuard()
    guard.admit("anna", "1", NOW_NS, NOW_NS, strict=True)
    guard.admit("bert", "1", NOW_NS, NOW_NS, strict=True)
    with pytest.raises(Replayed, match="'1' has come before"):
        guard.admit("anna", "1", NOW_NS, NOW_NS + 10**9, strict=True)
    with pytest.raises(Replayed, match="has come before"):
        guard.admit("anna", "1", None, NOW_NS, strict=False)


@pytest.mark.parametrize(
    ("request_id", "sent_ns", "why"),
    [
        ("", NOW_NS, "id"),
        ("a", None, "sent_ns"),
        ("a", NOW_NS - 31 * 10**9, "31 s behind"),
        ("a", NOW_NS + 45 * 10**9, "45 s ahead"),
    ],
)
def test_with_keys_a_request_says_when_it_was_sent(
    request_id: str, sent_ns: int | None, why: str
) -> None:
    with pytest.raises(Replayed, match=why):
        ReplayGuard().admit("anna", request_id, sent_ns, NOW_NS, strict=True)


def test_without_keys_nothing_is_demanded() -> None:
    guard = ReplayGuard()
    for _ in range(3):
        guard.admit("local", "", None, NOW_NS, strict=False)
    assert len(guard) == 0


def test_memory_is_bounded_and_keeps_the_latest() -> None:
    guard = ReplayGuard(100)
    for number in range(1000):
        guard.admit("anna", str(number), NOW_NS, NOW_NS, strict=True)
    assert len(guard) == 100
    with pytest.raises(Replayed):
        guard.admit("anna", "999", NOW_NS, NOW_NS, strict=True)
    # Whatever the rates let in while a request is young enough to come again is remembered.
    assert MOST_REMEMBERED > 60 * 250
