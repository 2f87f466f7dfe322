"""From atoms to counts: Gaussian peaks at the places of the probe, and Poisson noise.

Geometry as in `haadf.py`, in angstrom. The probe stands at a point for each pixel; over an atom at
distance d the fraction ``sigma / (2 pi s^2) exp(-d^2 / 2 s^2)`` of its electrons is counted, where
sigma is the atom's cross section for scattering into the annular detector and s^2 the sum of the
variances of probe, thermal motion and, out of focus, of the disc of the probe. A part of the
electrons of the probe lies in a wide tail about it, as peaks of multislice images show.
"""
# numba's decorators are untyped.
# pyright: basic

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Fraction of the electrons that is counted without any specimen.
VACUUM = 5e-4
# Beyond so many standard deviations nothing is drawn, of a peak and of its tail.
_REACH, _TAIL_REACH = 4.5, 3.7
# Above this mean a draw by rejection is faster than waiting for each electron.
_MANY = 16.0


@dataclass(frozen=True)
class Probe:
    """Places and form of the probe of a scan.

    Attributes
    ----------
    pixel_a : float
        Nominal distance of neighbouring pixels.
    scan : ndarray, shape (2, 2)
        Displacement (y, x) of the probe for a nominal one; the identity for a scan without
        distortion.
    rows_a : ndarray, shape (rows, 2)
        Displacement (y, x) of the specimen at the time of each row.
    sd_a : float
        Standard deviation of the focused probe along an axis.
    tail, tail_a : float
        Electrons in the tail over those in the peak, and the standard deviation of what widens it.
    convergence_mrad, defocus_a : float
        Half angle of the probe, and height of the specimen's centre over the plane in focus.
    """

    pixel_a: float
    scan: Floats
    rows_a: Floats
    sd_a: float
    tail: float
    tail_a: float
    convergence_mrad: float = 0.0
    defocus_a: float = 0.0


@dataclass(frozen=True)
class Scatterers:
    """Atoms as the probe sees them.

    Attributes
    ----------
    places_a : ndarray, shape (n, 3)
        x, y, z.
    cross_a2 : ndarray, shape (n,)
        Cross section for scattering into the detector.
    thermal_a : ndarray, shape (n,)
        Standard deviation of the thermal motion along an axis.
    smooth_from : int
        Atoms from here on belong to a film: what they have in the tail counts in the peak.
    """

    places_a: Floats
    cross_a2: Floats
    thermal_a: Floats
    smooth_from: int


def turned_a(places_a: Floats, tilt_deg: float, axis_deg: float) -> Floats:
    """Places as the beam sees them at a tilt, about an axis in the direction `axis_deg`."""
    tilt, turn = math.radians(tilt_deg), math.radians(axis_deg)
    x, y, z = places_a.T
    across = x * math.cos(tilt) + z * math.sin(tilt)
    height = z * math.cos(tilt) - x * math.sin(tilt)
    return np.stack(
        [
            across * math.cos(turn) - y * math.sin(turn),
            across * math.sin(turn) + y * math.cos(turn),
            height,
        ],
        axis=1,
    )


def counted_fraction(
    atoms: Scatterers, shape: tuple[int, int], tilt_deg: float, axis_deg: float, probe: Probe
) -> NDArray[np.float32]:
    """Fraction of the electrons of each pixel that is counted.

    Parameters
    ----------
    atoms : Scatterers
        The specimen.
    shape : tuple of int
        Rows and columns.
    tilt_deg, axis_deg : float
        Tilt angle, and direction of the axis as in `ImagingState`.
    probe : Probe
        Where the probe stands, and its form.

    Returns
    -------
    ndarray of float32, shape `shape`
    """
    seen = turned_a(atoms.places_a, tilt_deg, axis_deg)
    disc_a = (seen[:, 2] + probe.defocus_a) * probe.convergence_mrad * 1e-3
    # The variance of a disc along an axis is a quarter of its squared radius.
    variance = probe.sd_a**2 + atoms.thermal_a**2 + 0.25 * disc_a**2
    out = np.full(shape, VACUUM)
    rows_a = np.ascontiguousarray(probe.rows_a, np.float64)
    scan = np.ascontiguousarray(probe.scan, np.float64)
    film = np.arange(len(seen)) >= atoms.smooth_from
    whole = 1.0 + probe.tail
    flux = atoms.cross_a2 / whole
    x, y = np.ascontiguousarray(seen[:, 0]), np.ascontiguousarray(seen[:, 1])
    peak = np.where(film, whole * flux, flux)
    _add_peaks(x, y, peak, variance, scan, probe.pixel_a, rows_a, _REACH, out)
    if probe.tail > 0:
        sharp = slice(0, atoms.smooth_from)
        wide = variance[sharp] + probe.tail_a**2
        weak = probe.tail * flux[sharp]
        _add_peaks(x[sharp], y[sharp], weak, wide, scan, probe.pixel_a, rows_a, _TAIL_REACH, out)
    return out.astype(np.float32)


@njit(cache=True, nogil=True)
def _add_peaks(x, y, flux, variance, scan, pixel, rows_a, reach_sd, out):
    """Add the peak of each atom, row by row; along a row a Gaussian is a product of ratios."""
    rows, columns = out.shape
    half_r, half_c = 0.5 * (rows - 1), 0.5 * (columns - 1)
    mean_y = rows_a[:, 0].mean()
    mean_x = rows_a[:, 1].mean()
    off = max(np.abs(rows_a[:, 0] - mean_y).max(), np.abs(rows_a[:, 1] - mean_x).max())
    # How far apart rows and pixels are, and which row an atom lies in.
    step_y, step_x = scan[0, 1] * pixel, scan[1, 1] * pixel
    step2 = step_y * step_y + step_x * step_x
    det = scan[0, 0] * scan[1, 1] - scan[0, 1] * scan[1, 0]
    between = abs(det) * pixel * pixel / math.sqrt(step2)
    for a in range(len(x)):
        reach = reach_sd * math.sqrt(variance[a])
        at_y, at_x = y[a] + mean_y, x[a] + mean_x
        middle = (scan[1, 1] * at_y - scan[0, 1] * at_x) / det / pixel + half_r
        span = (reach + 1.5 * off) / between
        first, last = max(0, math.ceil(middle - span)), min(rows - 1, math.floor(middle + span))
        if first > last:
            continue
        inverse = 0.5 / variance[a]
        height = flux[a] * inverse / math.pi
        second = math.exp(-2.0 * step2 * inverse)
        for r in range(first, last + 1):
            v, u = (r - half_r) * pixel, -half_c * pixel
            # From the atom to the probe at the first pixel of the row.
            away_y = scan[0, 0] * v + scan[0, 1] * u - rows_a[r, 0] - y[a]
            away_x = scan[1, 0] * v + scan[1, 1] * u - rows_a[r, 1] - x[a]
            nearest = -(away_y * step_y + away_x * step_x) / step2
            least2 = away_y * away_y + away_x * away_x - nearest * nearest * step2
            left2 = reach * reach - least2
            if left2 <= 0.0:
                continue
            wide = math.sqrt(left2 / step2)
            begin, end = max(0, math.ceil(nearest - wide)), min(columns - 1, int(nearest + wide))
            if begin > end:
                continue
            past = begin - nearest
            value = height * math.exp(-(least2 + past * past * step2) * inverse)
            ratio = math.exp(-(2.0 * past + 1.0) * step2 * inverse)
            for c in range(begin, end + 1):
                out[r, c] += value
                value *= ratio
                ratio *= second


def draw_fraction(
    fraction: NDArray[np.float32],
    electrons_per_pixel: NDArray[np.float32],
    rng: np.random.Generator,
    dtype: type[np.unsignedinteger] = np.uint16,
) -> NDArray[np.unsignedinteger]:
    """Poisson counts of a frame.

    Parameters
    ----------
    fraction : ndarray of float32, shape (rows, columns)
        Of the electrons of each pixel that is counted.
    electrons_per_pixel : ndarray of float32, shape (rows,)
        Electrons that hit each pixel of a row.
    rng : numpy.random.Generator
        The same state gives the same frame.
    dtype : type
        Unsigned integers of the result, in whose range the counts are clipped.

    Returns
    -------
    ndarray of `dtype`, shape (rows, columns)
    """
    out = np.empty(fraction.shape, dtype)
    _draw(fraction, electrons_per_pixel, rng, int(np.iinfo(dtype).max), out)
    return out


@njit(cache=True, nogil=True)
def _draw(fraction, electrons, rng, most, out):
    """Counts as arrivals of one Poisson process, as in `haadf.py`."""
    rows, columns = fraction.shape
    gap = rng.standard_exponential()
    for row in range(rows):
        for c in range(columns):
            mean = electrons[row] * fraction[row, c]
            if mean > _MANY:
                out[row, c] = min(rng.poisson(mean), most)
                continue
            n = 0
            while gap <= mean:
                mean -= gap
                gap = rng.standard_exponential()
                n += 1
            gap -= mean
            out[row, c] = n
