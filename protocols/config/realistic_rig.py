"""The simulated microscope with the errors of a real one: what a recipe that tracks runs on.

As ``examples/rigs/realistic.yaml``, on ports chosen freely. The specimen is off the tilt axis, the
stage jitters and slips, the membrane bulges and drifts, the beam shift has a matrix and a limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .rig import SIMULATED_RIG, Rig

# Of a field of 1065 nm at 300 kV; wrong by some 2 % in every element, as one of seven pictures is.
SHIFT_FILE: Final = Path(__file__).with_name("simulated_shift.json")

REALISTIC_RIG: Final[Mapping[str, Any]] = {
    **SIMULATED_RIG,
    "name": "simulated microscope with the errors of a real one",
    "stage": {
        **SIMULATED_RIG["stage"],
        "limits": {
            "tilt": ["-70 deg", "70 deg"],
            "speed": "20 deg/s",
            "settle": "0.3 s",
            "backlash": "0.1 deg",
            "x": ["-900 um", "900 um"],
            "y": ["-900 um", "900 um"],
            "z": ["-150 um", "150 um"],
            "move": "20 um",
            "xy_backlash": "400 nm",
        },
    },
    "beam": {
        **SIMULATED_RIG["beam"],
        "limits": {"current": "100 pA"},
        "shift": {
            "calibration_file": str(SHIFT_FILE),
            "limit": "1.9 um",
            "hand_over": "1 um",
            "settle": "30 ms",
        },
        "focus": {"by": "probe_defocus", "limit": "20 um", "convergence": "1.2 mrad"},
        "scan_rotation": "1.5 deg",
    },
    "simulator": {
        "seed": 1,
        "chip": {"ideal": False},
        "goniometer": {"ideal": False},
        "column": {"ideal": False},
    },
}


def realistic_rig() -> Rig:
    """The rig used where none is named and the recipe tracks, see `REALISTIC_RIG`."""
    return Rig.model_validate(REALISTIC_RIG)
