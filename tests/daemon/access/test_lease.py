"""The control lease: one holder at a time, whatever happens in whatever order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyrotome.daemon.access.lease import Lease, LeaseRefused

NAMES = ("anna", "bert", "cleo")


def numbered() -> Lease:
    numbers = itertools.count()
    return Lease(60.0, lambda: f"token {next(numbers)}")


def test_a_lone_operator_takes_renews_and_releases() -> None:
    lease = numbered()
    first = lease.take("anna", 0.0)
    again = lease.take("anna", 50.0)
    assert (first.renewed, again.renewed, again.token) == (False, True, first.token)
    lease.check("anna", first.token, 109.9)
    assert lease.state(100.0) == {"holder": "anna", "held_s": 100.0, "left_s": 10.0}
    lease.release("anna", None, 100.0)
    assert lease.state(100.0) is None


def test_the_refusal_says_who_since_when_and_until_when() -> None:
    lease = numbered()
    lease.take("anna", 0.0)
    with pytest.raises(LeaseRefused, match=r"'anna' has held .* for 20 s, and it expires in 40 s"):
        lease.take("bert", 20.0)
    with pytest.raises(LeaseRefused, match="no control lease: 'anna' has held"):
        lease.check("bert", None, 20.0)
    with pytest.raises(LeaseRefused, match="token is not that of the control lease: 'anna'"):
        lease.check("bert", "token 0", 20.0)
    with pytest.raises(LeaseRefused, match="not yours: 'anna'"):
        lease.release("bert", None, 20.0)


def test_an_expired_lease_controls_nothing_and_is_free() -> None:
    lease = numbered()
    token = lease.take("anna", 0.0).token
    with pytest.raises(LeaseRefused, match="your control lease expired 5 s ago"):
        lease.check("anna", token, 65.0)
    assert lease.holder(60.0) is None
    other = lease.take("bert", 65.0)
    assert other.taken_from is None
    with pytest.raises(LeaseRefused, match="token is not"):
        lease.check("anna", token, 66.0)


def test_who_was_taken_over_is_told_and_controls_no_more() -> None:
    lease = numbered()
    token = lease.take("anna", 0.0).token
    grant = lease.take("cleo", 1.0, take_over=True)
    assert grant.taken_from == "anna"
    lease.check("cleo", grant.token, 2.0)
    with pytest.raises(LeaseRefused, match="'cleo' has held"):
        lease.check("anna", token, 2.0)


class Leases(RuleBasedStateMachine):
    """Beside a plain model: at most one pair of name and token controls, until its time."""

    def __init__(self) -> None:
        super().__init__()
        self.lease, self.now_s = numbered(), 0.0
        self.holder: tuple[str, str] | None = None
        self.until_s = 0.0
        self.tokens: list[tuple[str, str]] = []

    @property
    def held(self) -> bool:
        return self.holder is not None and self.now_s < self.until_s

    @rule(step_s=st.floats(0, 45))
    def waits(self, step_s: float) -> None:
        self.now_s += step_s

    @rule(name=st.sampled_from(NAMES), over=st.booleans())
    def takes(self, name: str, over: bool) -> None:
        free = not self.held or over or (self.holder is not None and self.holder[0] == name)
        try:
            grant = self.lease.take(name, self.now_s, over)
        except LeaseRefused:
            assert not free
            return
        assert free
        assert grant.renewed == (self.held and self.holder == (name, grant.token))
        self.holder, self.until_s = (name, grant.token), self.now_s + grant.seconds
        self.tokens.append(self.holder)

    @rule(name=st.sampled_from(NAMES))
    def releases(self, name: str) -> None:
        mine = not self.held or (self.holder is not None and self.holder[0] == name)
        try:
            self.lease.release(name, None, self.now_s)
        except LeaseRefused:
            assert not mine
        else:
            assert mine
            self.holder = None

    @invariant()
    def only_the_holder_controls(self) -> None:
        for name, token in self.tokens[-20:]:
            for who in NAMES:
                right = self.held and self.holder == (who, token) and who == name
                try:
                    self.lease.check(who, token, self.now_s)
                except LeaseRefused:
                    assert not right
                else:
                    assert right
        assert (self.lease.holder(self.now_s) is not None) == self.held


TestLeases = Leases.TestCase


@given(st.text(max_size=50) | st.none(), st.sampled_from(NAMES))
def test_no_guess_is_a_token(token: str | None, name: str) -> None:
    lease = Lease()
    lease.take("anna", 0.0)
    with pytest.raises(LeaseRefused):
        lease.check(name, token, 1.0)
