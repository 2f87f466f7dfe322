from .decompose import Components, DecomposeSettings, Decomposition
from .diffusion import Z95, DiffusionFit, Law, Profiles, fit_diffusion
from .events import EventFrame, frame_of_counts, frame_of_events
from .isotopes import isotope_spectrum
from .ramp import FrameTime, RampAnalysis, RampFrame, RampSettings
from .splitting import choose_extra

__all__ = [
    "Z95",
    "Components",
    "DecomposeSettings",
    "Decomposition",
    "DiffusionFit",
    "EventFrame",
    "FrameTime",
    "Law",
    "Profiles",
    "RampAnalysis",
    "RampFrame",
    "RampSettings",
    "choose_extra",
    "fit_diffusion",
    "frame_of_counts",
    "frame_of_events",
    "isotope_spectrum",
]
