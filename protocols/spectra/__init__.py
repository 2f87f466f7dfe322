"""Files of spectrometers."""
