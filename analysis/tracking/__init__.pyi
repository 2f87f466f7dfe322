from .assumptions import Assumptions
from .motion import Motion
from .motion_state import MotionState, for_next_specimen, motion_from, state_of
from .pictures import Picture, picture_of, resampled
from .prediction import MotionPrediction, predict
from .registration import Registration, register
from .summary import LearnedMotion, what_was_learned
from .table import table_rows
from .tracker import Tracker, warm_up_tracking
from .tracker_state import TrackerState

__all__ = [
    "Assumptions",
    "LearnedMotion",
    "Motion",
    "MotionPrediction",
    "MotionState",
    "Picture",
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
