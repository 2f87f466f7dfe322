"""The steps towards atoms, in the pipeline, on a small particle whose atoms are known."""

import numpy as np
import pytest

from pyrotome.analysis.atoms import match_atoms
from pyrotome.analysis.core.outputs import Notice, Result
from pyrotome.analysis.pipeline.pipeline import Pipeline, PlannedStack
from pyrotome.protocols.config.pipeline import AnalysisStep, complete_pipeline, planned_results
from pyrotome.protocols.messages.manifest import StackPlan
from pyrotome.protocols.steps import Online
from pyrotome.protocols.steps.tables import (
    ATOM_COLUMNS,
    ATOM_VIEW_COLUMNS,
    DRIFT_COLUMNS,
    LIVE_ATOM_COLUMNS,
)
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

PIXEL_NM, SIDE = 0.035, 60
TILTS = tuple(float(tilt) for tilt in range(-75, 91, 9))
ATOMS_A = amorphous_particle(50, np.random.default_rng(3))
LIKELIHOOD = {"trace": {"species": "Si", "live_time": "0 s"}}


def counts_of(frames=1, **changes):
    """Frames of each tilt, one after another, and their angles."""
    tilts = np.repeat(TILTS, frames)
    given = {"dose_e_per_a2": 6e4, "pedestal": 0.5, "shape": (SIDE, SIDE)} | changes
    imaging = Imaging(10 * PIXEL_NM, **given)
    made = simulated_series(ATOMS_A, tilts, imaging, np.random.default_rng(4))
    return made.counts, tuple(tilts)


def analysed(steps, counts, tilts, times=False, known=()):
    pipeline = complete_pipeline([AnalysisStep.model_validate(step) for step in steps])
    views = len(set(tilts))
    shape = counts.shape[1:]
    planned = tuple(planned_results(pipeline, "series", len(tilts), shape, PIXEL_NM, views))
    plan = StackPlan(
        name="series_001", kind="series", frames=len(tilts), tilt_deg=tilts, results=planned
    )
    stacks = Pipeline(pipeline, [PlannedStack(plan, shape, PIXEL_NM)], known=known).stacks
    stack = stacks["series_001"]
    outputs = []
    for index, tilt in enumerate(tilts):
        told = (2.0 * index, 1.5) if times else ()
        outputs += stack.frame(index, counts[index], tilt, *told)
        for task in stack.take_tasks():
            outputs += task.outputs
    results = {out.name: out for out in outputs if isinstance(out, Result)}
    results["all"] = [out for out in outputs if isinstance(out, Result)]
    notices = [out for out in outputs if isinstance(out, Notice) and out.level != "info"]
    return results, notices


def found_atoms(result):
    rows = result.data[np.isfinite(result.data[:, 1])]
    return rows, match_atoms(10 * rows[:, 1:4], ATOMS_A)


def column(rows, name):
    return rows[:, ATOM_COLUMNS.index(name)]


def test_atoms_are_fitted_to_the_counts_of_a_pipeline():
    counts, tilts = counts_of()
    results, notices = analysed([LIKELIHOOD], counts, tilts)
    assert not notices
    rows, match = found_atoms(results["atoms"])
    assert (match.recall, match.precision) == (1, 1)
    assert results["atoms"].data.shape == (32_768, len(ATOM_COLUMNS))
    figures = results["atoms"].parameters
    assert figures["atoms"] == len(rows) == len(ATOMS_A)
    assert figures["species"] == "Si"
    errors = column(rows, "position_error_nm")
    assert np.median(errors) == pytest.approx(figures["position_error_median_nm"])
    assert 0.5 < match.rmsd_a / 10 / np.sqrt(np.mean(errors**2)) < 1.5
    half = [column(rows, f"cov_{axis}{axis}_nm2") for axis in "xyz"]
    assert np.sqrt(sum(half)) == pytest.approx(errors)
    assert (column(rows, "probability") > 0.9).all()
    table = results["atom_views"].data
    views = table[np.isfinite(table[:, 0])]
    assert views[:, 0].tolist() == list(range(len(TILTS)))
    assert np.abs(views[:, ATOM_VIEW_COLUMNS.index("tilt_deg")] - TILTS).max() < 0.5


@pytest.mark.parametrize("frames", ["sum", "single"])
def test_frames_of_a_tilt_are_added_or_taken_one_by_one(frames):
    counts, tilts = counts_of(frames=2)
    step = {"trace": {**LIKELIHOOD["trace"], "frames": frames}}
    results, notices = analysed([step], counts, tilts)
    assert not notices
    _, match = found_atoms(results["atoms"])
    assert (match.recall, match.precision) == (1, 1)
    table = results["atom_views"].data
    images = len(TILTS) * (2 if frames == "single" else 1)
    assert np.isfinite(table[:, 0]).sum() == images


def test_merged_frames_lose_nothing():
    counts, tilts = counts_of(frames=3)
    moved = np.stack([np.roll(frame, -(n % 3), axis=0) for n, frame in enumerate(counts)])
    steps = [{"merge": {}}, LIKELIHOOD]
    results, notices = analysed(steps, moved, tilts, times=True)
    assert not notices
    _, match = found_atoms(results["atoms"])
    assert (match.recall, match.precision) == (1, 1)
    table = results["drift"].data
    at = DRIFT_COLUMNS.index
    assert (table[:, at("frames")] == 3).all()
    assert np.median(table[:, at("drift_y_nm_per_frame")]) == pytest.approx(-PIXEL_NM, rel=0.05)
    assert np.median(table[:, at("speed_nm_per_s")]) == pytest.approx(PIXEL_NM / 2, rel=0.05)
    assert np.median(table[:, at("direction_deg")]) == pytest.approx(-90, abs=5)
    total, variance = results["merged"].data, results["merged_variance"].data
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert total[inner].sum() == pytest.approx(counts.sum() * inner_share(counts), rel=0.03)
    assert (variance[inner] <= total[inner] + 1e-3).all()


def inner_share(counts):
    """Share of the counts that lies where the merged views are compared."""
    return counts[:, 8:-8, 8:-8].sum() / counts.sum()


def test_the_papers_chain():
    counts, tilts = counts_of()
    steps = [
        {"background": {}},
        {"reconstruct": {"method": "resire", "iterations": 40, "binning": 1}},
        {"trace": {"method": "paper", "species": "Si"}},
    ]
    results, notices = analysed(steps, counts, tilts)
    assert not notices
    rows, match = found_atoms(results["atoms"])
    assert match.recall > 0.9
    assert match.precision > 0.8
    assert np.isnan(column(rows, "position_error_nm")).all()
    assert results["volume"].parameters["r_factor"] < 0.5
    level = results["background"].data
    assert np.nanmean(level) == pytest.approx(results["background"].parameters["level_mean"])
    assert (np.isfinite(level) == (results["particle_mask"].data == 1)).all()


def test_a_coarse_model_is_published_after_each_tilt_of_a_run():
    counts, tilts = counts_of()
    step = {"trace": {"species": "Si"}}
    results, notices = analysed([step], counts, tilts, known=[Online()])
    assert not notices
    live = [result for result in results["all"] if result.name == "atoms_live"]
    views = [result.parameters["views"] for result in live]
    assert views[-1] == len(TILTS) == live[-1].parameters["views_planned"]
    assert views == sorted(set(views))
    assert len(views) > len(TILTS) - 8
    assert not any(result.record for result in live)
    at = LIVE_ATOM_COLUMNS.index
    rows = live[-1].data[np.isfinite(live[-1].data[:, 0])]
    assert match_atoms(10 * rows[:, :3], ATOMS_A).recall > 0.95
    ahead = live[2].data[np.isfinite(live[2].data[:, 0])]
    now, expected = (
        np.median(ahead[:, at(f"{what}_error_nm")]) for what in ("position", "expected")
    )
    assert expected < now
    # The result at the end is that of a run in which nobody watched.
    alone, _ = analysed([step], counts, tilts)
    assert np.array_equal(alone["atoms"].data, results["atoms"].data, equal_nan=True)
    assert "atoms_live" not in alone


def test_no_model_is_made_while_views_wait():
    counts, tilts = counts_of()
    few = tuple(tilts[:12])
    plain = {"trace": {"species": "Si"}}
    results, _ = analysed([plain], counts[:12], few, known=[Online(waiting=lambda: 3)])
    assert "atoms_live" not in results


@pytest.mark.parametrize("axis_deg", [0.0, 90.0])
def test_views_that_wander_are_aligned_by_common_lines_first(axis_deg):
    counts, tilts = counts_of(shift_sd_px=2.0, rotation_deg=axis_deg, shape=(72, 72))
    align = {"align": {"method": "common-lines", "axis": f"{axis_deg:g} deg"}}
    results, notices = analysed([align, LIKELIHOOD], counts, tilts)
    assert not notices
    _, match = found_atoms(results["atoms"])
    assert (match.recall, match.precision) == (1, 1)
    figures = results["shifts"].parameters
    assert figures["axis_source"] == "told"
    assert figures["axis_rotation_deg"] == axis_deg
    views = results["atom_views"].data[: len(TILTS)]
    first = ATOM_VIEW_COLUMNS.index("shift_y_px")
    moved = views[:, first : first + 2] - results["shifts"].data
    # Across the axis the fit may put the whole particle elsewhere.
    along = moved[:, 0 if axis_deg == 0 else 1]
    assert along.std() < 0.2
    # Once moved, the centres of mass lie in the middle.
    image = results["aligned"].data[3] - 0.5
    _, columns = np.indices(image.shape) - 35.5
    assert abs((image * columns).sum() / image.sum()) < 1


def test_an_axis_that_is_not_told_is_taken_as_vertical():
    counts, tilts = counts_of(shape=(72, 72))
    results, _ = analysed([{"align": {"method": "common-lines"}}], counts, tilts)
    assert results["shifts"].parameters["axis_source"] == "assumed"


def test_counts_without_atoms_are_told():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (len(TILTS), SIDE, SIDE)).astype(np.uint16)
    results, notices = analysed([LIKELIHOOD], counts, TILTS)
    assert "atoms" not in results or np.isfinite(results["atoms"].data[:, 1]).sum() < 5
    assert notices
