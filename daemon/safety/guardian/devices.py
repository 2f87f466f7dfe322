"""Beam and heater of the guardian process; importing this file loads the driver interfaces."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from ....drivers.base import Beam, Heater
from ....drivers.registry import device_of, driver_class
from ....protocols.core.clock import ExperimentClock
from ....protocols.core.errors import BadInput
from .config import GuardianConfig


@dataclass(frozen=True)
class GuardedDevices:
    """What the guardian needs when it must act.

    Attributes
    ----------
    beam, heater : Beam, Heater
        Drivers of their own, not connected before they are needed.
    clock : ExperimentClock
        The daemon's clock.
    timeout_s : float
        Wall seconds without a heartbeat after which the guardian acts.
    kill : bool
        Whether the daemon is killed then.
    """

    beam: Beam
    heater: Heater
    clock: ExperimentClock
    timeout_s: float
    kill: bool


def preload(drivers: Sequence[str]) -> None:
    """Import the drivers of heater and beam before the configuration comes.

    A driver that cannot be imported is reported by `configured`, which says why.
    """
    for role, driver in zip(("heater", "beam"), drivers, strict=False):
        with contextlib.suppress(BadInput):
            driver_class(driver, role)


def configured(line: bytes) -> GuardedDevices:
    """Devices of a `GuardianConfig` in JSON.

    Raises
    ------
    ValueError
        If it is not a configuration, or names drivers that are not installed (`BadInput`).
    """
    config = GuardianConfig.model_validate_json(line)
    clock = config.clock.clock()
    return GuardedDevices(
        beam=device_of(config.beam, "beam", clock),
        heater=device_of(config.heater, "heater", clock),
        clock=clock,
        timeout_s=config.timeout_s,
        kill=config.kill,
    )
