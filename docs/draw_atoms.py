"""Draw docs/atoms.png: a view of a simulated particle, its atoms, and how far they are off.

``python docs/draw_atoms.py``
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from pyrotome.analysis.atoms import fit_atoms, match_atoms
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

mpl.use("Agg")
from matplotlib import pyplot as plt

TILTS = np.arange(0.0, 180.0, 3.0)
IMAGING = Imaging(pixel_a=0.25, shape=(120, 120))
THREE_DEGREES_95 = 7.8147

particle = amorphous_particle(300, np.random.default_rng(5))
series = simulated_series(particle, TILTS, IMAGING, np.random.default_rng(6))
fit = fit_atoms(series.counts, TILTS, IMAGING.pixel_a)
match = match_atoms(fit.positions_a, particle)
errors, covariance = match.errors_a, fit.covariance_a2[match.pairs[:, 0]]
squares = np.einsum("ai,aij,aj->a", errors, np.linalg.inv(covariance), errors)

figure, (view, atoms, off) = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained")
half = IMAGING.pixel_a * IMAGING.shape[0] / 2
view.imshow(series.counts[0], cmap="gray", extent=(-half, half, half, -half))
view.set_title(f"one view of {len(TILTS)}, as recorded")
x, y, z = fit.positions_a.T
points = atoms.scatter(x, y, c=z, s=14, cmap="viridis")
atoms.set_title(f"{len(fit.heights)} atoms found, {len(particle)} true")
atoms.set(xlim=(-half, half), ylim=(half, -half), aspect="equal")
figure.colorbar(points, ax=atoms, label="z (Å)", shrink=0.85)
for panel in (view, atoms):
    panel.set(xlabel="x (Å)", ylabel="y (Å)")
stated = 100 * np.sqrt(np.trace(covariance, axis1=1, axis2=2))
off.plot(stated, 100 * np.linalg.norm(errors, axis=1), ".", ms=4)
off.plot([0, stated.max()], [0, stated.max()], "k:", lw=1)
off.set(xlabel="stated error (pm)", ylabel="true error (pm)", xlim=(0, None), ylim=(0, None))
off.set_title(f"{100 * np.mean(squares < THREE_DEGREES_95):.0f} % lie in their 95 % ellipsoids")
figure.savefig(Path(__file__).with_name("atoms.png"), dpi=110)
