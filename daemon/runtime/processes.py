"""Start the processes of the daemon, and notice when one dies."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from ...protocols.messages.parent_pipe import dump_config

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0


class ChildFailed(Exception):
    """A process could not start.

    Attributes
    ----------
    status : int or None
        Its exit status.
    refused : bool
        Whether it gave a reason, which is the message; otherwise it died or was silent.
    """

    def __init__(self, message: str, status: int | None = None, refused: bool = False) -> None:
        super().__init__(message)
        self.status, self.refused = status, refused


class Child:
    """A child process, started with a configuration and watched until it ends.

    It has a session of its own, so that Ctrl-C in the terminal reaches the daemon alone. It takes
    the end of its standard input for the daemon's death.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, ready: dict[str, Any]):
        self.name, self.process, self.ready = name, process, ready
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    @classmethod
    async def start(cls, name: str, module: str, config: BaseModel, *arguments: str) -> Child:
        """Start ``python -m module`` and wait for its ready line.

        Raises
        ------
        ChildFailed
            With the reason that the process gives.
        """
        child = await cls.spawn(name, module, *arguments)
        await child.begin(config)
        return child

    @classmethod
    async def spawn(
        cls, name: str, module: str, *arguments: str, pass_fds: Sequence[int] = ()
    ) -> Child:
        """Start ``python -m module``, which imports its modules and waits for `begin`.

        Parameters
        ----------
        name, module, *arguments : str
            The process: its name in messages, its module and arguments.
        pass_fds : sequence of int
            File descriptors that it inherits.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        return cls(name, process, {})

    async def begin(self, config: BaseModel) -> None:
        """Send the configuration and wait for the ready line; the process is stopped on failure.

        Raises
        ------
        ChildFailed
            With the reason that the process gives.
        """
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(dump_config(config).encode())
            await process.stdin.drain()
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
            self.ready = json.loads(line or "{}")
        except (TimeoutError, ValueError, ConnectionError) as error:
            await self.stop()
            raise ChildFailed(f"the {self.name} did not start: {error!r}") from None
        except BaseException:
            await self.stop()
            raise
        if not line or "error" in self.ready:
            await self.stop()
            reason = self.ready.get("error", f"exit status {process.returncode}")
            text = f"the {self.name} did not start: {reason}"
            raise ChildFailed(text, process.returncode, refused="error" in self.ready)

    @property
    def input_fileno(self) -> int:
        """File descriptor of this process's end of the child's standard input."""
        assert self.process.stdin is not None
        return int(self.process.stdin.transport.get_extra_info("pipe").fileno())

    def on_death(self, callback: Callable[[str, int], None]) -> None:
        """Call `callback` with name and exit status if the process ends before `stop`."""

        async def watch() -> None:
            status = await self.process.wait()
            if not self._stopping:
                callback(self.name, status)

        self._watch = asyncio.create_task(watch(), name=f"watch {self.name}")

    async def stop(self) -> None:
        """Close its standard input, wait, and terminate or kill it if it does not end."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        process = self.process
        if process.stdin is not None:
            process.stdin.close()
        for end in (lambda: None, process.terminate, process.kill):
            if process.returncode is not None:
                break
            try:
                end()
                # Not wait_for: on Python 3.11 it can swallow a cancellation.
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                continue
            except ProcessLookupError:
                break
