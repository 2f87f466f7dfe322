"""The configuration that the daemon sends to its guardian process: what it needs of the rig."""

from __future__ import annotations

from ....protocols.config.rig import BeamRig, HeaterRig, Rig
from ....protocols.core.clock import ExperimentClock
from ....protocols.core.documents import Strict
from ....protocols.messages.process import ClockConfig


class GuardianConfig(Strict):
    """First line that the guardian reads; its ready line is ``{}``.

    Attributes
    ----------
    heater, beam : HeaterRig, BeamRig
        Their entries in the rig, with the endpoints in use.
    clock : ClockConfig
        The daemon's clock.
    timeout_s : float
        Wall seconds without a heartbeat after which the guardian acts.
    kill : bool
        Whether the guardian kills the daemon when its heartbeat stops while it lives.
    """

    heater: HeaterRig
    beam: BeamRig
    clock: ClockConfig
    timeout_s: float
    kill: bool = False

    @classmethod
    def of(cls, rig: Rig, clock: ExperimentClock, kill: bool) -> GuardianConfig:
        """Configuration for a rig that has the endpoints in use."""
        return cls(
            heater=rig.heater,
            beam=rig.beam,
            clock=ClockConfig.of(clock),
            timeout_s=rig.guardian.timeout_s,
            kill=kill,
        )
