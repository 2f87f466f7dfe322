"""Draw ``docs/architecture.png``: the processes and the wires between them."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

BOXES = {
    "people": (0.2, 5.0, 3.0, 0.8, "operator\npyrotome run, pause, safe", "#fef3c7"),
    "watch": (3.7, 5.0, 3.5, 0.8, "remote monitors\nwatch, any ZeroMQ SUB client", "#fef3c7"),
    "mqtt": (7.7, 5.0, 2.1, 0.8, "MQTT broker", "#fef3c7"),
    "daemon": (
        0.2, 2.9, 9.6, 1.3,
        "daemon, one asyncio process\n"
        "plan  →  engine  →  devices      clock · dose ledger · state machine",
        "#dbeafe",
    ),
    "recorder": (3.4, 1.1, 2.0, 0.8, "recorder\n(process)", "#dcfce7"),
    "analysis": (7.4, 1.1, 2.4, 0.8, "online analysis\n(process)", "#dcfce7"),
    "file": (3.4, -0.3, 2.0, 0.7, "run.nxs\nHDF5, NeXus, SWMR", "#f3f4f6"),
    "wires": (
        0.2, 0.4, 2.6, 1.5,
        "instruments\nor the simulators\nheater · stage ·\nbeam · detector", "#fee2e2",
    ),
}  # fmt: skip
ARROWS = [
    ((1.7, 5.0), (1.7, 4.2), "control\n(ROUTER, JSON)", "left"),
    ((5.4, 4.2), (5.4, 5.0), "monitor\n(PUB, may drop)", "left"),
    ((8.7, 4.2), (8.7, 5.0), "telemetry", "left"),
    ((1.5, 2.9), (1.5, 1.9), "drivers:\nvendors' wires", "left"),
    ((4.4, 2.9), (4.4, 1.9), "frames, readings, events\nlossless, against credit", "left"),
    ((8.2, 2.9), (8.2, 1.9), "frames,\nlossless", "right"),
    ((9.0, 1.9), (9.0, 2.9), "results", "left"),
    ((4.4, 1.1), (4.4, 0.4), "", "left"),
]


def main() -> None:
    """Write the picture beside this file."""
    figure, axes = plt.subplots(figsize=(10, 6.4))
    for x, y, width, height, text, colour in BOXES.values():
        axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.12",
                facecolor=colour, edgecolor="#374151", linewidth=1.2,
            )
        )  # fmt: skip
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)
    for start, end, text, side in ARROWS:
        axes.annotate(
            "", end, start, arrowprops={"arrowstyle": "-|>", "color": "#374151", "lw": 1.4}
        )
        middle_y = (start[1] + end[1]) / 2
        offset, align = (0.1, "left") if side == "left" else (-0.1, "right")
        axes.text(
            start[0] + offset, middle_y, text, ha=align, va="center", fontsize=8, color="#4b5563"
        )
    axes.set(xlim=(0, 10), ylim=(-0.5, 6))
    axes.set_axis_off()
    figure.savefig(Path(__file__).parent / "architecture.png", dpi=90, bbox_inches="tight")


if __name__ == "__main__":
    main()
