"""What the daemon and its guardian process tell each other: lines of text and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXIT_ENDED, EXIT_ACTED, EXIT_UNCONFIRMED, EXIT_NOT_STARTED = 0, 10, 11, 12

HEARTBEAT = "\n"


def journal_line(journal: Path | None) -> str:
    """Line that names the journal of the run under way; None: no run is under way."""
    return json.dumps({"journal": None if journal is None else str(journal)}) + "\n"


def end_line(unsafe: bool) -> str:
    """Line that comes before the daemon's orderly end.

    Parameters
    ----------
    unsafe : bool
        Whether beam or heater have not confirmed: then the guardian goes on until they have.
    """
    return json.dumps({"unsafe" if unsafe else "end": True}) + "\n"


def parse_line(line: bytes) -> dict[str, Any]:
    """Content of a line of the daemon; empty for a heartbeat, and for a line that is damaged."""
    try:
        content: Any = json.loads(line or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
