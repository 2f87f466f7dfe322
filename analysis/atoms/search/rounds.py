"""Rounds of the search, and the last steps to the optimum."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from ..refinement.model import AtomModel, Views
from ..refinement.newton import Fitted, fitted, newton_step, typical_height
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


def search_rules(pixel_a: float, least_gain: float = 6.0, nearest_a: float = 1.3) -> SearchRules:
    """Bounds of the search, in pixels."""
    return SearchRules(
        least_gain, least_gain + 7, nearest_a / pixel_a, 2.0 / pixel_a, 0.08, 1.2 / pixel_a,
        4.0 / pixel_a,
    )  # fmt: skip


def begun(views: Views, model: AtomModel, priors: Priors, pixel_a: float) -> Fitted:
    """First steps from the peaks of a volume."""
    now = fitted(views, model, priors, typical_height(model))
    now = shape_step(views, now, priors, tail=False)
    for _ in range(2):
        now = newton_step(views, now, priors, _LONGEST_A / pixel_a, _ROUGHLY)
    return now


def searched(
    views: Views, now: Fitted, priors: Priors, rules: SearchRules, pixel_a: float,
    settings: LikelihoodSettings,
) -> Generator[float, None, Fitted]:  # fmt: skip
    """Rounds of removing and adding until little is added."""
    longest = _LONGEST_A / pixel_a
    for turn in range(settings.rounds):
        now = _with(views, pruned(views, now, rules), priors)
        now = newton_step(views, now, priors, longest, _ROUGHLY)
        added = missing_atoms(views, now, rules)
        now = _with(views, with_added(now.model, added, now.typical), priors)
        for _ in range(2):
            now = newton_step(views, now, priors, longest, _ROUGHLY)
        now = shape_step(views, now, priors, tail=turn >= _TAIL_FROM_ROUND)
        yield 0.1 + 0.6 * (turn + 1) / settings.rounds
        if turn >= _TAIL_FROM_ROUND and len(added) <= _FEW * now.model.size:
            break
    return now


def finished(
    views: Views, now: Fitted, priors: Priors, rules: SearchRules, pixel_a: float,
    settings: LikelihoodSettings,
) -> Generator[float, None, Fitted]:  # fmt: skip
    """Steps to the optimum with heights alike, and a last removal on the way."""
    longest = _LONGEST_A / pixel_a
    rules = replace(rules, nearest=max(rules.nearest, 1.5 / pixel_a))
    now = _with(views, pruned(views, now, rules), priors)
    for turn in range(settings.final_steps):
        before, size = now.posterior, now.model.size
        now = newton_step(views, now, priors, longest)
        now = shape_step(views, now, priors, tail=True)
        if turn == 1:
            now = _with(views, pruned(views, now, rules), priors)
        yield 0.7 + 0.2 * (turn + 1) / settings.final_steps
        if turn > 1 and now.model.size == size and now.posterior - before < _LEAST_GROWTH * size:
            break
    return now


def _with(views: Views, model: AtomModel, priors: Priors) -> Fitted:
    if not model.size:
        raise ValueError("no atom explains the counts; are angles, tilt axis and pixel size right?")
    return fitted(views, model, priors, typical_height(model))
