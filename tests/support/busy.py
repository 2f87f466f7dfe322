"""Run a command while other processes keep two cores busy: ``python busy.py COMMAND ...``.

They end with this process, however it ends. The exit code is that of the command.
"""

from __future__ import annotations

import os
import subprocess
import sys

CORES = 2


def burn(parent: int) -> None:
    """Compute until the parent is gone."""
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass


def main() -> int:
    """Start the burners and the command; returns the command's exit code."""
    if sys.argv[1:2] == ["--burn"]:
        burn(int(sys.argv[2]))
        return 0
    if len(sys.argv) < 2:
        print("usage: busy.py COMMAND ...", file=sys.stderr)
        return 2
    burner = [sys.executable, __file__, "--burn", str(os.getpid())]
    burners = [subprocess.Popen(burner) for _ in range(CORES)]
    try:
        return subprocess.run(sys.argv[1:], check=False).returncode
    finally:
        for process in burners:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
