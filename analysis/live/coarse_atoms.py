"""A coarse model of the atoms that grows with every tilt, within a bounded time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..alignment.resampling import nearest_quarters_deg, quarter_turns, turned_shifts
from ..atoms import LikelihoodSettings, match_atoms
from ..atoms.refinement.common_motion import normalised
from ..atoms.refinement.likelihood import removal_gains
from ..atoms.refinement.model import AtomModel, Floats64, Views, make_views, margin_for
from ..atoms.refinement.newton import Fitted, fitted, newton_step
from ..atoms.refinement.priors import Priors, tilt_groups
from ..atoms.refinement.shape import shape_step
from ..atoms.refinement.uncertainty import probability_of
from ..atoms.search.additions import SearchRules, missing_atoms, with_added
from ..atoms.search.peaks import spaced
from ..atoms.search.rounds import search_rules
from ..atoms.search.start import smoothed_peaks, volume_of
from ..core.arrays import Floats
from ..core.border import border_level
from .expected_errors import position_errors

T = TypeVar("T")

# As in the fit of a whole series.
_LONGEST_A, _ROUGHLY = 0.25, 0.1
# A model needs so many views, over such a range of angles.
FEWEST_VIEWS, LEAST_RANGE_DEG = 6, 30.0
# Pieces of work on a model, in their order, and how often they are done after a view.
_PIECES = ("step", "prune", "add", "step")
_ROUNDS = 2
# In one round at most this part of the atoms goes: of two atoms in one place either would.
_MOST_REMOVED = 0.05
# A model has settled if so many of its atoms stayed where they were, within a distance, and their
# heights scatter by no more than this times what is expected. Before, the search begins anew with
# so many times the views.
_STAYED, _STAYED_A, _MOST_SCATTER, _ANEW = 0.97, 0.5, 2.0, 1.3
# So many of the atoms must be there by their likelihood ratio, too.
_SURE, _EVEN = 0.97, 0.5
# The time of a piece of work is expected to be so much that of the last one.
_GROWTH = 1.2


@dataclass(frozen=True)
class CoarseModel:
    """What is known of the atoms so far.

    Attributes
    ----------
    positions_a : ndarray
        Shape (atoms, 3): x, y, z in angstrom about the mean of all atoms.
    heights : ndarray
        Shape (atoms,): counts of an atom in a view.
    error_a : ndarray
        Shape (atoms,): root of the summed variances of x, y, z, by the views so far.
    expected_error_a : ndarray
        Shape (atoms,): the same, expected when all planned views are there.
    views, planned : int
        Views in the model, and views of the series.
    settled : bool
        Whether the atoms stay from model to model and are alike; before, some are missing, merged
        or wrong, and errors say little.
    next_deg : float or None
        The tilt, of those that are left, whose view would tell most about the places; None where
        none is left.
    skipped : tuple of str
        What was left out because time was short.
    elapsed_s : float
        Time that the model took.
    """

    positions_a: Floats64
    heights: Floats64
    error_a: Floats64
    expected_error_a: Floats64
    views: int
    planned: int
    settled: bool
    next_deg: float | None
    skipped: tuple[str, ...]
    elapsed_s: float


class CoarseAtoms:
    """Atoms of a series that is being taken.

    Each new view is put into the model of the views before it, whose atoms, alignment and shape of
    the peaks go on from where they were. What would take longer than there is time for is left out
    and told.

    Parameters
    ----------
    pixel_a : float
        Side of a pixel in angstrom.
    planned_deg : sequence of float
        Angles of all views of the series.
    rotation_deg : float
        Direction of the tilt axis.
    settings : LikelihoodSettings
        Settings of the fit.
    budget_s : float
        Time for one model.
    clock : callable
        Tells the time in seconds.
    """

    def __init__(
        self,
        pixel_a: float,
        planned_deg: Sequence[float],
        rotation_deg: float,
        settings: LikelihoodSettings,
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pixel_a, self._settings = pixel_a, settings
        self._planned = [float(tilt) for tilt in planned_deg]
        self._quarters = quarter_turns(rotation_deg)
        self._rotation = math.radians(rotation_deg - nearest_quarters_deg(rotation_deg))
        self._budget_s, self._clock = budget_s, clock
        self._counts: list[Floats] = []
        self._known: list[NDArray[np.bool_]] = []
        self._tilts: list[float] = []
        self._places: list[int] = []
        self._shifts: list[Floats64] = []
        self._model: AtomModel | None = None
        self._took: dict[str, float] = {}
        self._settled = False
        self._started_with = 0
        # The piece of work that comes next, and how often all were done since the last look.
        self._next, self._cycles = 0, 0
        self._before_a: Floats64 | None = None

    def add_view(
        self,
        place: int,
        counts: NDArray[np.float32],
        tilt_deg: float,
        known: NDArray[np.bool_] | None = None,
        shift_px: tuple[float, float] | None = None,
    ) -> None:
        """Keep the counts of a view.

        Parameters
        ----------
        place : int
            Place of the view among the planned ones.
        counts : ndarray
            Shape (rows, columns), as recorded.
        tilt_deg : float
            Angle read back.
        known : ndarray, optional
            Bool, shape of `counts`: pixels that were measured.
        shift_px : tuple of float, optional
            Where an alignment has found the specimen, along rows and columns.
        """
        self._counts.append(np.ascontiguousarray(np.rot90(counts, self._quarters), np.float32))
        seen = np.ones(counts.shape, np.bool_) if known is None else known
        self._known.append(np.rot90(seen, self._quarters))
        self._tilts.append(tilt_deg)
        self._places.append(place)
        told = np.array([shift_px or (0.0, 0.0)])
        self._shifts.append(turned_shifts(told, -self._quarters)[0])

    def model(self) -> Generator[float, None, CoarseModel | None]:
        """Make the model of the views so far; yields the part of the time that has gone.

        Returns
        -------
        CoarseModel or None
            None while there are too few views.

        Raises
        ------
        ValueError
            If no atom is found.
        """
        if len(self._tilts) < FEWEST_VIEWS or np.ptp(self._tilts) < LEAST_RANGE_DEG:
            return None
        started_s = self._clock()
        skipped: list[str] = []
        counts, known = np.stack(self._counts), np.stack(self._known)
        seen = None if known.all() else known
        model = self._begun(counts, seen, started_s)
        views = make_views(counts, margin_for(model.width), seen)
        priors = self._priors(3 * self._settings.height_spread)
        now = fitted(views, model, priors, priors.heights_of(model))
        yield self._share(started_s)
        now, left = yield from self._worked(views, now, priors, started_s)
        if left:
            skipped.append(f"{left} of {_ROUNDS * len(_PIECES)} pieces of removing and adding")
        elif self._fits("shape", started_s):
            now = self._timed("shape", lambda: shape_step(views, now, priors, tail=False))
        self._model = normalised(now.model)
        yield self._share(started_s)
        errors = self._timed("errors", lambda: position_errors(
            views, now, priors, self._left_deg(), spare=self._fits("errors", started_s)
        ))  # fmt: skip
        if errors.thinned:
            skipped.append("some of the planned views in the expected errors")
        positions = self._model.positions * self._pixel_a
        if self._cycles:
            self._cycles = 0
            stayed = self._stayed(positions)
            gains = removal_gains(views, now.model, now.found)
            sure = float(np.mean(probability_of(gains) > _EVEN)) >= _SURE
            self._settled = stayed and sure and errors.height_scatter < _MOST_SCATTER
        return CoarseModel(
            positions - positions.mean(axis=0),
            self._model.heights,
            errors.now * self._pixel_a,
            errors.expected * self._pixel_a,
            len(self._tilts),
            len(self._planned),
            self._settled,
            errors.next_deg,
            tuple(skipped),
            self._clock() - started_s,
        )

    def _begun(
        self, counts: Floats, known: NDArray[np.bool_] | None, started_s: float
    ) -> AtomModel:
        """Where to go on: from the last model, or anew where that is not to be trusted yet."""
        views = len(counts)
        anew = not self._settled and views >= _ANEW * self._started_with
        if self._model is not None and not (anew and self._fits("start", started_s)):
            return self._extended(counts, known)
        self._started_with, self._before_a = views, None
        self._next, self._cycles = 0, 0
        return self._timed("start", partial(self._start, counts, known))

    def _stayed(self, positions_a: Floats64) -> bool:
        """Whether the atoms are those of the last model; keeps them for the next."""
        before, self._before_a = self._before_a, positions_a
        if before is None:
            return False
        match = match_atoms(positions_a, before, reach_a=_STAYED_A)
        return min(match.recall, match.precision) >= _STAYED

    def _left_deg(self) -> list[float]:
        """Angles of the planned views that are not there yet."""
        there = set(self._places)
        return [tilt for place, tilt in enumerate(self._planned) if place not in there]

    def _share(self, started_s: float) -> float:
        return min(1.0, (self._clock() - started_s) / max(self._budget_s, 1e-6))

    def _fits(self, what: str, started_s: float) -> bool:
        """Whether a piece of work will probably end in time; one that was never done is tried."""
        left_s = self._budget_s - (self._clock() - started_s)
        return left_s > 0 and _GROWTH * self._took.get(what, 0.0) <= left_s

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        begun_s = self._clock()
        made = work()
        self._took[what] = self._clock() - begun_s
        return made

    def _worked(
        self, views: Views, now: Fitted, priors: Priors, started_s: float
    ) -> Generator[float, None, tuple[Fitted, int]]:
        """Remove, add and move atoms as long as there is time; what is left goes on next time.

        Returns
        -------
        Fitted
            The better model.
        int
            Pieces of work that were left out.
        """
        left = _ROUNDS * len(_PIECES)
        while left and self._fits(_PIECES[self._next], started_s):
            what = _PIECES[self._next]
            now = self._timed(what, partial(self._piece, what, views, now, priors))
            self._next = (self._next + 1) % len(_PIECES)
            self._cycles += self._next == 0
            left -= 1
            yield self._share(started_s)
        return now, left

    def _piece(self, what: str, views: Views, now: Fitted, priors: Priors) -> Fitted:
        """One piece of work on the model."""
        rules = search_rules(self._pixel_a)
        if what == "step":
            return newton_step(views, now, priors, _LONGEST_A / self._pixel_a, _ROUGHLY)
        if what == "prune":
            model = self._pruned(views, now, rules)
        else:
            model = with_added(now.model, *missing_atoms(views, now, rules))
        return fitted(views, model, priors, priors.heights_of(model, now.heights))

    def _pruned(self, views: Views, now: Fitted, rules: SearchRules) -> AtomModel:
        """Remove the weakest atoms, a few at a time, and of two that are too near the weaker."""
        model = now.model
        gains = removal_gains(views, model, now.found)
        weak = np.flatnonzero(gains < rules.least_gain)
        most = max(1, round(_MOST_REMOVED * model.size))
        stay = np.ones(model.size, np.bool_)
        stay[weak[np.argsort(gains[weak], kind="stable")[:most]]] = False
        left = np.flatnonzero(stay)
        if not left.size:
            self._model = None
            raise ValueError("no atom explains the counts so far")
        kept = np.sort(left[spaced(model.positions[left], gains[left], rules.nearest)])
        return model.with_atoms(model.positions[kept], model.heights[kept])

    def _priors(self, spread: float) -> Priors:
        settings, pixel_a = self._settings, self._pixel_a
        shifts, tilts = np.array(self._shifts), np.array(self._tilts)
        return Priors(
            spread, shifts, np.deg2rad(tilts), self._rotation,
            np.full(shifts.shape, settings.shift_sd_a / pixel_a),
            math.radians(settings.tilt_sd_deg), math.radians(settings.rotation_sd_deg),
            settings.gain_sd, settings.nearest_a / pixel_a, settings.softness_a / pixel_a,
            tilt_groups(tilts),
        )  # fmt: skip

    def _start(self, counts: Floats, known: NDArray[np.bool_] | None) -> AtomModel:
        """The first model, from the peaks of a volume."""
        settings, pixel_a = self._settings, self._pixel_a
        level, shifts = border_level(counts, known), np.array(self._shifts)
        tilts = np.array(self._tilts)
        volume = volume_of(counts, level, tilts, shifts, math.degrees(self._rotation))
        positions, _ = smoothed_peaks(
            volume, settings.smoothing_a / pixel_a, 0.8 * settings.nearest_a / pixel_a
        )
        if not len(positions):
            raise ValueError("no atom stands out of the volume so far")
        above = counts.sum(axis=(1, 2)) - level * counts[0].size
        height = max(float(above.mean()) / len(positions) / (1 + settings.tail), 1e-3)
        return AtomModel(
            positions, np.full(len(positions), height), shifts, np.deg2rad(tilts),
            self._rotation, level, np.zeros(len(counts)), settings.width_a / pixel_a,
            settings.tail, settings.tail_width_a / pixel_a,
        )  # fmt: skip

    def _extended(self, counts: Floats, known: NDArray[np.bool_] | None) -> AtomModel:
        """The last model, with the views that have come since."""
        model = self._model
        assert model is not None
        old = len(model.tilt_rad)
        level = border_level(counts[old:], None if known is None else known[old:])
        return replace(
            model,
            shifts=np.concatenate([model.shifts, np.array(self._shifts[old:]).reshape(-1, 2)]),
            tilt_rad=np.concatenate([model.tilt_rad, np.deg2rad(self._tilts[old:])]),
            background=np.concatenate([model.background, level]),
            log_gain=np.concatenate([model.log_gain, np.zeros(len(level))]),
        )
