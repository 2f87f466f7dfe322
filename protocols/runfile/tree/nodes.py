"""What a run file is made of: groups, datasets and links, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DOSE_UNIT = "1/nm^2"
Storage = Literal["plain", "growing", "frames", "pictures"]


@dataclass(frozen=True)
class Group:
    """A group and its NeXus class."""

    path: str
    nx_class: str
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Dataset:
    """A dataset.

    `value` is what it holds from the start (text is written with variable length), and None
    where only `dtype`, `shape` and `fill` are known. `dtype` ``"S64"`` is UTF-8 text of at most
    64 bytes. `storage` is ``"growing"`` for an unlimited first axis, ``"frames"`` for one
    chunk per index of the first axis, compressed with bitshuffle and LZ4 (filter 32008), and
    ``"pictures"`` for the same with an unlimited first axis.
    """

    path: str
    value: Any = None
    dtype: str = ""
    shape: tuple[int, ...] = ()
    fill: Any = None
    storage: Storage = "plain"
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Link:
    """A second name (hard link) of a dataset."""

    path: str
    target: str


Node = Group | Dataset | Link


def epoch_ns(started_ns: int) -> int:
    """Zero of the times in a file: the start of the run, cut to the milliseconds of ``@start``."""
    return started_ns // 1_000_000 * 1_000_000
