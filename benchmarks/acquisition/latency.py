"""How soon a result is there after its frame, in a full-size run at ``--speed 1``; and its memory.

``python benchmarks/acquisition/latency.py [--series N] [--keep FOLDER]``. The experiment of the
paper (1024 x 1024 pixels, 41 tilts, holds of 5 to 7 s) runs as a user would start it, with the
whole pipeline; a subscriber of the monitor stream notes when what was published. The memory is that
of the analysis process. `--series 18` is the whole experiment and takes half an hour.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import zmq

HOLDS_S = (5, 7, 5, 5, 5, 4, 5, 5, 5, 5, 10, 10, 10, 19, 20, 30, 59)
RECIPE = """\
title: Latency of a full-size run
sample: {{name: Cu NP-150 on SiN, elements: [Cu]}}
beam: {{voltage: 300 kV, current: 2 pA, dwell: 500 ns, frame: [1024, 1024], pixel_size: 1.04 nm}}
steps:
  - heat: {{to: 200 degC, rate: 100 degC/s, hold: 20 s}}
  - tilt_series: &tilts {{from: -40 deg, to: 40 deg, step: 2 deg}}
  - cycle:
      standby: 200 degC
      processing: 350 degC
      holds: [{holds}]
      then: [tilt_series: *tilts]
  - heat: {{to: 200 degC, hold: {tail} s}}
{analysis}"""
ANALYSIS = """\
analysis:
  - denoise: {method: fast, effort: quick}
  - align: {method: phase-correlation}
  - reconstruct: {method: tv, iterations: 300, binning: 4}
  - segment: {method: otsu}
  - measure: necks
"""


class Observer:
    """A remote monitor that notes every header and takes no pixels."""

    def __init__(self, endpoint):
        self.frames, self.results, self.rss = [], [], []
        socket = zmq.Context.instance().socket(zmq.SUB)
        socket.set(zmq.RCVHWM, 0)
        socket.connect(endpoint)
        socket.subscribe(b"preview/")
        socket.subscribe(b"result/")
        Thread(target=self._listen, args=(socket,), daemon=True).start()

    def _listen(self, socket):
        while True:
            topic, header, *_ = socket.recv_multipart(copy=False)
            kind = topic.bytes.split(b"/")[0]
            (self.results if kind == b"result" else self.frames).append(json.loads(header.bytes))

    def watch_memory(self, parent):
        """Note the memory of the analysis, and the largest it has been, once a second."""
        while parent.poll() is None:
            for child in psutil.Process(parent.pid).children(recursive=True):
                try:
                    if "pyrotome.analysis.online.worker" in child.cmdline():
                        self.rss.append((time.time_ns(), child.memory_info().rss))
                except psutil.Error:
                    pass
            time.sleep(1.0)


def quantiles(values_s):
    """Median, 95 % and largest of some seconds."""
    if not len(values_s):
        return "none"
    return (
        f"median {np.median(values_s):6.2f} s   95 % {np.percentile(values_s, 95):6.2f} s   "
        f"largest {np.max(values_s):6.2f} s   ({len(values_s)})"
    )


def run(series, folder, analysis, tail_s):
    """Run the experiment; the observer and what `inspect` says."""
    from pyrotome.protocols.config.rig import simulated_rig

    recipe, file = folder / "latency.yaml", folder / "latency.nxs"
    holds = ", ".join(f"{hold} s" for hold in HOLDS_S[: series - 1])
    recipe.write_text(RECIPE.format(holds=holds, analysis=analysis, tail=tail_s))
    endpoint = simulated_rig().streams.monitor
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            ["pyrotome", "run", str(recipe), "-o", str(file)], stdout=log, stderr=log
        )
        observer = Observer(endpoint)
        observer.watch_memory(process)
    if process.returncode:
        sys.exit((folder / "log.txt").read_text())
    inspected = subprocess.run(
        ["pyrotome", "inspect", str(file), "--json"], capture_output=True, check=True
    )
    return observer, json.loads(inspected.stdout)


def after(observer, name, last_s):
    """Seconds from the end of the last exposure of each series to the first result of a name."""
    first = {}
    for result in observer.results:
        if result["name"] == name and result["series"] in last_s:
            first.setdefault(result["series"], result["t_ns"] / 1e9 - last_s[result["series"]])
    return [first[key] for key in sorted(first)]


def report(observer, summary):
    """Print the figures."""
    end_s = {
        (f["series"], f["index"]): f["start_ns"] / 1e9 + f["exposure_s"] for f in observer.frames
    }
    starts = sorted(f["start_ns"] / 1e9 for f in observer.frames)
    denoised = {
        (r["series"], r["index"]): r["t_ns"] / 1e9
        for r in observer.results
        if r["name"] == "denoised"
    }
    waits = [denoised[key] - end_s[key] for key in denoised]
    begun, exposed = 0, 0
    for key, told_s in denoised.items():
        following = [s for s in starts if s > end_s[key]]
        begun += bool(following) and told_s > following[0]
        exposed += bool(following) and told_s > following[0] + observer.frames[0]["exposure_s"]
    print(f"frames: {len(end_s)}, every {np.median(np.diff(starts)):.2f} s")
    told = [r for r in observer.results if r["name"] == "denoised"]
    computed = np.median([r["elapsed_s"] for r in told]) if told else 0.0
    there = np.median([r["staleness_s"] for r in told]) if told else 0.0
    print(f"denoised after the exposure:      {quantiles(waits)}")
    if told:
        way = np.median(waits) - there
        print(
            f"  of it {way:.2f} s on the way, {there - computed:.2f} s waiting, {computed:.2f} s "
            "computing"
        )
    print(
        f"  later than the begin of the next exposure: {begun} of {len(waits)}, than its end: "
        f"{exposed}  (bound 0)"
    )
    last_s = {}
    for (series, _), at_s in end_s.items():
        last_s[series] = max(at_s, last_s.get(series, 0.0))
    for name, bound in (("preview", "2 s"), ("shifts", ""), ("volume", "60 s"), ("necks", "")):
        waits = after(observer, name, last_s)
        limit = f"  (bound {bound})" if bound else ""
        print(f"{name:9s} after the last exposure: {quantiles(waits)}{limit}")
    errors_ms = [abs(h["achieved_s"] - h["requested_s"]) * 1e3 for h in summary["holds"]]
    if errors_ms:
        print(
            f"holds off by: median {np.median(errors_ms):.2f} ms, "
            f"largest {np.max(errors_ms):.2f} ms ({len(errors_ms)})"
        )
    if observer.rss:
        sizes = np.array([size for _, size in observer.rss]) / 2**20
        print(f"memory of the analysis: at most {sizes.max():.0f} MiB", end="")
        peaks = []
        marks = [*sorted(last_s.values()), np.inf]
        for begin, end in pairwise(marks):
            here = [size for t, size in observer.rss if begin <= t / 1e9 < end]
            peaks.append(max(here, default=0) / 2**20)
        print(f"; after each series: {', '.join(f'{peak:.0f}' for peak in peaks)}")


def main():
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for recipe, log and run file")
    parser.add_argument("--bare", action="store_true", help="without analysis: its holds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        observer, summary = run(given.series, folder, "" if given.bare else ANALYSIS, 1)
        report(observer, summary)


if __name__ == "__main__":
    main()
