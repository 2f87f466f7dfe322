"""The command line: it starts light, and every error has an exit code and a message."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pyrotome.daemon.cli.app import app, exit_code_and_message
from pyrotome.daemon.runtime.processes import ChildFailed
from pyrotome.drivers.base import DeviceLost
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.control import BadRequest

HEAVY = {"numpy", "scipy", "numba", "h5py", "zmq", "aiohttp", "pint", "matplotlib", "skimage"}
HELP = """
import sys
from pyrotome.daemon.cli.app import main
sys.argv = ["pyrotome", *sys.argv[1:]]
try:
    main()
finally:
    print(*{name.partition(".")[0] for name in sys.modules})
"""
COMMANDS = [
    "run", "calibrate", "check", "serve", "simulate", "drivers", "steps", "submit", "status",
    "pause", "resume", "abort", "safe", "clear", "lease", "watch", "inspect", "recover", "import",
    "process", "atoms", "structure", "spectra", "calibrate-pixel", "export",
]  # fmt: skip


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP, "--help"], capture_output=True, text=True, check=True
    )
    *help_lines, modules = done.stdout.splitlines()
    assert not HEAVY & set(modules.split())
    listed = {line.split()[1] for line in help_lines if line.startswith("│ ")}
    assert {*COMMANDS, "keys"} <= listed


def test_every_command_says_an_example_in_its_help() -> None:
    found = {c.name or c.callback.__name__: c for c in app.registered_commands if c.callback}
    assert sorted(found) == sorted(COMMANDS)
    for name, command in found.items():
        assert f"`pyrotome {name}" in (command.epilog or ""), name


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BadInput("a.yaml", "no such file"), 2, "a.yaml: no such file"),
        (BadRequest("no verb"), 2, "no verb"),
        (DeviceLost("heater", "to stop", "no answer"), 3, "heater: "),
        (ChildFailed("the recorder did not start"), 1, "the recorder did not start"),
        (
            OSError(28, "No space left on device", "run.nxs"),
            1,
            "No space left on device: 'run.nxs'",
        ),
        (TimeoutError(), 1, "unexpected TimeoutError"),
        (ZeroDivisionError("division"), 1, "run again with --debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_error_has_its_exit_code(error: BaseException, code: int, message: str) -> None:
    found, text = exit_code_and_message(error)
    assert found == code
    assert message in text
