"""Every benchmark, one after the other: ``python -m benchmarks`` or ``make bench``.

Those that go on for as long as one likes are run in a short form; by themselves they take longer.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = (
    ("acquisition",),
    ("detectors",),
    ("ingest",),
    ("regulation",),
    ("safe",),
    ("sustained", "--minutes", "1"),
    ("soak", "--hours", "2", "--speed", "120"),
    ("denoising",),
    ("recording",),
    ("rendering",),
    ("tomography",),
    ("alignment",),
    ("necks",),
    ("latency",),
)

failed: list[str] = []
for name, *arguments in BENCHMARKS:
    print(f"\n== {' '.join((name, *arguments))}", flush=True)
    if subprocess.run([sys.executable, HERE / f"{name}.py", *arguments], check=False).returncode:
        failed.append(name)
if failed:
    sys.exit(f"not as they should be: {', '.join(failed)}")
