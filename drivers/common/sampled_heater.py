"""A heater that sends readings by itself: fan-out, staleness, limits and ramp times.

A driver passes each reading to `_publish` and implements `_ranges_c` (temperatures that can be
reached), `_sample_source` (where samples come from) and `_check_usable` (whether it is connected).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from ...protocols.config.rig import HeaterRig
from ...protocols.core.clock import ExperimentClock
from ..base import DeviceError, DeviceLost, Heater, HeaterSample, OutOfRange
from .heater_ramp import refuse_too_fast, shortest_time_s
from .sample_fanout import Fanout, Inbox

ABSOLUTE_ZERO_C = -273.15
STALE_GRACE_S = 1.0  # wall seconds
# Wall seconds: after a stall of the event loop samples may wait in the socket, yet unread.
UNREAD_S = 0.05


@dataclass(frozen=True)
class TemperatureRange:
    """Temperatures that one party allows.

    Attributes
    ----------
    whose : str
        ``the rig``, ``the module``: completes "the limits of ...".
    low_c, high_c : float
        Inclusive, in degC.
    remedy : str
        What to do beyond them.
    """

    whose: str
    low_c: float
    high_c: float
    remedy: str


class SampledHeater(Heater):
    """What heaters that send readings by themselves have in common.

    Parameters
    ----------
    name, rig, clock
        As of `Heater`.
    stale_s : float or None
        Experiment seconds without a sample after which the heater counts as lost; None where the
        driver finds that out by itself.
    """

    def __init__(
        self, name: str, rig: HeaterRig, clock: ExperimentClock, stale_s: float | None = None
    ) -> None:
        super().__init__(name, rig, clock)
        self._stale_s = stale_s
        self._fanout = Fanout()
        self._latest: HeaterSample | None = None

    async def samples(self) -> AsyncIterator[HeaterSample]:
        """Readings as the instrument sends them, until it disconnects.

        Each reader gets every sample from its first step on.

        Yields
        ------
        HeaterSample
            Stamped on the experiment clock.

        Raises
        ------
        DeviceLost
            If they cease.
        DeviceError
            What ended them.
        """
        request = "read samples"
        self._check_usable(request)
        with self._fanout.reader() as inbox:
            while (sample := await self._next(inbox, request, self._stale_wall_s)) is not None:
                yield sample

    # What a driver implements.

    @abstractmethod
    def _check_usable(self, request: str) -> None:
        """Raise DeviceError where the heater is not connected or was lost."""

    @abstractmethod
    def _sample_source(self) -> tuple[str, str, str]:
        """Endpoint of the samples; what else is known of a silence; what the operator can do."""

    def _ranges_c(self) -> Sequence[TemperatureRange]:
        """Temperatures that can be requested: within every one of these."""
        remedy = "Lower the recipe's temperature, or raise the rig's limits.temperature"
        return [TemperatureRange("the rig", ABSOLUTE_ZERO_C, self.rig.limits.temperature_c, remedy)]

    def _distance_c(self, temperature_c: float) -> float:
        """How far a temperature is from where the heater is; without a sample, at the most."""
        limits, latest = self.rig.limits, self._latest
        if latest is None:
            starts = (limits.safe_c, limits.temperature_c)
        else:
            starts = (latest.temperature_c, latest.setpoint_c)
        return max(abs(temperature_c - start_c) for start_c in starts)

    # What follows from it.

    def _publish(self, sample: HeaterSample) -> None:
        self._latest = sample
        self._fanout.put(sample)

    def _end_samples(self, why: DeviceError | None = None) -> None:
        self._fanout.end(why)
        if why is None:
            self._latest = None

    @property
    def _stale_wall_s(self) -> float | None:
        return None if self._stale_s is None else self.clock.wall_s(self._stale_s) + STALE_GRACE_S

    async def _next(
        self, inbox: Inbox, request: str, timeout_s: float | None
    ) -> HeaterSample | None:
        """Wait for the next sample; None after disconnecting, DeviceLost when none comes."""
        try:
            return await inbox.next(timeout_s)
        except TimeoutError:
            pass
        try:
            return await inbox.next(UNREAD_S)
        except TimeoutError:
            source, known, remedy = self._sample_source()
            cause = f"no sample came from {source} within {timeout_s:.3g} s{known}"
            raise DeviceLost(self.name, request, cause, remedy) from None

    def _refuse_beyond_limits(self, temperature_c: float, request: str) -> None:
        """Raise OutOfRange for a temperature beyond the limits of rig, instrument or chip."""
        for allowed in self._ranges_c():
            if not allowed.low_c <= temperature_c <= allowed.high_c:
                raise OutOfRange(
                    self.name,
                    request,
                    f"the limits of {allowed.whose} are {allowed.low_c:g} to "
                    f"{allowed.high_c:g} degC; nothing was sent",
                    allowed.remedy,
                )

    def _shortest_time_s(self, temperature_c: float) -> float:
        """Experiment seconds to a temperature at the rig's rate; 0 where it names none."""
        return shortest_time_s(self.rig.limits, self._distance_c(temperature_c))

    def _refuse_too_fast(self, temperature_c: float, duration_s: float, request: str) -> None:
        """Raise OutOfRange for a ramp that the rig's rate does not allow."""
        refuse_too_fast(self.name, request, duration_s, self._shortest_time_s(temperature_c))
