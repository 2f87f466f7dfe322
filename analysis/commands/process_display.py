"""What a person sees while a run file is processed: bars for what is done, and notices."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from ..core.outputs import Progress


class ProcessWatcher:
    """Is called while a run file is processed; this base class shows nothing."""

    def notice(self, level: str, message: str) -> None:
        """Something that the operator should know; level ``info``, ``warning`` or ``error``."""

    def frame_done(self, name: str, frames: int) -> None:
        """One more of the `frames` frames of an image stack is through the pipeline."""

    def progress(self, name: str, progress: Progress) -> None:
        """How far a long step of an image stack is."""

    def stack_done(self, name: str) -> None:
        """The results of an image stack are in the file."""


class ProgressDisplay(ProcessWatcher):
    """Bars on standard error: frames of each stack, the step at work, notices above them."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[reached]}"),
            TimeElapsedColumn(),
        )  # fmt: skip
        self.bars = Bars(*columns, console=self._console)
        self._frames: dict[str, tuple[TaskID, int]] = {}
        self._step_bar: TaskID | None = None
        self._step = ""

    def notice(self, level: str, message: str) -> None:
        """Print it above the bars."""
        colour = {"error": "red", "warning": "yellow"}.get(level, "default")
        self._console.print(
            f"[{colour}]{level}[/]", escape(message), soft_wrap=True, highlight=False
        )

    def frame_done(self, name: str, frames: int) -> None:
        """Advance the bar of the stack."""
        if name not in self._frames:
            bar = self.bars.add_task(f"{name} frames", total=frames, reached="")
            self._frames[name] = (bar, 0)
        bar, count = self._frames[name]
        self._frames[name] = (bar, count + 1)
        self.bars.update(bar, completed=count + 1, reached=f"{count + 1}/{frames}")

    def progress(self, name: str, progress: Progress) -> None:
        """Show the step that is at work."""
        text = f"{name} {progress.what}"
        if self._step_bar is None or self._step != text:
            self.stack_done(name)
            self._step_bar, self._step = self.bars.add_task(text, total=1.0, reached=""), text
        fraction = min(max(progress.fraction, 0.0), 1.0)
        self.bars.update(self._step_bar, completed=fraction, reached=f"{fraction:.0%}")

    def stack_done(self, name: str) -> None:
        """Take the bar of the last step away."""
        if self._step_bar is not None:
            self.bars.remove_task(self._step_bar)
        self._step_bar = None
