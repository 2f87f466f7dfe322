"""The truth log: what truly happened in the world, as JSON lines, to compare recordings with.

Every line has ``t_ns`` (experiment clock) and ``event``; lines come in the order of writing,
which is not strictly that of time. Events and their further fields:

``heater``       ``action`` ("ramp" or "hold"), ``target_c``, ``ramp_s``, ``setpoint_c``
``temperature``  ``temperature_c`` (true), ``setpoint_c``; at each published sample, and every
                 millisecond of the quarter second after a heater command
``drive``        ``on``: whether a source-measure unit drives a current, at each change
``fault``        ``name``, ``on``: a fault behind the wires begins or ends
``beam``         ``blanked``, ``current_pa``, ``field_nm``
``optics``       ``units`` of the beam deflectors, ``focus_nm`` of the lenses, ``rotation_deg`` of
                 the scan; at each change
``stage``        ``action`` ("start" or "arrived"), ``tilt_deg`` (true), ``target_deg``
``exposure``     ``index``, ``start_ns``, ``end_ns``, ``shape``, ``tilt_deg`` and
                 ``temperature_c`` (true, at mid-exposure), ``offset_nm`` ((y, x), where the image
                 truly was) and ``defocus_nm`` (height of the specimen over the plane in focus),
                 both at mid-exposure, ``dose_e_per_nm2`` (this frame), ``beam_on`` (fraction of
                 the exposure)
``dose``         at the end: the fields of `column.Dose`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from ...protocols.core.errors import BadInput


class TruthLog:
    """Writer of the log; without a path it writes nothing.

    Raises
    ------
    BadInput
        If the file exists already or cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = path.open("x", encoding="utf-8", buffering=1)
            except FileExistsError:
                raise BadInput(str(path), "exists already; nothing is overwritten") from None
            except OSError as error:
                raise BadInput(str(path), f"cannot be written: {error.strerror}") from None

    @property
    def active(self) -> bool:
        """Whether anything is written."""
        return self._file is not None

    def write(self, t_ns: int, event: str, **fields: Any) -> None:
        """Write one line and hand it to the system."""
        if self._file is not None:
            self._file.write(json.dumps({"t_ns": t_ns, "event": event, **fields}) + "\n")

    def close(self) -> None:
        """Close the file; later writes are dropped."""
        if self._file is not None:
            self._file.close()
            self._file = None
