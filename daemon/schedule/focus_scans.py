"""Focus series: three short scans of a part of the field at different defocus."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...protocols.config.recipe import BeamSettings, Recipe
from ...protocols.config.rig import FocusRig, Rig
from ...protocols.config.tracking import Focus
from ...protocols.core.errors import BadInput
from ...protocols.messages.tracking_expectation import depth_of_focus_nm
from .switching import SWITCHING_S

PICTURES = 3
# Rows and columns of a frame in those of a picture, and its dwell time in that of a picture.
_PARTS, _QUICKER = 2, 4
# Where the field of a picture lies, in heights of the field of a frame: along the tilt axis, where
# the specimen is as high as in the middle.
ASIDE = 0.25
# Radius of the disc at the two outer pictures: in nm, and in pixels.
_BLUR_NM, _BLUR_PIXELS = 6.0, 1.5
# A jump of the focus by so much has to lie within the step.
_STEP_OF_JUMP = 1.5
# What the fitted geometry knows of the height at best.
KNOWN_BY_GEOMETRY_NM = 150.0
# The fewest rows and columns that show how sharp a picture is.
_LEAST_SIDE = 32


def focus_settings(beam: BeamSettings) -> BeamSettings:
    """Beam and scan of a picture of a focus series: a quarter of the field and of the dwell time.

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [512, 1024],
    ...      "pixel_size": "1 nm"}
    ... )
    >>> picture = focus_settings(beam)
    >>> picture.frame, picture.field_nm, picture.dwell_s / beam.dwell_s
    ((256, 512), 512.0, 0.25)
    """
    rows, columns = beam.frame
    frame = (rows // _PARTS, columns // _PARTS)
    return beam.model_copy(update={"frame": frame, "dwell_s": beam.dwell_s / _QUICKER})


def focus_step_nm(
    beam: BeamSettings, convergence_mrad: float, out_of_focus_nm: float = 0.0
) -> float:
    """How far the outer pictures are out of focus.

    Parameters
    ----------
    beam : BeamSettings
        Of the frames.
    convergence_mrad : float
        Half angle of the probe.
    out_of_focus_nm : float
        By how much the latest frames were.

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
    ...      "pixel_size": "1.04 nm"}
    ... )
    >>> focus_step_nm(beam, 1.2), focus_step_nm(beam, 1.2, 6000.0)
    (5000.0, 9000.0)
    """
    radius_nm = max(_BLUR_NM, _BLUR_PIXELS * beam.pixel_nm)
    return max(radius_nm / (convergence_mrad * 1e-3), _STEP_OF_JUMP * out_of_focus_nm)


def focus_series_e_per_nm2(beam: BeamSettings, parked: float) -> float:
    """Fluence of a focus series where its pictures are taken.

    Parameters
    ----------
    beam : BeamSettings
        Of the frames.
    parked : float
        Fluence of one trigger while the blanker works, in e/nm^2.

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
    ...      "pixel_size": "1.04 nm"}
    ... )
    >>> round(focus_series_e_per_nm2(beam, 0.0), 2)
    4.33
    """
    return PICTURES * (focus_settings(beam).dose_per_frame_e_per_nm2 + parked)


def focus_within_nm(focus: Focus, voltage_kv: float, convergence_mrad: float | None) -> float:
    """Uncertainty of the defocus beyond which a focus series comes first; infinite: never.

    Parameters
    ----------
    focus : Focus
        Of the recipe.
    voltage_kv : float
        High tension.
    convergence_mrad : float or None
        Half angle of the probe.

    Examples
    --------
    >>> asked = Focus.model_validate({"within": "auto"})
    >>> round(focus_within_nm(asked, 300.0, 1.2)), focus_within_nm(asked, 300.0, 10.0)
    (684, 150.0)
    """
    if focus.within_nm is None or focus.by == "none" or convergence_mrad is None:
        return math.inf
    if focus.within_nm == "auto":
        return max(depth_of_focus_nm(voltage_kv, convergence_mrad), KNOWN_BY_GEOMETRY_NM)
    return focus.within_nm


def no_focus_series(focus: FocusRig | None) -> str:
    """Why a column cannot take a focus series; empty if it can."""
    if focus is None:
        return "the rig names no lens for it (beam.focus)"
    if focus.by == "stage":
        return (
            "beam.focus.by is stage: a stage that moves along z by micrometres takes the specimen "
            "out of the field of a tilted scan"
        )
    if focus.convergence_mrad is None:
        return "the rig does not tell the half angle of the probe (beam.focus.convergence)"
    return ""


def check_focus(recipe: Recipe, rig: Rig, name: str) -> None:
    """Refuse focus series that cannot be taken or cannot do what is asked.

    Raises
    ------
    BadInput
        Which key of the recipe, why, and what to write.
    """
    focus, beam = recipe.focus, recipe.beam
    if not recipe.tracked or not focus.takes_series:
        return
    where = f"{name}: focus"
    if why := no_focus_series(rig.beam.focus):
        raise BadInput(where, f"a focus series cannot be taken: {why}; write focus: model")
    if min(beam.frame) < _PARTS * _LEAST_SIDE:
        raise BadInput(
            where,
            f"a focus series takes half of the rows and columns, and {list(beam.frame)} are too "
            f"few to tell how sharp it is; at least {_PARTS * _LEAST_SIDE} are needed",
        )
    asked = focus.within_nm
    if isinstance(asked, float) and asked < KNOWN_BY_GEOMETRY_NM and focus.by != "series":
        raise BadInput(
            f"{where}.within",
            f"{asked:g} nm is less than the {KNOWN_BY_GEOMETRY_NM:g} nm that the recorded frames "
            "can tell of the height; write by: series too, or a larger length",
        )
    needed = focus_series_e_per_nm2(beam, beam.parked_dose_e_per_nm2(SWITCHING_S))
    if focus.dose_e_per_nm2 < needed:
        raise BadInput(
            f"{where}.dose",
            f"one focus series takes {needed:.3g} e/nm^2 on its quarter of the field, and "
            f"{focus.dose_e_per_nm2:g} are allowed",
        )


def focus_warnings(recipe: Recipe, rig: Rig, tilt_deg: Sequence[float]) -> tuple[str, ...]:
    """What focus cannot do: heights within a tilted field, and a depth that is too small.

    Parameters
    ----------
    recipe : Recipe
        Field, high tension, and how the focus is kept.
    rig : Rig
        Whose ``beam.focus.convergence`` is compared; nothing is told without it.
    tilt_deg : sequence of float
        Angles of the tilt series.

    Notes
    -----
    A field of width W at the tilt t spans +-W/2 tan t of height about the tilt axis; what lies
    dz out of focus is blurred to a disc of diameter 2 alpha dz.
    """
    focus, tilts = rig.beam.focus, [abs(angle) for angle in tilt_deg]
    if focus is None or focus.convergence_mrad is None or not tilts:
        return ()
    cone = focus.convergence_mrad
    depth_nm = depth_of_focus_nm(recipe.beam.voltage_kv, cone)
    known = f"the depth of focus at {cone:g} mrad is \u00b1{depth_nm:.0f} nm"
    said: list[str] = []
    height_nm = 0.5 * recipe.beam.field_nm * math.tan(math.radians(max(tilts)))
    if height_nm > depth_nm and not focus.dynamic:
        said.append(
            f"at {max(tilts):g} deg the field spans \u00b1{height_nm:.0f} nm of height, and "
            f"{known}: its edges are blurred by up to {2e-3 * cone * height_nm:.1f} nm. Switch "
            "dynamic focus on at the column and write beam.focus.dynamic: true in the rig, or take "
            "a smaller field or convergence"
        )
    if recipe.tracked and recipe.focus.by != "none" and depth_nm < KNOWN_BY_GEOMETRY_NM:
        blur_nm = 2e-3 * cone * KNOWN_BY_GEOMETRY_NM
        said.append(
            f"{known}, and the model knows the height to {KNOWN_BY_GEOMETRY_NM:.0f} nm at best: "
            f"frames are blurred by some {blur_nm:.1f} nm. A focus series before each series helps "
            "(focus: {by: series, within: auto})"
        )
    return tuple(said)
