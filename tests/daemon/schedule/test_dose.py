"""The dose ledger: reserve before, charge after, never past a limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.daemon.schedule.dose import DoseExceeded, DoseLedger


def test_a_series_is_reserved_charged_and_the_rest_given_back() -> None:
    ledger = DoseLedger(limit=100.0, series_limit=60.0)
    ledger.reserve("series_001", 50.0, is_series=True)
    ledger.charge("series_001", 10.0)
    assert (ledger.charged, ledger.committed) == (10.0, 50.0)
    ledger.release("series_001")
    assert ledger.committed == ledger.charged == ledger.of("series_001") == 10.0


def test_what_would_pass_a_limit_is_refused_and_nothing_reserved() -> None:
    ledger = DoseLedger(limit=100.0, series_limit=60.0)
    with pytest.raises(DoseExceeded, match=r"series_001 needs 61"):
        ledger.reserve("series_001", 61.0, is_series=True)
    ledger.reserve("reference_001", 70.0, is_series=False)
    with pytest.raises(DoseExceeded, match="the budget is 100"):
        ledger.reserve("series_001", 31.0, is_series=True)
    assert ledger.committed == 70.0


def test_an_exposure_that_nobody_reserved_is_booked_and_told() -> None:
    ledger = DoseLedger(limit=None, series_limit=None)
    with pytest.raises(DoseExceeded, match="that was not reserved"):
        ledger.charge("series_001", 5.0)
    assert ledger.charged == 5.0


@given(
    frames=st.integers(1, 500),
    dose=st.floats(1e-3, 1e3),
    charged=st.data(),
)
def test_frames_charged_one_by_one_fill_the_limit_exactly(
    frames: int, dose: float, charged: st.DataObject
) -> None:
    ledger = DoseLedger(limit=frames * dose, series_limit=frames * dose)
    ledger.reserve("s", frames * dose, is_series=True)
    taken = charged.draw(st.integers(0, frames))
    for _ in range(taken):
        ledger.charge("s", dose)
    assert ledger.charged == pytest.approx(taken * dose)
    assert ledger.committed == pytest.approx(frames * dose)
    ledger.release("s")
    if taken < frames:
        ledger.reserve("s", (frames - taken) * dose, is_series=True)
    with pytest.raises(DoseExceeded):
        ledger.reserve("s", dose, is_series=True)
