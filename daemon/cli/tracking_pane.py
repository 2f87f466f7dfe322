"""What an operator sees of tracking: some lines of the live view."""

from __future__ import annotations

import math
from typing import Any


def tracking_lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line about tracking; none for a run that does not track.

    Parameters
    ----------
    status : dict
        Of the daemon, with ``tracking``; see `tracking_status`.
    """
    told = status.get("tracking")
    if not told:
        return []
    lines = [
        ("tracking", _state(told, status)),
        ("offset", _offset(told)),
        ("beam shift", _shift(told)),
        ("focus", _focus(told)),
        ("drift", _with_sd(told["drift_nm_per_s"], told["drift_sd_nm_per_s"], "{:.2g}", "nm/s")),
    ]
    if told["scouts"] or told["scouts_limit_e_per_nm2"]:
        lines.append(
            (
                "scouts",
                f"{told['scouts']} in the series, {told['scouts_e_per_nm2']:.2g} of "
                f"{told['scouts_limit_e_per_nm2']:.3g} e/nm²",
            )
        )
    return [(label, text) for label, text in lines if text]


# What the tracker says of itself, in words.
_STATES = {
    "trusted": "trusted",
    "no table": "waits for the tracker",
    "no picture": "no picture yet to compare with",
    "not trusted": "not trusted: the corrections make it worse",
    "not found": "not found",
}
_LOOKS = {"scout": "looks (scout)", "wide": "searches a wider field"}


def _state(told: dict[str, Any], status: dict[str, Any]) -> str:
    told_state, looking = str(told["state"]), str(told["looking"])
    state = _LOOKS.get(looking) or _STATES.get(told_state, told_state)
    if told_state == "not found" and not looking:
        waits = status.get("state") == "paused" or status.get("pause_requested")
        state += ": paused, centre it and resume" if waits else ": the run goes on"
    return state if not told["series"] else f"{told['series']}, {state}"


def _offset(told: dict[str, Any]) -> str:
    """What was expected and what was found in the latest frame, (y, x)."""
    parts: list[str] = []
    if (sd := told["expected_sd_nm"]) is not None:
        parts.append(f"expected {_pair(told['expected_nm'])} ± {sd[0]:.0f} {sd[1]:.0f} nm")
    if (found := told["offset_nm"]) is not None:
        sd = told["offset_sd_nm"]
        parts.append(f"found {_pair(found)} ± {sd[0]:.0f} {sd[1]:.0f} nm")
    elif told["doubt"]:
        parts.append(f"not believed ({told['doubt']})")
    return f"{', '.join(parts)} (y x)" if parts else ""


def _shift(told: dict[str, Any]) -> str:
    size = math.hypot(*told["shift_nm"])
    return f"{_pair(told['shift_nm'])} nm (y x), {size:.0f} of {told['shift_limit_nm']:.0f} nm"


def _focus(told: dict[str, Any]) -> str:
    return _with_sd(told["defocus_nm"], told["defocus_sd_nm"], "{:+.0f}", "nm")


def _with_sd(value: float | None, sd: float | None, form: str, unit: str) -> str:
    if value is None:
        return ""
    spread = "" if sd is None else f" ± {form.replace('+', '').format(sd)}"
    return f"{form.format(value)}{spread} {unit}"


def _pair(pair: list[float]) -> str:
    # Not -0: what is nothing has no sign.
    y, x = (round(value) + 0 for value in pair)
    return f"{y:+d} {x:+d}"
