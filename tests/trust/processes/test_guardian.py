"""How the guardian measures that the daemon does not respond, on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pyrotome.daemon.safety.guardian.heartbeat import CpuUsage

BUSY = "while True: pass"
ASLEEP = "import time; time.sleep(1000)"


@pytest.mark.parametrize(("program", "stop"), [(BUSY, True), (ASLEEP, False), (BUSY, False)])
def test_silence_of_a_process_that_could_run_counts(program: str, stop: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        time.sleep(0.3)
        if stop:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.1)
        usage = CpuUsage(process.pid)
        counted_s = 0.0
        end = time.monotonic() + 30.0
        # A busy one counts for as long as it runs, which on a busy computer is less than always.
        while counted_s < 0.5:
            assert time.monotonic() < end
            time.sleep(0.1)
            counted_s += usage.usable_s(0.1)
    finally:
        process.kill()
        process.wait()


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    course = [(1.0, 5.0, "S"), (1.0, 5.0, "R"), (1.01, 5.0, "R"), (1.02, 5.3, "S"), (1.1, 5.3, "S")]
    looks = iter(course)
    monkeypatch.setattr(CpuUsage, "_read", lambda _: next(looks))
    usage = CpuUsage(1)
    counted = [usage.usable_s(0.2) for _ in course[1:]]
    assert counted == pytest.approx([0.0, 0.01, 0.0, 0.2])


def test_without_proc_everything_counts() -> None:
    assert CpuUsage(2**31 - 1).usable_s(0.1) == 0.1
