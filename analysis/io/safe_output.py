"""Write a file as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...protocols.core.errors import BadInput


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Name under which to write a file that appears at `path` when it is whole, or not at all.

    Parameters
    ----------
    path : Path
        Where nothing may be.

    Yields
    ------
    Path
        A name in the same folder; nothing is there yet.

    Raises
    ------
    BadInput
        If there is something at `path`, or nothing can be made there.
    """
    try:
        with path.open("xb"):
            pass
    except FileExistsError:
        raise BadInput(str(path), "is already there and is not overwritten") from None
    except FileNotFoundError:
        raise BadInput(str(path), f"there is no folder {path.parent}") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be made: {error.strerror}") from None
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    done = False
    try:
        partial.unlink(missing_ok=True)
        yield partial
        partial.replace(path)
        done = True
    finally:
        if not done:
            partial.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
