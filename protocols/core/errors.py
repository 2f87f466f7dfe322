"""Errors that several folders share: bad input from a person, bad messages from a wire."""

from __future__ import annotations


class BadInput(ValueError):
    """Input from a person (recipe, rig, argument) that cannot be used; exit code 2.

    Parameters
    ----------
    where : str
        File, line and path inside it, as far as they are known.
    problem : str
        What is wrong and what would be right.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where, self.problem = where, problem


class Misplaced(ValueError):
    """A problem at a place below what a validator was given.

    Parameters
    ----------
    problem : str
        What is wrong and what would be right.
    place : str or int
        Keys and positions that lead there.
    """

    def __init__(self, problem: str, *place: str | int) -> None:
        super().__init__(problem)
        self.place = place


class BadMessage(ValueError):
    """Bytes, text or JSON that are not a message of the wire on which they came."""
