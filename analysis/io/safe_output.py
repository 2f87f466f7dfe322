"""Safe output: a file appears complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...protocols.core.errors import BadInput


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name; it is renamed to `path` when the block ends.

    If the block raises, neither file remains.

    Parameters
    ----------
    path : Path
        The new file; it must not exist.

    Yields
    ------
    Path
        A temporary name in the same folder, without a file.

    Raises
    ------
    BadInput
        If `path` exists or cannot be created.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "table.csv"
    ...     with new_file(target) as partial:
    ...         _ = partial.write_text("a,b")
    ...     target.read_text()
    'a,b'
    """
    try:
        with path.open("xb"):
            pass
    except FileExistsError:
        raise BadInput(str(path), "already exists and is not overwritten") from None
    except FileNotFoundError:
        raise BadInput(str(path), f"the folder {path.parent} does not exist") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be created: {error.strerror}") from None
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


def check_table_or_plot(target: Path, what: str) -> None:
    """Refuse a target of an export that is neither a table nor a plot.

    Parameters
    ----------
    target : Path
        What ``--to`` names.
    what : str
        What ``--what`` names.

    Raises
    ------
    BadInput
        If it does not end in ``.csv`` or ``.png``.
    """
    if target.suffix.lower() not in (".csv", ".png"):
        problem = f"'{what}' is a table or a plot; name a .csv or a .png"
        raise BadInput("--to", f"{target}: {problem}")
