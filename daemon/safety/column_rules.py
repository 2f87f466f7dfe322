"""Rules about column and stage: beam on outside an exposure, moving stage, valves and vacuum."""

from __future__ import annotations

from .observations import BeamObservation, Observation, StageObservation
from .rules import Check, Violation


class Unblanked(Check):
    """The beam is on outside an exposure."""

    takes = (BeamObservation,)

    def check(self, observation: Observation) -> Violation | None:
        """Compare with what the engine is doing."""
        assert isinstance(observation, BeamObservation)
        if observation.state.blanked or observation.may_be_open:
            return None
        return Violation(1.0, 0.0, "the beam is on outside an exposure")


class Moving(Check):
    """The stage moved during an exposure."""

    takes = (StageObservation,)

    def check(self, observation: Observation) -> Violation | None:
        """Compare the positions before and after the exposure."""
        assert isinstance(observation, StageObservation)
        before, after = observation.before, observation.after
        tilt_deg = abs(after.tilt_deg - before.tilt_deg)
        if tilt_deg > self.limits.bound:
            text = f"the stage has moved by {tilt_deg:.3f} deg during {observation.frames}"
            return Violation(tilt_deg, self.limits.bound, text)
        way_nm = before.way_nm(after)
        if way_nm > self.limits.supervisor.moving.distance_nm:
            text = f"the stage has moved by {way_nm:.0f} nm during {observation.frames}"
            return Violation(tilt_deg, self.limits.bound, text)
        return None


class Vacuum(Check):
    """Column valves closed while frames are acquired, or vacuum not ready."""

    takes = (BeamObservation,)

    def check(self, observation: Observation) -> Violation | None:
        """Check valves and vacuum as the microscope reports them."""
        assert isinstance(observation, BeamObservation)
        if observation.state.vacuum_ok is False:
            return Violation(1.0, 0.0, "the microscope's vacuum is not ready")
        if observation.wanted and observation.state.valves_open is False:
            return Violation(1.0, 0.0, "the column valves are closed while frames are taken")
        return None
