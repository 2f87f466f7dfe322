"""Necks between sintering particles: radius, centre distance, particle radius, aspect; necks.csv.

Definitions as in Ihara et al., Nanoscale 2023, 15, 10133: r_n is half the width of the neck, r_p
the radius of the circle of equal area (mean of both particles), d the distance of the centres of
mass. Views within +-40 deg give a volume elongated along the beam (z). Widths and areas are
therefore measured in the x-y plane, with sub-voxel edges at half of the particles' value.

Beside a young neck the surfaces of the spheres are less than a voxel apart and count as neck. With
particle radius r and voxel v, widths below about 2 sqrt(r v) are too large, and regularisation
makes it worse. If the images are given, necks are therefore fitted to them (:mod:`.neck_fit`); the
width in the volume is used where the particles are not spheres.

The accuracy is limited by the number of electrons, because the matter of a neck falls as r_n^4 / r.
For particles of 75 nm, voxels of 4.16 nm and 250 e/nm^2 the median error of the radius is 1 %
above 28 nm, 2 % at 22 nm, 4 % at 17 nm, 6 % at 14 nm and 25 % (2 nm, mostly too wide) at 9 nm.
Fit the counts as recorded, only aligned and binned: BM3D fills the crevice too (14 % too wide at
17 nm).
"""
# scipy.ndimage is untyped where it matters here.
# pyright: basic

from __future__ import annotations

import csv
import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as scipy_ndimage

from ..core.progress import run_to_end, scaled_progress
from ..tomography.projector import project
from .neck_fit import NeckFit, iter_fit_necks
from .neck_scene import NeckScene, Sphere
from .segmentation import Labels, contacts, dilation, erosion, segment

# Its annotations do not know what comes back.
ndimage: Any = scipy_ndimage

_AT_ONCE = 8  # particles or pairs of one piece of work
_STEP = 0.25  # of a voxel, along profiles
_RIM = 2  # voxels around a label that hold the rest of its blurred edge
_SEARCHED = (0.3, 0.7)  # parts of the centre distance between which the neck is searched
# Greatest centre distance of a pair over the sum of its radii: particles that are further apart
# touch only because the missing wedge elongates them.
_MAX_DISTANCE = 1.12
_MIN_XY = 0.5  # least part of a centre distance in the x-y plane


@dataclass(frozen=True)
class Neck:
    """One pair of touching particles; the columns of ``necks.csv``.

    Attributes
    ----------
    particle_a, particle_b : int
        Labels of the particles.
    neck_radius_nm : float
        r_n, half the width of the neck where it is narrowest, across the line of centres and
        perpendicular to the beam.
    particle_radius_nm : float
        r_p, of the circle with the area of a particle's x-y section through its centre of mass;
        mean of both.
    distance_nm, distance_xy_nm, distance_z_nm : float
        Distance d of the centres of mass, and its components across and along the beam.
    aspect : float
        H/W, height along the beam over the diameter 2 r_p; mean of both.
    neck_to_particle, distance_to_diameter : float
        r_n/r_p and d/2r_p.
    """

    particle_a: int
    particle_b: int
    neck_radius_nm: float
    particle_radius_nm: float
    distance_nm: float
    distance_xy_nm: float
    distance_z_nm: float
    aspect: float
    neck_to_particle: float
    distance_to_diameter: float


@dataclass(frozen=True)
class Particle:
    """One particle.

    Attributes
    ----------
    label : int
        Label in the volume.
    centre_nm : ndarray
        Centre of mass, shape (3,): (y, z, x).
    radius_nm : float
        Radius of the circle with the area of the x-y section through the centre of mass.
    height_nm : float
        Height along the beam (z).
    level : float
        Value inside the particle, in the unit of the volume.
    """

    label: int
    centre_nm: NDArray[np.float64]
    radius_nm: float
    height_nm: float
    level: float


def measure_particles(volume: NDArray[Any], labels: Labels, voxel_nm: float) -> list[Particle]:
    """Measure centre, radius and height of each particle.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x). A mask can be used, but its edges have no sub-voxel accuracy.
    labels : ndarray of int
        Shape (y, z, x), from :func:`.segmentation.segment`.
    voxel_nm : float
        Side of a voxel.

    Returns
    -------
    list of Particle
        In the order of their labels. The inner value is the median of the voxels at least two
        voxels deep (or of all voxels); voxels of the blurred edge count by their part of it.

    Raises
    ------
    ValueError
        If the shapes differ or the voxel size is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> y, z, x = np.ogrid[-12:13, -12:13, -20:21]
    >>> left, right = (y**2 + z**2 + (x - centre) ** 2 < 81 for centre in (-8, 8))
    >>> volume = left.astype(np.float32)
    >>> (particle,) = measure_particles(volume, volume.astype(np.int32), 2.0)
    >>> round(particle.radius_nm)
    18
    """
    return run_to_end(_iter_measure_particles(volume, labels, voxel_nm))


def _iter_measure_particles(
    volume: NDArray[Any], labels: Labels, voxel_nm: float
) -> Generator[float, None, list[Particle]]:
    """Do what :func:`measure_particles` does, a few particles at a time."""
    if volume.shape != labels.shape or labels.ndim != 3:
        raise ValueError(f"volume {volume.shape} and labels {labels.shape} must both be (y, z, x)")
    if not (math.isfinite(voxel_nm) and voxel_nm > 0):
        raise ValueError(f"the voxel size is {voxel_nm} nm; it must be above 0")
    found: list[Particle] = []
    boxes = ndimage.find_objects(labels)
    for label, box in enumerate(boxes, 1):
        if box is None:
            continue
        wide = tuple(
            slice(max(0, s.start - _RIM), min(n, s.stop + _RIM))
            for s, n in zip(box, labels.shape, strict=True)
        )
        values = volume[wide].astype(np.float64)
        own = labels[wide] == label
        inner = erosion(erosion(own))
        level = float(np.median(values[inner if inner.any() else own]))
        grown = dilation(labels[wide], _RIM) == label
        share = np.where(grown, np.clip(values / level, 0.0, 1.0), 0.0)
        share[inner] = 1.0
        mass = share.sum()
        offsets = np.array([s.start for s in wide], np.float64)
        along = (share.sum(axis=others) for others in ((1, 2), (0, 2), (0, 1)))
        centre = np.array([np.arange(part.size) @ part for part in along]) / mass
        middle = min(max(round(centre[1]), 1), share.shape[1] - 2) if share.shape[1] > 2 else 0
        planes = share[:, max(0, middle - 1) : middle + 2]
        area = planes.sum(axis=(0, 2)).mean()
        row, column = round(centre[0]), round(centre[2])
        pillar = share[max(0, row - 1) : row + 2, :, max(0, column - 1) : column + 2]
        found.append(
            Particle(
                label,
                (centre + offsets) * voxel_nm,
                math.sqrt(area / math.pi) * voxel_nm,
                float(pillar.sum(axis=1).mean()) * voxel_nm,
                level,
            )
        )
        if label % _AT_ONCE == 0:
            yield label / len(boxes)
    return found


def measure_necks(
    volume: NDArray[Any],
    labels: Labels,
    voxel_nm: float,
    *,
    images: NDArray[Any] | None = None,
    tilt_deg: NDArray[Any] | None = None,
    weights: NDArray[Any] | None = None,
) -> list[Neck]:
    """Measure the neck of each pair of particles whose labels touch.

    Ihara et al., Nanoscale 2023, 15, 10133.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x).
    labels : ndarray of int
        Shape (y, z, x), from :func:`.segmentation.segment`.
    voxel_nm : float
        Side of a voxel.
    images : ndarray, optional
        Aligned images, shape (angles, y, x'), in the unit of the images of the reconstruction,
        with pixels as wide as the voxels and the tilt axis in the centre of x'. Give counts as
        recorded and binned, not denoised ones. With images the neck radii are fitted wherever two
        spheres and a cylinder explain the images of a pair; all others are half-level widths in
        the volume.
    tilt_deg : ndarray, optional
        Angles of the images in degrees, shape (angles,).
    weights : ndarray, optional
        Share of each pixel of the images that was measured, 0 to 1, shape of the images; by default
        all 1. Necks are fitted to pixels of which at least half was measured.

    Returns
    -------
    list of Neck
        In the order of the labels. Pairs steeper than 60 deg to the x-y plane are left out, for
        their necks lie in the missing wedge; so are pairs further apart than 1.12 times the sum
        of their radii, which touch only because of the missing wedge.

    Raises
    ------
    ValueError
        See :func:`measure_particles`, or if images, angles and volume do not belong together.

    Examples
    --------
    >>> import numpy as np
    >>> y, z, x = np.ogrid[-12:13, -12:13, -20:21]
    >>> left, right = (y**2 + z**2 + (x - centre) ** 2 < 81 for centre in (-8, 8))
    >>> volume = (left | right).astype(np.float32)
    >>> (neck,) = measure_necks(volume, 1 * left + 2 * (right & ~left), 1.0)
    >>> round(neck.distance_nm)
    16
    """
    steps = iter_measure_necks(
        volume, labels, voxel_nm, images=images, tilt_deg=tilt_deg, weights=weights
    )
    return run_to_end(steps)


def iter_measure_necks(
    volume: NDArray[Any],
    labels: Labels,
    voxel_nm: float,
    *,
    images: NDArray[Any] | None = None,
    tilt_deg: NDArray[Any] | None = None,
    weights: NDArray[Any] | None = None,
) -> Generator[float, None, list[Neck]]:
    """Do what :func:`measure_necks` does in small pieces of work.

    Parameters
    ----------
    volume, labels, voxel_nm, images, tilt_deg, weights
        See :func:`measure_necks`.

    Yields
    ------
    float
        Finished fraction after each piece of work; no thread runs between two pieces.

    Returns
    -------
    list of Neck
        As the generator's return value.

    Examples
    --------
    >>> import numpy as np
    >>> empty = np.zeros((8, 8, 8))
    >>> list(iter_measure_necks(empty, empty.astype(np.int32), 1.0))
    [0.2]
    """
    made = yield from scaled_progress(0.0, 0.15, _iter_measure_particles(volume, labels, voxel_nm))
    particles = {p.label: p for p in made}
    touching = contacts(labels)
    yield 0.2
    pairs = [(a, b) for a, b in touching if _measurable(particles[a], particles[b])]
    widths: dict[tuple[int, int], float] = {}
    for number, (a, b) in enumerate(pairs, 1):
        widths[a, b] = _neck_radius(volume, particles[a], particles[b], voxel_nm)
        if number % _AT_ONCE == 0:
            yield 0.2 + 0.05 * number / len(pairs)
    fitted: dict[tuple[int, int], NeckFit] = {}
    if images is not None and tilt_deg is not None and pairs:
        spheres = [
            Sphere(p.label, p.centre_nm / voxel_nm, p.radius_nm / voxel_nm)
            for p in particles.values()
        ]
        scene = yield from scaled_progress(
            0.25, 0.45, NeckScene.build(volume, labels, images, tilt_deg, spheres, weights)
        )
        level = float(np.median([p.level for p in particles.values()]))
        guesses = {pair: width / voxel_nm for pair, width in widths.items()}
        fitted = yield from scaled_progress(0.45, 1.0, iter_fit_necks(scene, guesses, level))
    necks: list[Neck] = []
    for pair in pairs:
        fit = fitted.get(pair)
        radius_nm = fit.neck_radius * voxel_nm if fit is not None and fit.fits else widths[pair]
        necks.append(_neck(particles[pair[0]], particles[pair[1]], radius_nm))
    return necks


def _measurable(one: Particle, other: Particle) -> bool:
    """Whether the neck of a pair can be measured despite the missing wedge."""
    apart = other.centre_nm - one.centre_nm
    distance = float(np.linalg.norm(apart))
    flat = math.hypot(apart[0], apart[2]) >= _MIN_XY * distance
    return flat and distance <= _MAX_DISTANCE * (one.radius_nm + other.radius_nm)


def _neck(one: Particle, other: Particle, neck_radius_nm: float) -> Neck:
    apart = other.centre_nm - one.centre_nm
    distance = float(np.linalg.norm(apart))
    radius = (one.radius_nm + other.radius_nm) / 2
    aspect = (one.height_nm / (2 * one.radius_nm) + other.height_nm / (2 * other.radius_nm)) / 2
    return Neck(
        particle_a=one.label,
        particle_b=other.label,
        neck_radius_nm=neck_radius_nm,
        particle_radius_nm=radius,
        distance_nm=distance,
        distance_xy_nm=math.hypot(apart[0], apart[2]),
        distance_z_nm=abs(float(apart[1])),
        aspect=aspect,
        neck_to_particle=neck_radius_nm / radius,
        distance_to_diameter=distance / (2 * radius),
    )


def warm_up_necks() -> None:
    """Compile or load the code of the neck measurement, on a pair of spheres.

    Examples
    --------
    >>> warm_up_necks()
    """
    y, z, x = np.ogrid[-12:13, -12:13, -20:21]
    volume = np.zeros((25, 25, 41), np.float32)
    for centre in (-8, 8):
        volume[y**2 + z**2 + (x - centre) ** 2 < 81] = 1
    tilts = np.array([-30.0, 0.0, 30.0])
    measure_necks(volume, segment(volume), 1.0, images=project(volume, tilts), tilt_deg=tilts)


def _neck_radius(volume: NDArray[Any], one: Particle, other: Particle, voxel_nm: float) -> float:
    """Half the smallest width across the line of centres, in nm."""
    start, end = one.centre_nm / voxel_nm, other.centre_nm / voxel_nm
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    # Perpendicular to the line of centres and to the beam; the third vector completes the frame.
    sideways = np.array([along[2], 0.0, -along[0]])
    sideways /= np.linalg.norm(sideways)
    upwards = np.cross(along, sideways)
    reach = 1.5 * max(one.radius_nm, other.radius_nm) / voxel_nm
    positions = np.arange(_SEARCHED[0] * length, _SEARCHED[1] * length, _STEP)
    half = int(reach / _STEP)
    offsets = np.arange(-half, half + 1) * _STEP
    points = (
        start[:, None, None]
        + along[:, None, None] * positions[None, :, None]
        + sideways[:, None, None] * offsets[None, None, :]
    )
    profiles = np.zeros((positions.size, offsets.size))
    for lift in (-1.0, 0.0, 1.0):
        profiles += ndimage.map_coordinates(
            volume, points + lift * upwards[:, None, None], order=1, output=np.float64
        )
    profiles /= 3
    level = (one.level + other.level) / 4
    widths = np.array([_width(profile, half, level) for profile in profiles])
    return float(widths.min()) * _STEP * voxel_nm / 2


def _width(profile: NDArray[np.float64], centre: int, level: float) -> float:
    """Width above a level of the peak nearest the centre, in samples, interpolated."""
    inside = profile > level
    if not inside.any():
        return 0.0
    if not inside[centre]:
        above = np.flatnonzero(inside)
        centre = int(above[np.argmin(np.abs(above - centre))])
    left = centre
    while left > 0 and inside[left - 1]:
        left -= 1
    right = centre
    while right < profile.size - 1 and inside[right + 1]:
        right += 1
    width = float(right - left)
    if left > 0:
        width += (profile[left] - level) / (profile[left] - profile[left - 1])
    if right < profile.size - 1:
        width += (profile[right] - level) / (profile[right] - profile[right + 1])
    return width


def write_necks(path: Path, rows: Iterable[tuple[str, float, Neck]]) -> None:
    """Write ``necks.csv``: one line for each pair of each series.

    Parameters
    ----------
    path : Path
        The file; an existing file is replaced.
    rows : iterable of (series, hold_total_s, Neck)
        Name of the series, time at the processing temperature before it in seconds (NaN if it is
        not known, which is written as an empty field), and the neck of a pair.

    Examples
    --------
    >>> import tempfile
    >>> neck = Neck(1, 2, 10.0, 75.0, 150.0, 150.0, 0.0, 1.0, 0.133, 1.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_necks(Path(folder) / "necks.csv", [("series_001", 5.0, neck)])
    ...     print((Path(folder) / "necks.csv").read_text().splitlines()[1][:24])
    series_001,5,1,2,10,75,1
    """
    names = [field.name for field in fields(Neck)]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["series", "hold_total_s", *names])
        for series, hold_total_s, neck in rows:
            values = [getattr(neck, name) for name in names]
            texts = [v if isinstance(v, int) else f"{v:.6g}" for v in values]
            held = "" if math.isnan(hold_total_s) else f"{hold_total_s:.6g}"
            writer.writerow([series, held, *texts])
