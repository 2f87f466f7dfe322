"""Denoising of single frames: BM3D, noise models, choice of its parameters."""
