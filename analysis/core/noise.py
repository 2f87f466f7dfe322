"""Kinds of noise and efforts of the denoiser, as recipes name them."""

from __future__ import annotations

from typing import Literal

Effort = Literal["full", "quick"]
NoiseType = Literal["white", "gw", "g0", "g1", "g2", "g3", "g4"]
# Reference frames without which no settings can be chosen.
FEWEST_REFERENCES = 3
