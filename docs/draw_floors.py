"""Draw ``docs/house/floors.png``: the subpackages in their layers, read from ``pyproject.toml``."""

import tomllib
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
COLOURS = {
    "daemon": "#dbeafe", "analysis": "#dcfce7", "simulators": "#fee2e2", "drivers": "#fef3c7",
    "protocols": "#f3f4f6",
}  # fmt: skip
# Left edge, top and bottom edge, width of the area of each top folder.
AREAS = {
    "daemon": (0.0, 10.0, 4.4, 6.2),
    "analysis": (6.5, 10.0, 4.4, 4.6),
    "simulators": (11.4, 10.0, 4.4, 2.2),
    "drivers": (0.0, 4.2, 2.4, 13.6),
    "protocols": (0.0, 2.2, -0.2, 13.6),
}


def layers() -> dict[str, list[list[str]]]:
    """Subpackages of each top folder, from the top layer to the bottom."""
    text = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    found: dict[str, list[list[str]]] = {}
    for contract in text["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers" and contract.get("exhaustive"):
            (container,) = contract["containers"]
            rows = [[n.strip() for n in row.split("|")] for row in contract["layers"]]
            found[container.rpartition(".")[2]] = [r for r in rows if r != ["__main__"]]
    return found


def box(axes, x, y, width, height, text, colour, **style) -> None:
    """Draw a rounded box with a text in its middle."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", facecolor=colour,
            edgecolor="#64748b", linewidth=0.8,
        )
    )  # fmt: skip
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", **style)


def main() -> None:
    """Draw and save the picture."""
    figure, axes = plt.subplots(figsize=(13.6, 10.2))
    for folder, rows in layers().items():
        left, top, bottom, width = AREAS[folder]
        box(axes, left, bottom, width, top - bottom, "", "white")
        axes.text(left + 0.15, top - 0.27, f"{folder}/", fontsize=13, weight="bold")
        height = (top - bottom - 0.55) / len(rows)
        for number, row in enumerate(rows):
            y = top - 0.55 - (number + 1) * height
            each = (width - 0.2) / len(row)
            for column, name in enumerate(row):
                box(
                    axes, left + 0.1 + column * each + 0.04, y + 0.06, each - 0.08, height - 0.1,
                    name, COLOURS[folder], fontsize=10 if len(row) < 5 else 9,
                )  # fmt: skip
    axes.text(6.8, -0.5, "imports go down only", ha="center", fontsize=11, style="italic")
    axes.set_xlim(-0.1, 13.7)
    axes.set_ylim(-0.7, 10.1)
    axes.axis("off")
    figure.savefig(HERE / "house" / "floors.png", dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
