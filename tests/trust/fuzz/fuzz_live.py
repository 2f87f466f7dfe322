"""Bytes of all kinds to the control and monitor ports of a live daemon: nothing may ever start.

The daemon is in this process, on a simulated microscope beside it whose own log is the witness.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from fuzz_count import Count
from microscope import Microscope
from wire_samples import mutated

from pyrotome.daemon.control.server import ControlServer
from pyrotome.daemon.service.startup import DaemonOptions, running_daemon
from pyrotome.protocols.config.rig import load_rig

# Whole requests that are valid are left out, but for those that change nothing.
SEEDS = (
    b'{"verb": "status", "id": "a"}',
    b'{"verb": "latest", "topics": ["telemetry/"]}',
    b'{"verb": "pause"}',
    b'{"verb": "resume", "token": "none"}',
    b'{"verb": "submit", "recipe": "steps: []", "name": "r.yaml", "output": null}',
    b'{"verb": "submit", "recipe": "title: x\\nbeam: {}", "id": "7", "sent_ns": 1}',
)
AT_A_TIME = 16


def fuzz_live(count: int, seed: int) -> Count:
    """So many requests over real sockets, every eighth of them as bare TCP bytes."""
    return asyncio.run(_fuzz_live(count, seed))


async def _fuzz_live(count: int, seed: int) -> Count:
    found, rng = Count("live control"), random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        microscope = Microscope(folder)
        try:
            rig, text = load_rig(microscope.write_rig())
            async with running_daemon(rig, text, DaemonOptions(fall_back_ports=True)) as daemon:
                control = ControlServer(daemon, "tcp://127.0.0.1:*")
                try:
                    microscope.mark()
                    ports = (control.endpoint, daemon.publisher.endpoint)
                    with zmq.asyncio.Context() as context:
                        await _requests(found, control.endpoint, ports, context, rng, count)
                    await _still_answers(found, control.endpoint)
                    state = daemon.status()["state"]
                    if state != "idle" or daemon.experiment is not None:
                        found.findings.append(f"the daemon is {state}")
                    log = microscope.log()
                    for event in [*log.of("heater"), *log.of("beam"), *log.of("exposure")]:
                        found.findings.append(f"the microscope has moved: {event}")
                finally:
                    await control.close()
        finally:
            microscope.close()
    return found


async def _requests(
    found: Count, endpoint: str, ports: tuple[str, ...], context: Any,
    rng: random.Random, count: int,
) -> None:  # fmt: skip
    """Send mutations, some at a time, and count the refusals."""
    with context.socket(zmq.DEALER) as link:
        link.set(zmq.LINGER, 0)
        link.connect(endpoint)
        while found.inputs < count:
            sent = 0
            began_s = time.monotonic()
            for _ in range(AT_A_TIME):
                raw = SEEDS[int(rng.random() * len(SEEDS))]
                raw = mutated(raw, SEEDS[int(rng.random() * len(SEEDS))], rng)
                found.inputs += 1
                if found.inputs % 8 == 0:
                    await asyncio.to_thread(_bare, ports[found.inputs % 2], raw)
                    found.more["as bare TCP"] += 1
                else:
                    await link.send_multipart([raw] if rng.random() < 0.5 else [b"", raw])
                    sent += 1
            for _ in range(sent):
                try:
                    answer = json.loads((await asyncio.wait_for(link.recv_multipart(), 2.0))[-1])
                except TimeoutError:
                    # Rates are bounded: what comes too fast is refused or lost, never queued.
                    found.more["unanswered"] += 1
                    break
                found.refused += not answer["ok"]
            took_s = (time.monotonic() - began_s) / AT_A_TIME
            found.slowest_s = max(found.slowest_s, took_s)


def _bare(endpoint: str, raw: bytes) -> None:
    host, port = endpoint.removeprefix("tcp://").split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5) as link:
        link.sendall(raw)


async def _still_answers(found: Count, endpoint: str) -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.REQ) as link:
        link.set(zmq.LINGER, 0)
        link.set(zmq.REQ_RELAXED, 1)
        link.connect(endpoint)
        for _ in range(20):
            await link.send(b'{"verb": "status"}')
            with contextlib.suppress(TimeoutError):
                if json.loads(await asyncio.wait_for(link.recv(), 2.0))["ok"]:
                    return
            await asyncio.sleep(0.5)
    found.findings.append("the control socket does not answer any more")
