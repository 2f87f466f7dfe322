"""The base class of analysis steps, and what the pipeline hands to a step.

The module is light: the daemon imports the classes of all steps to check recipes and to plan the
file. A step imports numba, scipy and the like inside its generators only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.documents import Strict
from .outputs import Output, Parameters, Result
from .results import ResultSpec, StackKind

# Inputs that the pipeline itself gives: images of a series, one for each tilt angle.
VIEWS = "views"
# The same without any change to the frames, for steps that measure in what was recorded.
RECORDED_VIEWS = "recorded_views"
PROVIDED = (VIEWS, RECORDED_VIEWS)

Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Pair = tuple[float, float]
Mask = NDArray[np.bool_]
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


@dataclass
class Frame:
    """One frame on its way through the steps.

    Attributes
    ----------
    index : int
        In its stack, from 0.
    image : ndarray
        Float32, shape (rows, columns), as the steps before have left it. A step that assigns
        another image of this shape changes it for the steps that follow and for the series.
    recorded : ndarray
        The frame as recorded, in counts, without the detector's offset. The step ``correct`` takes
        pedestal, bad pixels and hits out of it; no other step changes it.
    tilt_deg : float or None
        Angle read back from the stage.
    dark : bool
        Whether every pixel has the same value; the series is analysed without such a frame.
    usable : bool
        A step sets it to False, and yields a Notice, where the frame must not be used any further.
    mask : ndarray or None
        True where a pixel was not measured, or not believed, and `image` holds a value made of its
        neighbours, shape (rows, columns); None where all were measured. The step ``correct`` sets
        it.
    """

    index: int
    image: Floats
    recorded: Floats
    tilt_deg: float | None = None
    dark: bool = False
    usable: bool = True
    mask: Mask | None = None


@dataclass
class View:
    """The mean of all frames of one tilt angle, binned.

    Attributes
    ----------
    index : int
        Among the different angles of the series, from 0.
    image : ndarray
        Float32, shape (rows, columns). A step may assign another for the steps that follow.
    tilt_deg : float
        Mean of the angles read back.
    usable : bool
        A step sets it to False, and yields a Notice, to keep the view from the steps that follow.
        The whole series is analysed with the view as it came.
    weights : ndarray or None
        Share of each binned pixel that was measured, 0 to 1, float32, shape (rows, columns); None
        where all are 1. The step ``align`` gives 0 to pixels that the field did not reach.
    offset_nm : tuple of float or None
        Where the specimen was in the view (y, x), positive towards higher rows and columns, if
        that was measured by now; `offset_sd_nm` is its standard deviation.
    """

    index: int
    image: Floats
    tilt_deg: float
    usable: bool = True
    weights: Floats | None = None
    offset_nm: Pair | None = None
    offset_sd_nm: Pair | None = None


@dataclass
class Series:
    """A whole tilt series, as the steps before have left it.

    Attributes
    ----------
    images : ndarray
        Float32, shape (views, rows, columns), binned; a step may assign others of this shape.
        Without views (see `Step.inputs`) there are none of them.
    recorded : ndarray or None
        As `images`, without any change to the frames; only where a step takes `RECORDED_VIEWS`.
    tilt_deg : ndarray
        Shape (views,), the angles read back.
    view_indices : tuple of int
        Place of each image among the angles of the series: those that never came are missing.
    results : dict
        Results of the steps before that are named as inputs of any step.
    displacement_px : tuple of float
        How far (y, z, x), in voxels, the specimen lies now from where the single views showed it.
    weights : ndarray or None
        Share of each binned pixel that was measured, 0 to 1, float32, shape as `images`; None where
        all are 1. A step that moves the images moves them alike.
    offsets_nm, offsets_sd_nm : ndarray or None
        As of each `View`, shape (views, 2), NaN where unknown; None where none is known.
    """

    images: Floats
    tilt_deg: NDArray[np.float64]
    view_indices: tuple[int, ...]
    recorded: Floats | None = None
    results: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    displacement_px: tuple[float, float, float] = (0.0, 0.0, 0.0)
    weights: Floats | None = None
    offsets_nm: Floats64 | None = None
    offsets_sd_nm: Floats64 | None = None


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
        Results of other steps, `VIEWS` or `RECORDED_VIEWS`, without which the step cannot work.
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
