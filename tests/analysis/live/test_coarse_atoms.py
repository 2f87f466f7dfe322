"""The coarse model that grows with the tilts: valid, honest about the end, and bounded in time."""

import contextlib

import numpy as np
import pytest

from pyrotome.analysis.atoms import LikelihoodSettings, match_atoms
from pyrotome.analysis.core.progress import run_to_end
from pyrotome.analysis.live.coarse_atoms import CoarseAtoms
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

PIXEL_A = 0.35
TILTS = np.arange(-72.0, 73.0, 8.0)
# As a microscope takes them, dose-symmetric.
ORDER = np.argsort(np.abs(TILTS), kind="stable")
TRUTH_A = amorphous_particle(40, np.random.default_rng(3))


@pytest.fixture(scope="module")
def counts():
    imaging = Imaging(PIXEL_A, (56, 56), dose_e_per_a2=6e4, pedestal=0.5)
    return simulated_series(TRUTH_A, TILTS, imaging, np.random.default_rng(4)).counts


def coarse(budget_s=1e3, clock=lambda: 0.0):
    return CoarseAtoms(PIXEL_A, TILTS, 0.0, LikelihoodSettings(), budget_s, clock)


def grown(model, counts, views):
    """Models after each of the first views."""
    made = []
    for place in ORDER[:views]:
        model.add_view(int(place), counts[place].astype(np.float32), float(TILTS[place]))
        made.append(run_to_end(model.model(), None))
    return made


def test_the_model_grows_with_the_views(counts):
    made = grown(coarse(), counts, len(TILTS))
    assert made[4] is None, "a few views at nearly the same angle tell nothing"
    first = next(one for one in made if one is not None)
    assert first.views < 9
    last = made[-1]
    match = match_atoms(last.positions_a, TRUTH_A)
    assert match.recall >= 0.95
    assert match.precision >= 0.95
    assert last.views == last.planned == len(TILTS)
    assert not last.skipped
    assert last.next_deg is None
    # Most is learnt far from the angles that are there already.
    assert abs(first.next_deg) > 30
    assert last.settled
    assert not first.settled
    # With all views there, what is expected is what is.
    assert last.expected_error_a == pytest.approx(last.error_a)
    for model in made:
        if model is not None and model.settled:
            found = match_atoms(model.positions_a, TRUTH_A)
            assert min(found.recall, found.precision) > 0.9, "a settled model is right"
    halfway = made[len(TILTS) // 2 + 2]
    assert np.median(halfway.expected_error_a) < 0.8 * np.median(halfway.error_a)
    assert np.median(halfway.expected_error_a) == pytest.approx(np.median(last.error_a), rel=0.35)
    assert 0.6 < match.rmsd_a / np.sqrt(np.mean(last.error_a**2)) < 1.7


def test_what_does_not_fit_into_the_time_is_left_out_and_told(counts):
    ticks = iter(np.arange(0.0, 1e6, 0.5))
    model = coarse(budget_s=1.2, clock=lambda: float(next(ticks)))
    made = [one for one in grown(model, counts, 12) if one is not None]
    assert made
    assert any("pieces of removing and adding" in text for text in made[-1].skipped)
    assert not made[-1].settled
    assert np.isfinite(made[-1].expected_error_a).all()


def test_counts_without_atoms_never_settle():
    model, rng = coarse(), np.random.default_rng(0)
    noise = rng.poisson(2.0, (len(TILTS), 56, 56))
    with contextlib.suppress(ValueError):  # that no atom is left is as good
        assert not any(one.settled for one in grown(model, noise, 14) if one is not None)
