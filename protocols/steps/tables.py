"""Columns of the tables that pyrotome's own steps leave, as readers of run files need them."""

from __future__ import annotations

# Most rows of a table of necks, and its columns (units in their names).
MAX_NECKS = 256
NECK_COLUMNS = (
    "particle_a",
    "particle_b",
    "neck_radius_nm",
    "particle_radius_nm",
    "distance_nm",
    "distance_xy_nm",
    "distance_z_nm",
    "aspect",
    "neck_to_particle",
    "distance_to_diameter",
)
# Most rows of the table of settings that the denoiser was tried with, and its columns.
MAX_TRIALS = 64
TRIAL_COLUMNS = ("noise", "variance", "psnr_db")
