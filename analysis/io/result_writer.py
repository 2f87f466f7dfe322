"""Results of offline processing: collected in a separate file, added to the run file at the end."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from ...protocols.config.pipeline import ResultPlan
from ...protocols.messages.manifest import StackPlan
from ...protocols.runfile import layout
from ...protocols.runfile import nexus as nexus_tree
from ...protocols.storage.transaction import edited

# Bytes that must stay free on the disk: HDF5 does not recover cleanly from a failed write.
_RESERVE_BYTES = 32 << 20
_TIME_ATTRS = ("units", "start", "start_ns")


class ResultScratch:
    """A separate file for results, until they are complete and go into the run file.

    Parameters
    ----------
    path : Path
        The separate file; it must not exist.
    results : sequence of ResultPlan
        The planned results.
    """

    def __init__(self, path: Path, results: Sequence[ResultPlan]) -> None:
        self._plans = {result.name: result for result in results}
        self.parameters: dict[str, dict[str, str | int | float]] = {}
        self._written: set[str] = set()
        self._file: Any = h5py.File(path, "x", libver=nexus_tree.LIBVER)
        for node in layout.processes("", StackPlan(
            name="s", kind="series", frames=0, tilt_deg=(), results=tuple(results)
        )):  # fmt: skip
            if isinstance(node, layout.Dataset) and node.path.endswith("/data"):
                name = node.path.split("/")[-2]
                nexus_tree.add_node(self._file, _moved(node, f"/{name}"))

    def put(
        self,
        name: str,
        index: int | None,
        data: NDArray[Any],
        parameters: Mapping[str, str | int | float],
    ) -> None:
        """Store a result, or one frame of a per-frame result.

        Parameters
        ----------
        name : str
            Name of the planned result.
        index : int or None
            Index of the frame, for per-frame results.
        data : ndarray
            In the planned shape.
        parameters : mapping
            Settings and figures, kept for results of a whole stack.

        Raises
        ------
        ValueError
            If the shape differs from the plan.
        """
        plan, target = self._plans[name], self._file[name]
        shape = plan.shape[1:] if plan.per_frame else plan.shape
        if data.shape != shape:
            raise ValueError(f"result '{name}' has the shape {data.shape}; {shape} is planned")
        self._written.add(name)
        if plan.per_frame:
            target[index] = data
        else:
            target[...] = data
            self.parameters[name] = dict(parameters)

    def names(self) -> list[str]:
        """Names of the results of which at least a part is stored."""
        return [name for name in self._plans if name in self._written]

    def stored_bytes(self) -> int:
        """Size of the stored results in bytes, compressed."""
        return sum(self._file[name].id.get_storage_size() for name in self._plans)

    def copy_chunks(self, name: str, target: Any) -> None:
        """Copy the compressed chunks of a result into a dataset of the same layout."""
        if not self._plans[name].shape:
            target[()] = self._file[name][()]
            return
        source = self._file[name].id
        for number in range(source.get_num_chunks()):
            offset = source.get_chunk_info(number).chunk_offset
            mask, raw = source.read_direct_chunk(offset)
            target.id.write_direct_chunk(offset, raw, mask)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _moved(node: layout.Dataset, path: str) -> layout.Dataset:
    return layout.Dataset(
        path, node.value, node.dtype, node.shape, node.fill, node.storage, node.attrs
    )


def add_results(
    path: Path,
    software: str,
    stack: StackPlan,
    scratch: ResultScratch,
    date: str,
    notes: Iterable[str],
) -> None:
    """Add the results of one image stack to a run file.

    If the process is killed, the file has either none or all of the new results.

    Parameters
    ----------
    path : Path
        The run file.
    software : str
        Program and version.
    stack : StackPlan
        The image stack with its planned results; their process numbers must be unused.
    scratch : ResultScratch
        The results; planned results without data are left out.
    date : str
        Date of the processing, ISO 8601.
    notes : iterable of str
        Notices of the processing, ``level: message``, stored with every process; warnings and
        errors also among the events of the run.

    Raises
    ------
    OSError
        If the disk has too little space; the file is not changed.
    """
    made = set(scratch.names())
    plan = stack.model_copy(update={"results": tuple(r for r in stack.results if r.name in made)})
    needed = scratch.stored_bytes() + _RESERVE_BYTES
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(f"{path}: the results need {needed >> 20} MiB; free space on this disk")
    told = list(notes)
    lines = "\n".join(told)
    with edited(path, appending=True) as file:
        for node in layout.processes(software, plan):
            nexus_tree.add_node(file, node)
        for result in plan.results:
            process = layout.process_path(stack.name, result.process)
            scratch.copy_chunks(result.name, file[f"{layout.result_path(stack.name, result)}/data"])
            file[f"{process}/date"][()] = date.encode()
            known = file[f"{process}/parameters"]
            for name, value in scratch.parameters.get(result.name, {}).items():
                if name not in known:
                    known[name] = value
            if lines and "notes" not in file[process]:
                note = f"{process}/notes"
                nexus_tree.add_node(file, layout.Group(note, "NXnote"))
                nexus_tree.add_node(file, layout.Dataset(f"{note}/type", "text/plain"))
                nexus_tree.add_node(file, layout.Dataset(f"{note}/data", lines))
        _add_events(file, stack.name, told)


def _add_events(file: Any, stack: str, notes: Sequence[str]) -> None:
    """Add warnings and errors (``level: message``) to the events of the run, at this time."""
    rows = [note.partition(": ") for note in notes]
    rows = [(level, text) for level, _, text in rows if level in ("warning", "error")]
    times = f"/{stack}/{layout.TIME_COLUMN.path}"
    if not rows or times not in file:
        return
    start_ns = int(file[times].attrs["start_ns"])
    for node in layout.events({name: file[times].attrs[name] for name in _TIME_ATTRS}):
        if node.path not in file:
            nexus_tree.add_node(file, node)
    now_s = (time.time_ns() - start_ns) * 1e-9
    for level, text in rows:
        header = {"level": level, "source": "analysis", "message": text}
        row: dict[str, Any] = {
            name: layout.fit_text(value, layout.EVENT_TEXT[name])
            for name, value in (header | {"json": json.dumps(header, ensure_ascii=False)}).items()
        }
        for name, value in (row | {"time": now_s}).items():
            column = file[f"{layout.EVENTS}/{name}"]
            column.resize((column.shape[0] + 1,))
            column[-1] = value
