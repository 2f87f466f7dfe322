from .bad_pixels import PixelHistory
from .correction import BadPixel, Code, Corrected, CountCorrection, Wanted
from .fill import Filling
from .gaps import constant_lines, lines_in_words
from .late_pixels import late_masks, leave_out
from .levels import Levels, measure_levels
from .outliers import find_outliers
from .references import References, read_reference

__all__ = [
    "BadPixel",
    "Code",
    "Corrected",
    "CountCorrection",
    "Filling",
    "Levels",
    "PixelHistory",
    "References",
    "Wanted",
    "constant_lines",
    "find_outliers",
    "late_masks",
    "leave_out",
    "lines_in_words",
    "measure_levels",
    "read_reference",
]
