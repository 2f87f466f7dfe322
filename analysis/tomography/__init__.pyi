from .back_projection import angle_shares_deg, ramp, wbp
from .image_levels import automatic_weight, has_dark_vacuum, vacuum_level, without_vacuum
from .iterative import sirt
from .live_reconstruction import LiveReconstruction
from .projected_gradient import resire
from .projector import backproject, project
from .reconstruction import Reconstruction, central_slices, r_factor
from .total_variation import TvSolver, tv

__all__ = [
    "LiveReconstruction",
    "Reconstruction",
    "TvSolver",
    "angle_shares_deg",
    "automatic_weight",
    "backproject",
    "central_slices",
    "has_dark_vacuum",
    "project",
    "r_factor",
    "ramp",
    "resire",
    "sirt",
    "tv",
    "vacuum_level",
    "wbp",
    "without_vacuum",
]
