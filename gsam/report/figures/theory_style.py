"""What the figures of the theory share: the methods' colours and plain axes."""

from __future__ import annotations

from matplotlib.axes import Axes

# Okabe and Ito's, as in the other figures: vanilla blue, SAM orange, GSAM green.
METHODS = {"SGD": "#0072B2", "vanilla": "#0072B2", "SAM": "#E69F00", "GSAM": "#009E73"}
BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"


def plain(axis: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Title on the left, labels, a light grid, no frame above and on the right."""
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.grid(alpha=0.25, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
