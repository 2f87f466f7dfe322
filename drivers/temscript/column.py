"""Stage and beam of a Thermo Fisher microscope behind a temscript server (HTTP and JSON)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from ...protocols.config.recipe import BeamSettings
from ...protocols.config.rig import BeamRig, StageRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.wires import temscript
from ..base import (
    GRACE_S,
    BeamState,
    DeviceError,
    DeviceRefused,
    Endpoints,
    Identity,
    OutOfRange,
    StagePosition,
)
from ..common.column_beam import ColumnOptions
from ..common.deflected_beam import DeflectedBeam
from ..common.polled_stage import MovingStage, StageOptions
from ..common.stage_axes import LINEAR, TILT
from .control import TemscriptServer
from .optics import TemscriptOptics

SETTING_TOLERANCE = 0.01
_AXES = {TILT: "a_deg", "x": "x_nm", "y": "y_nm", "z": "z_nm"}
ENDPOINTS: Endpoints = {"endpoint": ("http://HOST:8080",)}


class TemscriptStage(MovingStage):
    """A compustage: tilt is its axis alpha."""

    Options: ClassVar[type[BaseModel]] = StageOptions
    summary: ClassVar[str] = "Thermo Fisher stage through temscript's server"
    endpoints: ClassVar[Endpoints] = ENDPOINTS

    def __init__(self, name: str, rig: StageRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self._speed = StageOptions.model_validate(rig.options).speed
        self._axes.one_at_a_time = self._speed is not None
        self._server = TemscriptServer(name, rig.endpoint, "stage.endpoint")
        self._link = self._server.link

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Identify the microscope and read the stage's limits."""
        started = time.monotonic()
        identity = await self._server.connect(timeout_s)
        left_s = max(0.05, timeout_s - (time.monotonic() - started))
        try:
            self._limits_deg = await self._read_limits(left_s)
        except BaseException:
            await self._link.close()
            raise
        self._arrived.clear()
        return identity

    async def disconnect(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def make_safe(self) -> None:
        """Stop; once more over a new connection where an exchange fails."""
        with contextlib.suppress(DeviceError):  # said again below, if it stays so
            return await super().make_safe()
        await self.connect()
        return await self.stop()

    async def tilt_limits_deg(self) -> tuple[float, float]:
        """Lowest and highest tilt that the instrument itself allows."""
        self._limits_deg = limits_deg = await self._read_limits(GRACE_S)
        return limits_deg

    async def position(self) -> StagePosition:
        """Read back; stamped halfway between question and answer."""
        sent_ns = self.clock.now_ns()
        value = await self._link.get(temscript.STAGE_POSITION)
        t_ns = (sent_ns + self.clock.now_ns()) // 2
        at = self._server.checked(
            temscript.STAGE_POSITION, value, lambda v, _: temscript.position_from_wire(v)
        )
        return StagePosition(t_ns, at.a_deg, at.x_nm, at.y_nm, at.z_nm)

    @property
    def _is_connected(self) -> bool:
        return self._link.is_open

    async def _command(self, targets: Mapping[str, float], timeout_s: float) -> None:
        # The original server answers only when the stage has arrived, others at once.
        wire = temscript.target_to_wire(**{_AXES[axis]: value for axis, value in targets.items()})
        query = "?method=GO" + ("" if self._speed is None else f"&speed={self._speed:g}")
        await self._link.put(temscript.STAGE_POSITION, wire, timeout_s, query)

    async def _motion(self) -> str | None:
        value = await self._link.get(temscript.STAGE_STATUS)
        if value not in temscript.STAGE_STATUSES:
            raise DeviceRefused(
                self.name,
                f"read {temscript.STAGE_STATUS}",
                f"{value!r} is not a status of a stage",
                "Check that the rig's endpoint names a temscript server",
            )
        return None if value == temscript.READY else str(value)

    def _refuse_motion(self, motion: str, request: str) -> None:
        if motion == temscript.DISABLED:
            raise DeviceRefused(
                self.name,
                request,
                "the stage is disabled",
                "Enable it at the microscope",
            )

    async def _read_limits(self, timeout_s: float) -> tuple[float, float]:
        value = await self._link.get(temscript.STAGE_LIMITS, timeout_s)
        limits = self._server.checked(
            temscript.STAGE_LIMITS, value, lambda v, _: temscript.limits_from_wire(v)
        )
        if "a_deg" not in limits:
            raise DeviceRefused(
                self.name,
                f"read {temscript.STAGE_LIMITS}",
                "the microscope names no limits for the axis a",
                "Check that this microscope has a motorised stage",
            )
        for axis in LINEAR:
            if _AXES[axis] in limits:
                self._axes.own[axis] = limits[_AXES[axis]]
        return limits["a_deg"]


class TemscriptBeam(DeflectedBeam):
    """Blanker, probe current, field of view, beam shift, focus and scan rotation."""

    optics_class = TemscriptOptics

    summary: ClassVar[str] = "Thermo Fisher column through temscript's server"
    Options: ClassVar[type[BaseModel]] = ColumnOptions
    endpoints: ClassVar[Endpoints] = ENDPOINTS

    def __init__(self, name: str, rig: BeamRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self.options = ColumnOptions.model_validate(rig.options)
        self._server = TemscriptServer(name, rig.endpoint, "beam.endpoint")
        self._link = self._server.link
        self._unsupported: set[str] = set()
        self._use_optics(TemscriptOptics(self._server))

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Identify the microscope."""
        self._unsupported.clear()
        return await self._server.connect(timeout_s)

    async def disconnect(self) -> None:
        """Close the connection; the blanker stays as it is."""
        await self._link.close()

    async def prepare(self, settings: BeamSettings) -> None:
        """Blank, check the high tension, set spot size, intensity, magnification and rotation.

        Raises
        ------
        OutOfRange
            If the current is beyond the rig's limit or the spot table.
        DeviceRefused
            If the high tension is another one, or the column did not take a setting.
        """
        spot, intensity = self._spot_for(settings.current_pa)
        await self.blank()
        await self._refuse_other_voltage(settings)
        field_nm = settings.field_nm
        magnification = temscript.magnification_for(field_nm, self.options.display_width_m)
        await self._set(temscript.SPOT_SIZE_INDEX, spot, 0.0)
        await self._set(temscript.INTENSITY, intensity, SETTING_TOLERANCE)
        await self._set(temscript.STEM_MAGNIFICATION, magnification, SETTING_TOLERANCE)
        await self._prepare_optics(settings)

    async def current_pa(self) -> float:
        """Probe current that the column's settings stand for."""
        spot = await self._listed_spot()
        intensity = await self._server.number(temscript.INTENSITY)
        return temscript.probe_current_pa(spot, intensity, self.options.spot_currents_pa)

    async def is_blanked(self) -> bool:
        """Read back."""
        value = await self._link.get(temscript.BEAM_BLANKED)
        return self._server.checked(temscript.BEAM_BLANKED, value, temscript.parse_flag)

    async def state(self) -> BeamState:
        """Read back blanker, column valves and vacuum; servers before 2.1 know no valves."""
        return BeamState(
            await self.is_blanked(),
            await self._optional(temscript.COLUMN_VALVES_OPEN, temscript.parse_flag),
            await self._optional(temscript.VACUUM, temscript.parse_vacuum),
        )

    async def _optional(self, name: str, parse: Callable[[Any, str], bool | None]) -> bool | None:
        """Value of an endpoint that not every server has; tried again after the next connect."""
        if name in self._unsupported:
            return None
        try:
            return self._server.checked(name, await self._link.get(name), parse)
        except DeviceRefused as error:
            if " 404 " in error.cause:
                self._unsupported.add(name)
            return None

    @property
    def _is_connected(self) -> bool:
        return self._link.is_open

    async def _set_blanked(self, blanked: bool) -> None:
        await self._link.put(temscript.BEAM_BLANKED, blanked)

    async def _voltage_kv(self) -> float:
        return await self._server.number(temscript.VOLTAGE)

    async def _spot_size(self) -> float:
        return await self._server.number(temscript.SPOT_SIZE_INDEX)

    def _spot_for(self, current_pa: float) -> tuple[int, float]:
        limit_pa = self.rig.limits.current_pa
        found = temscript.spot_for_current(current_pa, self.options.spot_currents_pa)
        largest_pa = max(self.options.spot_currents_pa.values())
        if limit_pa is not None and current_pa > limit_pa:
            answered = f"the rig's limit is {limit_pa:g} pA"
        elif found is None:
            answered = f"the largest spot has {largest_pa:g} pA"
        else:
            return found
        raise OutOfRange(
            self.name,
            f"set a probe current of {current_pa:g} pA",
            f"{answered}; nothing was sent",
            "Lower the recipe's beam.current",
        )

    async def _set(self, name: str, value: float, tolerance: float) -> None:
        await self._link.put(name, value)
        self._refuse_not_taken(name, value, await self._server.number(name), tolerance)
