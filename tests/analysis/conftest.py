"""Run files as the recorder writes them, small enough for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pyrotome.daemon.runfile import RunFile
from pyrotome.protocols.manifest import RunManifest, StackPlan
from pyrotome.protocols.recipe import BeamSettings, Sample

T0 = 1_800_000_000 * 10**9
SHAPE = (24, 32)
TILTS = (-40.0, -20.0, 0.0, 20.0, 40.0)
PIPELINE: list[dict[str, Any]] = [
    {"reconstruct": {"method": "sirt", "iterations": 4, "binning": 2}}
]

MakeRun = Callable[..., Path]


def frame_of(series: int, index: int) -> np.ndarray[Any, Any]:
    """Counts of a disc that moves with the tilt, over a background of 7."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    disc = (rows - 12) ** 2 + (columns - 16 - index) ** 2 < 30 + series
    return (7 + 90 * disc + (rows * columns + index) % 5).astype(np.uint16)


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
    ) -> Path:
        path = tmp_path / name
        beam = {
            "voltage": "300 kV", "current": "2 pA", "dwell": "1 us", "frame": SHAPE,
            "pixel_size": "1.04 nm",
        }  # fmt: skip
        recipe: dict[str, Any] = {"title": "Cu"} | ({"analysis": analysis} if analysis else {})
        manifest = RunManifest(
            run="r", title="Cu", software="pyrotome 0.1.0", started_ns=T0, speed=1.0,
            simulated=True, recipe_text=yaml.safe_dump(recipe), rig_text="", rig_name="sim",
            sample=Sample(name="Cu"), beam=BeamSettings.model_validate(beam), detector="merlin",
            value_offset=value_offset, holds=(), holds_before={},
            telemetry={"heater": {"temperature_c": "degC", "power_mw": "mW"}},
            stacks=(
                StackPlan(name="reference_001", kind="reference", frames=2, tilt_deg=(0.0, 0.0)),
                *(
                    StackPlan(
                        name=f"series_{n + 1:03d}", kind="series", frames=5, tilt_deg=TILTS
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
                frame = frame_of(number, index)
                if plan.kind == "series" and index in dark:
                    frame = np.zeros_like(frame)
                header = {
                    "series": plan.name, "index": index, "t_ns": T0 + index, "seq": index,
                    "tilt_deg": None if is_lost else tilt + 0.01, "nominal_tilt_deg": tilt,
                    "temperature_c": 200.0, "dose_e_per_nm2": 1.0,
                }  # fmt: skip
                file.write_frame(header, None if is_lost else frame)
        for sample in range(samples):
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
