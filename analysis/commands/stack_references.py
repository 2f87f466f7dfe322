"""Dark and flat frames of an imported series, as the correction of counts takes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...protocols.core.errors import BadInput
from ...protocols.runfile.reader import Stack

if TYPE_CHECKING:
    from ..detector.references import References


def references_of(stacks: Iterable[Stack]) -> list[References]:
    """Dark frame and sensitivity of the detector, as far as an imported series came with them.

    Parameters
    ----------
    stacks : iterable of Stack
        Of one run.

    Returns
    -------
    list of References
        One, of the first stack that has some; else none.

    Raises
    ------
    BadInput
        If they cannot be used.
    """
    from ..detector.references import References

    for stack in stacks:
        kept = stack.references
        if kept is None:
            continue
        gain = kept.flat
        if kept.flat is not None and kept.dark is not None:
            gain = kept.flat - kept.dark
        try:
            return [References(kept.dark, gain)]
        except ValueError as error:
            where = f"{stack.name}/references"
            problem = f"cannot be used: {error}; delete that group, or import the series without"
            raise BadInput(where, problem) from None
    return []
