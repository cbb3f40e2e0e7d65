"""How this project's pictures look: one style, one grey, one colour for each strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

GREY = "#555555"
PALE = "#e4e6e9"
STRATEGIES = {"usage_based": "#c9682f", "htp": "#2a7f62", "fx": "#1f4e79"}
# For strategies that are registered elsewhere.
OTHER = "#7b5ea7"
DPI = 150


@contextmanager
def style() -> Iterator[None]:
    """What is drawn inside is drawn in this style."""
    with mpl.rc_context(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
        }
    ):
        yield


def soften(axes: Any, axis: str) -> None:
    """A faint grid along one axis, behind everything."""
    axes.grid(axis=axis, color=GREY, alpha=0.15)
    axes.set_axisbelow(True)


def save_all(drawers: Mapping[str, Callable[[Any], Any]], data: Any, folder: Path) -> list[Path]:
    """Draws the same data in several pictures; returns their paths.

    Args:
        drawers: Each picture's file name, and what makes the figure of the data.
        data: What is drawn.
        folder: Where the pictures go; it is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in drawers.items():
        with style():
            figure = draw(data)
            figure.savefig(folder / name, dpi=DPI)
            plt.close(figure)
    return [folder / name for name in drawers]
