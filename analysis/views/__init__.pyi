from .background import Background, laplace_background
from .counts import CountSeries, added_frames, count_series
from .drift import FrameDrift, frame_drift
from .merge import MergedFrames, merge_frames

__all__ = [
    "Background",
    "CountSeries",
    "FrameDrift",
    "MergedFrames",
    "added_frames",
    "count_series",
    "frame_drift",
    "laplace_background",
    "merge_frames",
]
