"""Scans of the specimen: when each is exposed, what the beam sees, and the counts of a frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.units import fluence_e_per_nm2
from .copper import Sintering
from .defocus import is_blurred, out_of_focus
from .haadf import as_thickness, draw_counts, thickness_nm
from .imaging import ImageTruth, ImagingState, image_truth, imaging_state
from .present import Present
from .replay import Recording

_FRAME_STREAM = 1


@dataclass(frozen=True)
class Exposure:
    """A scan from start to end; `index` counts the exposures of this world from 0.

    `shape` is (rows, columns).
    """

    index: int
    start_ns: int
    end_ns: int
    shape: tuple[int, int]

    @property
    def middle_ns(self) -> int:
        """Mid-exposure."""
        return (self.start_ns + self.end_ns) // 2


class Scan:
    """Exposures of the specimen; safe to call from several threads.

    Parameters
    ----------
    present : Present
        What is imaged, and by which beam.
    specimen : Sintering or Recording
        Spheres whose necks grow, or a recorded tilt series.
    seed : int
        Of the counts.
    """

    def __init__(self, present: Present, specimen: Sintering | Recording, seed: int) -> None:
        self._present, self._specimen, self._seed = present, specimen, seed
        self._exposures = 0
        self._pitch_nm: float | None = None

    def begin(self, t_ns: int, exposure_s: float, shape: tuple[int, int]) -> Exposure:
        """Start one scan of (rows, columns) over the field."""
        return next(self.begin_series(t_ns, exposure_s, exposure_s, shape, 1))

    def begin_series(
        self, t_ns: int, exposure_s: float, period_s: float, shape: tuple[int, int], frames: int
    ) -> Iterator[Exposure]:
        """Start scans that follow each other, each a period after the one before.

        All are settled now: a late reader sees each as it was.
        """
        with self._present.at(t_ns) as start_ns:
            exposure_ns = max(1, round(exposure_s * 1e9))
            period_ns = max(exposure_ns, round(period_s * 1e9))
            first = self._exposures
            self._exposures += frames
            end_ns = start_ns + (frames - 1) * period_ns + exposure_ns
            self._present.column.begin_scan(end_ns, shape[0] / shape[1])
        starts = (start_ns + k * period_ns for k in range(frames))
        return (
            Exposure(first + k, begin_ns, begin_ns + exposure_ns, shape)
            for k, begin_ns in enumerate(starts)
        )

    def state(self, t_ns: int, exposure: Exposure | None = None) -> ImagingState:
        """What the beam sees, now or a short while ago; see `imaging_state`."""
        with self._present.at(t_ns):
            return imaging_state(self._present, t_ns, exposure, self._pitch_nm)

    def truth(self, t_ns: int) -> ImageTruth:
        """Where the image truly is, now or a short while ago, and how far out of focus."""
        with self._present.at(t_ns):
            return image_truth(self._present, t_ns)

    def repeat(self, pitch_nm: float | None) -> None:
        """Let the specimen repeat itself at a pitch, or stand alone; the caller holds the lock."""
        self._pitch_nm = pitch_nm

    def beam_on(self, exposure: Exposure) -> NDArray[np.float32]:
        """For each row of a scan the fraction of its time with the beam on, as far as known now.

        Returns
        -------
        ndarray of float32, shape (rows,)
        """
        with self._present.lock:
            column = self._present.column
            return column.beam_on(exposure.start_ns, exposure.end_ns, exposure.shape[0])

    def end(self, exposure: Exposure, state: ImagingState) -> NDArray[np.float32]:
        """Account for a scan that is over; returns its rows as :meth:`beam_on` does."""
        with self._present.at(exposure.end_ns):
            on = self.beam_on(exposure)
            rows, columns = exposure.shape
            fraction = float(on.mean())
            duration_s = (exposure.end_ns - exposure.start_ns) * 1e-9
            area_nm2 = state.field_nm**2 * rows / columns
            self._present.truth_log.write(
                exposure.end_ns,
                "exposure",
                index=exposure.index,
                start_ns=exposure.start_ns,
                end_ns=exposure.end_ns,
                shape=list(exposure.shape),
                tilt_deg=state.tilt_deg,
                temperature_c=state.temperature_c,
                offset_nm=list(state.shift_nm),
                defocus_nm=state.defocus_nm,
                dose_e_per_nm2=fluence_e_per_nm2(
                    self._present.column.current_pa, duration_s * fraction, area_nm2
                ),
                beam_on=fraction,
            )
            return on

    def abandon(self, t_ns: int) -> None:
        """End the scan under way without a frame."""
        with self._present.at(t_ns):
            self._present.column.end_scan()

    def frame(
        self,
        exposure: Exposure,
        state: ImagingState,
        on: NDArray[np.float32],
        dtype: type[np.unsignedinteger[Any]] = np.uint16,
    ) -> NDArray[np.unsignedinteger[Any]]:
        """Counts of a scan; takes no lock, and numba releases Python's while it computes.

        Parameters
        ----------
        exposure, state : Exposure, ImagingState
            The scan, and what the beam sees at its mid-exposure.
        on : ndarray of float32, shape (rows,)
            Fraction of each row's time with the beam on.
        dtype : type
            Unsigned integers, in whose range the counts are clipped.

        Returns
        -------
        ndarray of `dtype`, shape (rows, columns)
        """
        rows, columns = exposure.shape
        if isinstance(self._specimen, Recording):
            return _replayed(self._specimen, state.tilt_deg, on, dtype)
        pixel_nm = state.field_nm / columns
        truth = self._specimen.truth(state.equivalent_s)
        shift_nm = state.shift_nm if state.rows_nm is None else state.rows_nm
        thickness = thickness_nm(
            truth,
            exposure.shape,
            pixel_nm,
            state.tilt_deg,
            shift_nm,
            state.axis_deg,
            state.pitch_nm,
        )
        convergence_mrad = self._present.column.config.convergence_mrad
        if is_blurred(state.defocus_nm, convergence_mrad, pixel_nm):
            seen = as_thickness(thickness)
            thickness = out_of_focus(seen, state.defocus_nm, convergence_mrad, pixel_nm)
        dwell_s = (exposure.end_ns - exposure.start_ns) * 1e-9 / (rows * columns)
        rng = np.random.default_rng([self._seed, _FRAME_STREAM, exposure.index])
        electrons = (state.electrons_per_s * dwell_s * on).astype(np.float32)
        return draw_counts(thickness, electrons, rng, dtype)


def _replayed(
    recording: Recording,
    tilt_deg: float,
    on: NDArray[np.float32],
    dtype: type[np.unsignedinteger[Any]],
) -> NDArray[np.unsignedinteger[Any]]:
    frame = recording.frame(tilt_deg)
    dark = min(max(recording.value_offset, 0), 65_535)
    frame[on <= 0.5] = dark
    return np.minimum(frame, np.iinfo(dtype).max).astype(dtype)
