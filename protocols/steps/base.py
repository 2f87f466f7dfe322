"""The base class of analysis steps, and what the pipeline hands to a step.

The module is light: the daemon imports the classes of all steps to check recipes and to plan the
file. A step imports numba, scipy and the like inside its generators only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from ..core.documents import Strict
from .images import Frame, Series, View
from .outputs import Output, Parameters, Result
from .results import ResultSpec, StackKind

# Inputs that the pipeline itself gives: images of a series, one for each tilt angle.
VIEWS = "views"
# The same without any change to the frames, for steps that measure in what was recorded.
RECORDED_VIEWS = "recorded_views"
# The counts of the single frames of each view, for steps that merge them or count electrons.
SINGLE_FRAMES = "single_frames"
PROVIDED = (VIEWS, RECORDED_VIEWS, SINGLE_FRAMES)

# Frames whose nominal angles differ by less are one view, exposed several times.
_SAME_VIEW_DEG = 1e-6
S = TypeVar("S", bound="StepSettings")
T = TypeVar("T")


def view_key(angle_deg: float) -> int:
    """Key of a nominal angle; the same for frames of one view."""
    return round(angle_deg / _SAME_VIEW_DEG)


class StepSettings(Strict):
    """Base of the settings of a step; unknown keys are refused. A step may have none."""


class SeriesContext:
    """What the series of a run leave for the series that follow: one object of each class."""

    def __init__(self) -> None:
        self._objects: dict[type[Any], Any] = {}

    def get(self, kind: type[T]) -> T | None:
        """Return the object of this class, or None if no step has put one."""
        return self._objects.get(kind)

    def put(self, value: object) -> None:
        """Keep an object in place of that of the same class."""
        self._objects[type(value)] = value


@dataclass
class Online:
    """In the context of the steps while a run goes on, when somebody watches what they publish.

    Attributes
    ----------
    waiting : callable
        Tells how many views and series wait for their turn.
    """

    waiting: Callable[[], int] = field(default=lambda: 0)


@dataclass(frozen=True)
class StackInfo:
    """The stack of frames that a step works on.

    Attributes
    ----------
    name : str
        Such as ``series_001``.
    kind : str
        ``series``, ``reference`` or ``ramp``.
    tilt_deg : tuple of float
        Nominal angle of each frame.
    views : int
        Number of different angles.
    frame_shape : tuple of int
        Rows and columns of a frame.
    frame_pixel_nm : float
        Sampling of a frame.
    binning : int
        Binning of the images of the series.
    shapes : mapping
        Shape of each result that is declared for this stack.
    marked_value : float or None
        Value by which the detector marks a pixel that it did not measure (saturated, masked), less
        the offset of the file; None where it marks none.
    tilt_axis_deg : float or None
        Direction of the tilt axis as the rig or the imported file tells it.
    """

    name: str
    kind: StackKind
    tilt_deg: tuple[float, ...]
    views: int
    frame_shape: tuple[int, int]
    frame_pixel_nm: float
    binning: int = 1
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    marked_value: float | None = None
    tilt_axis_deg: float | None = None

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.tilt_deg)

    @property
    def view_of_frame(self) -> tuple[int, ...]:
        """Place of each frame's view among the different angles, in the order of their frames."""
        places: dict[int, int] = {}
        keys = (view_key(angle) for angle in self.tilt_deg)
        return tuple(places.setdefault(key, len(places)) for key in keys)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of a binned image."""
        rows, columns = (max(1, side // self.binning) for side in self.frame_shape)
        return rows, columns

    @property
    def pixel_nm(self) -> float:
        """Sampling of a binned image, and side of a voxel."""
        return self.frame_pixel_nm * self.binning


class Step(Generic[S]):
    """One step of the analysis, for one stack of frames.

    A subclass declares what it takes and gives, and overrides the generators that it needs. Each
    generator yields `Result` (made by :meth:`result`), `Notice` and `Progress`, in small pieces:
    between two pieces, frames that have arrived are treated first.

    `frame` runs as soon as a frame is there, in the thread of frames; the other generators run in
    the thread of series, one after another. The frames of a view come before the view, and all
    views before the series.

    Parameters
    ----------
    settings : StepSettings
        From the recipe.
    stack : StackInfo
        The frames.
    context : SeriesContext
        Shared by all stacks of the run.

    Attributes
    ----------
    name : str
        Key of the step in a recipe.
    summary : str
        One line for ``pyrotome steps``.
    Settings : type of StepSettings
        Model of the settings.
    inputs : tuple of str
        Results of other steps, `VIEWS`, `RECORDED_VIEWS` or `SINGLE_FRAMES`, without which the step
        cannot work; where that depends on the settings, it overrides `needs`.
    after : tuple of str
        Results that must come first where the pipeline gives them.
    takes_gaps : bool
        Whether `frame` takes frames with NaN and leaves them finite. Other frames with NaN are left
        out of the analysis.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    Settings: ClassVar[type[StepSettings]] = StepSettings
    inputs: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()
    takes_gaps: ClassVar[bool] = False

    def __init__(self, settings: S, stack: StackInfo, context: SeriesContext) -> None:
        self.settings = settings
        self.stack = stack
        self.context = context

    @classmethod
    def outputs(cls, settings: S) -> tuple[ResultSpec, ...]:
        """Declare every result that the step gives with these settings."""
        del settings
        return ()

    @classmethod
    def needs(cls, settings: S) -> tuple[str, ...]:
        """Return the inputs that the step needs with these settings: `inputs` as a rule."""
        del settings
        return cls.inputs

    @classmethod
    def binning(cls, settings: S) -> int | None:
        """Binning of the images of a series that the step wants; None if any will do.

        At most one step of a pipeline decides it.
        """
        del settings
        return None

    @classmethod
    def fewest_reference_frames(cls, settings: S) -> int:
        """Reference frames that a recipe must take for this step; 0 for none."""
        del settings
        return 0

    @classmethod
    def check(cls, settings: S, shape: tuple[int, int]) -> None:
        """Check before a run what a model of the settings alone cannot, such as files they name.

        Parameters
        ----------
        settings : StepSettings
            From the recipe.
        shape : tuple of int
            Rows and columns of a frame.

        Raises
        ------
        ValueError
            If the step could not work so, with the reason.
        """
        del settings, shape

    @classmethod
    def rehearsal(cls, settings: S) -> S | None:
        """Return quick settings to try the step on a tiny series before the first frame.

        So imports and compilation do not delay the first frame. None leaves the step out.
        """
        del settings
        return None

    def warm_up(self) -> None:
        """Import or compile what the rehearsal does not reach."""

    def frame(self, frame: Frame) -> Iterator[Output]:
        """Treat one frame at once."""
        del frame
        return iter(())

    def after_frames(self) -> Iterator[Output]:
        """Conclude the frames of the stack, at once: what the frames of later stacks depend on."""
        return iter(())

    def view(self, view: View) -> Iterator[Output]:
        """Treat one view while the series is still being acquired."""
        del view
        return iter(())

    def after_views(self) -> Iterator[Output]:
        """Publish what the views have given, before any step treats the whole series."""
        return iter(())

    def series(self, series: Series) -> Iterator[Output]:
        """Treat the whole series."""
        del series
        return iter(())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the full shape of a declared result."""
        return self.stack.shapes[name]

    def result(self, name: str, data: Any, parameters: Parameters | None = None) -> Result:
        """Make a result to yield; the pipeline adds frame index, settings and elapsed time.

        Parameters
        ----------
        name : str
            As declared.
        data : ndarray or float
            Of the declared shape and dtype. A table may have fewer rows. For a result per frame:
            that of this frame.
        parameters : dict, optional
            Figures that describe it, recorded beside the settings of the step.
        """
        return Result(name, self.stack.name, data, parameters=parameters or {})
