"""Draw docs/structure.png: what ``pyrotome structure`` says of a simulated oxidised particle.

``python docs/draw_structure.py``
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pyrotome.analysis.report.structure_figure import draw_structure
from pyrotome.analysis.structure import analyse_structure, atom_list, match_series

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

from lattices import oxidised_particle, same_errors  # noqa: E402

SIGMA = 0.06
particle = oxidised_particle(core=19.0, radius=36.0)
rng = np.random.default_rng(3)
# Vacancies in core and crystal, and one pore.
deep = np.flatnonzero(np.linalg.norm(particle, axis=1) < 28)
particle = np.delete(particle, rng.choice(deep, 60, replace=False), axis=0)
particle = particle[np.linalg.norm(particle - np.array([22.0, 10.0, 2.0]), axis=1) > 6.5]
later = particle.copy()
glass = np.flatnonzero((particle[:, 0] < -8) & (np.linalg.norm(particle, axis=1) > 22))
hopped = rng.choice(glass, len(glass) // 6, replace=False)
later[hopped] += rng.normal(0, 0.35, (len(hopped), 3))


def measured(points):
    """Atoms as a fit would find them."""
    noisy = points + rng.normal(0, SIGMA, points.shape)
    return atom_list(noisy, "Zr", same_errors(points, SIGMA))


first, second = measured(particle), measured(later)
found = analyse_structure(first, numbers={"Zr": 40})
picture = HERE / "structure.png"
draw_structure(picture, found, (second, match_series(first, second)))
with Image.open(picture) as image:
    small = image.convert("RGB").resize((1400, 1320)).quantize(128)
small.save(picture, optimize=True)
