from .assumptions import Assumptions
from .motion import Motion
from .motion_state import MotionState, for_next_specimen, motion_from, state_of
from .pictures import Picture, picture_of, resampled
from .prediction import Prediction, predict
from .registration import Registration, register
from .summary import Learned, what_was_learned
from .table import table_rows
from .tracker import Tracker, TrackerState, warm_up_tracking

__all__ = [
    "Assumptions",
    "Learned",
    "Motion",
    "MotionState",
    "Picture",
    "Prediction",
    "Registration",
    "Tracker",
    "TrackerState",
    "for_next_specimen",
    "motion_from",
    "picture_of",
    "predict",
    "register",
    "resampled",
    "state_of",
    "table_rows",
    "warm_up_tracking",
    "what_was_learned",
]
