from .align import Alignment, align_series, iter_align_series
from .axis_choice import ToldAxis
from .coarse import CoarseAlignment, KnownAlignment
from .common_lines import common_lines_shifts
from .displacement import displacement_between, displacements
from .pairwise import (
    OnlineRegistration,
    PreparedImage,
    prepare_image,
    register_pair,
    register_series,
)
from .preparation import dark_images
from .projection_matching import ProjectionMatch, iter_match_projections, match_projections
from .registration import (
    centre_of_mass,
    common_line,
    line_shift,
    masked_correlation,
    mutual_information,
    phase_correlation,
)
from .resampling import TiltAxis, apply_alignment
from .tilt_axis import axis_through_mass, find_axis

__all__ = [
    "Alignment",
    "CoarseAlignment",
    "KnownAlignment",
    "OnlineRegistration",
    "PreparedImage",
    "ProjectionMatch",
    "TiltAxis",
    "ToldAxis",
    "align_series",
    "apply_alignment",
    "axis_through_mass",
    "centre_of_mass",
    "common_line",
    "common_lines_shifts",
    "dark_images",
    "displacement_between",
    "displacements",
    "find_axis",
    "iter_align_series",
    "iter_match_projections",
    "line_shift",
    "masked_correlation",
    "match_projections",
    "mutual_information",
    "phase_correlation",
    "prepare_image",
    "register_pair",
    "register_series",
]
