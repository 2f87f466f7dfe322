"""Newton steps on all atoms and all views together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .likelihood import Curvature, Expected, expect
from .model import AtomModel, Step, Views
from .priors import Priors, PriorTerms

_HALVINGS = 4
# Conjugate gradients end when the residual has fallen to this part, or after so many products.
_TOLERANCE, _PRODUCTS = 0.03, 12


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
        self._priors, self._free = priors, priors.free
        self._turns = float(priors.rotation_sd_rad > 0)
        self.blocks = self.curvature.blocks.copy()
        self.terms.add_to(self.blocks)
        trace = np.trace(self.blocks, axis1=1, axis2=2)
        scale = np.maximum(np.median(trace) if trace.size else 1.0, 1e-12)
        self.blocks += 1e-9 * scale * np.eye(4)
        self._inverse_atoms = np.linalg.inv(self.blocks)
        of_views = self.curvature.view_blocks[:, :5, :5] * (
            self._free[:, :, None] * self._free[:, None, :]
        )
        diagonal = self._free * self.terms.view_precision + (1 - self._free)
        of_views += diagonal[:, :, None] * np.eye(5)
        self._inverse_views = np.linalg.inv(of_views)
        turn = self.curvature.view_blocks[:, 5, 5].sum() + self.terms.rotation_precision
        self._inverse_turn = 1 / turn if turn > 0 else 0.0

    @property
    def gradient(self) -> Step:
        """Derivative of the log posterior."""
        return self.freed(self.curvature.gradient.plus(self.terms.gradient()))

    def freed(self, step: Step) -> Step:
        """The step without what is held; views that share a tilt move it together."""
        views = self._priors.tied(step.views * self._free)
        return Step(step.atoms, views, step.rotation * self._turns)

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

    def tried(share: float) -> Fitted | None:
        made = fitted(views, now.model.moved(step, share), priors, now.typical)
        if made.posterior <= now.posterior:
            return None
        return weighed(made.model, made.found, priors, typical_height(made.model))

    return halved(tried) or now


def halved(tried: Callable[[float], Fitted | None]) -> Fitted | None:
    """Try a step, then half of it, and so on; None if no part of it makes the model better."""
    for n in range(_HALVINGS):
        made = tried(0.5**n)
        if made is not None:
            return made
    return None
