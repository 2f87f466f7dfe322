"""In which words a shift or a focus is refused."""

from __future__ import annotations

from ..base import DeviceRefused, OutOfRange


def not_in_rig(device: str, request: str, key: str) -> DeviceRefused:
    """The rig does not have what is asked for."""
    return DeviceRefused(
        device, request, f"the rig has no {key}; nothing was sent", f"Add {key} to the rig"
    )


def unprepared(device: str, request: str) -> DeviceRefused:
    """Nobody has prepared the beam."""
    cause = "the beam has not been prepared; nothing was sent"
    return DeviceRefused(device, request, cause, "Prepare the beam first")


def beyond(device: str, request: str, limit: str, key: str) -> OutOfRange:
    """The request is beyond the rig's limit."""
    remedy = f"Bring the specimen back by the stage, or raise {key}.limit"
    return OutOfRange(device, request, f"{limit}; nothing was sent", remedy)


def elsewhere(device: str, request: str, found: str) -> DeviceRefused:
    """What is read back is not what was sent."""
    remedy = "Look for a limit at the microscope, and lower the rig's"
    return DeviceRefused(device, request, found, remedy)
