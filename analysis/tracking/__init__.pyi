from .assumptions import Assumptions
from .motion import Motion
from .prediction import Prediction, predict

__all__ = ["Assumptions", "Motion", "Prediction", "predict"]
