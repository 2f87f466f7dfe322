"""Every benchmark, one after the other: ``python -m benchmarks`` or ``make bench``."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent

for name in (
    "acquisition",
    "detectors",
    "ingest",
    "regulation",
    "safe",
    "denoising",
    "recording",
    "rendering",
    "tomography",
    "alignment",
    "necks",
    "latency",
):
    print(f"\n== {name}", flush=True)
    sys.argv = [name]
    runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
