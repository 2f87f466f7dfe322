"""Scans of the specimen: when each is exposed, what the beam sees, and the counts of a frame.

Image position = specimen, shifted and turned by the goniometer and the chip's membrane, in the
direction of the scan, and shifted by the beam deflectors. Defocus = height of the specimen along
the beam, less the height in focus; both count from where they were at first, at tilt 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.units import fluence_e_per_nm2
from .atoms.projection import Probe, counted_fraction, draw_fraction
from .atoms.specimens import AtomSpecimen
from .column import ElectronColumn
from .copper import Sintering
from .haadf import as_thickness, draw_counts, thickness_nm
from .image.deflectors import rotated, scan_matrix_at
from .image.defocus import is_blurred, out_of_focus
from .present import Present
from .replay import Recording

_FRAME_STREAM, _JITTER_STREAM = 1, 5
# Moments of a frame at which the position is computed; rows lie between them.
_KNOTS = 9
# Rows that lie elsewhere than they were drawn by less than this, or than this part of the field,
# need not be drawn again.
_UNSEEN_NM, _UNSEEN_PART = 0.05, 1e-4
_ANGSTROM = 10.0  # in a nanometre


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


@dataclass(frozen=True)
class ImagingState:
    """What the beam sees at one moment.

    Attributes
    ----------
    shift_nm : tuple of float
        Displacement (y, x) of the image.
    equivalent_s : float
        Time at 350 degC that would have sintered as much.
    field_nm : float
        Width of the scanned field.
    defocus_nm : float
        Height of the specimen over the plane in focus.
    axis_deg : float
        Direction of the tilt axis in the image, counter-clockwise from the columns in a picture
        with its first row at the bottom.
    rows_nm : ndarray of float64, shape (rows, 2), or None
        Displacement (y, x) of each row of a frame at its own time; None: all as `shift_nm`.
    pitch_nm : float or None
        Distance in x and y at which the specimen repeats itself, by a fault; atoms do not.
    rotation_deg : float
        Of the scan.
    """

    t_ns: int
    tilt_deg: float
    shift_nm: tuple[float, float]
    temperature_c: float
    equivalent_s: float
    field_nm: float
    electrons_per_s: float
    defocus_nm: float = 0.0
    axis_deg: float = 0.0
    rows_nm: NDArray[np.float64] | None = None
    pitch_nm: float | None = None
    rotation_deg: float = 0.0

    def looks_like(self, other: ImagingState) -> bool:
        """Whether a frame of either would show the rows at the same places."""
        if self.rows_nm is None or other.rows_nm is None:
            return self.rows_nm is other.rows_nm
        unseen_nm = min(_UNSEEN_NM, _UNSEEN_PART * self.field_nm)
        return bool(np.abs(self.rows_nm - other.rows_nm).max() < unseen_nm)


@dataclass(frozen=True)
class ImageTruth:
    """Where the image truly is, to compare a tracker with.

    Attributes
    ----------
    offset_nm : tuple of float
        Displacement (y, x) of the specimen in the image.
    deflected_nm : tuple of float
        The part of it that the beam deflectors make.
    defocus_nm : float
        Height of the specimen over the plane in focus.
    axis_deg : float
        Direction of the tilt axis in the image, as in `ImagingState`.
    """

    t_ns: int
    tilt_deg: float
    offset_nm: tuple[float, float]
    deflected_nm: tuple[float, float]
    defocus_nm: float
    axis_deg: float


class Scan:
    """Exposures of the specimen; safe to call from several threads.

    Parameters
    ----------
    present : Present
        What is imaged, and by which beam.
    specimen : Sintering, Recording or AtomSpecimen
        Spheres whose necks grow, a recorded tilt series, or atoms.
    seed : int
        Of the counts.
    """

    def __init__(
        self, present: Present, specimen: Sintering | Recording | AtomSpecimen, seed: int
    ) -> None:
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
            state = imaging_state(self._present, t_ns, exposure, self._pitch_nm)
            jitter_nm = self._present.column.config.scan_jitter_nm
        if exposure is None or jitter_nm <= 0:
            return state
        return replace(state, rows_nm=_jittered(state, exposure, jitter_nm, self._seed))

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
                equivalent_s=state.equivalent_s,
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
        dwell_s = (exposure.end_ns - exposure.start_ns) * 1e-9 / (rows * columns)
        rng = np.random.default_rng([self._seed, _FRAME_STREAM, exposure.index])
        electrons = (state.electrons_per_s * dwell_s * on).astype(np.float32)
        pixel_nm = state.field_nm / columns
        if not isinstance(self._specimen, Sintering):
            return draw_fraction(
                _atom_picture(self._specimen, exposure.shape, state, self._present.column),
                electrons,
                rng,
                dtype,
            )
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
        return draw_counts(thickness, electrons, rng, dtype)


def _atom_picture(
    specimen: AtomSpecimen, shape: tuple[int, int], state: ImagingState, column: ElectronColumn
) -> NDArray[np.float32]:
    """Fraction of the electrons of each pixel that is counted, of a specimen of atoms."""
    config = column.config
    rows_nm = state.shift_nm if state.rows_nm is None else state.rows_nm
    probe = Probe(
        _ANGSTROM * state.field_nm / shape[1],
        scan_matrix_at(config.scan_matrix, state.rotation_deg),
        _ANGSTROM * np.broadcast_to(np.asarray(rows_nm, np.float64), (shape[0], 2)),
        _ANGSTROM * config.probe_nm,
        config.probe_tail,
        _ANGSTROM * config.probe_tail_nm,
        config.convergence_mrad,
        _ANGSTROM * state.defocus_nm,
    )
    atoms = specimen.scatterers(state.equivalent_s, column.voltage_kv)
    return counted_fraction(atoms, shape, state.tilt_deg, state.axis_deg, probe)


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


def image_truth(present: Present, t_ns: int) -> ImageTruth:
    """The truth now, or a short while ago; the caller holds the lock."""
    temperature_c, _, holder_c = present.chip.at(t_ns)
    rise_nm = present.membrane.rise_nm(temperature_c)
    stage, optics = present.stage, present.column.optics
    axis_deg = stage.config.axis_turn_deg - optics.rotation_deg
    y, x = stage.shift_nm(t_ns, holder_c, rise_nm)
    aside_y, aside_x = present.membrane.offset_nm(t_ns)
    y, x = rotated(y + aside_y, x + aside_x, axis_deg)
    deflected_y, deflected_x = optics.image_shift_nm(t_ns)
    return ImageTruth(
        t_ns,
        stage.true_tilt_deg(t_ns),
        (y + deflected_y, x + deflected_x),
        (deflected_y, deflected_x),
        stage.height_nm(t_ns, rise_nm) - optics.focus_nm,
        axis_deg,
    )


def imaging_state(
    present: Present, t_ns: int, exposure: Exposure | None = None, pitch_nm: float | None = None
) -> ImagingState:
    """What the beam sees now, or a short while ago; the caller holds the lock.

    Parameters
    ----------
    present : Present
        The world.
    t_ns : int
        When.
    exposure : Exposure, optional
        The scan whose rows are to be placed; the rest of one under way goes on as it is now.
    pitch_nm : float, optional
        At which the specimen repeats itself.
    """
    temperature_c, equivalent_s, _ = present.chip.at(t_ns)
    truth = image_truth(present, t_ns)
    rows_nm = None
    if exposure is not None and present.column.config.rolling:
        rows_nm = _rows_nm(present, exposure)
    return ImagingState(
        t_ns,
        truth.tilt_deg,
        truth.offset_nm,
        temperature_c,
        equivalent_s,
        present.column.field_nm,
        present.column.electrons_per_s,
        truth.defocus_nm,
        truth.axis_deg,
        rows_nm,
        pitch_nm,
        present.column.optics.rotation_deg,
    )


def _rows_nm(present: Present, exposure: Exposure) -> NDArray[np.float64]:
    rows = exposure.shape[0]
    span = exposure.end_ns - exposure.start_ns
    shares = np.linspace(0.0, 1.0, _KNOTS)
    at = [image_truth(present, exposure.start_ns + int(s * span)).offset_nm for s in shares]
    where = np.array(at)
    middles = (np.arange(rows) + 0.5) / rows
    return np.stack([np.interp(middles, shares, where[:, k]) for k in (0, 1)], axis=1)


def _jittered(
    state: ImagingState, exposure: Exposure, jitter_nm: float, seed: int
) -> NDArray[np.float64]:
    """Displacement of each row, with a random one of its own."""
    rng = np.random.default_rng([seed, _JITTER_STREAM, exposure.index])
    rows_nm = np.asarray(state.shift_nm if state.rows_nm is None else state.rows_nm, np.float64)
    return rows_nm + jitter_nm * rng.standard_normal((exposure.shape[0], 2))
