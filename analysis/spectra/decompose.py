"""Maps and spectra of components, frame after frame, by the likelihood of the counts.

The mean of the counts is a sum of components, each a map times a spectrum; counts are Poisson. The
maximum of their likelihood is found by expectation maximisation on the entries that are not zero
(the multiplicative updates of Lee and Seung, Nature 1999, 401, 788, for the Kullback-Leibler
divergence). Two priors make it robust with some counts a pixel: spectra of ions by the abundances
of their isotopes, and the maps of the frame before, smoothed, as a Gamma prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .events import EventFrame
from .isotopes import prior_spectra
from .kernels import em_pass

Floats = NDArray[np.float32]
# Share of the counts that a spectrum with a formula may have outside its isotopes, in the prior.
_LEAK = 2e-3
# Events that the isotope table counts for, as a part of those of the component itself.
_BELIEF = 0.2
_LEAST_AMOUNT = 1e-4


@dataclass(frozen=True)
class DecomposeSettings:
    """How to decompose.

    Attributes
    ----------
    extra : int
        Components without a formula.
    memory_frames : float
        Frames over which spectra are averaged.
    weight : float
        Frames that the maps of the frame before count for; 0: each frame by itself.
    smooth_px : float
        Sd of the filter of those maps.
    passes, first_passes : int
        Of expectation maximisation, for a frame and for the first one.
    """

    extra: int = 2
    memory_frames: float = 60.0
    weight: float = 3.0
    smooth_px: float = 1.0
    passes: int = 8
    first_passes: int = 60


@dataclass(frozen=True)
class Components:
    """What a frame is made of.

    Attributes
    ----------
    names : tuple of str
        Formulas as they were told, then ``extra 1`` and so on.
    maps : ndarray of shape (components, rows, columns)
        Mean counts a pixel: those of this frame with the prior of the frames before.
    assigned : ndarray of shape (components, rows, columns)
        Events of this frame alone that belong to each component; they are nearly Poisson, and what
        fits should take.
    spectra : ndarray of shape (components, channels)
        Each sums to 1.
    doubts : tuple of str
        What is wrong with the frame.
    """

    names: tuple[str, ...]
    maps: Floats
    assigned: Floats
    spectra: NDArray[np.float64]
    doubts: tuple[str, ...] = ()

    def map_of(self, name: str) -> Floats:
        """Map of a component; KeyError if there is none."""
        if name not in self.names:
            raise KeyError(name)
        return self.maps[self.names.index(name)]


class Decomposition:
    """Decomposes the frames of a series one after the other.

    Parameters
    ----------
    formulas : sequence of str
        Elements and molecules that are there.
    mass_axis : ndarray of shape (channels,)
        Middle of each channel.
    settings : DecomposeSettings
        By default those that served best at 6 counts a pixel.

    Raises
    ------
    ValueError
        If a formula cannot be read, or is not on the axis.

    Examples
    --------
    >>> from .events import frame_of_counts
    >>> axis = np.array([11.0, 23.0])
    >>> counts = np.zeros((2, 2, 2))
    >>> counts[0, :, 0], counts[1, :, 1] = 50, 20
    >>> found = Decomposition(["B", "Na"], axis, DecomposeSettings(extra=0)).feed(
    ...     frame_of_counts(counts)
    ... )
    >>> found.map_of("B").round().tolist()
    [[50.0, 50.0], [0.0, 0.0]]
    """

    def __init__(
        self,
        formulas: Sequence[str],
        mass_axis: NDArray[np.float64],
        settings: DecomposeSettings | None = None,
    ) -> None:
        self._settings = settings or DecomposeSettings()
        extra = self._settings.extra
        self.names = (*formulas, *(f"extra {k + 1}" for k in range(extra)))
        table, self._believed = prior_spectra(formulas, mass_axis, extra)
        flat = 1.0 / len(mass_axis)
        self._table = np.where(self._believed > 0, (1 - _LEAK) * table + _LEAK * flat, table)
        self._spectra = self._table.copy()
        self._sums = np.zeros_like(self._table)
        self._before: NDArray[np.float32] | None = None

    @property
    def spectra(self) -> NDArray[np.float64]:
        """Spectra as they are known now, shape (components, channels)."""
        return self._spectra.T.copy()

    def feed(self, frame: EventFrame) -> Components:
        """Decompose the next frame.

        Parameters
        ----------
        frame : EventFrame
            Of the same shape as those before.

        Returns
        -------
        Components
            With a doubt where the frame is empty; nothing is learned from it then.

        Raises
        ------
        ValueError
            If the axis or the shape is another.
        """
        if frame.n_channels != len(self._table):
            raise ValueError(
                f"the frame has {frame.n_channels} channels, the axis {len(self._table)}"
            )
        pixels = frame.shape[0] * frame.shape[1]
        if self._before is not None and self._before.shape[0] != pixels:
            raise ValueError(f"the frame has {pixels} pixels, those before {len(self._before)}")
        if frame.events == 0:
            return self._empty(frame)
        weight, prior = 0.0, np.zeros((pixels, len(self.names)), np.float32)
        if self._before is not None:
            prior, weight = self._prior(frame), self._settings.weight
        amounts = np.maximum(prior, _LEAST_AMOUNT)
        if self._before is None:
            amounts[:] = frame.events / pixels / len(self.names)
        first = self._before is None
        assigned = np.empty_like(amounts)
        sums = np.empty_like(self._sums)
        for number in range(self._settings.first_passes if first else self._settings.passes):
            spectra = self._spectra.astype(np.float32)
            em_pass(
                frame.starts, frame.channel, frame.number, spectra, amounts, prior, weight,
                assigned, sums,
            )  # fmt: skip
            if first or number == 0:
                self._learn(sums, first=first)
        if not first:
            self._remember(sums)
        else:
            self._sums = sums.copy()
        self._before = amounts
        return self._components(frame, amounts, assigned)

    def _prior(self, frame: EventFrame) -> Floats:
        """Maps of the frame before, smoothed, and scaled by how many events there are now."""
        assert self._before is not None
        maps = self._before.T.reshape(-1, *frame.shape)
        sd = self._settings.smooth_px
        smooth = np.stack([gaussian_filter(one, sd, mode="nearest") for one in maps])
        smooth *= frame.events / max(float(smooth.sum()), 1e-9)
        return np.ascontiguousarray(smooth.reshape(len(maps), -1).T, np.float32)

    def _learn(self, sums: NDArray[np.float64], *, first: bool) -> None:
        """Spectra from the events assigned, and from the isotope tables."""
        found = sums if first else self._sums * self._keep + sums
        belief = self._believed * (_BELIEF * found.sum(axis=0) + 1.0)
        mixed = found + belief * self._table + 1e-9
        self._spectra = mixed / mixed.sum(axis=0)

    @property
    def _keep(self) -> float:
        return 1.0 - 1.0 / self._settings.memory_frames

    def _remember(self, sums: NDArray[np.float64]) -> None:
        self._sums = self._sums * self._keep + sums

    def _components(self, frame: EventFrame, amounts: Floats, assigned: Floats) -> Components:
        shape = (len(self.names), *frame.shape)
        return Components(
            self.names,
            np.ascontiguousarray(amounts.T).reshape(shape),
            np.ascontiguousarray(assigned.T).reshape(shape),
            self.spectra,
        )

    def _empty(self, frame: EventFrame) -> Components:
        shape = (len(self.names), *frame.shape)
        nothing = np.zeros(shape, np.float32)
        maps = nothing if self._before is None else self._before.T.reshape(shape).copy()
        return Components(self.names, maps, nothing, self.spectra, ("the frame has no counts",))
