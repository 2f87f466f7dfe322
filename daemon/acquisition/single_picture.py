"""A picture that is no frame of a stack: journalled, exposed, charged, and stamped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...drivers.base import DetectorFrame, DeviceLost
from ...protocols.config.recipe import BeamSettings
from ...protocols.core.chunk import Chunk
from ...protocols.messages.journal import Trigger
from .beam_exposure import BeamExposure, Begun, ExposureContext


@dataclass(frozen=True)
class SinglePicture:
    """A picture as the detector sent it, and the middle of its exposure."""

    frame: DetectorFrame
    t_ns: int

    def counts(self, detector: str, number: int, what: str = "frame") -> NDArray[Any]:
        """Its pixels, if it is the picture of that number since the detector was armed.

        Raises
        ------
        DeviceLost
            If it is another one; `what` is how the message calls it.
        """
        frame = self.frame
        if frame.number != number:
            raise DeviceLost(
                detector, f"read {what} {number}", f"the detector sent its frame {frame.number}"
            )
        data = frame.data
        return np.asarray(data.decompress() if isinstance(data, Chunk) else data)


async def take_single_picture(
    context: ExposureContext,
    account: str,
    scan: BeamSettings,
    index: int = 0,
    *,
    at_once: bool = False,
) -> SinglePicture:
    """Take one picture with a detector that is armed for it.

    Parameters
    ----------
    context : ExposureContext
        Beam, detector, ledger and journal.
    account : str
        What is charged.
    scan : BeamSettings
        Of the picture.
    index : int
        Of the frame that it comes before, for the journal.
    at_once : bool
        As for `BeamExposure`.

    Raises
    ------
    DeviceError
        From beam and detector.
    """
    dose, exposed_ns = scan.dose_per_frame_e_per_nm2, int(scan.exposure_s * 1e9)
    context.journal.note(Trigger(stack=account, first=index, count=0, dose_e_per_nm2=dose))
    # No exposure without a line that a resumed run can read.
    await context.journal.caught_up()
    started_ns = 0

    async def read(begun: Begun) -> DetectorFrame:
        nonlocal started_ns
        started_ns = begun.start_ns
        return await context.detector.read_frame()

    exposure = BeamExposure(context, account, at_once=at_once)
    frame = await exposure.expose(dose, exposed_ns, read)
    return SinglePicture(frame, started_ns + exposed_ns // 2)
