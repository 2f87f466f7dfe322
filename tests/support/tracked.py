"""A rig whose column errs as a real one does, calibrated a little wrong, and a tracked recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from command_line import RECIPE, RIG

# The beam shift of the simulated column, wrong by some 2 % in every element.
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHIFT: dict[str, Any] = json.loads((EXAMPLES / "rigs" / "shift_calibration.json").read_text())
SERIES: dict[str, Any] = {
    "tilt_series": {"from": "-40 deg", "to": "40 deg", "step": "8 deg", "order": "bidirectional"}
}
TRACKED: dict[str, Any] = {
    "title": "Tracked",
    "sample": RECIPE["sample"],
    "beam": {
        "voltage": "300 kV", "current": "20 pA", "dwell": "2 us", "frame": [128, 128],
        "pixel_size": "8.32 nm",
    },
    "track": {"by": "model", "scouts": "none"},
    "steps": [{"heat": {"to": "100 degC", "rate": "300 degC/s"}}, SERIES],
}  # fmt: skip
STAGE: dict[str, Any] = {
    **RIG["stage"],
    "limits": {
        **RIG["stage"]["limits"],
        "x": ["-900 um", "900 um"], "y": ["-900 um", "900 um"], "z": ["-150 um", "150 um"],
        "move": "20 um", "xy_backlash": "400 nm",
    },
}  # fmt: skip
SIMULATOR: dict[str, Any] = {
    "seed": 1,
    "specimen": {"kind": "cu-sintering", "particles": 36},
    "chip": {"ideal": False},
    "goniometer": {"ideal": False, "speed": "60 deg/s", "slips": "0 %"},
    "column": {"ideal": False},
}


def realistic(folder: Path) -> dict[str, Any]:
    """What a rig changes to be realistic; writes its calibration into a folder."""
    (folder / "shift.json").write_text(json.dumps(SHIFT))
    shift = {"calibration_file": "shift.json", "limit": "1.9 um", "settle": "30 ms"}
    focus = {"by": "probe_defocus", "limit": "20 um", "convergence": "1.2 mrad"}
    return {
        "stage": STAGE,
        "beam": {**RIG["beam"], "shift": shift, "focus": focus, "scan_rotation": "1.5 deg"},
        "simulator": SIMULATOR,
    }


def offsets_nm(log: Path) -> np.ndarray[Any, Any]:
    """Tilt in degrees, and how far (y, x) in nm the image was truly off, for each exposure."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    exposures = [line for line in lines if line["event"] == "exposure"]
    return np.array([(e["tilt_deg"], *e["offset_nm"]) for e in exposures])
