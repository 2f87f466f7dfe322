"""Before a chip is heated: whether it reads the ambient temperature of its calibration."""

from __future__ import annotations

from collections import deque

from ...protocols.config.calibration import ChipCalibration
from ...protocols.core.clock import ExperimentClock
from ..base import DeviceRefused
from .source_unit import SourceReading, SourceUnit

COLD_READINGS, COLD_TIMEOUT_S = 8, 3.0


async def check_cold(
    device: str,
    unit: SourceUnit,
    calibration: ChipCalibration,
    probe_a: float,
    clock: ExperimentClock,
) -> float:
    """Read the chip until it is at rest, which takes a hot one a while, and check that it is cold.

    Parameters
    ----------
    device : str
        For messages.
    unit : SourceUnit
        With its output on.
    calibration : ChipCalibration
        Of the chip.
    probe_a : float
        Current of the readings, in A.
    clock : ExperimentClock
        Of the waiting.

    Returns
    -------
    float
        Temperature of the chip in degC.

    Raises
    ------
    DeviceRefused
        If it does not read the ambient temperature; the output is off then.
    """
    started_s = clock.now_s()
    recent: deque[SourceReading] = deque(maxlen=COLD_READINGS)
    half_kelvin_ohm = 0.5 * calibration.resistance.slope(calibration.ambient_c)
    while True:
        reading = await unit.read(probe_a)
        settled_s = clock.now_s() - started_s
        if settled_s < 5.0 * calibration.time_constant_s:
            continue
        recent.append(reading)
        if len(recent) < COLD_READINGS:
            continue
        rows, half = list(recent), COLD_READINGS // 2
        moved_ohm = abs(_mean(rows[:half]).resistance_ohm - _mean(rows[half:]).resistance_ohm)
        if moved_ohm < half_kelvin_ohm or settled_s > COLD_TIMEOUT_S:
            break
    mean = _mean(rows)
    verdict = calibration.check_cold(mean.resistance_ohm, mean.power_w)
    if not verdict.plausible:
        await unit.output_off()
        raise DeviceRefused(
            device,
            "heat",
            f"{verdict.reason}; the output is off",
            "Load this chip's calibration file, or check contacts and ambient temperature",
        )
    return calibration.temperature_c(mean.resistance_ohm)


def _mean(readings: list[SourceReading]) -> SourceReading:
    count = len(readings)
    return SourceReading(
        readings[-1].t_ns,
        sum(r.voltage_v for r in readings) / count,
        sum(r.current_a for r in readings) / count,
    )
