"""What an analysis step is: its declarations, its generators, and how it is found.

A step of another package imports everything that it needs from here.
"""

from .base import (
    RECORDED_VIEWS,
    SINGLE_FRAMES,
    VIEWS,
    Online,
    SeriesContext,
    StackInfo,
    Step,
    StepSettings,
)
from .images import Frame, Series, SingleFrames, View
from .outputs import Notice, Output, Parameters, Progress, Result
from .results import ResultSpec, StackKind

__all__ = [
    "RECORDED_VIEWS",
    "SINGLE_FRAMES",
    "VIEWS",
    "Frame",
    "Notice",
    "Online",
    "Output",
    "Parameters",
    "Progress",
    "Result",
    "ResultSpec",
    "Series",
    "SeriesContext",
    "SingleFrames",
    "StackInfo",
    "StackKind",
    "Step",
    "StepSettings",
    "View",
]
