from .arrays import Floats, binned, checked_series, in_threads, zeros
from .offsets import Offset, between
from .outputs import Notice, Output, Parameters, Progress, Result, Task, with_progress
from .progress import run_to_end, scaled_progress
from .weights import binned_by_weight, checked_weights, field_of, filled, filled_series

__all__ = [
    "Floats",
    "Notice",
    "Offset",
    "Output",
    "Parameters",
    "Progress",
    "Result",
    "Task",
    "between",
    "binned",
    "binned_by_weight",
    "checked_series",
    "checked_weights",
    "field_of",
    "filled",
    "filled_series",
    "in_threads",
    "run_to_end",
    "scaled_progress",
    "with_progress",
    "zeros",
]
