"""The simulators' process: ``python -m pyrotome.simulators``, started by the daemon.

Reads a `SimulatorConfig` from standard input, announces the endpoints in one line on standard
output, and serves until standard input ends or SIGTERM comes. A further line there switches a
fault, as in ``detector:hang`` and ``detector:none``; it is answered by one line on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import suppress

from pydantic import ValidationError

from ..protocols.config.faults import parse_fault
from ..protocols.core.errors import BadInput
from ..protocols.messages.control import EXIT_BAD_INPUT, EXIT_DONE
from ..protocols.messages.parent_pipe import announce, fail, read_config, watch_parent
from ..protocols.messages.process import SimulatorConfig
from .simulation import running


async def _serve(config: SimulatorConfig, fill_frames: int) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    async with running(config, fill_frames) as simulation:
        announce(devices=simulation.devices)

        def parent_gone() -> None:
            # The loop may be closed already.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(over.set)

        def switch(line: str) -> None:
            line = line.strip()
            try:
                simulation.switch(parse_fault(line, "fault"))
            except BadInput as error:
                print(error, file=sys.stderr, flush=True)
            else:
                print(f"switched {line}", file=sys.stderr, flush=True)

        def on_line(line: str) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(switch, line)

        watch_parent(parent_gone, on_line)
        await over.wait()


def main() -> int:
    """Run the process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pyrotome.simulators", description=__doc__)
    parser.add_argument(
        "--fill",
        type=int,
        default=0,
        metavar="N",
        help="for benchmarks: the detector sends N ready-made frames in turn, at full rate",
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(read_config(SimulatorConfig), arguments.fill))
    except ValidationError as error:
        fail(f"not a simulator's configuration: {error.errors()[0]['msg']}")
        return EXIT_BAD_INPUT
    except BadInput as error:
        fail(str(error))
        return EXIT_BAD_INPUT
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
