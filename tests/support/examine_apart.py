"""Look into damaged files, one after another, each in a fork that may crash or hang."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
from pathlib import Path

from pydantic import ValidationError

from pyrotome.daemon.recording.examination import Examination, examine


def examine_apart(path: Path, limit_s: float = 20.0) -> Examination:
    """Look at a file in a fork of this process, which is quick; the file is not changed.

    For many files in a row; the process must have no other threads.

    Parameters
    ----------
    path : Path
        Any file.
    limit_s : float
        Longest time to look at it, whole seconds.

    Returns
    -------
    Examination
        A crash or a hang of the HDF5 library is its `problem`.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read_end)
            _limit(limit_s)
            try:
                found = examine(path)
            except OSError as error:
                found = Examination(problem=f"cannot be examined: {error}")
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(found.model_dump_json().encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        how = signal.Signals(os.WTERMSIG(status)).name
        return Examination(problem=f"is damaged beyond help: HDF5 crashed on it or hung ({how})")
    try:
        return Examination.model_validate_json(answer)
    except ValidationError:
        return Examination(problem=f"could not be examined: exit status {status >> 8}")


def _limit(limit_s: float) -> None:
    """Let this process die after a time, and by no core dump."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.disable()  # it would write past what is silenced below
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What HDF5 says of a damaged file is told by the parent.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
