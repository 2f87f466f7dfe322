"""A journal as bytes, as a run writes it line by line."""

from __future__ import annotations

from collections.abc import Iterable

from pyrotome.protocols.messages.journal import Noted, line_of


def lines_of(entries: Iterable[Noted]) -> bytes:
    """Lines of some entries, with their ends."""
    return b"".join(line_of(noted.t_ns, noted.entry) for noted in entries)
