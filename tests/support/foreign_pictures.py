"""Pictures that programs of others take of what our drivers have moved, and how far they moved."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# instamatic's simulated camera looks through a client of its own TEM server.
_INSTAMATIC = """
import sys
import numpy as np
from instamatic.microscope.client import MicroscopeClient
from instamatic.simulation.camera import CameraSimulation
camera = CameraSimulation()
camera.tem = MicroscopeClient(interface="simulate")
camera.ready = True
print("up", flush=True)
for line in sys.stdin:
    np.save(line.strip(), camera.get_image(binsize=1))
    print("saved", flush=True)
"""
# A column with the errors of a real one, which tells them; its picture is what is seen of it,
# without the noise of a detector.
_DETWIN = """
import json, sys
import numpy as np
from de_twin.faces.temchannel_soap import TemChannelServer
from de_twin.optics import OpticsConfig
from de_twin.twin import DigitalTwin
twin = DigitalTwin(camera="Celeritas", optics_config=OpticsConfig.realistic(seed=1), seed=1)
server = TemChannelServer(twin.column, host="127.0.0.1", port=0).start()
truth = twin.calibration_truth()
names = ("true_pixel_nm", "backlash_um", "is_matrix_um_per_unit")
print("up", json.dumps({"port": server.port, **{name: truth[name] for name in names}}), flush=True)
for line in sys.stdin:
    twin.column.wait_idle(60)
    np.save(line.strip(), twin.flux(twin.request(frame_time_s=0.025, total_frames=1)))
    print("saved", flush=True)
"""


@dataclass(frozen=True)
class Camera:
    """A program that saves what it sees when it is told to; `said` is what it said at the start."""

    process: subprocess.Popen[str]
    folder: Path
    said: str

    def picture(self) -> NDArray[np.float64]:
        """What it sees now."""
        assert self.process.stdin is not None
        path = self.folder / "picture.npy"
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        _until(self.process, "saved")
        return np.load(path).astype(np.float64)


@contextlib.contextmanager
def instamatic_camera(folder: Path) -> Iterator[Camera]:
    """Camera before the TEM server whose settings are in a folder."""
    with _camera(_INSTAMATIC, folder, {"AppData": str(folder / "AppData")}) as camera:
        yield camera


@contextlib.contextmanager
def detwin(folder: Path) -> Iterator[Camera]:
    """De-twin with a realistic column; `said` has its port and its truth."""
    with _camera(_DETWIN, folder, {}) as camera:
        yield camera


def moved_pixels(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float]:
    """By how many (rows, columns) a picture has moved, to a fraction of a pixel."""
    first, second = before - before.mean(), after - after.mean()
    spectrum = np.fft.fft2(second) * np.conj(np.fft.fft2(first))
    score = np.fft.ifft2(spectrum).real
    peak = np.unravel_index(int(score.argmax()), score.shape)
    found: list[float] = []
    for axis, (at, size) in enumerate(zip(peak, score.shape, strict=True)):
        line = np.take(score, peak[1 - axis], axis=1 - axis)
        low, middle, high = (line[(at + k) % size] for k in (-1, 0, 1))
        bend = low - 2.0 * middle + high
        part = 0.5 * (low - high) / bend if bend else 0.0
        found.append(float((at + size // 2) % size - size // 2 + part))
    return found[0], found[1]


class Soap:
    """The few calls of a DE-TEM-Channel that a test needs; micrometres and degrees."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"

    def call(self, method: str, **fields: Any) -> dict[str, str]:
        """Call a method; fields by their names in the WSDL."""
        body = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
        text = (
            '<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/" '
            'xmlns:ns="http://tempuri.org/ns.xsd"><SOAP-ENV:Body>'
            f"<ns:{method}>{body}</ns:{method}></SOAP-ENV:Body></SOAP-ENV:Envelope>"
        )
        headers = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '""'}
        request = urllib.request.Request(self._url, text.encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = next(iter(ET.fromstring(response.read())[0]))
        return {child.tag.rpartition("}")[2]: child.text or "" for child in answer}

    def pair(self, name: str) -> tuple[float, float]:
        """Two values, such as ``ImageShift``."""
        found = self.call(f"get{name}", val=1)
        return float(found["floatone"]), float(found["floattwo"])

    def stage(self) -> dict[str, float]:
        """Where the stage stands: x, y, z in um, a, b in deg."""
        found = self.call("getStagePosition", val=1)
        return dict(zip("xyzab", map(float, found.values()), strict=True))

    def move(self, **axes: float) -> None:
        """Send the axes that are named somewhere."""
        mask = sum(1 << k for k, axis in enumerate("xyzab") if axis in axes)
        goal = {axis: axes.get(axis, 0.0) for axis in "xyzab"}
        self.call("setStagePosition", **goal, **{"axes-mask": mask})


@contextlib.contextmanager
def _camera(program: str, folder: Path, environment: dict[str, str]) -> Iterator[Camera]:
    with (folder / "camera.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield Camera(process, folder, _until(process, "up"))
        finally:
            process.kill()
            process.communicate()


def _until(process: subprocess.Popen[str], word: str) -> str:
    """The rest of the next line that begins with a word; what else is printed is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    raise AssertionError(f"the program ended before it said '{word}'")
