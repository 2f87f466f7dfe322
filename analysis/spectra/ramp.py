"""A heating ramp, frame after frame: components, drift, front, and what they say of diffusion.

The order in which everything happens to a spectrum frame stands here; each step has a file of its
own. Nothing is read or written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .decompose import Components, DecomposeSettings, Decomposition
from .diffusion import DiffusionFit, Law, Profiles, fit_diffusion
from .drift import Drift, DriftFollower
from .events import EventFrame
from .front import FrontFollower, FrontLengths, find_interface

Array = NDArray[np.float64]
# Frames before the front moves that are needed to find the interface.
_LEAST_BEFORE = 5
_ABOVE_UM, _BELOW_UM = 0.85, 5.0


@dataclass(frozen=True)
class RampSettings:
    """What is looked for in a ramp.

    Attributes
    ----------
    elements : tuple of str
        Formulas of the components.
    stay : tuple of str
        Those that do not move; drift is taken from them.
    front : str
        The one that diffuses.
    from_c, to_c : float
        Temperatures between which the front is followed. Frames below it show the interface.
    boxes : int
        Along the interface.
    pixel_um : float
        Size of a pixel.
    decompose : DecomposeSettings
        See there.
    """

    elements: tuple[str, ...]
    stay: tuple[str, ...]
    front: str
    from_c: float
    to_c: float
    pixel_um: float
    boxes: int = 4
    decompose: DecomposeSettings = field(default_factory=DecomposeSettings)

    def __post_init__(self) -> None:
        for name in (*self.stay, self.front):
            if name not in self.elements:
                raise ValueError(f"'{name}' is not among the elements {', '.join(self.elements)}")
        if self.front in self.stay or not self.stay:
            raise ValueError("drift needs elements that stay, and the front one that moves")


@dataclass(frozen=True)
class FrameTime:
    """When a frame was scanned, and at which temperatures.

    Attributes
    ----------
    first_s, last_s : float
        Begin of its first row and end of its last, after the ramp began.
    first_c, last_c : float
        Temperature at these moments.
    """

    first_s: float
    last_s: float
    first_c: float
    last_c: float

    def at(self, part: float) -> tuple[float, float]:
        """Time and temperature after a part of the rows."""
        return (
            self.first_s + part * (self.last_s - self.first_s),
            self.first_c + part * (self.last_c - self.first_c),
        )


@dataclass(frozen=True)
class RampFrame:
    """What one frame has shown.

    Attributes
    ----------
    index : int
        Of the frame in its ramp.
    time : FrameTime
        As it was given.
    components : Components
        Maps and spectra.
    drift : Drift
        Against the first frame.
    front : FrontLengths or None
        In pixels; None outside the range, and without an interface.
    doubts : tuple of str
        What is wrong with the frame.
    """

    index: int
    time: FrameTime
    components: Components
    drift: Drift
    front: FrontLengths | None
    doubts: tuple[str, ...]


class RampAnalysis:
    """Takes in the frames of a ramp in order.

    Parameters
    ----------
    settings : RampSettings
        What is looked for.
    mass_axis : ndarray of shape (channels,)
        Mass over charge of each channel.

    Raises
    ------
    ValueError
        If a formula cannot be read or is not on the axis.

    Examples
    --------
    >>> from .events import frame_of_counts
    >>> settings = RampSettings(("B", "Na", "Cr"), ("Cr",), "Na", 260.0, 400.0, pixel_um=0.055)
    >>> ramp = RampAnalysis(settings, np.array([11.0, 23.0, 52.0]))
    >>> dark = frame_of_counts(np.zeros((8, 8, 3)))
    >>> ramp.feed(dark, FrameTime(0.0, 1.4, 50.0, 51.4)).doubts
    ('the frame has no counts',)
    """

    def __init__(self, settings: RampSettings, mass_axis: Array) -> None:
        self.settings = settings
        self._decomposition = Decomposition(settings.elements, mass_axis, settings.decompose)
        self._drift = DriftFollower()
        self._moving = settings.elements.index(settings.front)
        self._staying = [settings.elements.index(name) for name in settings.stay]
        self._follower: FrontFollower | None = None
        self._without_interface = ""
        self._before: EventFrame | None = None
        self._times: list[FrameTime] = []
        self._profiles: list[Array] = []
        self._depths_px: list[Array] = []
        self._profile_times: list[tuple[float, float]] = []
        self.followed_frames: list[int] = []
        self._frames_before = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components."""
        return self._decomposition.names

    @property
    def followed(self) -> int:
        """Frames in which the front was followed."""
        return len(self._profiles)

    @property
    def without_interface(self) -> str:
        """Why the front is not followed; empty if it is, or may be still."""
        return self._without_interface

    def feed(self, frame: EventFrame, time: FrameTime) -> RampFrame:
        """Take in the next frame.

        Parameters
        ----------
        frame : EventFrame
            Counts.
        time : FrameTime
            When it was scanned.

        Returns
        -------
        RampFrame
            With doubts where something is wrong with the frame; nothing is learned from it then.

        Raises
        ------
        ValueError
            If the axis or the shape differs from those before.
        """
        index = len(self._times)
        self._times.append(time)
        same = self._before is not None and _equal(self._before, frame)
        self._before = frame
        components = self._decomposition.feed(frame)
        doubts = list(components.doubts)
        if same and frame.events:
            doubts.append("the frame is the same as the one before")
        if doubts:
            last = self._drift.latest
            return RampFrame(index, time, components, Drift(last, (np.inf, np.inf), doubts[0]),
                             None, tuple(doubts))  # fmt: skip
        early = time.last_c < self.settings.from_c
        moving = components.assigned[self._moving : self._moving + 1]
        drift = self._drift.feed(components.assigned[self._staying], moving if early else None)
        if drift.doubt:
            doubts.append(drift.doubt)
        self._frames_before += early
        front = None if drift.doubt or early else self._follow(moving[0], drift, time, frame.shape)
        if front is not None:
            self.followed_frames.append(index)
        return RampFrame(index, time, components, drift, front, tuple(doubts))

    def _follow(
        self, events: NDArray[np.float32], drift: Drift, time: FrameTime, shape: tuple[int, int]
    ) -> FrontLengths | None:
        if time.first_c > self.settings.to_c or not self._ready():
            return None
        assert self._follower is not None
        part = self._follower.row_px(drift.shift_px) / shape[0]
        when_s, temperature_c = time.at(float(np.clip(part, 0.0, 1.0)))
        counts, depth_px = self._follower.profile(events, drift.shift_px)
        if not self.settings.from_c <= temperature_c <= self.settings.to_c:
            return None
        self._profiles.append(counts)
        self._depths_px.append(depth_px)
        self._profile_times.append((when_s, temperature_c))
        return self._follower.lengths(counts, depth_px)

    def _ready(self) -> bool:
        """Find the interface, once."""
        if self._follower is not None or self._without_interface:
            return self._follower is not None
        settings = self.settings
        if self._frames_before < _LEAST_BEFORE:
            self._without_interface = (
                f"{self._frames_before} frames lie below {settings.from_c:g} degC; at least "
                f"{_LEAST_BEFORE} are needed to find where {settings.front} ends"
            )
            return False
        try:
            interface = find_interface(self._drift.mean_of_moving[0])
        except ValueError as error:
            self._without_interface = f"{settings.front}: {error}"
            return False
        rows = len(self._drift.mean_of_moving[0])
        above = max(4, round(min(_ABOVE_UM / settings.pixel_um, interface.row_px.min() - 2)))
        below = rows - float(interface.row_px.max()) - 2
        below = max(8, round(min(_BELOW_UM / settings.pixel_um, below)))
        self._follower = FrontFollower(interface, settings.boxes, above, below)
        return True

    def profiles(self) -> Profiles:
        """All profiles so far, with the course of the temperature.

        Raises
        ------
        ValueError
            If the front was not followed in any frame.
        """
        if not self._profiles:
            raise ValueError(
                self._without_interface
                or f"no frame lies between {self.settings.from_c:g} and {self.settings.to_c:g} degC"
            )
        pixel_um = self.settings.pixel_um
        course = [point for time in self._times for point in (time.at(0.0), time.at(1.0))]
        rising = [course[0]] + [b for a, b in pairwise(course) if b[0] > a[0] + 1e-9]
        whole = np.isfinite(self._profiles).all(axis=(0, 1))
        return Profiles(
            np.array(self._profiles)[:, :, whole],
            np.array(self._depths_px)[:, whole] * pixel_um,
            np.array([when for when, _ in self._profile_times]),
            np.array([time for time, _ in rising]),
            np.array([temperature for _, temperature in rising]),
        )

    def fit(self, law: Law = "fick") -> DiffusionFit:
        """Fit all profiles so far; front lengths are those of this interface from now on.

        Raises
        ------
        ValueError
            As `profiles` and `fit_diffusion`.
        """
        profiles = self.profiles()
        follower, pixel_um = self._follower, self.settings.pixel_um
        assert follower is not None
        fit = fit_diffusion(profiles, law, follower.blur_px * pixel_um)
        if fit.converged:
            follower.refine(fit.interface_um / pixel_um, fit.blur_um / pixel_um, fit.background)
        return fit

    def fronts(self) -> tuple[Array, Array, Array]:
        """Front lengths of all frames, by the interface as it is known now.

        Returns
        -------
        temperature_c : ndarray of shape (frames,)
        length_um, sd_um : ndarray of shape (frames, boxes)
            nan where counts are too few.
        """
        assert self._follower is not None
        found = [
            self._follower.lengths(counts, depth)
            for counts, depth in zip(self._profiles, self._depths_px, strict=True)
        ]
        pixel_um = self.settings.pixel_um
        return (
            np.array([temperature for _, temperature in self._profile_times]),
            np.array([one.length_px for one in found]) * pixel_um,
            np.array([one.sd_px for one in found]) * pixel_um,
        )


def _equal(one: EventFrame, other: EventFrame) -> bool:
    return (
        one.channel.size == other.channel.size
        and np.array_equal(one.channel, other.channel)
        and np.array_equal(one.number, other.number)
        and np.array_equal(one.starts, other.starts)
    )
