"""Rounds of the search, and the last steps to the optimum."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace

from ..refinement.heights import HeightClasses
from ..refinement.model import AtomModel, Views
from ..refinement.newton import Fitted, fitted, newton_step
from ..refinement.priors import Priors
from ..refinement.settings import LikelihoodSettings
from ..refinement.shape import shape_step
from .additions import SearchRules, missing_atoms, pruned, with_added

_LONGEST_A = 0.25
# Rounds of the search end when fewer than this part of the atoms is added.
_FEW = 0.002
# The last steps end when the log posterior grows by less than this for each atom.
_LEAST_GROWTH = 1e-3
_TAIL_FROM_ROUND = 2
# While atoms come and go, the equations of a step are solved to this part.
_ROUGHLY = 0.1


@dataclass(frozen=True)
class Stage:
    """How strict a round of the search is; priors as multiples of those at the end."""

    spread: float
    softness: float
    least_gain: float


# The search is annealed. At first heights and distances bind little, so that atoms find their
# places; then ever more, so that an atom that shares another's counts, or stands too near, goes.
_STAGES = (
    Stage(3.0, 2.5, 6.0), Stage(3.0, 1.5, 6.0), Stage(2.0, 1.0, 6.0),
    Stage(1.5, 1.0, 6.0), Stage(1.0, 1.0, 7.0), Stage(1.0, 1.0, 8.0),
)  # fmt: skip
_LAST_GAIN = 9.0


def search_rules(pixel_a: float, least_gain: float = 6.0, nearest_a: float = 1.3) -> SearchRules:
    """Bounds of the search, in pixels."""
    return SearchRules(
        least_gain, least_gain + 7, nearest_a / pixel_a, 2.0 / pixel_a, 0.08, 1.2 / pixel_a,
        4.0 / pixel_a,
    )  # fmt: skip


def at_stage(priors: Priors, stage: Stage) -> Priors:
    """Priors of a round, from those of the end."""
    return replace(
        priors, height_spread=stage.spread * priors.height_spread,
        softness=stage.softness * priors.softness,
    )  # fmt: skip


def begun(views: Views, model: AtomModel, priors: Priors, pixel_a: float) -> Fitted:
    """First steps from the peaks of a volume."""
    priors = at_stage(priors, _STAGES[0])
    now = fitted(views, model, priors, priors.heights_of(model))
    now = shape_step(views, now, priors, tail=False)
    for _ in range(2):
        now = newton_step(views, now, priors, _LONGEST_A / pixel_a, _ROUGHLY)
    return now


def searched(
    views: Views, now: Fitted, priors: Priors, pixel_a: float, rounds: int
) -> Generator[float, None, Fitted]:
    """Rounds of removing and adding, ever stricter, until little changes in a strict one."""
    longest = _LONGEST_A / pixel_a
    final, stage = len(_STAGES) - 1, 0
    for turn in range(rounds):
        strict = at_stage(priors, _STAGES[stage])
        rules = search_rules(pixel_a, _STAGES[stage].least_gain)
        size = now.model.size
        now = _with(views, pruned(views, now, strict, rules), strict, now.heights)
        removed = size - now.model.size
        now = newton_step(views, now, strict, longest, _ROUGHLY)
        added = missing_atoms(views, now, rules)
        now = _with(views, with_added(now.model, *added), strict, now.heights)
        for _ in range(2):
            now = newton_step(views, now, strict, longest, _ROUGHLY)
        now = shape_step(views, now, strict, tail=turn >= _TAIL_FROM_ROUND)
        yield 0.1 + 0.6 * (turn + 1) / rounds
        settled = removed + len(added[0]) <= _FEW * now.model.size
        if settled and stage == final:
            break
        # Where nothing is in doubt the stages between are left out.
        following = math.ceil(final * (turn + 1) / max(1, rounds - 1))
        stage = final if settled and turn + 1 >= _TAIL_FROM_ROUND else min(final, following)
    return now


def finished(
    views: Views, now: Fitted, priors: Priors, pixel_a: float, settings: LikelihoodSettings
) -> Generator[float, None, Fitted]:
    """Steps to the optimum with heights alike, and a last removal on the way."""
    longest = _LONGEST_A / pixel_a
    rules = search_rules(pixel_a, _LAST_GAIN, 1.5)
    now = _with(views, pruned(views, now, priors, rules), priors, now.heights)
    for turn in range(settings.final_steps):
        before, size = now.posterior, now.model.size
        now = newton_step(views, now, priors, longest)
        now = shape_step(views, now, priors, tail=True, depth=settings.depth and turn > 0)
        if turn == 1:
            now = _with(views, pruned(views, now, priors, rules), priors, now.heights)
        yield 0.7 + 0.2 * (turn + 1) / settings.final_steps
        if turn > 1 and now.model.size == size and now.posterior - before < _LEAST_GROWTH * size:
            break
    return now


def _with(views: Views, model: AtomModel, priors: Priors, before: HeightClasses) -> Fitted:
    if not model.size:
        raise ValueError("no atom explains the counts; are angles, tilt axis and pixel size right?")
    return fitted(views, model, priors, priors.heights_of(model, before))
