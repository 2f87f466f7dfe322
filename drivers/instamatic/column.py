"""Stage and beam of a JEOL or Thermo Fisher microscope behind instamatic's TEM server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, Field

from ...protocols.config.recipe import BeamSettings
from ...protocols.config.rig import BeamRig, StageRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.wires import instamatic, temscript
from ..base import GRACE_S, DeviceRefused, Endpoints, Identity, OutOfRange, StagePosition
from ..common.column_beam import ColumnOptions
from ..common.deflected_beam import DeflectedBeam
from ..common.polled_stage import MovingStage, StageOptions
from ..common.stage_axes import TILT
from .control import InstamaticServer
from .optics import InstamaticOptics


class InstamaticStage(MovingStage):
    """The goniometer: tilt is its axis a. The wire has no limits, so only those of the rig hold."""

    summary: ClassVar[str] = "JEOL or Thermo Fisher stage through instamatic's TEM server"
    Options: ClassVar[type[BaseModel]] = StageOptions
    endpoints: ClassVar[Endpoints] = {"endpoint": ("tcp://HOST:8088",)}

    def __init__(self, name: str, rig: StageRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self._speed = StageOptions.model_validate(rig.options).speed
        # JEOL takes a call for both x and y for a shift from where the stage is.
        self._axes.one_at_a_time = True
        self._microscope = InstamaticServer(name, rig.endpoint, "stage.endpoint")

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Connect and read the name of the microscope."""
        identity = await self._microscope.connect(timeout_s)
        self._arrived.clear()
        return identity

    async def disconnect(self) -> None:
        """Close the connection."""
        await self._microscope.close()

    async def tilt_limits_deg(self) -> tuple[float, float]:
        """The rig's limits: the wire has none."""
        return self.rig.limits.tilt_deg

    async def position(self) -> StagePosition:
        """Read back; stamped halfway between question and answer."""
        sent_ns = self.clock.now_ns()
        at = await self._microscope.read(
            instamatic.GET_STAGE_POSITION, lambda value, _: instamatic.parse_position(value)
        )
        t_ns = (sent_ns + self.clock.now_ns()) // 2
        return StagePosition(t_ns, at.a_deg, at.x_nm, at.y_nm, at.z_nm)

    @property
    def _is_connected(self) -> bool:
        return self._microscope.is_open

    async def _command(self, targets: Mapping[str, float], timeout_s: float) -> None:
        words = {"a" if a == TILT else a: v if a == TILT else round(v) for a, v in targets.items()}
        # Only Thermo Fisher's interface and the simulated one know a speed.
        speed = {} if self._speed is None else {"speed": self._speed}
        # With wait=True the server answers no call until the arrival, not even a stop.
        await self._microscope.call(
            instamatic.SET_STAGE_POSITION, **words, **speed, wait=False, timeout_s=timeout_s
        )

    async def _motion(self) -> str | None:
        moving = await self._microscope.read(instamatic.IS_STAGE_MOVING, instamatic.parse_flag)
        return "moving" if moving else None

    async def _halt(self, timeout_s: float) -> None:
        try:
            await self._microscope.call(instamatic.STOP_STAGE, timeout_s=timeout_s)
        except DeviceRefused:
            pass  # not every microscope has it: Thermo Fisher's raises, the simulated one does none
        else:
            if await self._motion() is None:
                return
        await super()._halt(timeout_s)


class InstamaticBeamOptions(ColumnOptions):
    """How this column's settings translate; measured on it.

    The wire has no probe current and no field of view: only spot sizes and the magnifications that
    the microscope has. A recipe gets the nearest of each, within `tolerance` as a fraction.
    `shift_step` is the smallest step of the beam deflectors: 1 with JEOL, whose values are whole;
    Thermo Fisher's go from -1 to 1.
    """

    tolerance: float = Field(default=0.02, gt=0, lt=1)
    shift_step: float = Field(default=1.0, gt=0, le=1)


class InstamaticBeam(DeflectedBeam):
    """Blanker, spot size, magnification, beam shift; the focus is changed by the stage's z."""

    optics_class = InstamaticOptics

    summary: ClassVar[str] = "JEOL or Thermo Fisher column through instamatic's TEM server"
    Options: ClassVar[type[BaseModel]] = InstamaticBeamOptions
    endpoints: ClassVar[Endpoints] = {"endpoint": ("tcp://HOST:8088",)}

    def __init__(self, name: str, rig: BeamRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        options = InstamaticBeamOptions.model_validate(rig.options)
        self.options, self._tolerance = options, options.tolerance
        self._microscope = InstamaticServer(name, rig.endpoint, "beam.endpoint")
        self._use_optics(InstamaticOptics(self._microscope, options.shift_step))

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Connect and read the name of the microscope."""
        return await self._microscope.connect(timeout_s)

    async def disconnect(self) -> None:
        """Close the connection; the blanker stays as it is."""
        await self._microscope.close()

    async def prepare(self, settings: BeamSettings) -> None:
        """Blank, check the high tension, set spot size and magnification.

        Raises
        ------
        OutOfRange
            If the current is beyond the rig's limit, or no spot size or magnification is near
            enough to what the recipe requests; nothing is set.
        DeviceRefused
            If the high tension is another one, or the column did not take a setting.
        """
        spot = self._spot_for(settings.current_pa)
        await self.blank()
        await self._refuse_other_voltage(settings)
        magnification = await self._magnification_for(settings)
        await self._set(instamatic.SET_SPOT_SIZE, instamatic.GET_SPOT_SIZE, spot)
        await self._set(instamatic.SET_MAGNIFICATION, instamatic.GET_MAGNIFICATION, magnification)
        await self._prepare_optics(settings)

    async def current_pa(self) -> float:
        """Probe current that the column's spot size stands for."""
        return self.options.spot_currents_pa[await self._listed_spot()]

    async def is_blanked(self) -> bool:
        """Read back."""
        return await self._microscope.read(instamatic.IS_BEAM_BLANKED, instamatic.parse_flag)

    @property
    def _is_connected(self) -> bool:
        return self._microscope.is_open

    async def _set_blanked(self, blanked: bool) -> None:
        await self._microscope.call(instamatic.SET_BEAM_BLANK, blanked)

    async def _voltage_kv(self) -> float:
        return await self._microscope.number(instamatic.GET_HT) * 1e-3

    async def _spot_size(self) -> float:
        return await self._microscope.number(instamatic.GET_SPOT_SIZE)

    def _spot_for(self, current_pa: float) -> int:
        limit_pa, table = self.rig.limits.current_pa, self.options.spot_currents_pa
        nearest = min(table, key=lambda spot: abs(table[spot] - current_pa))
        if limit_pa is not None and current_pa > limit_pa:
            answered = f"the rig's limit is {limit_pa:g} pA"
        elif abs(table[nearest] - current_pa) > self._tolerance * current_pa:
            answered = f"the nearest is spot size {nearest} with {table[nearest]:g} pA"
        else:
            return nearest
        raise OutOfRange(
            self.name,
            f"set a probe current of {current_pa:g} pA",
            f"{answered}; nothing was sent",
            "Change the recipe's beam.current",
        )

    async def _magnification_for(self, settings: BeamSettings) -> int:
        field_nm = settings.field_nm
        wanted = temscript.magnification_for(field_nm, self.options.display_width_m)
        try:
            mode = str(await self._microscope.call(instamatic.GET_FUNCTION_MODE))
            ranges = await self._microscope.read(
                instamatic.GET_MAGNIFICATION_RANGES,
                lambda value, _: instamatic.parse_magnifications(value),
            )
        except DeviceRefused:
            return round(wanted)  # Thermo Fisher's cannot tell them; reading back will tell
        steps = ranges.get(mode, ())
        if not steps:
            raise DeviceRefused(
                self.name,
                f"set a field of {field_nm:g} nm",
                f"in its mode {mode!r} the microscope names no magnifications",
                "Choose an imaging mode at the microscope",
            )
        nearest = min(steps, key=lambda step: abs(step - wanted))
        if abs(nearest - wanted) > self._tolerance * wanted:
            has_nm = temscript.field_of_view_nm(nearest, self.options.display_width_m)
            raise OutOfRange(
                self.name,
                f"set pixels of {settings.pixel_nm:g} nm",
                f"the nearest magnification in the mode {mode!r}, {nearest:g}, has "
                f"{has_nm / settings.frame[1]:.4g} nm",
                "Change the recipe's beam.pixel_size to that, or the mode at the microscope",
            )
        return round(nearest)

    async def _set(self, setter: str, getter: str, value: int) -> None:
        await self._microscope.call(setter, value)
        self._refuse_not_taken(setter, value, await self._microscope.number(getter), 0.0)
