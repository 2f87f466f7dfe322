"""The model of the motion alone, without pictures: how well focus is known, over many columns.

``python benchmarks/tracking/model_lane.py [--seeds 24]``. Columns with the errors of `column.py`
(bulge of 8 nm/K as simulated) over 18 series; each offset is measured to 0.7 nm, nothing is drawn:
half a second a column. It compares when the stage lifts the specimen to the tilt axis: the focus
was found at the height before the move, and what is not known of that then stays.

- ``after 3 frames``: as soon as the height is larger than twice its own doubt, as it was once.
- ``known to 100 nm``: the product's rule for specimens that the beam shift can follow until then.
- ``between series``: after the first series.
"""

import argparse

import numpy as np
from column import HOLDS_S, RISE_K, TILTS, Column, Errors, outwards

from pyrotome.analysis.motion.motion import Motion
from pyrotome.analysis.motion.prediction import height_over_axis, predict

RULES = {"after 3 frames": 1e9, "known to 100 nm": 100.0, "between series": 0.0}
MOVE_ERROR_NM, WITHIN_DEG, MEASURED_NM, LATER = 200.0, 25.0, 0.7, 3


def lift(motion, column):
    asked = -height_over_axis(motion)[0]
    column.move_z(asked)
    motion.move_stage((0.0, 0.0, asked), (0.0, 0.0, MOVE_ERROR_NM))


def follow(seed, known_nm, errors):
    """Rows of (series, focus error, its sd, offset y, x) of every frame."""
    column, rng = Column(errors, np.random.default_rng([seed, 0xC0])), np.random.default_rng(seed)
    motion, rows, lifted = Motion(), [], False
    for series in range(len(HOLDS_S) + 1):
        if series:
            column.hold(HOLDS_S[series - 1])
            motion.advance(column.time_s)
            motion.hold(RISE_K)
        for index, tilt in enumerate(list(TILTS) if series else outwards()):
            if series or index:
                column.tilt_to(tilt)
            motion.advance(column.time_s)
            found = predict(motion, [tilt], [column.time_s])
            shift = found.shift_nm[0]
            offset, focus = column.offset(shift), column.defocus(found.defocus_nm[0])
            motion.tilt_to(tilt)
            if not rows:
                motion.measure((0.0, 0.0), (0.3, 0.3), (0.0, 0.0))
                motion.focus_here()
                offset, focus = np.zeros(2), 0.0
            else:
                seen = offset + MEASURED_NM * rng.standard_normal(2)
                motion.measure(tuple(seen), (MEASURED_NM, MEASURED_NM), tuple(shift))
            rows.append((series, focus, found.defocus_sd_nm[0], *offset))
            height_nm, sd_nm = height_over_axis(motion)
            due = index >= 2 and tilt <= WITHIN_DEG and abs(height_nm) > max(300.0, 2.0 * sd_nm)
            if not lifted and due and sd_nm < known_nm:
                lift(motion, column)
                lifted = True
        if not lifted:
            lift(motion, column)
            lifted = True
    return np.array(rows)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=24)
    given = parser.parse_args()
    errors = Errors(bulge_nm_per_k=8.0)
    for name, known_nm in RULES.items():
        runs = np.array([follow(seed, known_nm, errors) for seed in range(given.seeds)])
        later = runs[:, runs[0, :, 0] >= LATER]
        each = [rms(run[:, 1]) for run in later]
        honest = np.mean(np.abs(later[..., 1] / later[..., 2]) < 2)
        print(
            f"{name:16s} focus from series 4 on {rms(later[..., 1]):4.0f} nm rms (columns "
            f"{min(each):.0f} to {max(each):.0f}, median {np.median(each):.0f}), |z| < 2 in "
            f"{100 * honest:.1f} %; offset {rms(later[..., 3:]):.1f} nm"
        )


if __name__ == "__main__":
    main()
