"""After how many frames a jump of the focus is told, and how often sharp frames are called blurred.

``python benchmarks/tracking/sharpness.py [--seeds 3] [--convergence 1.2]``. Frames of 1024 x 1024
at the paper's dose (5.77 e/nm^2, 1.04 nm) of 36 copper particles, drawn out of focus as the
simulators do; each is 54 nm off its place and 150 nm out of focus (rms), as in a tracked run. A
series of 41 sharp frames comes first; in the one after it the focus jumps at the 10th of 20 frames.
The focus series afterwards is three pictures of half the side at a quarter of the dwell time.

The peer is the sharpness that autofocus routines use, the normalised variance of the Laplacian of
the binned frame (Sun et al., Microsc. Res. Tech. 65, 139, 2004), with the same rule: the mean of
the latest frames 4.5 standard deviations off, where those of the sharp series are known.
"""

import argparse

import numpy as np

from pyrotome.analysis.sharpness import FocusView, SharpnessWatch, best_focus, spectrum_of
from pyrotome.analysis.sharpness.spectrum import fine_counts
from pyrotome.protocols.messages.tracking_expectation import depth_of_focus_nm
from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import as_thickness, draw_counts, thickness_nm
from pyrotome.simulators.world.image.defocus import out_of_focus

PIXELS, PIXEL_NM, DOSE = 1024, 1.04, 5.77
FIRST, SECOND = np.arange(-40.0, 41.0, 2.0), np.arange(-20.0, 20.0, 2.0)
JUMP_AT, WINDOWS, CERTAIN = 10, (1, 2, 3, 5, 8), 4.5
JUMPS_UM = (0.0, 1.0, 2.0, 3.0, 5.0)


class Column:
    def __init__(self, seed, convergence_mrad):
        self.rng, self.convergence = np.random.default_rng(seed), convergence_mrad
        self.specimen = Sintering(36, seed)

    def draw(self, heated_s, tilt, away_nm, points=PIXELS, dose=DOSE, offset=None):
        offset = self.rng.normal(0, 54, 2) if offset is None else offset
        seen = as_thickness(
            thickness_nm(
                self.specimen.truth(heated_s), (points, points), PIXEL_NM, tilt,
                (float(offset[0]), float(offset[1])),
            )
        )  # fmt: skip
        seen = out_of_focus(seen, away_nm, self.convergence, PIXEL_NM)
        electrons = np.full(points, dose * PIXEL_NM**2, np.float32)
        return draw_counts(seen, electrons, self.rng)


def laplacian(frame):
    counts, _ = fine_counts(frame)
    c = counts.astype(np.float64)
    found = 4 * c[1:-1, 1:-1] - c[:-2, 1:-1] - c[2:, 1:-1] - c[1:-1, :-2] - c[1:-1, 2:]
    return found.var() / c.mean() ** 2


def delay(column, jump_nm, depth_nm):
    """Frames until the jump is told (watch, peer), false alarms (watch, peer)."""
    watch = SharpnessWatch(column.convergence * 1e-3 * depth_nm)
    sharp, values = [], []
    told, false = [None, None], [0, 0]
    for series, tilts in enumerate((FIRST, SECOND)):
        for k, tilt in enumerate(tilts):
            jumped = series == 1 and k >= JUMP_AT and jump_nm > 0
            away = column.rng.normal(0, 150) + jump_nm * jumped
            frame = column.draw(5.0 * series, tilt, away)
            counts, binning = fine_counts(frame)
            found = watch.look(spectrum_of(counts, PIXEL_NM * binning), str(series), float(tilt))
            alarms = [found is not None and found.begins]
            value = laplacian(frame)
            if series == 0:
                sharp.append(value)
                alarms.append(False)
            else:
                values.append(value)
                mean, sd = np.mean(sharp), np.std(sharp)
                alarms.append(
                    any(
                        len(values) >= n and mean - np.mean(values[-n:]) > CERTAIN * sd / np.sqrt(n)
                        for n in WINDOWS
                    )
                )
            for who, alarm in enumerate(alarms):
                if alarm and not jumped:
                    false[who] += 1
                elif alarm and told[who] is None:
                    told[who] = k - JUMP_AT + 1
    return told, false


def focus_error(column, true_nm):
    """Error of a focus series in its own sd, and that sd."""
    step = 6.0 / (column.convergence * 1e-3)
    views = []
    for at in (-step, 0.0, step):
        pixels = column.draw(5.0, 10.0, true_nm - at, PIXELS // 2, DOSE / 4, (260.0, 0.0))
        counts, binning = fine_counts(pixels)
        views.append(FocusView(spectrum_of(counts, PIXEL_NM * binning), at))
    return best_focus(views, column.convergence), true_nm


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--convergence", type=float, default=1.2, help="half angle in mrad")
    given = parser.parse_args()
    depth_nm, false = depth_of_focus_nm(300.0, given.convergence), np.zeros(2, int)
    print(f"{given.convergence:g} mrad, depth of focus +-{depth_nm:.0f} nm; frames until told")
    for jump in JUMPS_UM:
        columns = [Column(seed, given.convergence) for seed in range(1, given.seeds + 1)]
        found = [delay(column, 1e3 * jump, depth_nm) for column in columns]
        false += np.sum([alarms for _, alarms in found], axis=0)
        if jump:
            ours, peer = zip(*(told for told, _ in found), strict=True)
            blur = 2e-3 * given.convergence * 1e3 * jump
            print(f"  {jump:g} um (blur {blur:.1f} nm): {ours}; variance of the Laplacian: {peer}")
    frames = given.seeds * (len(JUMPS_UM) * (len(FIRST) + JUMP_AT) + JUMP_AT)
    print(f"sharp frames called blurred: {false[0]} of {frames}; Laplacian {false[1]}")
    fits = []
    for seed in range(1, 2 * given.seeds + 1):
        column = Column(seed, given.convergence)
        fits.append(focus_error(column, column.rng.uniform(-3, 3) / given.convergence * 1e3))
    good = [(fit, true) for fit, true in fits if not fit.doubt]
    if not good:
        raise SystemExit("not as it should be: no focus series could be used")
    errors = np.array([fit.defocus_nm - true for fit, true in good])
    told = np.array([fit.sd_nm for fit, _ in good])
    rms = np.sqrt(np.mean(errors**2))
    print(
        f"focus series: {len(good)} of {len(fits)} used, error {rms:.0f} nm rms, told "
        f"{np.mean(told):.0f}; largest {np.abs(errors / told).max():.1f} sd"
    )
    if false[0]:
        raise SystemExit("not as it should be: sharp frames were called blurred")


if __name__ == "__main__":
    main()
