"""From frames to figures: denoising, reconstruction, and the process that does them online."""
