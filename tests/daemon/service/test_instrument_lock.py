"""One daemon per instrument: a second one is refused, also from another process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pyrotome.daemon.service.instrument_lock import lock_instruments
from pyrotome.drivers.base import DeviceRefused
from pyrotome.protocols.config.rig import Rig, simulated_rig

ENDPOINTS = {
    "heater": "tcp://127.0.0.1:47001", "stage": "http://127.0.0.1:47002",
    "beam": "http://127.0.0.1:47002", "detector": "tcp://127.0.0.1:47003",
}  # fmt: skip
HOLDER = """
import sys
from pyrotome.daemon.service.instrument_lock import lock_instruments
from pyrotome.protocols.config.rig import Rig
with lock_instruments(Rig.model_validate_json(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def rig(**endpoints: str) -> Rig:
    body = simulated_rig().model_dump(by_alias=True)
    for role, endpoint in {**ENDPOINTS, **endpoints}.items():
        body[role]["endpoint"] = endpoint
    return Rig.model_validate(body)


def test_a_second_daemon_is_refused_until_the_first_has_ended() -> None:
    with lock_instruments(rig()):
        with (
            pytest.raises(DeviceRefused, match="heater: cannot use tcp:"),
            lock_instruments(rig()),
        ):
            pass
        with lock_instruments(rig(**dict.fromkeys(ENDPOINTS, "tcp://127.0.0.1:47009"))):
            pass
    with lock_instruments(rig()):
        pass


def test_ports_that_are_not_chosen_yet_are_not_locked() -> None:
    free: dict[str, Any] = dict.fromkeys(ENDPOINTS, "tcp://127.0.0.1:0")
    with lock_instruments(rig(**free)), lock_instruments(rig(**free)):
        pass


def test_the_lock_of_a_process_ends_with_it_however_it_dies() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, rig().model_dump_json(by_alias=True)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(DeviceRefused, match="another pyrotome daemon"), lock_instruments(rig()):
        pass
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with lock_instruments(rig()):
        pass
