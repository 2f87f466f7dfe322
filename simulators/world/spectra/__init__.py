"""What a spectrometer sees: specimens whose chemistry changes, and frames of counts per channel."""
