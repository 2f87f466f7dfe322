"""What acquiring frames needs of the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...drivers.base import Beam, Detector
from ...protocols.config.recipe import BeamSettings
from ...protocols.core.clock import ExperimentClock
from ..resume.run_journal import Journal
from ..schedule.dose import DoseLedger
from ..schedule.switching import LEAST_ON_S, SwitchingTime
from ..tracking.follower import Follower
from .heater_watch import HeaterWatch
from .outgoing import Outgoing
from .plan_progress import PlanProgress
from .stage_check import StageCheck


@dataclass(frozen=True)
class AcquisitionContext:
    """What acquiring a stack needs of the run.

    Attributes
    ----------
    beam, detector
        Connected; the beam is blanked.
    settings : BeamSettings
        Current, dwell time and frame size of the recipe.
    ledger : DoseLedger
        Fluence so far and its limits.
    journal : Journal
        Takes every trigger before its exposure.
    clock : ExperimentClock
        Time of the frames.
    watch : HeaterWatch
        Knows the temperature of each moment.
    stage : StageCheck
        Knows the position of the stage; gets every exposure.
    progress : PlanProgress
        Counts frames, and says whether the beam is on for an exposure.
    out : Outgoing
        Takes frames, readings and events.
    switching : SwitchingTime
        How long the beam is on beside exposures.
    least_on : SwitchingTime
        How long it is on where the command that blanks follows the trigger at once.
    follower : Follower or None
        Knows what shift is applied, where the specimen is tracked.
    """

    beam: Beam
    detector: Detector
    settings: BeamSettings
    ledger: DoseLedger
    journal: Journal
    clock: ExperimentClock
    watch: HeaterWatch
    stage: StageCheck
    progress: PlanProgress
    out: Outgoing
    switching: SwitchingTime = field(default_factory=SwitchingTime)
    least_on: SwitchingTime = field(default_factory=lambda: SwitchingTime(LEAST_ON_S))
    follower: Follower | None = None

    @property
    def parked_dose_e_per_nm2(self) -> float:
        """Fluence that a trigger is expected to add while the blanker works."""
        return self.settings.parked_dose_e_per_nm2(self.switching.expected_s)
