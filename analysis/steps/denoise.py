"""The step ``denoise``: remove the noise of each frame, by settings that reference frames chose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ...protocols.steps import Frame, Notice, Output, ResultSpec, Step, StepSettings
from ...protocols.steps.tables import MAX_TRIALS, TRIAL_COLUMNS
from ..core.noise import FEWEST_REFERENCES, Effort, NoiseType

if TYPE_CHECKING:
    from ..denoise.reference_frames import ReferenceFrames


class DenoiseSettings(StepSettings):
    """Settings of the denoiser. `variance` is on the scale where the frame's maximum is 255.

    With noise "auto" both are chosen by the reference frames of the run. Effort "quick" keeps up
    with frames of 1024 x 1024 a second on two cores.
    """

    method: Literal["bm3d", "fast"] = "fast"
    noise: NoiseType | Literal["auto"] = "white"
    variance: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    effort: Effort = "full"

    @model_validator(mode="after")
    def _chosen_together(self) -> DenoiseSettings:
        if self.noise == "auto" and self.variance != "auto":
            raise ValueError(
                "noise 'auto' is chosen together with the variance; leave 'variance' out, or name "
                "the noise"
            )
        if self.effort != "full" and self.method != "fast":
            raise ValueError(f"effort '{self.effort}' is known to the method 'fast' only")
        return self


class DenoiseStep(Step[DenoiseSettings]):
    """Remove the noise of each frame; with noise "auto", choose the settings by reference frames.

    Gives ``denoised`` (frames as the steps after it see them), and for reference frames that the
    settings are chosen by ``tuning``, the table of all settings that were tried.
    """

    name = "denoise"
    summary = "BM3D on each frame; settings given, or chosen by reference frames"
    Settings: ClassVar = DenoiseSettings
    _reference: ReferenceFrames | None = None

    @classmethod
    def outputs(cls, settings: DenoiseSettings) -> tuple[ResultSpec, ...]:
        """Declare the denoised frames, and the table of the search for settings."""
        axes = ("frame", "y", "x")
        if settings.noise != "auto":
            every = ("series", "reference", "ramp")
            return (ResultSpec("denoised", axes, per="frame", stacks=every),)
        return (
            ResultSpec("denoised", axes, per="frame", stacks=("series", "ramp")),
            ResultSpec(
                "tuning",
                ("trial", "column"),
                "float64",
                columns=TRIAL_COLUMNS,
                sizes={"trial": MAX_TRIALS},
                stacks=("reference",),
            ),
        )

    @classmethod
    def fewest_reference_frames(cls, settings: DenoiseSettings) -> int:
        """Return the fewest frames that settings can be chosen by."""
        return FEWEST_REFERENCES if settings.noise == "auto" else 0

    @property
    def _chooses(self) -> bool:
        """Whether the frames of this stack are those that the settings are chosen by."""
        return self.settings.noise == "auto" and self.stack.kind == "reference"

    def warm_up(self) -> None:
        """Import or compile the method."""
        from ..denoise.frame import warm_up

        warm_up(self.settings.method)

    def frame(self, frame: Frame) -> Iterator[Output]:
        """Denoise a frame, or keep it for the choice of the settings."""
        if self._chooses:
            if not frame.dark:
                self._keep(frame)
            return
        from ..denoise.frame import denoise_frame
        from ..denoise.parameter_search import NoiseChoice
        from ..denoise.reference_frames import denoising_settings

        settings = self.settings
        noise, wanted = denoising_settings(
            settings.noise, settings.variance, self.context.get(NoiseChoice)
        )
        try:
            frame.image, variance = denoise_frame(
                frame.image, settings.method, noise, wanted, settings.effort
            )
        except ValueError as error:
            frame.usable = False
            text = f"{self.stack.name} frame {frame.index} cannot be denoised: {error}"
            yield Notice("error", text)
            return
        more = {"noise_used": noise, "variance_used": round(variance, 4)}
        yield self.result("denoised", frame.image, more)

    def _keep(self, frame: Frame) -> None:
        from ..denoise.reference_frames import ReferenceFrames

        if self._reference is None:
            self._reference = ReferenceFrames(self.settings.method, self.settings.effort)
        self._reference.add_frame(frame.image)

    def after_frames(self) -> Iterator[Output]:
        """Choose the settings; the frames of later stacks are denoised by them."""
        if not self._chooses:
            return
        from ..denoise.reference_frames import ReferenceFrames

        reference = self._reference or ReferenceFrames(self.settings.method, self.settings.effort)
        self._reference = None
        choice = yield from reference.finish(self.stack.name)
        if choice is not None:
            self.context.put(choice)
