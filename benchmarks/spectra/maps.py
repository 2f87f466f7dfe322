"""Maps from single frames of a simulated ramp, beside peers on the same counts.

``python benchmarks/spectra/maps.py [--counts 6] [--frames 15]``

For each element: correlation, pixel by pixel, of a map of the last frame with the true mean of the
counts. Time is CPU time of one thread a frame. Peers, where scikit-learn is installed (`pip install
scikit-learn`): its NMF by coordinate descent, and by multiplicative updates with the
Kullback-Leibler loss, each on the last frame (eight components, NNDSVD start), components matched
to elements by their spectra; and the image of the strongest peak of each element.
"""

import argparse
import time
import warnings

import numpy as np

from pyrotome.analysis.spectra import DecomposeSettings, Decomposition, frame_of_events
from pyrotome.simulators.world.spectra.sodium_front import SodiumFront

ELEMENTS = ("B", "Na", "Cr", "Fe", "Mn", "Li")
PEAKS = {"B": 11, "Na": 23, "Cr": 52, "Fe": 56, "Mn": 55, "Li": 7}
AXIS = np.arange(1.0, 201.0)


def correlations(maps, true):
    return {
        name: np.corrcoef(maps[name].ravel(), true[name].ravel())[0, 1] if name in maps else np.nan
        for name in ELEMENTS
    }


def line(label, found, seconds):
    values = " ".join(f"{found[name]:6.2f}" for name in ELEMENTS)
    print(f"{label:44} {values}   {1e3 * seconds:7.0f} ms")


def ours(label, frames, true, settings):
    decomposition, spent = Decomposition(ELEMENTS, AXIS, settings), []
    for drawn in frames:
        began = time.thread_time()
        found = decomposition.feed(frame_of_events(drawn.counts, drawn.channels, len(AXIS)))
        spent.append(time.thread_time() - began)
    maps = {name: found.map_of(name) for name in ELEMENTS}
    line(label, correlations(maps, true), float(np.median(spent[1:] or spent)))


def matched(weights, spectra, specimen):
    """Each element takes the component whose spectrum is most like its own."""
    scaled = spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-12)
    maps = {}
    for name in ELEMENTS:
        own = specimen.spectra[specimen.names.index(name)]
        maps[name] = weights[:, int(np.argmax(scaled @ own))]
    return maps


def peers(frame, true, specimen):
    try:
        from scipy.sparse import csr_matrix
        from sklearn.decomposition import NMF
    except ImportError:
        print("scikit-learn is not installed: no peers")
        return
    counts = csr_matrix(
        (frame.number, frame.channel, frame.starts), shape=(len(frame.starts) - 1, 200)
    )
    for label, options in (
        ("scikit-learn NMF, coordinate descent", {"solver": "cd"}),
        ("scikit-learn NMF, Kullback-Leibler", {"solver": "mu", "beta_loss": "kullback-leibler"}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = NMF(8, init="nndsvda", max_iter=200, **options)
            began = time.process_time()
            weights = model.fit_transform(counts)
            spent = time.process_time() - began
        line(label, correlations(matched(weights, model.components_, specimen), true), spent)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", type=float, default=6.0, help="counts a pixel and frame")
    parser.add_argument("--frames", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    specimen = SodiumFront(given.seed, counts_per_pixel=given.counts)
    last = specimen.ramp.frame_at(330.0)
    frames = [specimen.draw(k) for k in range(last - given.frames + 1, last + 1)]
    mean = specimen.maps(last)
    true = {name: mean[specimen.names.index(name)] for name in ELEMENTS}
    print(f"{given.counts:g} counts a pixel, {len(frames[-1].channels)} events a frame")
    print(f"{'':44} " + " ".join(f"{name:>6}" for name in ELEMENTS))
    ours("warm-up (compiles)", frames[:2], true, None)
    ours("pyrotome, prior from the frames before", frames, true, None)
    ours("pyrotome, each frame by itself", frames, true, DecomposeSettings(weight=0.0))
    frame = frame_of_events(frames[-1].counts, frames[-1].channels, 200)
    dense = frame.dense()
    line(
        "strongest peak alone",
        correlations({name: dense[..., mass - 1] for name, mass in PEAKS.items()}, true),
        0.0,
    )
    peers(frame, true, specimen)


if __name__ == "__main__":
    main()
