"""The step ``correct``: what the detector did to the counts is taken out before anything else."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ...protocols.steps import (
    Frame,
    Notice,
    Output,
    Parameters,
    ResultSpec,
    Series,
    SeriesContext,
    StackInfo,
    Step,
    StepSettings,
)

if TYPE_CHECKING:
    from ..detector.correction import Corrected, CountCorrection
    from ..detector.references import References

_KINDS = ("series", "reference", "ramp")
# So many bad pixels are told one by one.
_TOLD = 8
# More hits than this in a pixel and frame are a reason to look at the detector; and more pixels
# left out than this share.
_HITS_EXPECTED, _FEWEST_HITS = 2e-5, 2
_SHARE_EXPECTED = 0.2


class CorrectSettings(StepSettings):
    """What is taken out of the counts. ``correct: off`` leaves them as they came.

    `pedestal` is the value of a pixel that no electron hits: found, given, or ``off``. `dark`,
    `gain` and `mask` are files (.npy, .npz, .mrc, .tif) in the shape of a frame; in the mask
    everything but 0 is left out.
    """

    enabled: bool = True
    pedestal: float | Literal["auto", "off"] = "auto"
    bad_pixels: bool = True
    hits: bool = True
    dark: Annotated[str, Field(min_length=1)] | None = None
    gain: Annotated[str, Field(min_length=1)] | None = None
    mask: Annotated[str, Field(min_length=1)] | None = None

    @property
    def files(self) -> dict[str, str]:
        """The references that are named: key to path."""
        named = {"dark": self.dark, "gain": self.gain, "mask": self.mask}
        return {key: name for key, name in named.items() if name is not None}

    @model_validator(mode="before")
    @classmethod
    def _off_is_enough(cls, value: object) -> object:
        if isinstance(value, bool):
            return {"enabled": value}
        if value in ("off", "on"):
            return {"enabled": value == "on"}
        if isinstance(value, dict) and value.get("pedestal") is False:
            return {**value, "pedestal": "off"}
        return value


@dataclass(frozen=True)
class KnownBadPixels:
    """Codes of the pixels that an earlier stack has found to be bad, shape (rows, columns)."""

    codes: NDArray[np.uint8]


class CorrectStep(Step[CorrectSettings]):
    """Take out pedestal, dark and gain, bad pixels, gaps and single hits, frame by frame.

    Gives ``mask``, which says for each pixel of a frame why it was left out (0 used, 1 marked by
    the detector, 2 hot, 3 dead or stuck, 4 in a gap or dead line, 5 without dark or gain), and
    ``outliers``, the number of hits that were replaced in each frame. The recorded frames stay as
    they are. Of dark frames it gives ``dark_mean``, the dark reference of the stacks that follow
    unless the settings name a file.
    """

    name = "correct"
    summary = "pedestal, dark and gain, bad pixels and hits of the detector; on by default"
    Settings: ClassVar = CorrectSettings
    takes_gaps = True
    _correction: CountCorrection | None = None
    _hits = 0
    _highest = float("-inf")
    _frames_with_hits = 0

    def __init__(self, settings: CorrectSettings, stack: StackInfo, context: SeriesContext) -> None:
        super().__init__(settings, stack, context)
        self._order: list[int] = []
        self._dark_sum: NDArray[np.float64] | None = None
        self._dark_frames = 0

    @classmethod
    def outputs(cls, settings: CorrectSettings) -> tuple[ResultSpec, ...]:
        """Declare the mask of a stack, and the hits of each frame."""
        if not settings.enabled:
            return ()
        return (
            ResultSpec("mask", ("frame_y", "frame_x"), "uint8", stacks=_KINDS),
            ResultSpec("outliers", ("frame",), "float64", per="frame", stacks=_KINDS),
            ResultSpec("dark_mean", ("frame_y", "frame_x"), "float32", stacks=("dark",)),
        )

    @classmethod
    def check(cls, settings: CorrectSettings, shape: tuple[int, int]) -> None:
        """Read the references that the settings name."""
        for key, name in settings.files.items():
            from ..detector.references import read_reference

            found = read_reference(Path(name).expanduser()).shape
            if found != shape:
                raise ValueError(
                    f"{key}: {name} has {found[0]} x {found[1]} pixels; the frames have "
                    f"{shape[0]} x {shape[1]}"
                )

    @classmethod
    def rehearsal(cls, settings: CorrectSettings) -> CorrectSettings:
        """Return the settings without files: the tiny series has another shape."""
        return settings.model_copy(update={"dark": None, "gain": None, "mask": None})

    def frame(self, frame: Frame) -> Iterator[Output]:
        """Correct a frame; a blank one stays as it is. Dark frames are added up."""
        if self.stack.kind == "dark":
            total = frame.recorded.astype(np.float64)
            self._dark_sum = total if self._dark_sum is None else self._dark_sum + total
            self._dark_frames += 1
            return
        if frame.dark:
            return
        correction = self._correction
        if correction is None:
            correction = yield from self._begin()
            self._correction = correction
        found = len(correction.bad_pixels)
        made = correction.correct(frame.recorded)
        self._order.append(frame.index)
        frame.image = frame.recorded = made.image
        frame.mask = made.mask
        if made.mask is not None and not made.image.min() < made.image.max():
            frame.dark = True
        yield from self._tell_pixels(correction, found)
        yield from self._tell_doubt(made, frame.index)
        self._note_hits(made)
        yield self.result("outliers", float(made.hits))

    def _begin(self) -> Generator[Output, None, CountCorrection]:
        """Make the correction of this stack, with the references and bad pixels that are known."""
        from ..detector.correction import CountCorrection, Wanted
        from ..detector.references import References

        settings, shape = self.settings, self.stack.frame_shape
        pedestal = {"auto": None, "off": 0.0}.get(str(settings.pedestal), settings.pedestal)
        wanted = Wanted(
            None if pedestal is None else float(pedestal),
            settings.bad_pixels,
            settings.hits,
            self.stack.marked_value,
        )
        before = self.context.get(KnownBadPixels)
        known = before.codes if before is not None and before.codes.shape == shape else None
        references = self.context.get(References) or References()
        try:
            return CountCorrection(shape, self._with_files(references), wanted, known)
        except ValueError as error:
            text = f"{self.stack.name} is corrected without dark, gain and mask: {error}"
            yield Notice("error", text)
            return CountCorrection(shape, References(), wanted, known)

    def _with_files(self, references: References) -> References:
        """References of the run, those that the settings name in their place."""
        from ..detector.references import References, read_reference

        dark, gain, mask = (
            None if name is None else read_reference(Path(name).expanduser())
            for name in (self.settings.dark, self.settings.gain, self.settings.mask)
        )
        return References(
            references.dark if dark is None else dark,
            references.gain if gain is None else gain,
            references.mask if mask is None else mask != 0,
        )

    def _tell_pixels(self, correction: CountCorrection, already: int) -> Iterator[Output]:
        """Say which pixels have turned out to be bad since."""
        for pixel in correction.bad_pixels[already:_TOLD]:
            kind = "stands out of its neighbours" if pixel.code == 2 else "is dead or stuck"
            yield Notice(
                "warning",
                f"{self.stack.name}: pixel (row {pixel.row}, column {pixel.column}) {kind}: "
                f"{pixel.value:g} where they show {pixel.around:.4g}, seen in {pixel.after} "
                "frames; it is left out",
            )

    def _tell_doubt(self, made: Corrected, index: int) -> Iterator[Output]:
        if made.doubtful:
            yield Notice(
                "warning",
                f"{self.stack.name} frame {index}: more than 1 % of the pixels stand out of their "
                "neighbours; none is replaced (wrong pixel type or byte order?)",
            )

    def _note_hits(self, made: Corrected) -> None:
        if made.hits:
            self._hits += made.hits
            self._frames_with_hits += 1
            self._highest = max(self._highest, made.highest)

    def after_frames(self) -> Iterator[Output]:
        """Give the mask, and say what is more than expected; of dark frames give the mean."""
        if self._dark_sum is not None:
            yield self._dark_reference(self._dark_sum)
        correction = self._correction
        if correction is None:
            return
        codes = correction.conclude()
        self.context.put(KnownBadPixels(codes))
        yield from self._warnings(correction, codes)
        counts = np.bincount(codes.ravel(), minlength=6)
        levels = correction.levels
        more: Parameters = {
            "pedestal_counts": correction.pedestal,
            "gain_counts_per_electron": levels.gain if levels is not None else 0.0,
            "pixels_marked": int(counts[1]),
            "pixels_hot": int(counts[2]),
            "pixels_dead_or_stuck": int(counts[3]),
            "pixels_in_lines": int(counts[4]),
            "pixels_without_reference": int(counts[5]),
            "values_missing": correction.values_missing,
            "hits_replaced": self._hits,
            "frames_with_hits": self._frames_with_hits,
        }
        yield self.result("mask", codes, more)

    def _dark_reference(self, total: NDArray[np.float64]) -> Output:
        """Make the mean of these dark frames the dark reference of the stacks that follow."""
        from ..detector.references import References

        mean = (total / self._dark_frames).astype(np.float32)
        known = self.context.get(References) or References()
        if known.shape not in (None, mean.shape):
            known = References()
        self.context.put(replace(known, dark=mean))
        self._dark_sum = None
        return self.result("dark_mean", mean, {"dark_frames": self._dark_frames})

    def _warnings(self, correction: CountCorrection, codes: NDArray[np.uint8]) -> Iterator[Output]:
        from ..detector.gaps import lines_in_words

        name, frames = self.stack.name, correction.frames
        untold = len(correction.bad_pixels) - _TOLD
        if untold > 0:
            yield Notice("warning", f"{name}: {untold} more pixels are hot, dead or stuck")
        lines = lines_in_words(codes == 4)
        if lines:
            text = f"{name}: {lines} left out: one value only (gap between chips, dead line?)"
            yield Notice("warning", text)
        missing = correction.values_missing
        if missing:
            yield Notice(
                "warning",
                f"{name}: NaN or the detector's mark (too many counts?) stands in {missing} "
                f"place{'s' if missing > 1 else ''} that measure{'' if missing > 1 else 's'} in "
                "other frames; filled from the pixels around",
            )
        share = float((codes > 0).mean())
        if share > _SHARE_EXPECTED:
            yield Notice("warning", f"{name}: {share:.1%} of the pixels are left out")
        if self._hits > max(_FEWEST_HITS, _HITS_EXPECTED * codes.size * frames):
            yield Notice(
                "warning",
                f"{name}: {self._hits} hits in {self._frames_with_hits} of {frames} frames were "
                f"replaced (X-rays, cosmic rays?), the highest {self._highest:.6g}; see the result "
                "'outliers'",
            )

    def series(self, series: Series) -> Iterator[Output]:
        """Leave bad pixels out of the views that came before they were found."""
        from ..detector.late_pixels import late_masks, leave_out

        correction, self._correction = self._correction, None
        if correction is None or not correction.bad_pixels or not series.images.size:
            return iter(())
        late = late_masks(
            correction.bad_pixels, self._order, self.stack.view_of_frame, self.stack.frame_shape
        )
        if late and series.weights is None:
            series.weights = np.ones(series.images.shape, np.float32)
        for number, view in enumerate(series.view_indices):
            if view in late and series.weights is not None:
                weights = series.weights[number]
                leave_out(series.images[number], weights, late[view], self.stack.binning)
                if series.recorded is not None:
                    leave_out(series.recorded[number], weights, late[view], self.stack.binning)
        return iter(())
