"""Watch the sharpness of the frames of a run, and tell when the focus is not what it should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from ...protocols.core.documents import Strict
from .blur import Blur, blur_between
from .spectrum import RINGS, Spectrum, mean_of

# Frames further away in angle show too much else.
_FAR_DEG = 12.0
# So many of the series before are enough to compare with. Of this series, the latest frames are
# left out where enough others are there.
_ENOUGH, _FEWEST, _LATEST = 4, 3, 2
# Pictures that are averaged to compare with, and those that are kept.
_COMPARED, _KEPT = 8, 96
# Blur is believed where the mean of the last 1, 2, 3, 5 or 8 frames is so many of its own sd above
# what does not matter.
_CERTAIN_SD = 4.5
_WINDOWS = (1, 2, 3, 5, 8)
# Sharp frames of the past that tell how much spectra differ by other things than blur.
_PAST = 40
# Without a known convergence, a blur of a tenth of a pixel's area does not matter.
_UNSEEN_PIXELS2 = 0.1
# Frames that are still blurred after the focus was measured, after which it is not the focus.
_AFTER_FOCUS = 3

# Square of a radius and its sd, in nm^2.
Square = tuple[float, float]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Rings(Strict):
    """Frequencies of rings and independent waves in each, shared by frames of one size."""

    per_nm: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=RINGS)]
    modes: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=RINGS)]
    pitch_nm: Positive


class KeptSpectrum(Strict):
    """A sharp frame to compare with, as JSON; `rings` counts those of the watch."""

    series: str
    tilt_deg: Finite
    power: Annotated[tuple[Finite, ...], Field(max_length=RINGS)]
    noise: Positive
    rings: Annotated[int, Field(ge=0)] = 0


class WatchState(Strict):
    """A watch as JSON: sharp frames, blurs (square, sd, in nm^2), and what was told."""

    rings: Annotated[tuple[Rings, ...], Field(max_length=_KEPT)] = ()
    kept: Annotated[tuple[KeptSpectrum, ...], Field(max_length=_KEPT)] = ()
    past: Annotated[tuple[tuple[Finite, Positive], ...], Field(max_length=_PAST)] = ()
    recent: Annotated[tuple[tuple[Finite, Positive], ...], Field(max_length=max(_WINDOWS))] = ()
    out_of_focus: bool = False
    focused: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a frame shows of the focus.

    Attributes
    ----------
    blur : Blur
        Of this frame, beside sharp ones.
    radius_nm, radius_sd_nm : float
        Radius of the disc: mean of the latest frames, where those have told it.
    begins : bool
        Whether blur that matters has been seen now, and not before.
    blurred : bool
        Whether it has been seen, and not ended since.
    stays : bool
        Whether it is still seen after the focus was measured: something else than focus.
    """

    blur: Blur
    radius_nm: float
    radius_sd_nm: float
    begins: bool
    blurred: bool
    stays: bool = False


class SharpnessWatch:
    """Compares each frame with sharp ones of nearby angles, of this series and the one before.

    Frames that are blurred are never compared with. Sharp ones of the past tell by how much the
    measured blur scatters, and about which mean.

    Parameters
    ----------
    unseen_nm : float, optional
        Radius of a disc that does not matter, such as that at the depth of focus; by default a
        third of a pixel.
    state : WatchState, optional
        To go on from.

    Raises
    ------
    ValueError
        If the state is damaged.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.sharpness.spectrum import disc_contrast
    >>> per_nm = np.linspace(0.005, 0.1, 23)
    >>> def frame(radius_nm):
    ...     kept = disc_contrast(2 * np.pi * radius_nm * per_nm) ** 2
    ...     return Spectrum(kept * per_nm**-2, 1.0, np.full(23, 2e3), per_nm, 4.0)
    >>> watch = SharpnessWatch(1.0)
    >>> _ = [watch.look(frame(0.0), "series_001", tilt) for tilt in (0.0, 2.0)]
    >>> found = watch.look(frame(8.0), "series_001", 4.0)
    >>> found.begins, round(found.radius_nm)
    (True, 8)
    """

    def __init__(self, unseen_nm: float | None = None, state: WatchState | None = None) -> None:
        state = WatchState() if state is None else state
        self._unseen_nm = unseen_nm
        self._kept = [(one.series, one.tilt_deg, _spectrum(one, state.rings)) for one in state.kept]
        self._past, self._recent = list(state.past), list(state.recent)
        self._blurred, self._focused = state.out_of_focus, state.focused

    def state(self) -> WatchState:
        """What a later watch goes on from."""
        rings: list[Rings] = []
        kept = tuple(_stored(*one, rings) for one in self._kept)
        return WatchState(
            rings=tuple(rings),
            kept=kept,
            past=tuple(self._past),
            recent=tuple(self._recent),
            out_of_focus=self._blurred,
            focused=self._focused,
        )

    def look(self, spectrum: Spectrum, series: str, tilt_deg: float) -> Verdict | None:
        """Compare a frame with sharp ones.

        Parameters
        ----------
        spectrum : Spectrum
            Of the frame.
        series : str
            Its series.
        tilt_deg : float
            Its angle.

        Returns
        -------
        Verdict or None
            None where there is none to compare with; the frame then counts as sharp.
        """
        near = self._near(spectrum, series, tilt_deg)
        if not near:
            self._keep(series, tilt_deg, spectrum)
            return None
        found = blur_between(mean_of(near), spectrum)
        self._remember(found)
        latest = self._judged()
        blur = Blur(*latest[-1], found.misfit)
        unseen = self._unseen_nm2(spectrum)
        was = self._blurred
        if was and _is_sharp(latest, unseen):
            # What was blurred says nothing about what comes.
            latest, self._recent = latest[-1:], self._recent[-1:]
            self._blurred = self._focused = False
        over = _over(latest, unseen)
        self._blurred = self._blurred or over is not None
        stays = self._focused and self._blurred and len(self._recent) >= _AFTER_FOCUS
        if stays:
            # From now on these frames are what there is to compare with.
            self._kept, self._recent = [], []
            self._blurred = self._focused = False
        elif not self._blurred:
            self._keep(series, tilt_deg, spectrum)
        square, sd = (blur.square_nm2, blur.sd_nm2) if over is None else over
        mean = Blur(square, sd, blur.misfit)
        return Verdict(
            blur, mean.radius_nm, mean.radius_sd_nm, self._blurred and not was, self._blurred, stays
        )

    def focused(self) -> None:
        """Tell that the focus was measured and set: the next frames should be sharp."""
        self._recent, self._focused = [], self._blurred

    # --- parts -----------------------------------------------------------------------------------

    def _judged(self) -> list[Square]:
        """The latest blurs less the mean of sharp frames, as uncertain as those scatter."""
        if not self._past:
            return self._recent
        squares, sds = np.array(self._past).T
        weights = sds**-2.0
        # As if one more frame had told exactly nothing.
        base = float((weights * squares).sum() / (weights.sum() + weights.mean()))
        z = (squares - base) / sds
        scale = max(1.0, math.sqrt((1.0 + float((z**2).sum())) / (1.0 + len(z))))
        return [(square - base, sd * scale) for square, sd in self._recent]

    def _remember(self, blur: Blur) -> None:
        """Add to the latest blurs; what falls out of them belongs to the past."""
        self._recent.append((blur.square_nm2, blur.sd_nm2))
        if len(self._recent) > max(_WINDOWS):
            oldest = self._recent.pop(0)
            if not self._blurred:
                self._past = [*self._past, oldest][-_PAST:]

    def _near(self, spectrum: Spectrum, series: str, tilt_deg: float) -> list[Spectrum]:
        """Sharp frames to compare with, the nearest in angle first.

        Those of the series before, where there are enough: after a jump that is not certain yet,
        the latest frames of this one are blurred too. Else those of this series, not the latest.
        """
        before: list[tuple[float, int]] = []
        own: list[tuple[float, int]] = []
        for number, (of_series, at_deg, other) in enumerate(self._kept):
            apart_deg = abs(at_deg - tilt_deg)
            if apart_deg <= _FAR_DEG and other.is_like(spectrum):
                (own if of_series == series else before).append((apart_deg, -number))
        if len(before) < _ENOUGH:
            earlier = own[:-_LATEST]
            before += earlier if len(before) + len(earlier) >= _FEWEST else own
        return [self._kept[-number][2] for _, number in sorted(before)[:_COMPARED]]

    def _keep(self, series: str, tilt_deg: float, spectrum: Spectrum) -> None:
        self._kept = [*self._kept, (series, tilt_deg, spectrum)][-_KEPT:]

    def _unseen_nm2(self, spectrum: Spectrum) -> float:
        if self._unseen_nm is None:
            return _UNSEEN_PIXELS2 * spectrum.pitch_nm**2
        return self._unseen_nm**2


def _over(latest: Sequence[Square], unseen_nm2: float) -> Square | None:
    """Mean and sd of the latest blurs, over the shortest time in which they are certain."""
    for length in _WINDOWS:
        if length > len(latest):
            return None
        mean, sd = _mean(latest[-length:])
        if mean - unseen_nm2 > _CERTAIN_SD * sd:
            return mean, sd
    return None


def _is_sharp(latest: Sequence[Square], unseen_nm2: float) -> bool:
    """Whether the latest frame is more likely sharp than as blurred as the ones before."""
    (square, sd), before = latest[-1], latest[:-1]
    if not before:
        return square < unseen_nm2 + 2.0 * sd
    return square < 0.5 * (_mean(before)[0] + unseen_nm2)


def _mean(blurs: Sequence[Square]) -> Square:
    """Mean of squares, and its sd: that of the noise, which differs from frame to frame."""
    squares, sds = np.array(blurs).T
    weights = sds**-2.0
    return float((weights * squares).sum() / weights.sum()), math.sqrt(1.0 / float(weights.sum()))


def _stored(series: str, tilt_deg: float, spectrum: Spectrum, rings: list[Rings]) -> KeptSpectrum:
    own = Rings(
        per_nm=tuple(spectrum.per_nm.tolist()),
        modes=tuple(spectrum.modes.tolist()),
        pitch_nm=spectrum.pitch_nm,
    )
    if own not in rings:
        rings.append(own)
    return KeptSpectrum(
        series=series,
        tilt_deg=tilt_deg,
        power=tuple(spectrum.power.tolist()),
        noise=spectrum.noise,
        rings=rings.index(own),
    )


def _spectrum(stored: KeptSpectrum, rings: Sequence[Rings]) -> Spectrum:
    own = rings[stored.rings] if stored.rings < len(rings) else None
    if own is None or not len(stored.power) == len(own.modes) == len(own.per_nm):
        raise ValueError("a kept spectrum is damaged: its rings differ in number")
    return Spectrum(
        np.array(stored.power),
        stored.noise,
        np.array(own.modes),
        np.array(own.per_nm),
        own.pitch_nm,
    )
