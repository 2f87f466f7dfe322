"""Fuzzing led by coverage, where atheris is installed (extra ``fuzz``): a process a target.

libFuzzer ends its process when it has found something or its time is up, so that each target runs
in one of its own: ``python tests/trust/fuzz/fuzz_led.py TARGET SECONDS``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz_count import Count

LED = ("recipe", "rig", "quantity", "journal", "control", "link", "stream messages")


class Absent(Exception):
    """Atheris is not installed."""


def fuzz_led(seconds: int) -> list[Count]:
    """Each target for so many seconds.

    Raises
    ------
    Absent
        If atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (extra 'fuzz'): nothing is led by coverage")
        raise Absent
    counts: list[Count] = []
    for name in LED:
        done = subprocess.run(
            [sys.executable, __file__, name, str(seconds)],
            capture_output=True, text=True, check=False, timeout=seconds + 120,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        count = Count(f"{name} (atheris)")
        runs = re.findall(r"Done (\d+) runs|stat::number_of_executed_units: (\d+)", done.stderr)
        numbers = [int(n) for pair in runs for n in pair if n]
        if numbers:
            count.inputs = max(numbers)
        if done.returncode != 0 or not numbers:
            count.findings.append(f"exit {done.returncode}: {done.stderr[-1500:]}")
        counts.append(count)
    return counts


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["pyrotome.protocols"]):
        import campaign
        import wire_samples
    name, seconds = sys.argv[1], int(sys.argv[2])
    if name in campaign.TARGETS:
        target = campaign.TARGETS[name]
        seeds, refuses = target.seeds, target.refuses

        def take(raw: bytes) -> None:
            target.take(raw)
    else:
        import random

        decoder, rng = wire_samples.DECODERS[name], random.Random(1)
        seeds, refuses = [b"\x1f".join(parts) for parts in decoder.seeds], decoder.refuses

        def take(raw: bytes) -> None:
            decoder.take(raw.split(b"\x1f"), rng)

    def one(raw: bytes) -> None:
        try:
            take(raw)
        except refuses:
            return

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup(
            [sys.argv[0], f"-max_total_time={seconds}", "-timeout=20", "-print_final_stats=1",
             "-rss_limit_mb=4096", f"-artifact_prefix={corpus}/", corpus],
            one,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()
