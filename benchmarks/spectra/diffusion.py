"""D0 and Q from ramps with unknown drift and interface, over many seeds.

``python benchmarks/spectra/diffusion.py [--seeds 10] [--counts 6] [--source constant]``

Each seed is a ramp of the specimen `sodium-front` from 100 to 400 degC; the analysis sees events
and temperatures alone. Printed: errors of Q, D at 330 degC and D0 against the truth, the part of
seeds whose 95 % intervals hold it, rms of the front lengths, CPU time a frame. The peer is what the
paper does: front where the sodium peak has fallen to a threshold, in sums of seven frames, then a
curve fit (`scipy.optimize.curve_fit`) of L(T); drift and interface are told to it.
"""

import argparse
import time

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import curve_fit

from pyrotome.analysis.spectra import FrameTime, RampAnalysis, RampSettings, frame_of_events
from pyrotome.analysis.spectra.diffusion import Z95
from pyrotome.simulators.world.spectra.sodium_front import LAYERS, SodiumFront
from pyrotome.simulators.world.spectra.transport import Transport

ELEMENTS = ("B", "Na", "Cr", "Fe", "Mn", "Li")
AXIS = np.arange(1.0, 201.0)
FIRST_C, FROM_C, TO_C = 100.0, 260.0, 400.0
REFERENCE = np.array([330.0])


def ramp_of(specimen, law):
    settings = RampSettings(ELEMENTS, ("Cr", "Fe"), "Na", FROM_C, TO_C, specimen.pixel_um)
    ramp, spent, sodium = RampAnalysis(settings, AXIS), [], {}
    course = specimen.ramp
    for k in range(course.frame_at(FIRST_C), course.frame_at(TO_C)):
        drawn = specimen.draw(k)
        moments = specimen.time_s(k), specimen.time_s(k + 1)
        hot = [course.from_c + course.rate_k_per_s * moment for moment in moments]
        began = time.thread_time()
        frame = frame_of_events(drawn.counts, drawn.channels, 200)
        ramp.feed(frame, FrameTime(*moments, *hot))
        spent.append(time.thread_time() - began)
        if specimen.temperature_c(k) >= FROM_C:
            sodium[k] = frame.dense()[..., 22]
    began = time.thread_time()
    fit = ramp.fit(law)
    return ramp, fit, float(np.median(spent)), time.thread_time() - began, sodium


def of_peer(specimen, sodium):
    """Q and ln D(330 degC) by threshold and curve fit, with drift and interface told."""
    frames = sorted(sodium)
    interface = LAYERS[1] * specimen.pixels
    lengths, temperatures = [], []
    for start in range(0, len(frames) - 6, 7):
        some = frames[start : start + 7]
        rows = np.arange(specimen.pixels)
        profile = np.mean(
            [np.interp(rows, rows - specimen.drift_px(k)[0], sodium[k].sum(axis=1)) for k in some],
            axis=0,
        )
        profile = gaussian_filter1d(profile, 1.0)
        level = profile[int(interface) - 20 : int(interface) - 8].mean()
        below = np.flatnonzero(profile[int(interface) - 8 :] < 0.317 * level)
        lengths.append((below[0] + int(interface) - 8 - interface) * specimen.pixel_um)
        temperatures.append(specimen.temperature_c(some[3], interface))
    course = np.linspace(50.0, 400.0, 701)

    def model(temperature, log_d, activation):
        rt = 8.314462618 * (course + 273.15)
        d = np.exp(log_d - activation * (1 / rt - 1 / (8.314462618 * 603.15)))
        theta = np.concatenate([[0], np.cumsum(0.5 * (d[1:] + d[:-1]) * 0.5)])
        return np.sqrt(2 * np.interp(temperature, course, theta))

    values, _ = curve_fit(model, temperatures, lengths, (-6.0, 8e4), maxfev=20000)
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--counts", type=float, default=6.0)
    parser.add_argument("--source", default="constant", choices=["constant", "late", "depleting"])
    parser.add_argument("--truth", default="fick", choices=["fick", "paper"])
    parser.add_argument("--law", default="fick", choices=["fick", "fick-free-source", "paper"])
    given = parser.parse_args()
    transport = Transport(law=given.truth)
    true_q = transport.activation_j_per_mol
    true_d = np.log(transport.d_um2_per_s(REFERENCE)[0])
    true_d0 = np.log(transport.d0_um2_per_s)
    rows, fronts, frame_s, held, peers = [], [], [], [], []
    for seed in range(given.first, given.first + given.seeds):
        specimen = SodiumFront(seed, given.counts, transport, given.source)
        ramp, fit, spent, fitted_s, sodium = ramp_of(specimen, given.law)
        frame_s.append(spent)
        rows.append([fit.activation_j_per_mol / true_q - 1, fit.log_d_reference - true_d,
                     fit.log_d0 - true_d0])  # fmt: skip
        sds = np.array([fit.activation_sd / true_q, fit.log_d_reference_sd, fit.log_d0_sd])
        held.append(np.abs(rows[-1]) < Z95 * sds)
        _, length, _ = ramp.fronts()
        first = specimen.ramp.frame_at(FIRST_C)
        true = np.array([specimen.front_um(first + k) for k in ramp.followed_frames])
        fronts.append(np.sqrt(np.nanmean((length - true[:, None]) ** 2)))
        log_d, activation = of_peer(specimen, sodium)
        peers.append([activation / true_q - 1, log_d - true_d])
        print(f"seed {seed}: Q {100 * rows[-1][0]:+.2f} +- {100 * sds[0]:.2f} %, D(330) "
              f"{100 * rows[-1][1]:+.2f} +- {100 * sds[1]:.2f} %, D0 {100 * rows[-1][2]:+.0f} %, "
              f"front {1e3 * fronts[-1]:.1f} nm, misfit {fit.misfit:.2f}, fit {fitted_s:.2f} s",
              flush=True)  # fmt: skip
    rows, held = np.array(rows), np.array(held)
    print(f"\n{given.seeds} seeds, {given.counts:g} counts a pixel, source {given.source}, law "
          f"{given.law}: mean error and sd of single runs in %")  # fmt: skip
    for k, name in enumerate(("Q", "ln D(330)", "ln D0")):
        print(
            f"  {name:10} {100 * rows[:, k].mean():+.2f}, {100 * rows[:, k].std():.2f}, worst "
            f"{100 * np.abs(rows[:, k]).max():.2f}; interval holds {100 * held[:, k].mean():.0f} %"
        )
    print(
        f"  front rms {1e3 * np.median(fronts):.1f} nm; {1e3 * np.median(frame_s):.0f} ms a frame"
    )
    peers = np.array(peers)
    print(f"  peer (threshold, curve fit): Q {100 * peers[:, 0].mean():+.0f} %, ln D(330) "
          f"{100 * peers[:, 1].mean():+.0f} %")  # fmt: skip


if __name__ == "__main__":
    main()
