"""A small file that is replaced in one step: readers see the old text or the new one, whole."""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file, in place of one that is there.

    Parameters
    ----------
    path : Path
        The file.
    text : str
        What it holds afterwards.
    durable : bool
        Whether the text is on the disk, not just in the system's memory, before it takes the place.

    Raises
    ------
    OSError
        If it cannot be written; what was there stays.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "state.json"
    ...     replace_text(path, "1")
    ...     replace_text(path, "2")
    ...     path.read_text(), len(list(Path(folder).iterdir()))
    ('2', 1)
    """
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
