from .blur import Blur, blur_between
from .focus_fit import FocusFit, FocusView, best_focus
from .spectrum import Spectrum, spectrum_of
from .watch import SharpnessWatch, Verdict

__all__ = [
    "Blur",
    "FocusFit",
    "FocusView",
    "SharpnessWatch",
    "Spectrum",
    "Verdict",
    "best_focus",
    "blur_between",
    "spectrum_of",
]
