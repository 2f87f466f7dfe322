from .arrays import Floats, binned, checked_series, in_threads, zeros
from .outputs import Notice, Output, Parameters, Progress, Result, Task, with_progress
from .progress import run_to_end, scaled_progress

__all__ = [
    "Floats",
    "Notice",
    "Output",
    "Parameters",
    "Progress",
    "Result",
    "Task",
    "binned",
    "checked_series",
    "in_threads",
    "run_to_end",
    "scaled_progress",
    "with_progress",
    "zeros",
]
