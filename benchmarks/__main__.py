"""Every benchmark, one after the other: ``python -m benchmarks`` or ``make bench``.

Those that go on for as long as one likes are run in a short form; by themselves they take longer.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = (
    ("acquisition/acquisition",),
    ("instruments/detectors",),
    ("acquisition/ingest",),
    ("acquisition/journal",),
    ("instruments/regulation",),
    ("acquisition/safe",),
    ("acquisition/adaptive_holds", "--seeds", "4"),
    ("acquisition/sustained", "--minutes", "1"),
    ("acquisition/soak", "--hours", "2", "--speed", "120"),
    ("analysis/detector", "--quick"),
    ("analysis/denoising",),
    ("acquisition/recording",),
    ("instruments/rendering",),
    ("analysis/tomography",),
    ("analysis/alignment",),
    ("analysis/necks",),
    ("analysis/wandering", "--quick", "--seeds", "1", "2", "3"),
    ("tracking/fast_lane", "--seeds", "2"),
    ("tracking/frame_cost",),
    ("tracking/sharpness", "--seeds", "1"),
    ("tracking/model_lane", "--seeds", "12"),
    ("tracking/through_wires", "--series", "4"),
    ("tracking/necks", "--seeds", "1"),
    ("atoms/reconstruction",),
    ("atoms/multislice", "--repeats", "1"),
    ("atoms/particle", "--atoms", "3000"),
    ("spectra/maps",),
    ("spectra/diffusion", "--seeds", "2"),
    ("structure/structure", "--draws", "4"),
    ("acquisition/latency",),
)

failed: list[str] = []
for name, *arguments in BENCHMARKS:
    print(f"\n== {' '.join((name, *arguments))}", flush=True)
    if subprocess.run([sys.executable, HERE / f"{name}.py", *arguments], check=False).returncode:
        failed.append(name)
if failed:
    sys.exit(f"not as they should be: {', '.join(failed)}")
