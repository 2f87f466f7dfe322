"""The sintering specimen: geometry, volume, growth."""

import numpy as np
import pytest

from pyrotome.simulators.world.copper import (
    HALF_THICKNESS_NM,
    DoesNotFit,
    Sintering,
    Truth,
    half_distance_nm,
)


def gaps_nm(truth: Truth) -> np.ndarray:
    """Surface distances of spheres that are not a pair."""
    d = np.linalg.norm(truth.centres_nm[:, None] - truth.centres_nm[None], axis=2)
    d -= truth.radii_nm[:, None] + truth.radii_nm[None]
    away = ~np.eye(len(d), dtype=bool)
    away[truth.pairs[:, 0], truth.pairs[:, 1]] = away[truth.pairs[:, 1], truth.pairs[:, 0]] = False
    return d[away]


def cluster_volume_nm3(truth: Truth, cluster: int, voxel_nm: float = 2.5) -> float:
    """Volume of the union of a cluster's spheres and necks, by counting voxels."""
    members = np.flatnonzero(truth.clusters == cluster)
    centres, radii = truth.centres_nm[members], truth.radii_nm[members]
    low, high = (centres - radii[:, None]).min(0), (centres + radii[:, None]).max(0)
    axes = [np.arange(a + voxel_nm / 2, b, voxel_nm) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
    inside = np.zeros(points.shape[:3], bool)
    for c, r in zip(centres, radii, strict=True):
        inside |= ((points - c.astype(np.float32)) ** 2).sum(-1) <= r * r
    for (i, j), r in zip(truth.pairs, truth.neck_radii_nm, strict=True):
        if i not in members:
            continue
        a, b = truth.centres_nm[i], truth.centres_nm[j]
        w = (b - a) / np.linalg.norm(b - a)
        q = points - a.astype(np.float32)
        along = q @ w.astype(np.float32)
        across = (q * q).sum(-1) - along**2
        inside |= (across <= r * r) & (along >= 0) & (along <= np.linalg.norm(b - a))
    return float(inside.sum()) * voxel_nm**3


@pytest.mark.parametrize("particles", [1, 2, 3, 7, 36])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_particles_touch_in_clusters_and_nowhere_else(particles, seed):
    specimen = Sintering(particles, seed)
    for equivalent_s in (0.0, 20.0, 1e6):
        truth = specimen.truth(equivalent_s)
        assert truth.centres_nm.shape == (particles, 3)
        sizes = np.bincount(truth.clusters)
        assert particles == 1 or set(sizes) <= {2, 3, 4, 5}
        assert np.all(gaps_nm(truth) > 5.0)
        assert np.all(truth.distances_nm < truth.radii_nm[truth.pairs].sum(axis=1))
        reach = np.abs(truth.centres_nm) + truth.radii_nm[:, None]
        assert np.all(reach[:, :2] <= 500.0 + 5.0)
        assert np.all(reach[:, 2] <= 1.8 * HALF_THICKNESS_NM)


def test_the_default_specimen_has_pairs_triangles_and_chains():
    truth = Sintering(36, 1).truth(0.0)
    sizes = np.bincount(truth.clusters)
    bonds = np.bincount(truth.clusters[truth.pairs[:, 0]])
    assert np.any(sizes == 2)
    assert np.any((sizes == 3) & (bonds == 3)), "a closed triple"
    assert np.any((sizes > 2) & (bonds == sizes - 1)), "a chain"
    assert truth.bound.tolist() == (sizes[truth.clusters[truth.pairs[:, 0]]] > 2).tolist()
    assert np.mean(truth.radii_nm) == pytest.approx(75.0, rel=0.05)
    assert 0.04 < np.std(truth.radii_nm) / 75.0 < 0.12


def test_volume_is_conserved_in_every_kind_of_cluster():
    specimen = Sintering(36, 1)
    start = specimen.truth(0.0)
    sizes = np.bincount(start.clusters)
    bonds = np.bincount(start.clusters[start.pairs[:, 0]])
    kinds = {(s, b): k for k, (s, b) in enumerate(zip(sizes, bonds, strict=True))}
    assert {(2, 1), (3, 3), (4, 3)} <= set(kinds)
    for cluster in kinds.values():
        members = start.clusters == cluster
        whole = float(np.sum(4.0 / 3.0 * np.pi * specimen.truth(0.0).radii_nm[members] ** 3))
        for equivalent_s in (0.0, 1e6):
            volume = cluster_volume_nm3(specimen.truth(equivalent_s), cluster)
            assert volume == pytest.approx(whole, rel=0.004), (cluster, equivalent_s)


def test_necks_grow_and_centres_approach_until_a_minute_has_passed():
    specimen = Sintering(36, 2)
    times = [0.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 600.0]
    truths = [specimen.truth(t) for t in times]
    necks = np.array([t.neck_radii_nm for t in truths])
    distances = np.array([t.distances_nm for t in truths])
    assert np.all(np.diff(necks, axis=0) > 0)
    assert np.all(np.diff(distances, axis=0) < 0)
    grown = (necks[times.index(60.0)] - necks[0]) / (necks[-1] - necks[0])
    assert np.all((grown > 0.85) & (grown < 0.99)), "saturates near 60 s"
    half = (necks[times.index(10.0)] - necks[0]) / (necks[-1] - necks[0])
    assert np.all((half > 0.2) & (half < 0.6)), "and not long before"


def test_nothing_measurable_happens_at_standby():
    # Four hours at 200 degC are 0.04 s at 350 (test_chip).
    specimen = Sintering(36, 1)
    before, after = specimen.truth(0.0), specimen.truth(0.05)
    assert np.max(np.abs(after.neck_radii_nm - before.neck_radii_nm)) < 0.2
    assert np.max(np.abs(after.centres_nm - before.centres_nm)) < 0.05


def test_free_pairs_follow_the_model_and_bound_ones_deviate():
    truth = Sintering(36, 1).truth(1e6)
    radii = truth.radii_nm[truth.pairs]
    model = half_distance_nm(radii, truth.neck_radii_nm[:, None]).sum(axis=1)
    np.testing.assert_allclose(truth.distances_nm[~truth.bound], model[~truth.bound], rtol=1e-9)
    assert np.all(truth.distances_nm[truth.bound] > 1.01 * model[truth.bound])
    ratio = truth.neck_radii_nm / radii.mean(axis=1)
    assert ratio[truth.bound].max() < ratio[~truth.bound].min()


def test_half_distance_has_the_right_limits():
    radius = np.array([75.0])
    assert half_distance_nm(radius, np.array([0.5]))[0] == pytest.approx(75.0, abs=1e-3)
    # At x = R both halves are cylinders with round ends: 2/3 R.
    assert half_distance_nm(radius, radius)[0] == pytest.approx(50.0)


def test_the_seed_decides():
    one, same, other = (Sintering(12, seed).truth(5.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.centres_nm, same.centres_nm)
    assert not np.array_equal(one.centres_nm, other.centres_nm)


def test_a_crowd_gets_a_larger_field():
    truth = Sintering(120, 1).truth(0.0)
    assert np.abs(truth.centres_nm[:, :2]).max() > 500.0
    assert issubclass(DoesNotFit, ValueError)
