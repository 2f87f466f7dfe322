"""De-twin as a microscope for a run: its SOAP server, and what its camera sees, over HTTP.

``python detwin_microscope.py LOG`` prints one line with ports and truth. ``GET /ROWSxCOLUMNS``
answers with the counts of one frame, uint16, of the middle of the camera. The head of the answer
comes when the exposure has begun. Rows and columns are exchanged, so that the tilt axis lies along
y, as pyrotome has it. Each frame leaves a line in LOG: the tilt, and how far (y, x) the specimen of
the first frame is off its place there, in nm, by de-twin's own geometry.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from de_twin.faces.temchannel_soap import TemChannelServer
from de_twin.optics import OpticsConfig
from de_twin.state import Roi
from de_twin.twin import DigitalTwin

SIDE = 256
# Electrons of a pixel, on average over the first frame.
MEAN_COUNTS = 60.0
WANTED_PIXEL_NM = 5.0


class Microscope:
    """The twin, and the frames that it has given."""

    def __init__(self, log: Path) -> None:
        config = OpticsConfig.realistic(seed=1)
        # What a camera turns by any angle, a person turns back before tomography.
        realism = dataclasses.replace(config.realism, image_rotation=False)
        config = dataclasses.replace(config, realism=realism)
        self.twin = DigitalTwin(camera="Celeritas", optics_config=config, seed=1)
        self._log, self._noise = log, np.random.default_rng(1)
        self._first: tuple[float, float] | None = None
        self._counts_per_flux = 0.0
        column = self.twin.column
        pixels = {}
        for magnification in column.mag_ladder():
            column.set("Magnification", magnification)
            pixels[abs(self.truth()["true_pixel_nm"] - WANTED_PIXEL_NM)] = magnification
        column.set("Magnification", pixels[min(pixels)])
        self.twin.start_on_specimen()
        column.wait_idle(60)

    def truth(self) -> dict[str, Any]:
        """Its own words about the column as it is set."""
        return self.twin.calibration_truth()

    def view(self, **changes: Any) -> Any:
        """Where the camera looks, by its own geometry."""
        state = dataclasses.replace(self.twin.column.state(), **changes)
        return self.twin.optics(self._request(SIDE, SIDE), state).view

    def shift_matrix(self) -> list[list[float]]:
        """How far (y, x) the turned picture moves for one nm of each image shift, by the truth."""
        middle = self.view()
        point, pixel_nm = middle.center_um, middle.pixel_um * 1e3
        home = np.array(middle.world_to_pixel(*point))
        columns = []
        for x, y in ((1.0, 0.0), (0.0, 1.0)):
            shift = self.twin.column.state().image_shift_um
            moved = dataclasses.replace(shift, x=shift.x + x, y=shift.y + y)
            rows, across = np.array(self.view(image_shift_um=moved).world_to_pixel(*point)) - home
            columns.append([across * pixel_nm * 1e-3, rows * pixel_nm * 1e-3])
        return np.array(columns).T.tolist()

    def _request(self, rows: int, columns: int) -> Any:
        high, wide = self.twin.detector.model.sensor_shape
        roi = Roi(x=(wide - columns) // 2, y=(high - rows) // 2, w=columns, h=rows)
        return self.twin.request(frame_time_s=0.025, total_frames=1, hw_roi=roi)

    def begin(self, rows: int, columns: int) -> Any:
        """What is exposed now."""
        request = self._request(columns, rows)  # the picture is turned afterwards
        return request, self.twin.column.state()

    def frame(self, begun: Any) -> np.ndarray:
        """The counts of an exposure that has begun."""
        request, state = begun
        flux = self.twin.flux(request, state=state)
        optics = self.twin.optics(request, state)
        view, tilt_deg = optics.view, state.stage.alpha_deg
        if flux is None:  # the beam is blanked
            return np.zeros((request.hw_roi.w, request.hw_roi.h), "<u2")
        if self._first is None:
            self._first = view.center_um
            self._counts_per_flux = MEAN_COUNTS / float(flux.mean())
        row, column = view.world_to_pixel(*self._first)
        centre = np.array(view.shape) / 2.0 - 0.5
        across, along = (np.array([row, column]) - centre) * view.pixel_um * 1e3
        with self._log.open("a") as log:
            offset_nm = [float(along), float(across)]
            log.write(json.dumps({"tilt_deg": tilt_deg, "offset_nm": offset_nm}) + "\n")
        counts = self._noise.poisson(flux * self._counts_per_flux)
        return np.ascontiguousarray(counts.T, "<u2")


def handler(microscope: Microscope) -> type[BaseHTTPRequestHandler]:
    """Answers with frames."""

    class Frames(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            rows, columns = map(int, self.path.strip("/").split("x"))
            begun = microscope.begin(rows, columns)
            self.send_response(200)
            self.send_header("Content-Length", str(rows * columns * 2))
            self.end_headers()
            self.wfile.write(microscope.frame(begun).tobytes())

        def log_message(self, *_: Any) -> None: ...

    return Frames


def main() -> None:
    """Serve until standard input ends."""
    microscope = Microscope(Path(sys.argv[1]))
    soap = TemChannelServer(microscope.twin.column, host="127.0.0.1", port=0).start()
    frames = ThreadingHTTPServer(("127.0.0.1", 0), handler(microscope))
    told = {
        "soap": soap.port,
        "frames": frames.server_port,
        "pixel_nm": microscope.truth()["true_pixel_nm"],
        "shift_matrix": microscope.shift_matrix(),
        "voltage_kv": microscope.twin.column.state().ht_kv,
    }
    print("up", json.dumps(told), flush=True)
    import threading

    threading.Thread(target=frames.serve_forever, daemon=True).start()
    sys.stdin.read()
    soap.stop()


if __name__ == "__main__":
    main()
