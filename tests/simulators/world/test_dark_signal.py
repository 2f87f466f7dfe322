"""The dark signal of a simulated detector: an offset, hot pixels, and a highest count."""

import numpy as np

from pyrotome.protocols.config.simulated import SimulatedDetector
from pyrotome.simulators.world.dark_signal import HOT_COUNTS, dark_signal, with_dark_signal


def test_offset_and_hot_pixels_are_the_same_in_every_frame():
    config = SimulatedDetector(offset=100, hot_pixels=7)
    signal = dark_signal(config, (32, 48), 1)
    assert signal is not None
    hot = signal > 100
    assert hot.sum() == 7
    assert signal[~hot].min() == signal[~hot].max() == 100
    assert signal[hot].min() >= 100 + HOT_COUNTS[0]
    assert np.array_equal(signal, dark_signal(config, (32, 48), 1))
    assert not np.array_equal(signal, dark_signal(config, (32, 48), 2))


def test_counts_stop_at_the_highest_count():
    counts = np.full((4, 4), 250, np.uint8)
    signal = dark_signal(SimulatedDetector(offset=10), (4, 4), 1)
    shown = with_dark_signal(counts, signal, 255)
    assert shown.dtype == np.uint8
    assert shown.max() == shown.min() == 255
    assert with_dark_signal(counts, None, 255) is counts
    assert dark_signal(SimulatedDetector(), (4, 4), 1) is None
