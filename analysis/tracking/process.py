"""The tracker as a process: ``python -m pyrotome.analysis.tracking.process``.

It is a consumer on the link of the run: frames come with their pixels within the credit that it
grants, what happens between them comes as messages of `protocols/messages/tracking.py`, and each
is answered at once. After every frame the state goes into a file beside the run file, so that a
resumed run goes on with what was known.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray
from pydantic import ValidationError

from ...protocols.core.replaced_file import replace_text
from ...protocols.messages.credit_link import END_TOPIC, TRACKER, TRACKING_TOPIC, upstream
from ...protocols.messages.parent_pipe import announce, fail, read_config, watch_parent
from ...protocols.messages.process import TrackerConfig
from ...protocols.messages.stream import BadMessage, Message, array_of, parse
from ...protocols.messages.tracking import (
    FocusMeasured,
    FocusPicture,
    FrameTaken,
    OffsetMeasured,
    ShiftCalibrated,
    Table,
    parse_tracking,
)
from ...protocols.messages.tracking_expectation import depth_of_focus_nm
from .tracker import Tracker, warm_up_tracking
from .tracker_state import TrackerState

# Frames that may wait here; more come without their pixels and teach nothing.
CREDIT = 32
# Name of the picture of a search, which is shown and not recorded.
SEARCH = "tracking_search"


class Worker:
    """Receives frames and messages, answers with measurements and tables.

    Parameters
    ----------
    config : TrackerConfig
        Link, run, and where the state is kept.

    Raises
    ------
    ValueError
        If a state cannot be used.
    """

    def __init__(self, config: TrackerConfig) -> None:
        self._beam, self._offset = config.manifest.beam, config.manifest.value_offset
        self._state, self._goniometer = Path(config.state), config.goniometer
        cone, depth_nm = config.convergence_mrad, None
        if cone is not None:
            depth_nm = depth_of_focus_nm(self._beam.voltage_kv, cone)
        known = _known(self._state, config.resumed, config.goniometer)
        self._tracker = Tracker(known, convergence_mrad=cone, depth_nm=depth_nm)
        self._context = zmq.Context()
        self._link = self._context.socket(zmq.DEALER)
        self._link.set(zmq.IDENTITY, TRACKER.encode())
        self._link.set(zmq.LINGER, 1000)
        self._link.set(zmq.RCVHWM, 0)
        self._link.set(zmq.SNDHWM, 0)
        self._link.connect(config.link)

    def run(self) -> None:
        """Serve the link until the process ends."""
        warm_up_tracking()
        announce()
        self._send("hello", {"credit": CREDIT})
        frames = 0
        while True:
            parts = [part.buffer for part in self._link.recv_multipart(copy=False)]
            # What credit was spent on, readable or not.
            is_frame = bytes(parts[0]).startswith(b"frame/")
            try:
                message = parse(parts)
                if message.topic == END_TOPIC:
                    self._finish()
                elif message.topic == TRACKING_TOPIC:
                    self._take(message)
                elif message.header.get("type") == "frame":
                    self._measure(message)
            except (BadMessage, ValueError, TypeError) as error:
                text = f"a message that cannot be used: {error}"
                self._send("event", {"level": "error", "message": text})
            except KeyError as error:
                text = f"a frame whose header lacks {error}"
                self._send("event", {"level": "error", "message": text})
            if is_frame:
                frames += 1
                self._send("credit", {"frames": 1})
                self._send("status", {"frames": frames})

    def _take(self, message: Message) -> None:
        """Take in what happened between frames."""
        told = parse_tracking(message.payload[0]) if message.payload else None
        if isinstance(told, FrameTaken) and told.scan != "frame":
            self._look(told, _pixels_of(message))
        elif isinstance(told, FocusPicture):
            if (found := self._tracker.focus(told, self._counts(_pixels_of(message)))) is not None:
                self._answer(None, found[1], found[0])
        elif told is None or isinstance(told, FrameTaken | OffsetMeasured | Table | FocusMeasured):
            raise BadMessage("a tracking message that tells nothing")
        else:
            self._answer(None, self._tracker.tell(told))
            if isinstance(told, ShiftCalibrated):
                # A run that is killed now goes on with the new calibration.
                self._keep()

    def _look(self, taken: FrameTaken, message: Message) -> None:
        """Take in a scout, which needs no credit; show what a search has seen."""
        pixels = self._counts(message)
        measured, table = self._tracker.feed(taken, pixels)
        self._answer(measured, table)
        if taken.scan == "wide":
            body = {
                "name": SEARCH, "series": taken.series, "index": taken.index, "record": False,
                "shape": list(pixels.shape), "dtype": "float32", "parameters": {
                    "field_nm": taken.field_nm, "tilt_deg": taken.tilt_deg,
                    "found": measured.doubt or "yes",
                },
            }  # fmt: skip
            picture = np.ascontiguousarray(pixels, "<f4")
            self._link.send_multipart(upstream("result", body, (picture,)))

    def _counts(self, message: Message) -> NDArray[Any]:
        """The counts of a frame, without the offset that the detector adds."""
        pixels = array_of(message)
        if self._offset:
            pixels = np.maximum(pixels.astype(np.int64) - self._offset, 0).astype(np.uint32)
        return pixels

    def _measure(self, message: Message) -> None:
        """Take in a frame of a tilt series."""
        header = message.header
        series = str(header.get("series", ""))
        if header.get("lost") or header.get("in_file") or not series.startswith("series_"):
            return
        pixels = self._counts(message)
        taken = FrameTaken(
            t_ns=int(header["t_ns"]),
            series=series,
            index=int(header["index"]),
            tilt_deg=float(header["nominal_tilt_deg"]),
            field_nm=self._beam.field_nm,
            dose_e_per_nm2=float(header["dose_e_per_nm2"]),
            shift_nm=tuple(header["shift_nm"]) if "shift_nm" in header else None,
            defocus_nm=header.get("defocus_nm"),
            temperature_c=header.get("temperature_c"),
        )
        self._answer(*self._tracker.feed(taken, pixels))
        self._keep()

    def _answer(
        self,
        measured: OffsetMeasured | None,
        table: Table | None,
        focused: FocusMeasured | None = None,
    ) -> None:
        body: dict[str, Any] = {"name": "tracking", "record": False}
        for name, answer in (("measured", measured), ("focused", focused), ("table", table)):
            if answer is not None:
                body |= {"series": answer.series, name: answer.model_dump(mode="json")}
        if len(body) > 2:
            self._send("result", body)

    def _keep(self) -> None:
        """Write the state in place of the former one, whole or not at all."""
        replace_text(self._state, self._tracker.state().model_dump_json(), durable=False)

    def _finish(self) -> None:
        if self._goniometer is not None:
            learned = self._tracker.state_for_next_run().model_dump_json()
            replace_text(Path(self._goniometer), learned, durable=False)
        self._send("done", {})

    def _send(self, kind: Any, body: dict[str, Any]) -> None:
        self._link.send_multipart(upstream(kind, body))


def _pixels_of(message: Message) -> Message:
    """A message without the part that says what its pixels are."""
    return Message(message.topic, message.header, message.payload[1:])


def _known(state: Path, resumed: bool, goniometer: str | None) -> TrackerState | None:
    """What is known at the start: of this run, else of the column."""
    for path in (state if resumed else None, None if goniometer is None else Path(goniometer)):
        if path is None or not path.exists():
            continue
        try:
            return TrackerState.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path}: {error.errors()[0]['msg']}; move it away") from None
    return None


def main() -> None:
    """Read the configuration and work until standard input ends."""
    try:
        worker = Worker(read_config(TrackerConfig))
    except (ValidationError, ValueError, OSError) as error:
        fail(f"the tracker cannot start: {error}")
        sys.exit(1)
    watch_parent(lambda: os._exit(0))
    worker.run()


if __name__ == "__main__":
    main()
