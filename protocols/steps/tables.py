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
# A row a view of the table of drift.
DRIFT_COLUMNS = (
    "frames",
    "drift_y_nm_per_frame",
    "drift_x_nm_per_frame",
    "drift_sd_nm_per_frame",
    "speed_nm_per_s",
    "speed_sd_nm_per_s",
    "direction_deg",
    "direction_sd_deg",
    "steady",
)
# A row an atom. x runs across the tilt axis, y along it, z along the beam at tilt 0.
ATOM_COLUMNS = (
    "species",
    "x_nm",
    "y_nm",
    "z_nm",
    "sigma_x_nm",
    "sigma_y_nm",
    "sigma_z_nm",
    "position_error_nm",
    "peak_counts",
    "peak_sd_counts",
    "gain",
    "probability",
    "misfit",
    "cov_xx_nm2",
    "cov_xy_nm2",
    "cov_xz_nm2",
    "cov_yy_nm2",
    "cov_yz_nm2",
    "cov_zz_nm2",
)
# The coarse model between the tilts: errors by the views so far, and expected of all planned ones.
LIVE_ATOM_COLUMNS = (
    "x_nm",
    "y_nm",
    "z_nm",
    "position_error_nm",
    "expected_error_nm",
    "peak_counts",
)
# Most images of a series of which the fit of atoms tells the alignment, and its columns.
MAX_ATOM_VIEWS = 1024
ATOM_VIEW_COLUMNS = (
    "view",
    "tilt_deg",
    "tilt_sd_deg",
    "shift_y_px",
    "shift_x_px",
    "shift_sd_y_px",
    "shift_sd_x_px",
    "background_counts",
    "log_gain",
    "chi_squared",
)
