"""Fuzzing led by coverage, where atheris is installed (extra ``fuzz``): a process a target.

libFuzzer ends its process when it has found something or its time is up, so that each target runs
in one of its own: ``python tests/fuzz/led.py TARGET SECONDS``.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LED = ("recipe", "rig", "quantity", "journal", "control", "link", "stream messages")


class Absent(Exception):
    """Atheris is not installed."""


def fuzz_led(seconds: int) -> list[Any]:
    """Each target for so many seconds.

    Raises
    ------
    Absent
        If atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (extra 'fuzz'): nothing is led by coverage")
        raise Absent
    campaign = sys.modules["campaign"]
    counts: list[Any] = []
    for name in LED:
        done = subprocess.run(
            [sys.executable, str(HERE / "led.py"), name, str(seconds)],
            capture_output=True, text=True, check=False, timeout=seconds + 120,
        )  # fmt: skip
        count = campaign.Count(f"{name} (atheris)")
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

    spec = importlib.util.spec_from_file_location("campaign", HERE / "campaign.py")
    assert spec is not None
    assert spec.loader is not None
    campaign = importlib.util.module_from_spec(spec)
    sys.modules["campaign"] = campaign
    with atheris.instrument_imports(include=["pyrotome.protocols"]):
        spec.loader.exec_module(campaign)
        wire = campaign.load("fuzz_of_wires", HERE.parent / "protocols" / "test_fuzz.py")
    name, seconds = sys.argv[1], int(sys.argv[2])
    if name in campaign.TARGETS:
        target = campaign.TARGETS[name]
        seeds, refuses = target.seeds, target.refuses

        def take(raw: bytes) -> None:
            target.take(raw)
    else:
        import random

        decoder, rng = wire.DECODERS[name], random.Random(1)
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
