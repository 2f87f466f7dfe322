"""A computer that stops while it regulates: how far the chip goes, exactly, in virtual time."""

from __future__ import annotations

import pytest
from late_loop import TCP, steps

# In s from the command: before it, as it goes out, while the chip is driven, as that ends, at rest.
PHASES_S = [-0.06, 0.0, 0.02, 0.04, 0.06, 0.1, 0.14, 0.2, 0.3, 0.5]
LINKS = [TCP, 57600, 19200, 9600]
STOP_S, AT_MOST_C = 0.2, 2.0
UNDISTURBED_S = {TCP: 0.16, 57600: 0.16, 19200: 0.2, 9600: 0.27}


@pytest.mark.parametrize(("from_c", "to_c"), [(200.0, 350.0), (350.0, 200.0)])
@pytest.mark.parametrize("baud", LINKS)
def test_a_computer_that_stops_in_a_step(baud: int, from_c: float, to_c: float) -> None:
    for at_s, course in zip(PHASES_S, steps(baud, from_c, to_c, PHASES_S), strict=True):
        assert course.beyond_c < AT_MOST_C, f"stopped {at_s:g} s after the command"
        assert course.settled_s < UNDISTURBED_S[baud] + STOP_S + 0.03
        assert abs(course.values_c[-300:].mean() - to_c) < 0.3


@pytest.mark.parametrize(("from_c", "to_c"), [(200.0, 350.0), (350.0, 200.0)])
@pytest.mark.parametrize("baud", LINKS)
def test_a_step_settles_without_overshoot(baud: int, from_c: float, to_c: float) -> None:
    for course in steps(baud, from_c, to_c, [None, None]):
        assert course.beyond_c < 0.5
        assert course.settled_s < UNDISTURBED_S[baud]
        assert abs(course.values_c[-300:].mean() - to_c) < 0.2
