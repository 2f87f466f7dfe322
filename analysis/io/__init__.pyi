from .result_writer import ResultScratch, add_results
from .safe_output import new_file
from .tilt_angles import read_tilts
from .tilt_series_readers import TiltStack, open_stack

__all__ = [
    "ResultScratch",
    "TiltStack",
    "add_results",
    "new_file",
    "open_stack",
    "read_tilts",
]
