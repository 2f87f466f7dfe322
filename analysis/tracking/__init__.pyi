from .pictures import Picture, picture_of, resampled
from .registration import Registration, register
from .table import table_rows
from .tracker import Tracker, warm_up_tracking
from .tracker_state import TrackerState

__all__ = [
    "Picture",
    "Registration",
    "Tracker",
    "TrackerState",
    "picture_of",
    "register",
    "resampled",
    "table_rows",
    "warm_up_tracking",
]
