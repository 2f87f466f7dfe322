"""What all analysis steps share: arrays, results, progress."""
