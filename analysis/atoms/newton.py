"""Newton steps on all atoms and all views together, and Fisher scoring of the shape of peaks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.arrays import Floats, in_threads
from . import kernels
from .likelihood import Curvature, Expected, blur_kernel, blurred, expect
from .model import AtomModel, Floats64, Step, Views, places, window
from .priors import Priors, PriorTerms

_HALVINGS = 4
# Conjugate gradients end when the residual has fallen to this part, or after so many products.
_TOLERANCE, _PRODUCTS = 0.03, 12
_LEAST_WIDTH_PX = 0.4
# A step of the shape changes widths by no more than this part.
_SHAPE_PART = 0.15


@dataclass
class Fitted:
    """A model, what it expects, and its log posterior."""

    model: AtomModel
    found: Expected
    posterior: float
    typical: float


def typical_height(model: AtomModel) -> float:
    """Median height: what an atom of this species has."""
    return float(np.median(model.heights)) if model.size else 1.0


def fitted(views: Views, model: AtomModel, priors: Priors, typical: float) -> Fitted:
    """Weigh a model by counts and priors."""
    return weighed(model, expect(views, model), priors, typical)


def weighed(model: AtomModel, found: Expected, priors: Priors, typical: float) -> Fitted:
    """Weigh a model whose expected counts are known by the priors."""
    value = PriorTerms(priors, model, typical).value
    return Fitted(model, found, found.log_likelihood + value, typical)


class NewtonSystem:
    """The linear equations of a Newton step: Fisher information plus curvature of the priors.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        Where the step starts.
    priors : Priors
        The priors.
    """

    def __init__(self, views: Views, now: Fitted, priors: Priors) -> None:
        self.curvature = Curvature(views, now.model, now.found)
        self.terms = PriorTerms(priors, now.model, now.typical)
        held = (priors.shift_sd, priors.shift_sd, priors.tilt_sd_rad, 1.0, priors.gain_sd)
        self._free = np.array([sd > 0 for sd in held], np.float64)
        self._turns = float(priors.rotation_sd_rad > 0)
        self.blocks = self.curvature.blocks.copy()
        self.terms.add_to(self.blocks)
        trace = np.trace(self.blocks, axis1=1, axis2=2)
        scale = np.maximum(np.median(trace) if trace.size else 1.0, 1e-12)
        self.blocks += 1e-9 * scale * np.eye(4)
        self._inverse_atoms = np.linalg.inv(self.blocks)
        of_views = self.curvature.view_blocks[:, :5, :5] + np.diag(self.terms.view_precision)
        of_views = of_views * np.outer(self._free, self._free) + np.diag(1 - self._free)
        self._inverse_views = np.linalg.inv(of_views)
        turn = self.curvature.view_blocks[:, 5, 5].sum() + self.terms.rotation_precision
        self._inverse_turn = 1 / turn if turn > 0 else 0.0

    @property
    def gradient(self) -> Step:
        """Derivative of the log posterior."""
        return self.freed(self.curvature.gradient.plus(self.terms.gradient()))

    def freed(self, step: Step) -> Step:
        """The step without what is held."""
        return Step(step.atoms, step.views * self._free, step.rotation * self._turns)

    def product(self, step: Step) -> Step:
        """Curvature times a step."""
        return self.freed(self.curvature.product(step).plus(self.terms.product(step)))

    def preconditioned(self, step: Step) -> Step:
        """Inverse of the blocks times a step."""
        return self.freed(
            Step(
                np.einsum("aij,aj->ai", self._inverse_atoms, step.atoms),
                np.einsum("vij,vj->vi", self._inverse_views, step.views),
                step.rotation * self._inverse_turn,
            )
        )

    def solved(self, right: Step, products: int = _PRODUCTS, tolerance: float = _TOLERANCE) -> Step:
        """Solve by preconditioned conjugate gradients.

        Parameters
        ----------
        right : Step
            Right-hand side.
        products : int
            Most products with the curvature.
        tolerance : float
            It ends when the preconditioned norm of the residual has fallen to this part.

        Returns
        -------
        Step
            The solution.
        """
        left = right
        guess = self.preconditioned(left)
        found = Step(np.zeros_like(right.atoms), np.zeros_like(right.views))
        direction, power = guess, left.dot(guess)
        goal = tolerance**2 * power
        for _ in range(products):
            if power <= goal or power <= 0:
                break
            bent = self.product(direction)
            along = power / direction.dot(bent)
            found = found.plus(direction, along)
            left = left.plus(bent, -along)
            guess = self.preconditioned(left)
            before, power = power, left.dot(guess)
            direction = guess.plus(direction, power / before)
        return found


def newton_step(
    views: Views, now: Fitted, priors: Priors, longest: float, tolerance: float = _TOLERANCE
) -> Fitted:
    """Move all atoms and views once.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        Where the step starts.
    priors : Priors
        The priors.
    longest : float
        Most that an atom moves, in pixels.
    tolerance : float
        How exactly the linear equations are solved.

    Returns
    -------
    Fitted
        The better model; the same one if no part of the step makes it better.
    """
    if not now.model.size:
        return now
    system = NewtonSystem(views, now, priors)
    step = system.solved(system.gradient, tolerance=tolerance)
    moves = np.linalg.norm(step.atoms[:, :3], axis=1)
    step.atoms[:, :3] *= np.minimum(1, longest / np.maximum(moves, 1e-12))[:, None]
    bounds = np.array([longest, longest, 0.01, np.inf, 0.05])
    step.views = np.clip(step.views, -bounds, bounds)
    step.rotation = float(np.clip(step.rotation, -0.01, 0.01))
    del system
    share = 1.0
    for _ in range(_HALVINGS):
        tried = fitted(views, now.model.moved(step, share), priors, now.typical)
        if tried.posterior > now.posterior:
            typical = typical_height(tried.model)
            return weighed(tried.model, tried.found, priors, typical)
        share /= 2
    return now


def shape_step(views: Views, now: Fitted, priors: Priors, *, tail: bool) -> Fitted:
    """Fit width, tail, common scale of the heights and common background to the counts.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        Where the step starts.
    priors : Priors
        The priors.
    tail : bool
        Whether the tail is fitted too; while atoms are missing it would take their counts.

    Returns
    -------
    Fitted
        The better model; the same one if no part of the step makes it better.
    """
    if not now.model.size:
        return now
    fisher, score = _shape_equations(views, now)
    keep = np.array([True, True, tail, tail, True])
    model = now.model
    fisher[np.diag_indices(5)] += [1e-6, 1e-6, 1 / 0.3**2, 1 / (0.5 * model.tail_width) ** 2, 1e-6]
    change = np.zeros(5)
    change[keep] = np.linalg.solve(fisher[np.ix_(keep, keep)], score[keep])
    most = np.array([_SHAPE_PART, _SHAPE_PART * model.width, 0.1, 0.1 * model.tail_width, np.inf])
    change = np.clip(change, -most, most)
    share = 1.0
    for _ in range(_HALVINGS):
        part = share * change
        tried = replace(
            model,
            heights=model.heights * (1 + part[0]),
            width=max(_LEAST_WIDTH_PX, model.width + part[1]),
            tail=min(1.0, max(0.0, model.tail + part[2])),
            tail_width=max(1.5 * model.width, model.tail_width + part[3]),
            background=np.maximum(model.background + part[4], 0.0),
        )
        made = fitted(views, tried, priors, typical_height(tried))
        if made.found.log_likelihood > now.found.log_likelihood:
            return made
        share /= 2
    return now


def _shape_equations(views: Views, now: Fitted) -> tuple[Floats64, Floats64]:
    """Fisher information and score of scale, width, tail, width of the tail, background."""
    model, found = now.model, now.found
    tall, wide = window(model.width)
    none = np.zeros(model.size)
    kernel = blur_kernel(model.tail_width)
    wider = blur_kernel(1.05 * model.tail_width)
    more = 0.02 * model.width
    fishers, scores = np.zeros((views.size, 5, 5)), np.zeros((views.size, 5))

    def one(k: int) -> None:
        at = places(model, k, views.centre)
        peaks = found.peaks[k]
        fatter = np.zeros_like(peaks)
        kernels.draw(
            at.rows, at.columns, model.heights, none, none, model.width + more, tall, wide, fatter
        )
        fatter -= peaks
        fatter /= np.float32(more)
        tails = blurred(peaks, kernel)
        images: list[Floats] = [
            peaks + np.float32(model.tail) * tails,
            fatter + np.float32(model.tail) * blurred(fatter, kernel),
            tails,
            (blurred(peaks, wider) - tails) * np.float32(model.tail / (0.05 * model.tail_width)),
        ]
        excess, weights = np.empty_like(peaks), np.empty_like(peaks)
        kernels.residuals(views.counts[k], found.means[k], excess, weights)
        picks = np.flatnonzero(weights.ravel() > 0)
        rows = np.stack(
            [at.gain * image.ravel()[picks] for image in images] + [np.ones(picks.size, np.float32)]
        ).astype(np.float32)
        fishers[k] = (rows * weights.ravel()[picks]) @ rows.T
        scores[k] = rows @ excess.ravel()[picks]

    in_threads(one, range(views.size))
    return fishers.sum(axis=0), scores.sum(axis=0)
