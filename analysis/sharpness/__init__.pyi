from .blur import Blur, blur_between
from .focus_fit import FocusFit, FocusView, best_focus
from .spectrum import Spectrum, disc_contrast, fine_counts, mean_of, spectrum_of
from .watch import SharpnessWatch, Verdict, WatchState

__all__ = [
    "Blur",
    "FocusFit",
    "FocusView",
    "SharpnessWatch",
    "Spectrum",
    "Verdict",
    "WatchState",
    "best_focus",
    "blur_between",
    "disc_contrast",
    "fine_counts",
    "mean_of",
    "spectrum_of",
]
