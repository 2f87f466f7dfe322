"""Drivers of de-twin for tests: stage and beam over its SOAP wire, its camera over HTTP.

Found through entry points like those of any other package; see `plugin`.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from foreign_pictures import Soap

from pyrotome.drivers.base import (
    GRACE_S,
    Detector,
    DetectorFrame,
    DeviceLost,
    DeviceRefused,
    Endpoints,
    Identity,
    StagePosition,
)
from pyrotome.drivers.common.column_beam import ColumnOptions
from pyrotome.drivers.common.deflected_beam import DeflectedBeam
from pyrotome.drivers.common.optics import Optics, Pair
from pyrotome.drivers.common.polled_stage import MovingStage
from pyrotome.drivers.common.stage_axes import TILT
from pyrotome.protocols.config.recipe import BeamSettings

IDENTITY = Identity("Direct Electron", "de-twin")
ENDPOINTS: Endpoints = {"endpoint": ("http://HOST:5002",)}
_AXES = {TILT: "a", "x": "x", "y": "y", "z": "z"}


def plugin(folder: Path) -> str:
    """Install the entry points of this module into a folder; what to put on PYTHONPATH."""
    info = folder / "pyrotome_detwin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pyrotome-detwin\nVersion: 1.0\n")
    names = {"stage": "DetwinStage", "beam": "DetwinBeam", "camera": "DetwinCamera"}
    points = [f"detwin-{name} = detwin_drivers:{found}" for name, found in names.items()]
    (info / "entry_points.txt").write_text("\n".join(["[pyrotome.drivers]", *points, ""]))
    return f"{folder}:{Path(__file__).parent}"


class Wire:
    """One SOAP server, spoken to from a thread at a time."""

    def __init__(self, device: str, endpoint: str) -> None:
        self._device, self.endpoint = device, endpoint
        self._soap = Soap(int(endpoint.rpartition(":")[2]))
        self._one = asyncio.Lock()

    async def call(self, method: str, **fields: Any) -> dict[str, str]:
        """Call a method."""
        async with self._one:
            try:
                answer = await asyncio.to_thread(self._soap.call, method, **fields)
            except OSError as error:
                raise DeviceLost(self._device, method, str(error)) from None
        if answer.get("success") == "0":
            raise DeviceRefused(self._device, method, f"de-twin refuses {fields}")
        return answer

    async def stage(self) -> dict[str, float]:
        """Micrometres and degrees."""
        found = await self.call("getStagePosition", val=1)
        return dict(zip("xyzab", map(float, found.values()), strict=True))


class DetwinStage(MovingStage):
    """Its axes x, y, z and alpha."""

    endpoints: ClassVar[Endpoints] = ENDPOINTS

    def __init__(self, name: str, rig: Any, clock: Any) -> None:
        super().__init__(name, rig, clock)
        self._wire = Wire(name, rig.endpoint)
        self._limits_deg = -80.0, 80.0

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        await self._wire.stage()
        return IDENTITY

    async def disconnect(self) -> None: ...

    async def position(self) -> StagePosition:
        sent_ns = self.clock.now_ns()
        at = await self._wire.stage()
        t_ns = (sent_ns + self.clock.now_ns()) // 2
        return StagePosition(t_ns, at["a"], at["x"] * 1e3, at["y"] * 1e3, at["z"] * 1e3)

    async def tilt_limits_deg(self) -> tuple[float, float]:
        return -80.0, 80.0

    @property
    def _is_connected(self) -> bool:
        return True

    async def _command(self, targets: Mapping[str, float], timeout_s: float) -> None:
        goal = dict.fromkeys("xyzab", 0.0)
        for axis, value in targets.items():
            goal[_AXES[axis]] = value if axis == TILT else value * 1e-3
        moved = {_AXES[axis] for axis in targets}
        mask = sum(1 << k for k, axis in enumerate("xyzab") if axis in moved)
        await self._wire.call("setStagePosition", **goal, **{"axes-mask": mask})

    async def _motion(self) -> str | None:
        before, after = await self._wire.stage(), await self._wire.stage()
        return None if before == after else "moving"


class DetwinOptics(Optics):
    """Image shift, in nm as the column counts it; de-twin has it where others have a beam shift."""

    unit = "nm"
    resolution = 0.01

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def units(self) -> Pair:
        found = await self._wire.call("getImageShift", val=1)
        return float(found["floatone"]) * 1e3, float(found["floattwo"]) * 1e3

    async def send_units(self, units: Pair) -> None:
        await self._wire.call("setImageShift", x=units[0] * 1e-3, y=units[1] * 1e-3)

    async def z_nm(self) -> float:
        return (await self._wire.stage())["z"] * 1e3

    async def send_z_nm(self, z_nm: float, timeout_s: float) -> None:
        raise NotImplementedError

    async def stage_stands(self) -> bool:
        return True


class DetwinBeam(DeflectedBeam):
    """Its blanker and image shift."""

    endpoints: ClassVar[Endpoints] = ENDPOINTS
    optics_class: ClassVar[type[Optics]] = DetwinOptics
    options = ColumnOptions()

    def __init__(self, name: str, rig: Any, clock: Any) -> None:
        super().__init__(name, rig, clock)
        self._wire = Wire(name, rig.endpoint)
        self._use_optics(DetwinOptics(self._wire))

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        await self._wire.call("getBeamBlankState", val=1)
        return IDENTITY

    async def disconnect(self) -> None: ...

    async def prepare(self, settings: BeamSettings) -> None:
        await self._refuse_other_voltage(settings)
        await self._prepare_optics(settings)

    async def is_blanked(self) -> bool:
        found = await self._wire.call("getBeamBlankState", val=1)
        return int(found["intResult"]) != 0

    @property
    def _is_connected(self) -> bool:
        return True

    async def _set_blanked(self, blanked: bool) -> None:
        await self._wire.call("setBeamBlank", blank=int(blanked))

    async def _voltage_kv(self) -> float:
        value = float((await self._wire.call("getAccelVoltage", val=1))["floatResult"])
        return value * 1e-3 if value > 2000 else value

    async def _spot_size(self) -> float:
        return 1.0


class DetwinCamera(Detector):
    """What its camera sees."""

    endpoints: ClassVar[Endpoints] = ENDPOINTS

    def __init__(self, name: str, rig: Any, clock: Any) -> None:
        super().__init__(name, rig, clock)
        self._shape, self._number = (0, 0), 0
        self._answer: Any = None

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        return IDENTITY

    async def disconnect(self) -> None: ...

    async def make_safe(self) -> None: ...

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        assert frames_per_trigger == 1
        self._shape, self._number = shape, 0

    async def trigger(self) -> int:
        sent_ns = self.clock.now_ns()
        url = f"{self.rig.endpoint}/{self._shape[0]}x{self._shape[1]}"
        try:
            self._answer = await asyncio.to_thread(urllib.request.urlopen, url, timeout=60)
        except (OSError, urllib.error.URLError) as error:
            raise DeviceLost(self.name, "expose", str(error)) from None
        return sent_ns

    async def read_frame(self) -> DetectorFrame:
        with self._answer as answer:
            raw = await asyncio.to_thread(answer.read)
        self._number += 1
        counts = np.frombuffer(raw, "<u2").reshape(self._shape)
        return DetectorFrame(self._number, counts, self.clock.now_ns())

    async def disarm(self) -> None: ...
