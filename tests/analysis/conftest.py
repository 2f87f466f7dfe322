"""Run files as the recorder writes them, small enough for a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pyrotome.daemon.cli.app import main
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.config.pipeline import AnalysisStep, planned_results
from pyrotome.protocols.config.recipe import BeamSettings, Sample
from pyrotome.protocols.messages.manifest import HoldPlan, RunManifest, StackPlan

T0 = 1_800_000_000 * 10**9
SHAPE = (24, 32)
TILTS = (-40.0, -20.0, 0.0, 20.0, 40.0)
PIPELINE: list[dict[str, Any]] = [
    {"reconstruct": {"method": "sirt", "iterations": 4, "binning": 2}}
]

MakeRun = Callable[..., Path]
FrameOf = Callable[[int, int], np.ndarray[Any, Any]]


def frame_of(series: int, index: int) -> np.ndarray[Any, Any]:
    """Counts of a disc that moves with the tilt, over a background of 7."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    disc = (rows - 12) ** 2 + (columns - 16 - index) ** 2 < 30 + series
    return (7 + 90 * disc + (rows * columns + index) % 5).astype(np.uint16)


PAIR_TILTS = tuple(float(angle) for angle in range(-60, 61, 15))
PAIR_STEPS: list[dict[str, Any]] = [
    {"reconstruct": {"method": "sirt", "iterations": 20, "binning": 1}},
    {"segment": {}},
    {"measure": "necks"},
]


def pair_of(series: int, index: int) -> np.ndarray[Any, Any]:
    """Thickness of two spheres that come nearer with every series."""
    rows, columns = np.mgrid[:32, :48]
    image = np.zeros(rows.shape)
    for side in (-1, 1):
        middle = 23.5 + side * (8.6 - 0.6 * series) * np.cos(np.radians(PAIR_TILTS[index]))
        square = 8.5**2 - (columns - middle) ** 2 - (rows - 15.5) ** 2
        image += 2 * np.sqrt(np.clip(square, 0, None))
    return np.round(50 * image).astype(np.uint16)


def heat(file: RunFile, holds_s: tuple[float, ...]) -> None:
    """Record holds at 350 degC, 10 s apart, each with slopes of 0.1 s."""
    start_s = 10.0
    for index, hold_s in enumerate(holds_s, 1):
        # Held for `hold_s` between the crossings of the midpoint.
        corners_s = np.array([-1.0, 0.0, 0.1, hold_s, hold_s + 0.1, hold_s + 1.0]) + start_s
        for time_s, level_c in zip(corners_s, (200, 200, 350, 350, 200, 200), strict=True):
            row = {"temperature_c": float(level_c), "power_mw": None}
            file.add_telemetry("heater", T0 + round(time_s * 1e9), row)
        up_ns, down_ns = (T0 + round(corners_s[k] * 1e9) for k in (1, 3))
        file.set_hold({"index": index, "commanded_up_ns": up_ns, "commanded_down_ns": down_ns})
        start_s = corners_s[-1] + 10.0


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Carry out an offline command in this process, which spares its start."""

    def carry_out(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["pyrotome", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        code = left.value.code
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    return carry_out


@pytest.fixture
def make_pair_run(make_run: MakeRun) -> MakeRun:
    """Write a run of a pair of particles that sinter, with a pipeline that measures their neck."""

    def make(**changes: Any) -> Path:
        given: dict[str, Any] = {
            "series": 2, "holds_s": (5.0,), "tilts": PAIR_TILTS, "frame": pair_of,
            "analysis": PAIR_STEPS,
        }  # fmt: skip
        return make_run(**(given | changes))

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """Write a run with a reference and tilt series; returns its path."""

    def make(
        name: str = "run.nxs",
        series: int = 1,
        lost: tuple[int, ...] = (),
        dark: tuple[int, ...] = (),
        value_offset: int = 0,
        analysis: list[dict[str, Any]] | None = PIPELINE,
        samples: int = 50,
        close: bool = True,
        holds_s: tuple[float, ...] = (),
        tilts: tuple[float, ...] = TILTS,
        frame: FrameOf = frame_of,
        planned: list[dict[str, Any]] | None = None,
        results: dict[tuple[str, str], np.ndarray[Any, Any]] | None = None,
    ) -> Path:
        """A file; `holds_s[n]` comes before series n + 2, `results` are what was made online."""
        path = tmp_path / name
        shape = frame(1, 0).shape
        beam = {
            "voltage": "300 kV", "current": "2 pA", "dwell": "1 us", "frame": shape,
            "pixel_size": "1.04 nm",
        }  # fmt: skip
        recipe: dict[str, Any] = {"title": "Cu"} | ({"analysis": analysis} if analysis else {})
        manifest = RunManifest(
            run="r", title="Cu", software="pyrotome 0.1.0", started_ns=T0, speed=1.0,
            simulated=True, recipe_text=yaml.safe_dump(recipe), rig_text="", rig_name="sim",
            sample=Sample(name="Cu"), beam=BeamSettings.model_validate(beam), detector="merlin",
            value_offset=value_offset,
            holds=tuple(
                HoldPlan(index=n + 1, standby_c=200.0, target_c=350.0, requested_s=hold_s)
                for n, hold_s in enumerate(holds_s)
            ),
            holds_before={f"series_{n + 1:03d}": min(n, len(holds_s)) for n in range(series)},
            telemetry={"heater": {"temperature_c": "degC", "power_mw": "mW"}},
            stacks=(
                StackPlan(name="reference_001", kind="reference", frames=2, tilt_deg=(0.0, 0.0)),
                *(
                    StackPlan(
                        name=f"series_{n + 1:03d}", kind="series", frames=len(tilts),
                        tilt_deg=tilts,
                        results=tuple(
                            planned_results(
                                [AnalysisStep.model_validate(step) for step in planned or ()],
                                "series", len(tilts), (shape[0], shape[1]), 1.04,
                            )
                        ),
                    )
                    for n in range(series)
                ),
            ),
        )  # fmt: skip
        file = RunFile(path, manifest)
        for plan in manifest.stacks:
            number = int(plan.name.rsplit("_", 1)[1])
            for index, tilt in enumerate(plan.tilt_deg):
                is_lost = plan.kind == "series" and index in lost
                image = frame(number, index)
                if plan.kind == "series" and index in dark:
                    image = np.zeros_like(image)
                header = {
                    "series": plan.name, "index": index, "t_ns": T0 + index, "seq": index,
                    "tilt_deg": None if is_lost else tilt + 0.01, "nominal_tilt_deg": tilt,
                    "temperature_c": 200.0, "dose_e_per_nm2": 1.0,
                }  # fmt: skip
                file.write_frame(header, None if is_lost else image)
        for (owner, result), data in (results or {}).items():
            file.write_result({"series": owner, "name": result}, data)
        heat(file, holds_s)
        for sample in range(0 if holds_s else samples):
            row = {"temperature_c": 20.5 + sample, "power_mw": None if sample == 3 else 0.25}
            file.add_telemetry("heater", T0 + sample * 100_000_000, row)
        if close:
            file.close("complete", T0 + 10**10, 10.0, "")
        else:
            file.flush()
            open_files.append(file)
        return path

    open_files: list[RunFile] = []
    yield make
    for file in open_files:
        file.close("aborted", T0, 0.0, "")
