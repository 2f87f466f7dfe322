from .assumptions import Assumptions
from .motion import Motion
from .motion_state import MotionState, for_next_specimen, motion_from, state_of
from .prediction import MotionPrediction, predict
from .summary import LearnedMotion, what_was_learned

__all__ = [
    "Assumptions",
    "LearnedMotion",
    "Motion",
    "MotionPrediction",
    "MotionState",
    "for_next_specimen",
    "motion_from",
    "predict",
    "state_of",
    "what_was_learned",
]
