"""Errors of a link: nothing listens, no answer came, or the connection broke."""

from __future__ import annotations

from ..base import DeviceLost


def not_connected(device: str, request: str) -> DeviceLost:
    """Error of a command to a device that was never connected, or was lost."""
    return DeviceLost(device, request, "it is not connected", "Connect first")


def nothing_listens(device: str, request: str, endpoint: str, why: str) -> DeviceLost:
    """Error of a connection that was not accepted."""
    return DeviceLost(
        device,
        request,
        f"nothing listens at {endpoint} ({why})",
        "Check that the instrument's software is running and that the rig's endpoint is right",
    )


def no_answer(device: str, request: str, endpoint: str, timeout_s: float) -> DeviceLost:
    """Error of a deadline that passed."""
    return DeviceLost(
        device,
        request,
        f"no answer from {endpoint} within {timeout_s:.3g} s",
        "Check that the instrument's software responds and that no other client uses it",
    )


def broken(device: str, request: str, endpoint: str, why: object) -> DeviceLost:
    """Error of a connection that was closed or reset."""
    return DeviceLost(
        device, request, f"the connection to {endpoint} broke ({why})", "Connect again"
    )


def reason(error: BaseException) -> str:
    """Short text of an OS error, never empty."""
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
