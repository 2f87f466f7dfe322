"""The chip under our own regulation, as fast as each link lets it.

``python benchmarks/instruments/regulation.py``.

A step from 200 to 350 degC, judged by the simulated chip's true temperature: when it is within
1 degC for good, how far it went beyond, and how well it is held afterwards; the first after one
step to 200 degC from the cold. The calibration of the first rows is the chip's own; in the others
the loss is 5 % off, the time constant twice too long, or the holding power unknown, and has to be
learned. Beside them stands the vendor's controller as its users published it (Ihara et al.,
Nanoscale 2023, 15, 10133). Below: how long a resistance that is 1 % off what the calibration says
goes unnoticed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyrotome.drivers.base import DeviceError
from pyrotome.drivers.keithley.heater import KeithleyHeater
from pyrotome.drivers.registry import make_device
from pyrotome.protocols.config.rig import Rig, simulated_rig
from pyrotome.protocols.config.simulated import SimulatedChip
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.simulators.simulation import Simulation, running
from pyrotome.simulators.world.chip import Chip

FILE = Path(__file__).resolve().parents[2] / "examples" / "rigs" / "chip_calibration.json"
LINKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RS-232  9600", "keithley-2400", {"baud": 9600}),
    ("RS-232 19200", "keithley-2400", {"baud": 19200}),
    ("RS-232 57600", "keithley-2400", {"baud": 57600}),
    ("TCP", "keithley-2450", {}),
)
STANDBY_C, PROCESSING_C = 200.0, 350.0
WITHIN_C = 1.0


@dataclass(frozen=True)
class Step:
    """What a step did; times in s, temperatures in degC."""

    settled_s: float
    overshoot_c: float
    hold_mean_c: float
    hold_std_c: float

    @classmethod
    def of(cls, times_s: np.ndarray, values_c: np.ndarray, hold_from_s: float) -> Step:
        error_c = values_c - PROCESSING_C
        outside = np.flatnonzero(np.abs(error_c) > WITHIN_C)
        held = error_c[times_s > hold_from_s]
        return cls(
            float(times_s[outside[-1]]), float(error_c.max()), float(held.mean()), float(held.std())
        )


@contextlib.asynccontextmanager
async def heater_on(
    driver: str, options: dict[str, Any], calibration: Path
) -> AsyncIterator[tuple[KeithleyHeater, Simulation]]:
    rig = simulated_rig().model_dump(by_alias=True)
    rig["heater"] = {
        "driver": driver,
        "endpoint": "serial://auto" if "baud" in options else "tcp://127.0.0.1:0",
        "options": {"calibration_file": str(calibration), **options},
    }
    rig["simulator"] = {"specimen": {"kind": "cu-sintering", "particles": 2}}
    clock = ExperimentClock()
    config = SimulatorConfig(rig=Rig.model_validate(rig), clock=ClockConfig.of(clock))
    async with running(config) as simulation:
        heater = make_device(simulation.rig(config.rig), "heater", clock)
        await heater.connect(10.0)
        try:
            yield heater, simulation
        finally:
            await heater.disconnect()


async def steps(
    link: tuple[str, str, dict[str, Any]], calibration: Path, count: int
) -> tuple[float, list[Step]]:
    """Achieved loop rate in Hz, and the steps."""
    _, driver, options = link
    found: list[Step] = []
    rates: list[float] = []
    # What a calibration without holding power cannot tell.
    options = {**options, "max_current_a": 0.0104}
    async with heater_on(driver, options, calibration) as (heater, simulation):

        async def follow() -> None:
            async for sample in heater.samples():
                rates.append(sample.values["loop_rate_hz"])

        following = asyncio.create_task(follow())
        for _ in range(count):
            await heater.set_temperature(STANDBY_C)
            await asyncio.sleep(1.5)
            sent_ns = await heater.set_temperature(PROCESSING_C)
            await asyncio.sleep(2.0)
            times, values = simulation.world.heater.history(sent_ns)
            found.append(Step.of((times - sent_ns) * 1e-9, values, 1.0))
        await heater.disconnect()
        await following
    return float(np.median(rates[len(rates) // 2 :])), found


async def noticed_s(link: tuple[str, str, dict[str, Any]], target_c: float, factor: float) -> float:
    """Seconds from the drift of the resistance to the output off, at a temperature."""
    _, driver, options = link
    async with heater_on(driver, options, FILE) as (heater, simulation):
        await heater.set_temperature(target_c)
        await asyncio.sleep(1.5)
        simulation.world.heater.age(simulation.clock.now_ns(), factor)
        started = time.monotonic()
        with contextlib.suppress(DeviceError):
            async with asyncio.timeout(10.0):
                async for _ in heater.samples():
                    pass
        return time.monotonic() - started


def published_controller() -> Step:
    chip = Chip(SimulatedChip(), 0)
    chip.go_to(STANDBY_C, 0.0)
    chip.advance_to(60_000_000_000)
    chip.go_to(PROCESSING_C, 0.0)
    times = np.arange(1, 30_001) * 1_000_000
    values: list[float] = []
    for t in times.tolist():
        chip.advance_to(60_000_000_000 + t)
        values.append(chip.temperature_c)
    return Step.of(times * 1e-9, np.array(values), 1.0)


def line(name: str, rate: str, found: list[Step]) -> str:
    settled = max(s.settled_s for s in found)
    overshoot = max(s.overshoot_c for s in found)
    mean = max((s.hold_mean_c for s in found), key=abs)
    std = max(s.hold_std_c for s in found)
    return f"{name:36} {rate:>8} {settled:9.3f} {overshoot:11.2f} {mean:+10.3f} {std:8.3f}"


def changed(folder: Path, name: str, change: Any) -> Path:
    body = json.loads(FILE.read_text())
    change(body)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(body))
    return path


def other_calibrations(folder: Path) -> dict[str, Path]:
    def loss(body: dict[str, Any]) -> None:
        body["power"]["conductance_w_per_k"] *= 1.05
        body["power_tolerance"] = 0.1

    def slow(body: dict[str, Any]) -> None:
        body["time_constant_s"] *= 2.0

    def unknown(body: dict[str, Any]) -> None:
        del body["power"]

    return {
        "loss 5 % off": changed(folder, "loss", loss),
        "time constant twice": changed(folder, "slow", slow),
        "no holding power": changed(folder, "unknown", unknown),
    }


async def run(count: int, folder: Path) -> None:
    print(f"step {STANDBY_C:g} -> {PROCESSING_C:g} degC, worst of {count}; true temperature")
    print(f"{'link, calibration':36} {'loop/Hz':>8} {'settled/s':>9} {'overshoot/C':>11} "
          f"{'hold/C':>10} {'std/C':>8}")  # fmt: skip
    others = other_calibrations(folder)
    for link in LINKS:
        rate, found = await steps(link, FILE, count)
        print(line(link[0], f"{rate:.1f}", found), flush=True)
        for name, path in others.items():
            rate, found = await steps(link, path, count)
            print(line(f"  {name}", f"{rate:.1f}", found), flush=True)
    print(line("vendor's controller, as published", "", [published_controller()]))
    print("\nresistance 1 % off the calibration: cold, refused before it is heated; hot, noticed")
    for link in LINKS:
        texts: list[str] = []
        for target_c in (STANDBY_C, PROCESSING_C, 800.0):
            took = [await noticed_s(link, target_c, factor) for factor in (0.99, 1.01)]
            texts.append(f"at {target_c:g} degC after {max(took):.2f} s")
        print(f"{link[0]:14} {', '.join(texts)}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # trips are what is measured
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(arguments.steps, Path(folder)))


if __name__ == "__main__":
    main()
