"""The specimen "sodium-front": a borate coating gives sodium to an oxide scale on hot steel.

From top to bottom: borate coating, loose dendritic oxide, continuous oxide, steel (Pham et al.,
Nano Lett. 2024, 24, 3702). Sodium goes from the loose oxide, which the coating feeds, into the
continuous oxide. Interfaces are rough, the picture is blurred by the ion beam, yields change by a
quarter over a ramp, the field drifts, and further species appear at the paper's temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from .species import CHANNELS, IONS, mass_spectrum
from .transport import Array, Transport, concentration, source_level

# Depths of the interfaces, in parts of the field: coating | loose oxide | oxide | steel.
LAYERS = (0.28, 0.42, 0.82)
# Relative counts of each species in the four layers; sodium in the oxide follows the front.
SHARES: dict[str, tuple[float, float, float, float]] = {
    "B": (1.00, 0.10, 0.00, 0.00),
    "Na": (2.20, 2.20, 0.00, 0.00),
    "Cr": (0.00, 1.30, 2.60, 0.70),
    "Fe": (0.00, 1.20, 0.70, 3.20),
    "Mn": (0.00, 0.25, 0.45, 0.05),
    "Li": (0.12, 0.04, 0.00, 0.00),
    "NaFe": (0.00, 0.30, 0.10, 0.00),
    "NaCr": (0.00, 0.25, 0.20, 0.00),
    "FeHBO2": (0.40, 0.10, 0.00, 0.00),
}
# Species that are there only above a temperature, in deg C.
ONSETS_C = {"NaFe": 200.0, "NaCr": 342.0, "FeHBO2": 410.0}
DARK_PER_PIXEL = 0.01


@dataclass(frozen=True)
class Ramp:
    """An isochronal ramp, in frames.

    Attributes
    ----------
    from_c, to_c, rate_k_per_s, frame_s : float
        As in the paper: 50 to 850 degC at 1 K/s, a frame each 1.4 s.
    """

    from_c: float = 50.0
    to_c: float = 850.0
    rate_k_per_s: float = 1.0
    frame_s: float = 1.4

    @property
    def frames(self) -> int:
        """How many frames begin in the ramp."""
        return int((self.to_c - self.from_c) / (self.rate_k_per_s * self.frame_s))

    def frame_at(self, temperature_c: float) -> int:
        """The frame that begins next after a temperature."""
        return int(np.ceil((temperature_c - self.from_c) / (self.rate_k_per_s * self.frame_s)))


@dataclass(frozen=True)
class SpectrumCounts:
    """One frame as it is recorded.

    Attributes
    ----------
    counts : ndarray of shape (y, x)
        Events of each pixel.
    channels : ndarray of shape (events,)
        Channel of each event, pixel after pixel in C order.
    """

    counts: NDArray[np.uint16]
    channels: NDArray[np.uint8]


class SodiumFront:
    """The specimen, along one ramp.

    Parameters
    ----------
    seed : int
        Of roughness, drift and counts.
    counts_per_pixel : float
        Mean over a frame at the beginning.
    transport : Transport
        How sodium moves.
    source : str
        ``constant``, ``late`` or ``depleting``.
    ramp : Ramp
        Course of temperature.
    pixels : int
        Of a side; the field is 14 um.
    drift_px, roughness_px : float
        Drift over the ramp in pixels of 55 nm, and sd of the interfaces.
    """

    def __init__(
        self,
        seed: int,
        counts_per_pixel: float = 6.0,
        transport: Transport | None = None,
        source: str = "constant",
        ramp: Ramp | None = None,
        pixels: int = 256,
        drift_px: float = 12.0,
        roughness_px: float = 2.0,
    ) -> None:
        self.ramp, self.transport = ramp or Ramp(), transport or Transport()
        self.pixels, self.pixel_um = pixels, 14.0 / pixels
        self.blur_px = 0.172 / self.pixel_um
        self._rng = np.random.default_rng([seed, 0x50D1])
        scale = pixels / 256
        walk = gaussian_filter1d(self._rng.standard_normal((3, pixels)), 10 * scale, axis=1)
        walk *= roughness_px * scale / walk.std(axis=1, keepdims=True)
        # Row at which each layer ends, for each column.
        self.ends = np.array(LAYERS)[:, None] * pixels + walk - walk.mean(axis=1, keepdims=True)
        angle = self._rng.uniform(0, 2 * np.pi)
        self._drift_px = drift_px * scale * np.array([np.sin(angle), np.cos(angle)])
        self._bend = self._rng.uniform(-0.3, 0.3, 2)
        self._yields = self._rng.uniform(-0.25, 0.25, len(IONS))
        self.names = tuple(IONS)
        self.spectra = np.stack([mass_spectrum(IONS[name]) for name in self.names])
        # Of each moment of a fine course: what sodium has done so far.
        span_s = (self.ramp.to_c - self.ramp.from_c) / self.ramp.rate_k_per_s
        self._time_s = np.linspace(0.0, span_s, 4 * self.ramp.frames + 1)
        self._course_c = self.ramp.from_c + self.ramp.rate_k_per_s * self._time_s
        self._theta = self.transport.theta_um2(self._time_s, self._course_c)
        self._level = source_level(source, self._course_c)
        self._scale = 1.0
        self._scale = counts_per_pixel / self.maps(0).sum(axis=0).mean()

    def time_s(self, frame: int, row: float = 0.0) -> float:
        """When a row of a frame is scanned, after the ramp began."""
        return (frame + row / self.pixels) * self.ramp.frame_s

    def temperature_c(self, frame: int, row: float = 0.0) -> float:
        """Temperature at that moment."""
        return self.ramp.from_c + self.ramp.rate_k_per_s * self.time_s(frame, row)

    def drift_px(self, frame: int) -> Array:
        """Shift (y, x) of the field in a frame, in pixels."""
        part = frame / max(1, self.ramp.frames - 1)
        return self._drift_px * (part + self._bend * np.sin(np.pi * part))

    def front_um(self, frame: int) -> float:
        """Length L = sqrt(2 theta) of the front of a constant source, at the interface's row."""
        time_s = self.time_s(frame, LAYERS[1] * self.pixels)
        return float(np.sqrt(2.0 * np.interp(time_s, self._time_s, self._theta)))

    def maps(self, frame: int) -> Array:
        """Mean counts of each species in a frame, shape (species, y, x)."""
        n = self.pixels
        shift = self.drift_px(frame)
        columns = np.arange(n) - shift[1]
        rows = np.arange(n) - shift[0]
        ends = np.stack([np.interp(columns, np.arange(n), end) for end in self.ends])
        depth = rows[:, None, None] - ends[None]  # (y, layer, x)
        inside = np.clip(depth + 0.5, 0.0, 1.0)
        part = np.stack(
            [1 - inside[:, 0], inside[:, 0] - inside[:, 1], inside[:, 1] - inside[:, 2],
             inside[:, 2]]
        )  # fmt: skip
        temperature = self.temperature_c(frame, n / 2)
        change = (temperature - self.ramp.from_c) / 800.0
        found = np.empty((len(self.names), n, n))
        for k, name in enumerate(self.names):
            share = np.array(SHARES[name])
            if name in ONSETS_C:
                share = share * np.clip((temperature - ONSETS_C[name]) / 40.0, 0.0, 1.0)
            found[k] = np.tensordot(share, part, 1) * (1.0 + self._yields[k] * change)
        k = self.names.index("Na")
        found[k] = self._sodium(frame, depth, part) * (1.0 + self._yields[k] * change)
        blurred = [gaussian_filter(one, self.blur_px, mode="nearest") for one in found]
        return self._scale * np.stack(blurred)

    def _sodium(self, frame: int, depth: Array, part: Array) -> Array:
        time_s = self.time_s(frame, LAYERS[1] * self.pixels)
        fine_um = np.arange(-2.0, self.pixels, 0.25) * self.pixel_um
        profile = concentration(fine_um, time_s, self._time_s, self._theta, self._level)
        below = np.interp(depth[:, 1] * self.pixel_um, fine_um, profile, right=0.0)
        coating, loose, _, _ = SHARES["Na"]
        level = float(np.interp(time_s, self._time_s, self._level))
        source = level * (coating * part[0] + loose * (1.0 - part[0]))
        return np.where(depth[:, 1] < 0, source, loose * below)

    def draw(self, frame: int) -> SpectrumCounts:
        """Counts of a frame."""
        maps, rng = self.maps(frame), self._rng
        pixels: list[NDArray[np.int64]] = []
        channels: list[NDArray[np.uint8]] = []
        flat = np.full(CHANNELS, 1.0 / CHANNELS)
        dark = np.full(maps[0].shape, DARK_PER_PIXEL * self._scale)
        for mean, spectrum in zip([*maps, dark], [*self.spectra, flat], strict=True):
            counts = rng.poisson(mean).ravel()
            pixels.append(np.repeat(np.arange(counts.size), counts))
            steps = np.cumsum(spectrum)
            steps /= steps[-1]
            channels.append(np.searchsorted(steps, rng.random(counts.sum())).astype(np.uint8))
        where = np.concatenate(pixels)
        order = np.argsort(where, kind="stable")
        counts = np.bincount(where, minlength=maps[0].size).reshape(maps[0].shape)
        return SpectrumCounts(counts.astype(np.uint16), np.concatenate(channels)[order])
