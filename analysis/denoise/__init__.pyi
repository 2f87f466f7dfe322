from .bm3d import Noise, fast_bm3d
from .frame import (
    denoise_bm3d,
    denoise_fast,
    denoise_frame,
    noise_kernel,
    noise_spectrum,
    poisson_variance,
    scale_of,
    warm_up,
)
from .parameter_search import (
    Exposures,
    NoiseChoice,
    Trial,
    choice_of,
    contrast_window,
    curve_table,
    iter_search_parameters,
    search_parameters,
)
from .reference_frames import ReferenceFrames, denoising_settings
from .variance_stabilisation import anscombe, inverse_anscombe

__all__ = [
    "Exposures",
    "Noise",
    "NoiseChoice",
    "ReferenceFrames",
    "Trial",
    "anscombe",
    "choice_of",
    "contrast_window",
    "curve_table",
    "denoise_bm3d",
    "denoise_fast",
    "denoise_frame",
    "denoising_settings",
    "fast_bm3d",
    "inverse_anscombe",
    "iter_search_parameters",
    "noise_kernel",
    "noise_spectrum",
    "poisson_variance",
    "scale_of",
    "search_parameters",
    "warm_up",
]
